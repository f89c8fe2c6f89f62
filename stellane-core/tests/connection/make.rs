//! A service of its own for each connection.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use crate::until::until;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use stellane_core::connection::{
    CloseReason, ConnectInfo, ConnectionConfig, ConnectionManager, Incoming,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

/// Tells whose it is, and how often it was asked.
#[derive(Clone)]
struct Own {
    connection: ConnectInfo,
    asked: usize,
    /// As many as there are.
    _alive: Arc<()>,
}

impl tower::Service<Request<Incoming>> for Own {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Incoming>) -> Self::Future {
        self.asked += 1;
        let text = format!("{} {}.", self.connection.id(), self.asked);
        std::future::ready(Ok(Response::new(text.into())))
    }
}

struct Server {
    manager: ConnectionManager,
    address: SocketAddr,
    made: Arc<AtomicUsize>,
    alive: Arc<()>,
}

impl Server {
    async fn start() -> Self {
        let mut config = ConnectionConfig::default();
        config.park_after = Duration::from_millis(1);
        config.drain_idle = Duration::from_millis(50);
        let manager = ConnectionManager::builder().config(config);
        let manager = manager.build().expect("valid");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("an address");
        let (made, alive) = (Arc::new(AtomicUsize::new(0)), Arc::new(()));
        let (count, living) = (Arc::clone(&made), Arc::clone(&alive));
        tokio::spawn(manager.serve_with(listener, move |connection| {
            count.fetch_add(1, Ordering::Relaxed);
            Own {
                connection: connection.clone(),
                asked: 0,
                _alive: Arc::clone(&living),
            }
        }));
        Self {
            manager,
            address,
            made,
            alive,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connects")
    }

    /// Besides the test's own and the maker's.
    fn alive(&self) -> usize {
        Arc::strong_count(&self.alive) - 2
    }
}

/// Whose service answered, and how often it did.
async fn ask(stream: &mut TcpStream) -> (u64, usize) {
    stream.write_all(GET).await.expect("writes");
    let mut answer = Vec::new();
    while !answer.ends_with(b".") {
        assert!(stream.read_buf(&mut answer).await.expect("reads") > 0);
    }
    let answer = String::from_utf8(answer).expect("text");
    let body = answer.rsplit("\r\n").next().expect("a body");
    let (id, asked) = body.trim_end_matches('.').split_once(' ').expect("two");
    (id.parse().expect("an id"), asked.parse().expect("a count"))
}

#[tokio::test]
async fn a_connection_keeps_its_service_while_it_is_parked() {
    let server = Server::start().await;
    let mut clients = [server.connect().await, server.connect().await];
    let mut ids = [0; 2];
    for round in 1..=3 {
        for (client, id) in clients.iter_mut().zip(&mut ids) {
            let (answered, asked) = ask(client).await;
            assert!(round == 1 || answered == *id, "{answered} for {id}");
            *id = answered;
            assert_eq!(asked, round);
        }
        until(&server.manager, "parked", |m| m.stats().parked == 2).await;
        assert_eq!(server.alive(), 2, "nothing else is kept");
    }
    assert_ne!(ids[0], ids[1]);
    assert_eq!(server.made.load(Ordering::Relaxed), 2);
    assert_eq!(server.manager.stats().unparked_total, 4);
}

#[tokio::test]
async fn a_service_ends_with_its_connection_however_that_ends() {
    let server = Server::start().await;
    let manager = &server.manager;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = server.connect().await;
        ask(&mut client).await;
        clients.push(client);
    }
    // One that never says anything has none.
    let silent = server.connect().await;
    until(manager, "parked", |m| {
        m.stats().parked == 4 && m.stats().new == 1
    })
    .await;
    assert_eq!(
        (server.alive(), server.made.load(Ordering::Relaxed)),
        (4, 4)
    );
    drop(silent);

    // By the client, by hand, to make room, and by the drain.
    drop(clients.remove(0));
    until(manager, "closed", |m| m.stats().parked == 3).await;
    assert_eq!(server.alive(), 3);
    assert!(manager.close(manager.list()[0].id));
    until(manager, "closed", |m| m.stats().parked == 2).await;
    assert_eq!(server.alive(), 2);
    // None that may be used in the next moment.
    until(manager, "idle for long", |m| m.close_idle(1) == 1).await;
    until(manager, "closed", |m| m.stats().parked == 1).await;
    assert_eq!(server.alive(), 1);
    assert_eq!(manager.drain(Duration::from_secs(5)).await.aborted, 0);
    assert_eq!(manager.stats().closed(CloseReason::Drained), 1);
    assert_eq!(Arc::strong_count(&server.alive), 1, "the maker is gone too");
}

#[tokio::test]
async fn a_service_that_can_not_be_made_ends_its_connection_and_no_other() {
    let manager = ConnectionManager::builder().build().expect("valid");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("an address");
    let made = AtomicUsize::new(0);
    tokio::spawn(manager.serve_with(listener, move |connection| {
        assert!(made.fetch_add(1, Ordering::Relaxed) > 0, "the first one");
        Own {
            connection: connection.clone(),
            asked: 0,
            _alive: Arc::default(),
        }
    }));
    let mut unlucky = TcpStream::connect(address).await.expect("connects");
    unlucky.write_all(GET).await.expect("writes");
    let mut answer = Vec::new();
    let _ = unlucky.read_to_end(&mut answer).await;
    assert_eq!(answer, b"");
    let mut lucky = TcpStream::connect(address).await.expect("connects");
    assert_eq!(ask(&mut lucky).await.1, 1);
    assert_eq!(manager.stats().closed(CloseReason::ServiceError), 1);
}
