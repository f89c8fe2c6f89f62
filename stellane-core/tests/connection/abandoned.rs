//! A request whose client has left goes on where a layer says so: every way to leave, and every end.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use http::{Request, Response};
use http_body_util::BodyExt;
use socket2::SockRef;
use stellane_core::{
    connection::{ConnectionConfig, ConnectionManager, Incoming},
    on_disconnect::{ClientLeft, OnDisconnect, OnDisconnectLayer},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tower::{Layer, service_fn};

use crate::{served::served, steps::Steps, until::until};

/// An order is placed in two steps; who is told that its client has left waits for nothing else.
async fn place(orders: Steps, request: Request<Incoming>) -> Result<Response<String>, Infallible> {
    let left = request.extensions().get::<ClientLeft>().cloned();
    let panics = request.uri().path() == "/panics";
    orders.begin();
    // Its rest may not come.
    let _ = request.into_body().collect().await;
    match left {
        Some(client) => client.left().await,
        None => orders.pass().await,
    }
    assert!(!panics, "as asked");
    orders.end();
    Ok(Response::new("placed".to_owned()))
}

fn config() -> ConnectionConfig {
    ConnectionConfig::default().with(|config| config.half_close_grace = Duration::from_millis(50))
}

async fn start(
    config: ConnectionConfig,
    how: OnDisconnect,
    orders: &Steps,
) -> (ConnectionManager, SocketAddr) {
    let orders = orders.clone();
    let service = service_fn(move |request| place(orders.clone(), request));
    served(
        config,
        OnDisconnectLayer::new(how).layer(service),
        |listener| listener,
    )
    .await
}

/// For ever, unless something ends it.
const FINISH: OnDisconnect = finish(Duration::from_secs(3600));

const fn finish(within: Duration) -> OnDisconnect {
    OnDisconnect::Finish { within }
}

const POST: &str = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\norder";

/// A client that has asked for that, and is being served.
async fn asked(address: SocketAddr, orders: &Steps, request: &str) -> TcpStream {
    let begun = orders.begun();
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(request.as_bytes()).await.expect("writes");
    while orders.begun() == begun {
        tokio::task::yield_now().await;
    }
    stream
}

fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .expect("a socket");
    drop(stream);
}

async fn goes_on(manager: &ConnectionManager, running: u64) {
    until(manager, "abandoned", |m| {
        m.stats().abandoned.running == running
    })
    .await;
}

#[tokio::test]
async fn however_a_client_leaves_its_request_goes_on_to_its_end() {
    for (request, resets) in [
        (POST, true),
        // It ends its side, and the grace is over.
        (POST, false),
        ("GET / HTTP/1.1\r\nhost: x\r\n\r\n", true),
        ("GET / HTTP/1.0\r\n\r\n", false),
    ] {
        let orders = Steps::new();
        let (manager, address) = start(config(), FINISH, &orders).await;
        let mut stream = asked(address, &orders, request).await;
        assert_eq!(manager.stats().abandoned.running, 0);
        if resets {
            reset(stream);
        } else {
            stream.shutdown().await.expect("ends its side");
        }
        goes_on(&manager, 1).await;
        until(&manager, "closed", |m| m.stats().open == 0).await;
        assert_eq!(orders.done(), 0, "{request}");
        orders.gate.add_permits(1);
        goes_on(&manager, 0).await;
        let stats = manager.stats();
        assert_eq!(
            (orders.done(), stats.abandoned.finished_total),
            (1, 1),
            "{request}"
        );
        assert_eq!(
            (stats.requests_cancelled_total, stats.requests_in_flight),
            (1, 0)
        );
    }
}

/// Its handler hears of it, and then hyper listens to the client no more.
#[tokio::test]
async fn who_cuts_an_upload_short_ends_nothing_else() {
    for begin in [
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\norder",
        "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nord\r\n",
    ] {
        let orders = Steps::new();
        let (manager, address) = start(config(), FINISH, &orders).await;
        reset(asked(address, &orders, begin).await);
        orders.gate.add_permits(1);
        until(&manager, "placed", |_| orders.done() == 1).await;
        until(&manager, "closed", |m| m.stats().open == 0).await;
        goes_on(&manager, 0).await;
    }
}

/// One that is answered within the grace is not abandoned, and nor is one whose client stays.
#[tokio::test]
async fn who_is_answered_has_not_left() {
    let orders = Steps::new();
    orders.gate.add_permits(2);
    let (manager, address) = start(ConnectionConfig::default(), FINISH, &orders).await;
    for ends in [false, true] {
        let mut stream = asked(address, &orders, POST).await;
        if ends {
            stream.shutdown().await.expect("ends its side");
        }
        let mut answer = vec![0; 12];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut answer)
            .await
            .expect("an answer");
        assert_eq!(answer, b"HTTP/1.1 200");
    }
    assert_eq!(
        manager.stats().abandoned,
        stellane_core::on_disconnect::AbandonedStats::default()
    );
    assert_eq!(orders.done(), 2);
}

