//! Clients and transports that do what they like, in simulated time: whatever happens, a connection ends once,
//! with one reason, leaves nothing behind, and every whole answer that its client saw is the right one.
//!
//! `STELLANE_SIMULATIONS=100000` runs more of them; `STELLANE_SEED=17` runs one.
#![cfg(feature = "connection")]

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use stellane_core::connection::{CloseReason, ConnectionConfig, ConnectionManager};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf},
    time::{Sleep, sleep},
};

const SIMULATIONS: u64 = 3000;

/// A small generator of its own, so that a seed means the same for ever.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(self.0 >> 33).expect("31 bits") % n
    }

    fn millis(&mut self, n: usize) -> Duration {
        Duration::from_millis(self.below(n) as u64)
    }
}

/// What a simulation had to bear, to prove that the faults were not idle.
#[derive(Debug, Default)]
struct Faults {
    short: u64,
    pending: u64,
    resets: u64,
    /// Connections that came back from being parked, which is no fault.
    unparked: u64,
}

/// The server's end of a connection: it reads and writes less than it could, makes wait for nothing, and
/// fails.
struct Faulty {
    inner: DuplexStream,
    random: Random,
    faults: Arc<Mutex<Faults>>,
    /// One in so many calls has to wait; 0 for none.
    waits: usize,
    /// How many bytes go through at once, at most.
    at_once: usize,
    /// How many bytes go through before it is reset.
    left: usize,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Faulty {
    /// How many bytes may go through now, of so many.
    fn poll_fate(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        if let Some(pause) = &mut self.pause {
            std::task::ready!(pause.as_mut().poll(cx));
            self.pause = None;
        } else if self.waits > 0 && self.random.below(self.waits) == 0 {
            self.faults().pending += 1;
            if self.random.below(4) > 0 {
                // A storm: woken at once, for nothing.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let mut pause = Box::pin(sleep(self.random.millis(400)));
            if pause.as_mut().poll(cx).is_pending() {
                self.pause = Some(pause);
                return Poll::Pending;
            }
        }
        if self.left == 0 {
            self.faults().resets += 1;
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let n = 1 + self.random.below(self.at_once);
        if n < wanted {
            self.faults().short += 1;
        }
        Poll::Ready(Ok(n.min(wanted).min(self.left)))
    }

    fn faults(&self) -> std::sync::MutexGuard<'_, Faults> {
        self.faults.lock().expect("no panic")
    }
}

impl AsyncRead for Faulty {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let n = std::task::ready!(this.poll_fate(cx, buffer.remaining()))?;
        let mut piece = vec![0; n];
        let mut piece = ReadBuf::new(&mut piece);
        std::task::ready!(Pin::new(&mut this.inner).poll_read(cx, &mut piece))?;
        this.left -= piece.filled().len();
        buffer.put_slice(piece.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Faulty {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let n = std::task::ready!(this.poll_fate(cx, buffer.len()))?;
        let n = std::task::ready!(Pin::new(&mut this.inner).poll_write(cx, &buffer[..n]))?;
        this.left -= n;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        std::task::ready!(this.poll_fate(cx, 0))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

/// How a client ends its part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It asked for `Connection: close` with its last request.
    Orderly,
    /// It sends no more after so many bytes, and says so.
    HalfClose(usize),
    /// It is gone after so many bytes.
    Vanish(usize),
    /// It says nothing after so many bytes, for a long time.
    Silence(usize),
}

/// What is done to the connection from the server's side meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meddling {
    None,
    Drain,
    Close,
    CloseIdle,
}

#[derive(Debug)]
struct Plan {
    bytes: Vec<u8>,
    /// The bodies of the answers.
    answers: Vec<Vec<u8>>,
    /// How many of them an orderly client gets: hyper closes after a body that nobody read.
    certain: usize,
    /// Where requests end: a pause there is one that a connection is parked in.
    cuts: Vec<usize>,
    end: End,
    meddling: Meddling,
    /// The transport fails.
    reset: bool,
    max_requests: u64,
}

fn plan(random: &mut Random) -> Plan {
    let (mut bytes, mut answers) = (Vec::new(), Vec::new());
    let count = 1 + random.below(4);
    let mut certain = count;
    let mut cuts = Vec::new();
    for n in 0..count {
        let path = ["/now", "/later", "/big", "/unread"][random.below(4)];
        let close = if n + 1 == count {
            "connection: close\r\n"
        } else {
            ""
        };
        let text = "x".repeat(random.below(300));
        let (method, sent, body) = match random.below(3) {
            0 => ("GET", "\r\n".to_owned(), String::new()),
            1 => (
                "POST",
                format!("content-length: {}\r\n\r\n{text}", text.len()),
                text,
            ),
            _ => (
                "POST",
                format!(
                    "transfer-encoding: chunked\r\n\r\n2\r\nab\r\n{:x}\r\nc{text}\r\n0\r\n\r\n",
                    text.len() + 1
                ),
                format!("abc{text}"),
            ),
        };
        bytes.extend(format!("{method} {path}?{n} HTTP/1.1\r\nhost: x\r\n{close}{sent}").bytes());
        cuts.push(bytes.len());
        if path == "/unread" && !body.is_empty() {
            certain = certain.min(n + 1);
        }
        let body = if path == "/unread" { "" } else { &body };
        answers.push(answer_to(path, &format!("{path}?{n}"), body.as_bytes()));
    }
    let at = random.below(bytes.len() + 1);
    Plan {
        end: match random.below(7) {
            0 => End::HalfClose(at),
            1 => End::Vanish(at),
            2 => End::Silence(at),
            _ => End::Orderly,
        },
        meddling: match random.below(12) {
            0 => Meddling::Drain,
            1 => Meddling::Close,
            2 => Meddling::CloseIdle,
            _ => Meddling::None,
        },
        reset: random.below(5) == 0,
        max_requests: [0, 0, 0, 2][random.below(4)],
        bytes,
        answers,
        certain,
        cuts,
    }
}

fn answer_to(path: &str, uri: &str, body: &[u8]) -> Vec<u8> {
    let mut answer = [uri.as_bytes(), b" ", body].concat();
    if path == "/big" {
        answer.extend([b'b'; 20_000]);
    }
    answer
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let uri = request.uri().to_string();
    let path = request.uri().path().to_owned();
    if path == "/later" {
        sleep(Duration::from_millis(30)).await;
    }
    let body = if path == "/unread" {
        Bytes::new()
    } else {
        match request.into_body().collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => {
                let mut refused = Response::new(Full::default());
                *refused.status_mut() = http::StatusCode::BAD_REQUEST;
                return Ok(refused);
            }
        }
    };
    Ok(Response::new(Full::new(
        answer_to(&path, &uri, &body).into(),
    )))
}

/// Sends as planned and reads all there is.
async fn client(stream: DuplexStream, plan: &Plan, random: &mut Random) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut got = Vec::new();
    let vanished = Arc::new(tokio::sync::Notify::new());
    let send = async {
        let bytes = match plan.end {
            End::Orderly => &plan.bytes[..],
            End::HalfClose(at) | End::Vanish(at) | End::Silence(at) => &plan.bytes[..at],
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            let most = [8, 80, 800][random.below(3)];
            let mut n = (1 + random.below(most)).min(rest.len());
            let sent = bytes.len() - rest.len();
            if let Some(cut) = plan.cuts.iter().find(|cut| **cut > sent)
                && random.below(2) == 0
            {
                n = n.min(cut - sent);
            }
            if writer.write_all(&rest[..n]).await.is_err() {
                break;
            }
            rest = &rest[n..];
            let sent = bytes.len() - rest.len();
            if plan.cuts.contains(&sent) && random.below(2) == 0 {
                sleep(Duration::from_millis(200) + random.millis(800)).await;
            } else if random.below(3) == 0 {
                sleep(random.millis(400)).await;
            }
        }
        match plan.end {
            End::Orderly => {}
            End::HalfClose(_) => {
                let _ = writer.shutdown().await;
            }
            End::Vanish(_) => vanished.notify_one(),
            End::Silence(_) => {
                sleep(Duration::from_secs(60)).await;
                vanished.notify_one();
            }
        }
    };
    let read = async {
        let reading = async { while let Ok(1..) = reader.read_buf(&mut got).await {} };
        tokio::select! {
            () = reading => {}
            () = vanished.notified() => {}
        }
    };
    tokio::join!(send, read);
    got
}

/// The bodies of the whole answers that say 200, and whether nothing else came.
fn whole_answers(mut got: &[u8]) -> Vec<Vec<u8>> {
    let mut answers = Vec::new();
    while let Some(head) = got.windows(4).position(|w| w == b"\r\n\r\n") {
        let text = std::str::from_utf8(&got[..head]).expect("a head");
        if !text.starts_with("HTTP/1.1 200") {
            let status = text.split(' ').nth(1);
            assert!(matches!(status, Some("400" | "408")), "{text}");
            break;
        }
        let length: usize = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .expect("a length")
            .parse()
            .expect("a number");
        let Some(body) = got[head + 4..].get(..length) else {
            break;
        };
        answers.push(body.to_vec());
        got = &got[head + 4 + length..];
    }
    answers
}

async fn simulate(seed: u64, faults: Arc<Mutex<Faults>>) -> CloseReason {
    let random = &mut Random::new(seed);
    let plan = plan(random);
    let mut config = ConnectionConfig::default();
    config.park = random.below(4) > 0;
    config.park_after = Duration::from_millis([0, 1, 100][random.below(3)]);
    config.strict_http1 = random.below(4) > 0;
    config.max_requests = plan.max_requests;
    config.connect_info = random.below(2) == 0;
    config.first_byte_timeout = Duration::from_secs(5);
    config.head_timeout = Duration::from_secs(20);
    config.idle_timeout = Duration::from_secs(3);
    config.write_timeout = Duration::from_secs(2);
    // These clients may be slow, as long as they go on.
    config.min_response_rate_bytes = 0;
    config.min_body_rate_bytes = match plan.end {
        End::Silence(_) => 240,
        _ => 0,
    };
    let manager = ConnectionManager::builder()
        .config(config)
        .build()
        .expect("valid");

    let (near, far) = tokio::io::duplex([16, 300, 5000, 100_000][random.below(4)]);
    let faulty = Faulty {
        inner: far,
        random: Random::new(!seed),
        faults: Arc::clone(&faults),
        waits: [0, 3, 10, 50][random.below(4)],
        at_once: [1 << 20, 1000, 100][random.below(3)],
        left: if plan.reset {
            random.below(2 * plan.bytes.len())
        } else {
            usize::MAX
        },
        pause: None,
    };
    let alive = Arc::new(());
    let service = {
        let alive = Arc::clone(&alive);
        tower::service_fn(move |request| {
            let alive = Arc::clone(&alive);
            async move {
                let answered = answer(request).await;
                drop(alive);
                answered
            }
        })
    };
    let serving = tokio::spawn(manager.serve_connection(faulty, None, service));
    let meddle = {
        let (manager, after) = (manager.clone(), random.millis(1500));
        async move {
            sleep(after).await;
            match plan.meddling {
                Meddling::None => {}
                Meddling::Drain => {
                    manager.drain(Duration::from_secs(1)).await;
                }
                Meddling::Close => {
                    manager.list().iter().for_each(|connection| {
                        manager.close(connection.id);
                    });
                }
                Meddling::CloseIdle => {
                    manager.close_idle(9);
                }
            }
        }
    };
    let (got, (), served) = tokio::join!(client(near, &plan, random), meddle, async {
        tokio::time::timeout(Duration::from_secs(300), serving).await
    });
    let reason = served.expect("an end").expect("no panic");

    let stats = manager.stats();
    assert_eq!((stats.accepted_total, stats.open), (1, 0), "{plan:?}");
    assert_eq!(stats.requests_in_flight, 0, "{plan:?}");
    faults.lock().expect("no panic").unparked += stats.unparked_total;
    assert_eq!(
        (stats.closed(reason), stats.closed_total()),
        (1, 1),
        "{plan:?}"
    );
    assert_eq!(Arc::strong_count(&alive), 1, "something is left: {plan:?}");

    let answers = whole_answers(&got);
    assert!(
        plan.answers.starts_with(&answers),
        "{:.400} {plan:?}",
        String::from_utf8_lossy(&got)
    );
    if plan.end == End::Orderly && plan.meddling == Meddling::None && !plan.reset {
        let most = match plan.max_requests {
            0 => plan.certain,
            max => plan.certain.min(usize::try_from(max).expect("few")),
        };
        assert!(
            answers.len() >= most,
            "{reason} {:.400} {plan:?}",
            String::from_utf8_lossy(&got)
        );
    }
    reason
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().expect("a number"))
}

