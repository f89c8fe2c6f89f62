//! Whatever becomes of a request of the preset, it is counted once and gives its place under the limit back.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use crate::until::until;
use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use stellane_core::{
    Components, RequestBody, Runtime, RuntimeConfig,
    autotune::{AlgorithmKind, LimitConfig},
    connection::ConnectionManager,
    pool::Pools,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, oneshot},
};
use tower::service_fn;

/// One place, for which the next request waits.
fn config() -> RuntimeConfig {
    let mut config = RuntimeConfig::default();
    config.server.admin_address = "127.0.0.1:0".to_owned();
    config.workers.min_workers = 1;
    let mut limit = LimitConfig::default();
    limit.algorithm = AlgorithmKind::Fixed;
    (limit.initial, limit.min, limit.max) = (1, 1, 1);
    limit.max_wait = Duration::from_secs(3600);
    config.limit = limit;
    config
}

type Answer = Result<Response<UnsyncBoxBody<Bytes, Infallible>>, Infallible>;

/// `/`: the answer; `/wait`: after a notice; `/stream`: its body after a notice; `/panic`.
async fn answer(request: Request<RequestBody>, notice: Arc<Notify>) -> Answer {
    let text = Frame::data(Bytes::from_static(b"the answer"));
    let body = match request.uri().path() {
        "/panic" => panic!("as asked"),
        "/stream" => StreamBody::new(stream::once(async move {
            notice.notified().await;
            Ok(text)
        }))
        .boxed_unsync(),
        path => {
            if path == "/wait" {
                notice.notified().await;
            }
            assert!(Pools::current().is_some(), "also behind the queue");
            Full::new(Bytes::from_static(b"the answer")).boxed_unsync()
        }
    };
    Ok(Response::new(body))
}

async fn send(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("writes");
    stream
}

async fn receive(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("reads");
    answer
}

fn in_flight(components: &Components) -> (u32, u64) {
    let recorded = components.metrics.stats().requests_in_flight;
    (components.limit.stats().in_flight, recorded)
}

#[tokio::test]
async fn every_request_is_counted_once_and_gives_its_place_back() {
    let notice = Arc::new(Notify::new());
    let (stop, stopped) = oneshot::channel::<()>();
    let bound = Runtime::builder()
        .config(config())
        .service(service_fn({
            let notice = Arc::clone(&notice);
            move |request| answer(request, Arc::clone(&notice))
        }))
        .shutdown_signal(async {
            let _ = stopped.await;
        })
        .build()
        .expect("builds")
        .bind("127.0.0.1:0")
        .await
        .expect("binds");
    let (address, components) = (bound.local_addr(), bound.components().clone());
    let serving = tokio::spawn(bound.serve());
    let connections = &components.connections;
    let all_left = |_: &ConnectionManager| in_flight(&components) == (0, 0);
    let one_inside = |_: &ConnectionManager| in_flight(&components) == (1, 1);

    // At once.
    assert!(
        receive(send(address, "/").await)
            .await
            .ends_with("the answer")
    );
    until(connections, "over: the first", all_left).await;

    // One that waits for the place of another.
    let first = send(address, "/wait").await;
    until(connections, "inside", one_inside).await;
    let second = send(address, "/").await;
    until(connections, "waiting", |_| {
        components.limit.stats().waiting == 1
    })
    .await;
    notice.notify_one();
    for stream in [first, second] {
        assert!(receive(stream).await.ends_with("the answer"));
    }
    until(connections, "over: both", all_left).await;

    // The place is held until the body has ended.
    let mut streamed = send(address, "/stream").await;
    let mut head = [0; 12];
    streamed.read_exact(&mut head).await.expect("reads");
    assert_eq!(&head, b"HTTP/1.1 200");
    assert_eq!(in_flight(&components), (1, 1));
    notice.notify_one();
    assert!(receive(streamed).await.contains("the answer"));
    until(connections, "over: the stream", all_left).await;

    let panicked = receive(send(address, "/panic").await).await;
    assert!(panicked.starts_with("HTTP/1.1 500"), "{panicked}");
    until(connections, "over: the panic", all_left).await;

    // Clients that go away, before the answer and in the middle of it.
    for path in ["/wait", "/stream"] {
        let gone = send(address, path).await;
        until(connections, "inside", one_inside).await;
        drop(gone);
        until(connections, "cancelled", all_left).await;
    }

    let (limit, http) = (components.limit.stats(), components.metrics.stats());
    assert_eq!((http.requests_total, http.requests_cancelled_total), (7, 2));
    assert_eq!(http.requests_failed_total, 1);
    assert_eq!((limit.admitted, limit.shed), (7, 0));
    // The head of the one stream that was cancelled was an answer.
    assert_eq!((limit.successes, limit.ignored, limit.cancelled), (5, 1, 1));
    stop.send(()).expect("still serving");
    serving.await.expect("no panic").expect("no error");
}