#[tokio::test]
async fn without_the_layers_word_it_is_cancelled() {
    let orders = Steps::new();
    let (manager, address) = start(config(), OnDisconnect::Cancel, &orders).await;
    reset(asked(address, &orders, POST).await);
    until(&manager, "cancelled", |m| {
        m.stats().requests_cancelled_total == 1
    })
    .await;
    orders.gate.add_permits(1);
    until(&manager, "closed", |m| m.stats().open == 0).await;
    // Nobody has taken it.
    assert_eq!((orders.gate.available_permits(), orders.done()), (1, 0));
}

#[tokio::test]
async fn it_ends_with_its_time_or_by_a_panic_or_is_one_too_many() {
    let orders = Steps::new();
    let (manager, address) = start(config(), finish(Duration::from_millis(20)), &orders).await;
    reset(asked(address, &orders, POST).await);
    until(&manager, "timed out", |m| {
        m.stats().abandoned.timed_out_total == 1
    })
    .await;

    let orders = Steps::new();
    let most = config().with(|config| config.max_abandoned = 1);
    let (manager, address) = start(most, FINISH, &orders).await;
    reset(asked(address, &orders, &POST.replace("POST /", "POST /panics")).await);
    goes_on(&manager, 1).await;
    reset(asked(address, &orders, POST).await);
    until(&manager, "refused", |m| {
        m.stats().abandoned.refused_total == 1
    })
    .await;
    orders.gate.add_permits(1);
    until(&manager, "panicked", |m| {
        m.stats().abandoned.panicked_total == 1
    })
    .await;
    assert_eq!((orders.done(), manager.stats().abandoned.running), (0, 0));
    // The server goes on.
    orders.gate.add_permits(1);
    asked(address, &orders, POST).await;
    assert_eq!(orders.begun(), 3);
}

#[tokio::test]
async fn who_is_told_may_stop_by_itself() {
    let orders = Steps::new();
    let within = Duration::from_secs(3600);
    let (manager, address) = start(config(), OnDisconnect::Tell { within }, &orders).await;
    let stream = asked(address, &orders, POST).await;
    assert_eq!(orders.done(), 0);
    reset(stream);
    until(&manager, "told", |m| {
        m.stats().abandoned.finished_total == 1
    })
    .await;
    assert_eq!(orders.done(), 1);
}

#[tokio::test]
async fn a_drain_waits_for_it_and_ends_what_is_left() {
    for in_time in [true, false] {
        let orders = Steps::new();
        let (manager, address) = start(config(), FINISH, &orders).await;
        reset(asked(address, &orders, POST).await);
        goes_on(&manager, 1).await;
        let deadline = Duration::from_millis(if in_time { 3_600_000 } else { 100 });
        let draining = {
            let manager = manager.clone();
            tokio::spawn(async move { manager.drain(deadline).await })
        };
        until(&manager, "draining", ConnectionManager::is_draining).await;
        if in_time {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(!draining.is_finished(), "it waits");
            orders.gate.add_permits(1);
        }
        let report = draining.await.expect("no panic");
        let told = (report.abandoned, report.abandoned_stopped);
        assert_eq!(told, if in_time { (1, 0) } else { (1, 1) });
        let abandoned = manager.stats().abandoned;
        let ends = (abandoned.finished_total, abandoned.stopped_total);
        assert_eq!(ends, if in_time { (1, 0) } else { (0, 1) });
        assert_eq!(orders.done(), usize::from(in_time));
    }
}

/// What a drain aborts has had its time.
#[tokio::test]
async fn what_a_drain_cuts_does_not_go_on() {
    let orders = Steps::new();
    let (manager, address) = start(config(), FINISH, &orders).await;
    let stream = asked(address, &orders, POST).await;
    let report = manager.drain(Duration::from_millis(50)).await;
    assert_eq!((report.aborted, manager.stats().abandoned.running), (1, 0));
    orders.gate.add_permits(1);
    drop(stream);
    assert_eq!((orders.done(), orders.gate.available_permits()), (0, 1));
}

#[cfg(feature = "http2")]
#[tokio::test]
async fn a_stream_that_is_reset_goes_on_and_so_does_its_connection() {
    use crate::frames::{END_HEADERS, END_STREAM, HEADERS, Peer, RST_STREAM, frame, head};

    const CANCEL: [u8; 4] = 8_u32.to_be_bytes();
    let get = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &head("GET", "/"));
    let orders = Steps::new();
    let (manager, address) = start(config(), FINISH, &orders).await;
    let mut peer = Peer::greet(address, &[]).await;
    peer.send(&get(1)).await;
    until(&manager, "begun", |_| orders.begun() == 1).await;
    peer.send(&frame(RST_STREAM, 0, 1, &CANCEL)).await;
    goes_on(&manager, 1).await;
    orders.gate.add_permits(1);
    goes_on(&manager, 0).await;

    // The connection lives; and then it is lost.
    peer.send(&get(3)).await;
    until(&manager, "begun", |_| orders.begun() == 2).await;
    orders.gate.add_permits(1);
    peer.until(HEADERS, 3).await;
    peer.send(&get(5)).await;
    until(&manager, "begun", |_| orders.begun() == 3).await;
    drop(peer);
    goes_on(&manager, 1).await;
    orders.gate.add_permits(1);
    goes_on(&manager, 0).await;
    assert_eq!(
        (orders.done(), manager.stats().abandoned.finished_total),
        (3, 2)
    );
}