#[test]
fn a_connection_ends_once_and_leaves_nothing_whatever_its_transport_and_client_do() {
    let seeds = match number("STELLANE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("STELLANE_SIMULATIONS").unwrap_or(SIMULATIONS),
    };
    let many = seeds.end - seeds.start > 1000;
    let faults = Arc::default();
    let mut ends = std::collections::BTreeMap::<_, u64>::new();
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let faults = Arc::clone(&faults);
        let simulated = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            runtime.block_on(simulate(seed, faults))
        }));
        match simulated {
            Ok(reason) => *ends.entry(reason).or_default() += 1,
            Err(panic) => {
                eprintln!("STELLANE_SEED={seed} shows it again");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{ends:?}\n{faults:?}");
    if many {
        let faults = faults.lock().expect("no panic");
        assert!(
            faults.short > 1000
                && faults.pending > 1000
                && faults.resets > 100
                && faults.unparked > 100,
            "the faults did not happen: {faults:?}"
        );
        use CloseReason::{
            ClientClosed, Drained, FirstByteTimeout, IdleTimeout, IoError, Killed, MaxRequests,
            Reclaimed,
        };
        for reason in [
            ClientClosed,
            CloseReason::Finished,
            Drained,
            FirstByteTimeout,
            IdleTimeout,
            IoError,
            Killed,
            MaxRequests,
            Reclaimed,
        ] {
            assert!(ends.contains_key(&reason), "no {reason} in {ends:?}");
        }
    }
}
