//! No byte of one request is ever seen by another.
//!
//! Every request carries a token in its headers, parameters, extensions and body. Requests are cancelled
//! at random awaits, panic, answer, keep their answer for a while and return things on other threads;
//! whatever a request is given is searched for the token of another.
//!
//! `STELLANE_TEST_TAINT_REQUESTS=10000000 cargo test --release -p stellane-pool --all-features --test taint` for
//! the long run, `STELLANE_TEST_SEED=…` to repeat one.
#![cfg(feature = "http")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::mpsc,
    task::{Context, Poll, Waker},
    thread,
};

use bytes::{BufMut, Bytes};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::StreamBody;
use stellane_pool::{Pool, PoolConfig, PoolLayer, PooledBody, PooledBuf, Pools, http::reply};
use tower::{Layer, Service, service_fn};

/// Zeroes all memory, so that the spare part of a buffer can be read.
struct Zeroing;

// SAFETY: every call goes to the system allocator with the same layout.
unsafe impl GlobalAlloc for Zeroing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Zeroing = Zeroing;

const MARK: &[u8; 8] = b"TAINTED!";

/// `MARK` and the number of the request.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Token([u8; 24]);

impl Token {
    fn new(request: u64) -> Self {
        let mut token = [0; 24];
        token[..8].copy_from_slice(MARK);
        token[8..].copy_from_slice(format!("{request:016x}").as_bytes());
        Self(token)
    }

    fn header(&self) -> HeaderValue {
        HeaderValue::from_bytes(&self.0).expect("printable")
    }

    /// Whether `bytes` hold a token of another request.
    fn is_alone_in(&self, bytes: &[u8]) -> bool {
        bytes
            .windows(24)
            .all(|at| at[0] != b'T' || !at.starts_with(MARK) || at == self.0)
    }
}

struct Scratch {
    params: Vec<[u8; 24]>,
    text: String,
    token: Option<Token>,
}

stellane_pool::recycle!(Scratch { params, text, token = None });

#[derive(Clone)]
struct Server {
    pools: Pools,
    scratch: Pool<Scratch>,
}

impl Server {
    fn new(config: PoolConfig) -> Self {
        let pools = Pools::builder().config(config).build().expect("valid");
        let scratch = || Scratch {
            params: Vec::new(),
            text: String::new(),
            token: None,
        };
        let scratch = Pool::builder(scratch)
            .budget(pools.budget())
            .build()
            .expect("valid");
        Self { pools, scratch }
    }

    async fn handle<B>(self, request: Request<B>) -> Response<PooledBody>
    where
        B: Body<Data = Bytes, Error: std::fmt::Debug>,
    {
        let pools = Pools::current().expect("inside the layer");
        let token = *request
            .extensions()
            .get::<Token>()
            .expect("every request has one");
        let mut dice = *request
            .extensions()
            .get::<Dice>()
            .expect("every request has one");
        let (mut parts, body) = request.into_parts();

        let mut scratch = self.scratch.take();
        let Scratch {
            params,
            text,
            token: slot,
        } = &mut *scratch;
        assert!(
            params.is_empty() && text.is_empty() && slot.is_none(),
            "dirty scratch"
        );
        params.push(token.0);
        text.push_str(std::str::from_utf8(&token.0).expect("printable"));
        *slot = Some(token);
        let mut headers = pools.headers();
        assert!(
            headers.is_empty() && headers.keys().next().is_none(),
            "dirty headers"
        );
        headers.insert(HeaderName::from_static("x-tainted"), token.header());
        headers.append(header::COOKIE, token.header());
        headers.append(header::COOKIE, token.header());
        let mut extensions = pools.extensions();
        assert!(
            extensions.is_empty() && extensions.get::<Token>().is_none(),
            "dirty extensions"
        );
        extensions.insert(token);
        pause().await;

        let body = PooledBody::collect(body, &pools)
            .await
            .expect("a whole body");
        assert!(token.is_alone_in(&body), "the body of another request");
        if dice.one_in(50) {
            std::panic::panic_any(Expected);
        }
        pause().await;

        let mut answer = self.buffer(1 << dice.below(18), token);
        answer.extend_from_slice(&token.0);
        answer.extend_from_slice(&body);
        if dice.one_in(8) {
            answer.truncate(30);
        }
        pause().await;
        reply(&mut parts, StatusCode::OK).map(|()| answer.into())
    }

    /// A buffer, whose whole memory has been searched.
    fn buffer(&self, size: usize, token: Token) -> PooledBuf {
        let mut buffer = self.pools.buf().get(size);
        assert!(buffer.is_empty(), "dirty buffer");
        let spare = buffer.chunk_mut();
        // SAFETY: the allocator of this test zeroes all memory before anybody gets it.
        let spare = unsafe { std::slice::from_raw_parts(spare.as_mut_ptr(), spare.len()) };
        // What a request writes starts with its token, so the start shows whether scrubbing missed it.
        assert!(
            token.is_alone_in(&spare[..spare.len().min(256)]),
            "pool memory holds a token"
        );
        buffer
    }
}

