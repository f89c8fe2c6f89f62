//! Where many connections are ready together, their answers are sent together.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use stellane_core::connection::{CloseReason, ConnectionManager, Incoming};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf},
    task::JoinSet,
};

const CLIENTS: usize = 16;
const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Served,
    Sent,
}

type Log = Arc<Mutex<Vec<Event>>>;

fn note(log: &Log, event: Event) {
    log.lock().expect("no panic").push(event);
}

/// The server's end of a connection.
struct Noted {
    stream: DuplexStream,
    log: Log,
}

impl AsyncRead for Noted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Noted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        note(&self.log, Event::Sent);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// `CLIENTS` connections, and what happens on them.
struct Server {
    clients: Vec<DuplexStream>,
    serving: JoinSet<CloseReason>,
    log: Log,
}

impl Server {
    /// With so much room for what is sent, and handlers that take so long.
    fn new(room: usize, burn: Duration) -> Self {
        let log = Log::default();
        let manager = ConnectionManager::builder().build().expect("valid");
        let served = Arc::clone(&log);
        let service = tower::service_fn(move |_: Request<Incoming>| {
            note(&served, Event::Served);
            std::thread::sleep(burn);
            async { Ok::<_, Infallible>(Response::new("hello".to_owned())) }
        });
        let mut serving = JoinSet::new();
        let clients = (0..CLIENTS).map(|_| {
            let (near, stream) = tokio::io::duplex(room);
            let log = Arc::clone(&log);
            let noted = Noted { stream, log };
            serving.spawn(manager.serve_connection(noted, None, service.clone()));
            near
        });
        Self {
            clients: clients.collect(),
            serving,
            log,
        }
    }

    /// All ask together, and wait for their answers.
    async fn round(&mut self) -> Vec<Event> {
        for client in &mut self.clients {
            client.write_all(GET).await.expect("room for it");
        }
        for client in &mut self.clients {
            let mut got = Vec::new();
            while !got.ends_with(b"hello") {
                assert!(client.read_buf(&mut got).await.expect("reads") > 0);
            }
        }
        std::mem::take(&mut *self.log.lock().expect("no panic"))
    }
}

fn deferred(events: &[Event]) -> usize {
    let pairs = events.windows(2);
    pairs.filter(|pair| *pair == [Event::Served; 2]).count()
}

async fn warm() -> Server {
    let mut server = Server::new(1000, Duration::ZERO);
    for _ in 0..20 {
        server.round().await;
    }
    server
}

#[tokio::test(start_paused = true)]
async fn all_handlers_of_a_round_run_before_the_first_answer_is_sent() {
    let events = warm().await.round().await;
    let (served, sent) = events.split_at(CLIENTS);
    assert_eq!(served, [Event::Served; CLIENTS]);
    assert_eq!(sent, [Event::Sent; CLIENTS]);
}

#[tokio::test]
async fn no_answer_waits_for_handlers_that_burn_cpu() {
    let mut server = Server::new(1000, Duration::from_millis(1));
    server.round().await;
    for _ in 0..3 {
        let events = server.round().await;
        assert_eq!(deferred(&events), 0, "{events:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deferred_answer_comes_whole_to_a_client_with_little_room() {
    warm().await;
    let mut server = Server::new(40, Duration::ZERO);
    let events = server.round().await;
    assert_eq!(deferred(&events), CLIENTS - 1, "{events:?}");
    for _ in 0..3 {
        server.round().await;
    }
}

#[test]
fn a_deferred_answer_is_sent_also_if_its_connection_is_dropped() {
    // The handlers have their turn, and after them the test, before the answers.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .event_interval(CLIENTS as u32)
        .build()
        .expect("builds");
    runtime.block_on(async {
        let mut server = warm().await;
        for client in &mut server.clients {
            client.write_all(GET).await.expect("room for it");
        }
        tokio::task::yield_now().await;
        let events = std::mem::take(&mut *server.log.lock().expect("no panic"));
        assert_eq!(events, [Event::Served; CLIENTS]);
        server.serving.shutdown().await;
        for client in &mut server.clients {
            let mut got = String::new();
            client.read_to_string(&mut got).await.expect("reads");
            assert!(got.ends_with("hello"), "{got:?}");
        }
    });
}
