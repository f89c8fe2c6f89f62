//! What a keep-alive request costs in heap allocations, counted over a real socket: hyper alone, and with
//! the pieces of this crate. Client and server share one thread, and the client allocates nothing.
//!
//! `STELLANE_TEST_REQUESTS=100000 cargo test -p stellane-pool --all-features --test allocations -- --nocapture`
//! prints the table with as many requests as you like.
#![cfg(feature = "http")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    convert::Infallible,
    io::Write as _,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use stellane_pool::{PoolLayer, PooledBody, Pools, http::reply};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower::{Layer, service_fn};

struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // The thread may be ending; what it frees then is nobody's request.
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call goes to the system allocator unchanged; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// 14 headers, all of them with names hyper need not allocate for.
const FOURTEEN: &str = "GET / HTTP/1.1\r\nhost: localhost\r\nuser-agent: test\r\naccept: */*\r\n\
    accept-language: en\r\naccept-encoding: gzip\r\ncache-control: no-cache\r\ncookie: a=b\r\n\
    dnt: 1\r\npragma: no-cache\r\nreferer: http://localhost/\r\norigin: http://localhost\r\n\
    authorization: Bearer x\r\nif-none-match: \"x\"\r\nupgrade-insecure-requests: 1\r\n\r\n";
const ONE: &str = "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";

const TEXT: HeaderValue = HeaderValue::from_static("text/plain");

/// Allocations per request of a connection served by `service`.
async fn measure<S, F, B>(service: S, request: &[u8], ends_with: &[u8]) -> f64
where
    S: tower::Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future = F>
        + Clone
        + 'static,
    F: Future<Output = Result<Response<B>, Infallible>> + 'static,
    B: Body<Data = Bytes, Error = Infallible> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback works");
    let mut client = TcpStream::connect(listener.local_addr().expect("loopback works"))
        .await
        .expect("loopback works");
    let (socket, _) = listener.accept().await.expect("loopback works");
    let server = tokio::task::spawn_local(
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(socket), TowerToHyperService::new(service)),
    );
    let requests = std::env::var("STELLANE_TEST_REQUESTS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(2_000);
    let mut buffer = vec![0; 64 << 10];
    for _ in 0..100 {
        exchange(&mut client, request, ends_with, &mut buffer).await;
    }
    let before = COUNT.get();
    for _ in 0..requests {
        exchange(&mut client, request, ends_with, &mut buffer).await;
    }
    let per_request = (COUNT.get() - before) as f64 / f64::from(requests);
    drop(client);
    server.await.expect("runs").expect("serves");
    per_request
}

async fn exchange(client: &mut TcpStream, request: &[u8], ends_with: &[u8], buffer: &mut [u8]) {
    client.write_all(request).await.expect("loopback works");
    let mut filled = 0;
    while !buffer[..filled].ends_with(ends_with) {
        let read = client
            .read(&mut buffer[filled..])
            .await
            .expect("loopback works");
        assert!(
            read > 0,
            "the server closed: {:?}",
            String::from_utf8_lossy(&buffer[..filled])
        );
        filled += read;
    }
}

fn post(body: &[u8]) -> Vec<u8> {
    let mut request = Vec::new();
    write!(
        request,
        "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .expect("loopback works");
    request.extend_from_slice(body);
    request
}

#[tokio::test(flavor = "local")]
async fn allocations_per_request() {
    let pools = Pools::builder().enabled(true).build().unwrap();
    let layer = PoolLayer::new(&pools);

    let plain = service_fn(async |_: Request<Incoming>| {
        let mut response = Response::new(Full::new(Bytes::from_static(b"hello")));
        response.headers_mut().insert(header::CONTENT_TYPE, TEXT);
        Ok(response)
    });
    let replying = service_fn(async |request: Request<Incoming>| {
        let (mut parts, _) = request.into_parts();
        let mut response = reply(&mut parts, StatusCode::OK);
        response.headers_mut().insert(header::CONTENT_TYPE, TEXT);
        Ok(response.map(|()| Full::new(Bytes::from_static(b"hello"))))
    });
    let pooled = layer.layer(service_fn(async |request: Request<Incoming>| {
        let (mut parts, _) = request.into_parts();
        let mut body = Pools::current().expect("inside the layer").buf().get(100);
        body.write_all(b"hello").expect("memory takes everything");
        Ok(reply(&mut parts, StatusCode::OK).map(|()| PooledBody::from(body)))
    }));
    let echo = layer.layer(service_fn(async |request: Request<Incoming>| {
        let (mut parts, body) = request.into_parts();
        let pools = Pools::current().expect("inside the layer");
        let body = PooledBody::collect(body, &pools)
            .await
            .expect("small enough");
        Ok(reply(&mut parts, StatusCode::OK).map(|()| body))
    }));
    let unpooled_echo = service_fn(async |request: Request<Incoming>| {
        let body = http_body_util::BodyExt::collect(request.into_body()).await;
        Ok(Response::new(Full::new(
            body.expect("a whole body").to_bytes(),
        )))
    });

    let body = [b'e'; 16 << 10];
    let echoed = post(&body);
    let plain_1 = measure(plain, ONE.as_bytes(), b"hello").await;
    let plain_14 = measure(plain, FOURTEEN.as_bytes(), b"hello").await;
    let reply_1 = measure(replying, ONE.as_bytes(), b"hello").await;
    let reply_14 = measure(replying, FOURTEEN.as_bytes(), b"hello").await;
    let pooled_14 = measure(pooled, FOURTEEN.as_bytes(), b"hello").await;
    let echo_16k = measure(echo, &echoed, &body).await;
    let unpooled_echo_16k = measure(unpooled_echo, &echoed, &body).await;
    println!(
        "allocations per request\n\
         hello, hyper alone, 1 header     {plain_1:.2}\n\
         hello, hyper alone, 14 headers   {plain_14:.2}\n\
         hello, reply(), 1 header         {reply_1:.2}\n\
         hello, reply(), 14 headers       {reply_14:.2}\n\
         hello, PoolLayer + PooledBody    {pooled_14:.2}\n\
         echo 16 KiB, collect + Full      {unpooled_echo_16k:.2}\n\
         echo 16 KiB, PooledBody          {echo_16k:.2}"
    );

    // The map goes round: however many headers, no allocation for them.
    assert!(
        (reply_14 - reply_1).abs() < 0.02,
        "{reply_14} and {reply_1}"
    );
    assert!(reply_14 + 1.9 < plain_14, "{reply_14} and {plain_14}");
    assert!(reply_14 < 2.02, "two are hyper's own: {reply_14}");
    assert!(pooled_14 <= reply_14 + 0.02, "{pooled_14}");
    assert!(echo_16k < 3.02, "{echo_16k}");
    assert!(
        echo_16k < unpooled_echo_16k,
        "{echo_16k} and {unpooled_echo_16k}"
    );
}