/// What the handler panics with on purpose.
struct Expected;

/// Gives the driver a chance to drop the future.
async fn pause() {
    let mut paused = false;
    std::future::poll_fn(|_| {
        if std::mem::replace(&mut paused, true) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

#[derive(Clone, Copy)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 32) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
}

#[test]
fn no_request_sees_a_byte_of_another() {
    let requests = variable("STELLANE_TEST_TAINT_REQUESTS").unwrap_or(1_000_000);
    let seed =
        variable("STELLANE_TEST_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 8 | 1);
    println!("STELLANE_TEST_SEED={seed}");
    std::panic::set_hook(Box::new({
        let report = std::panic::take_hook();
        move |info| {
            if !info.payload().is::<Expected>() {
                report(info)
            }
        }
    }));
    let mut config = PoolConfig::enabled();
    config.scrub = true;
    config.max_retained_bytes = 1 << 20;
    let server = Server::new(config);
    const THREADS: u64 = 3;
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..THREADS)
        .map(|_| mpsc::sync_channel::<Response<PooledBody>>(16))
        .unzip();
    thread::scope(|scope| {
        for (number, receiver) in (0..THREADS).zip(receivers) {
            let (server, next) = (
                server.clone(),
                senders[(number as usize + 1) % senders.len()].clone(),
            );
            let dice = Dice(seed.wrapping_mul(2 * number + 1) | 1);
            scope.spawn(move || {
                drive(
                    &server,
                    dice,
                    number * requests..number * requests + requests / THREADS,
                    &next,
                    &receiver,
                );
            });
        }
        drop(senders);
    });
    let scratch = server.scratch.stats();
    let stats = server.pools.stats();
    assert_eq!((stats.outstanding, scratch.outstanding), (0, 0));
    assert!(
        stats.hits > stats.misses,
        "nothing was reused, so nothing was tested: {stats:?}"
    );
    server.scratch.tick();
    server.scratch.tick();
    server.pools.tick();
    server.pools.tick();
    assert_eq!(
        (
            server.pools.stats().retained_bytes,
            server.pools.budget().used()
        ),
        (0, 0)
    );
}

fn drive(
    server: &Server,
    mut dice: Dice,
    requests: std::ops::Range<u64>,
    next: &mpsc::SyncSender<Response<PooledBody>>,
    receiver: &mpsc::Receiver<Response<PooledBody>>,
) {
    let mut service = PoolLayer::new(&server.pools).layer(service_fn(|request: Request<_>| {
        let server = server.clone();
        async move { Ok::<_, Infallible>(server.handle(request).await) }
    }));
    let mut kept = Vec::new();
    for request in requests {
        let token = Token::new(request);
        let frames = (0..dice.below(4))
            .map(|_| Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(&token.0))));
        let body = StreamBody::new(futures_util::stream::iter(frames.collect::<Vec<_>>()));
        let mut call = Request::new(body);
        call.headers_mut()
            .insert(header::AUTHORIZATION, token.header());
        call.extensions_mut().insert(token);
        call.extensions_mut().insert(Dice(dice.next() | 1));
        let polls = dice.below(12);
        let response = catch_unwind(AssertUnwindSafe(|| {
            let mut future = pin!(service.call(call));
            for _ in 0..polls {
                let polled = future
                    .as_mut()
                    .poll(&mut Context::from_waker(Waker::noop()));
                if let Poll::Ready(Ok(response)) = polled {
                    return Some(response);
                }
            }
            None
        }));
        assert!(
            Pools::current().is_none(),
            "a handler left its pools behind"
        );
        match response {
            Ok(Some(response)) => {
                assert!(
                    response.headers().is_empty(),
                    "a reply with headers of the request"
                );
                assert!(
                    token.is_alone_in(response.body()) && response.body().starts_with(&token.0)
                );
                if dice.one_in(64) {
                    let debug = format!("{response:?} {:?}", server.pools);
                    assert!(!debug.contains("TAINTED!"), "{debug}");
                }
                match dice.below(4) {
                    // Sent, and for a while not yet written.
                    0 => kept.push(response.map(|body| PooledBody::from(body.into_bytes()))),
                    // Dropped on another thread.
                    1 => drop(next.try_send(response)),
                    _ => {}
                }
            }
            Ok(None) => {}
            Err(panic) => assert!(panic.is::<Expected>(), "request {request} failed"),
        }
        if kept.len() > dice.below(40) as usize {
            kept.clear();
        }
        receiver.try_iter().for_each(drop);
        if dice.one_in(5_000) {
            let stats = server.pools.stats();
            assert!(stats.retained_bytes <= stats.budget_bytes, "{stats:?}");
            server.pools.tick();
        }
    }
}
