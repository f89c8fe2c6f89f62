//! Handlers that hold their thread, on `HandoffEngine`: the others go on. What is held is let go by the test, when it has
//! seen that, so nothing here depends on the time.
#![cfg(feature = "engine-testing")]

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use http::{Request, Response};
use stellane_core::{
    connection::{ConnectInfo, ConnectionManager, Incoming, ListenConfig, Listener},
    engine::{Engine, EngineError, HandoffEngine, testing::Client},
};
use tokio::task::{JoinHandle, JoinSet};

/// Far longer than anything takes here; who waits as long has waited in vain.
const TIMEOUT: Duration = Duration::from_secs(60);
const DEADLINE: Duration = Duration::from_secs(30);

/// Handlers that block wait here, by their threads.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
    spins: AtomicBool,
    woken: tokio::sync::Notify,
    inside: AtomicUsize,
}

impl Gate {
    fn open(&self) {
        *self.open.lock().expect("no panic") = true;
        self.opened.notify_all();
        self.spins.store(true, SeqCst);
        self.woken.notify_waiters();
    }

    /// Those that come from now on wait.
    fn close(&self) {
        *self.open.lock().expect("no panic") = false;
        self.spins.store(false, SeqCst);
    }

    fn wait(&self) {
        let open = self.open.lock().expect("no panic");
        drop(self.opened.wait_while(open, |open| !*open));
    }

    fn handle(&self, path: &str) {
        self.inside.fetch_add(1, SeqCst);
        match path {
            "/block" | "/panic" => self.wait(),
            "/compute" => {
                while !self.spins.load(Relaxed) {
                    std::hint::spin_loop();
                }
            }
            // In a task of tokio's this is a panic.
            "/block_on" => tokio::runtime::Handle::current().block_on(async {
                let woken = self.woken.notified();
                if !self.spins.load(SeqCst) {
                    woken.await;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }),
            _ => {
                self.inside.fetch_sub(1, SeqCst);
            }
        }
        assert_ne!(path, "/panic", "as asked");
    }

    /// So many handlers hold their threads.
    async fn hold(&self, handlers: usize) {
        until(|| self.inside.load(SeqCst) == handlers).await;
    }
}

/// Lets the handlers go when a test fails, or its runtime would wait for them.
struct AtLast(Arc<Gate>);

impl Drop for AtLast {
    fn drop(&mut self) {
        self.0.open();
    }
}

async fn within<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(TIMEOUT, what).await.expect("in time")
}

async fn until(holds: impl Fn() -> bool) {
    within(async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

fn connections() -> ConnectionManager {
    ConnectionManager::builder()
        .build()
        .expect("the defaults are valid")
}

async fn bound() -> (Vec<Listener>, SocketAddr) {
    let options = ListenConfig::default();
    let listeners = Listener::bind_all("127.0.0.1:0", &options).await;
    let listeners = listeners.expect("binds");
    let address = listeners[0].local_addr().expect("tcp");
    (listeners, address)
}

struct Served {
    engine: Arc<HandoffEngine>,
    gate: Arc<Gate>,
    address: SocketAddr,
    serving: JoinHandle<Result<(), EngineError>>,
    _at_last: AtLast,
}

async fn serve(cores: usize, max_blocked: usize) -> Served {
    let engine = HandoffEngine::builder()
        .connections(&connections())
        .cores(cores)
        .max_blocked(max_blocked)
        .build();
    let engine = Arc::new(engine);
    let gate = Arc::<Gate>::default();
    let handler = Arc::clone(&gate);
    let service = tower::service_fn(move |request: Request<Incoming>| {
        let gate = Arc::clone(&handler);
        async move {
            gate.handle(request.uri().path());
            // And goes on afterwards, wherever it is then.
            tokio::task::yield_now().await;
            Ok::<_, Infallible>(Response::new("hello".to_owned()))
        }
    });
    let (listeners, address) = bound().await;
    let serving = tokio::spawn(engine.serve(listeners, service));
    Served {
        engine,
        address,
        serving,
        _at_last: AtLast(Arc::clone(&gate)),
        gate,
    }
}

async fn hello(client: &mut Client) {
    let answer = within(client.request("GET", "/", b"")).await;
    let answer = answer.expect("answers");
    assert_eq!((answer.status, &*answer.body), (200, &b"hello"[..]));
}

impl Served {
    async fn connect(&self) -> Client {
        let connected = within(Client::connect(self.address)).await;
        connected.expect("connects")
    }

    /// Clients that have been answered once.
    async fn kept(&self, count: usize) -> Vec<Client> {
        let mut kept = Vec::new();
        for _ in 0..count {
            let mut client = self.connect().await;
            hello(&mut client).await;
            kept.push(client);
        }
        kept
    }

    /// So many ask, each by a connection of its own; each gets 200.
    fn ask(&self, count: usize, path: &'static str) -> JoinSet<u16> {
        let mut asking = JoinSet::new();
        for _ in 0..count {
            let address = self.address;
            asking.spawn(async move {
                let mut client = Client::connect(address).await.expect("connects");
                let answer = client.request("GET", path, b"").await.expect("answers");
                answer.status
            });
        }
        asking
    }

    /// Others are answered, on connections that they have and on new ones.
    async fn others_are_answered(&self, kept: &mut [Client]) {
        for _ in 0..10 {
            for client in &mut *kept {
                hello(client).await;
            }
            hello(&mut self.connect().await).await;
        }
    }

    async fn end(self) {
        let report = within(self.engine.stop(DEADLINE)).await;
        assert_eq!((report.aborted, report.left), (0, 0));
        let served = within(self.serving).await;
        served.expect("no panic").expect("served");
    }
}

async fn all_are_answered(asking: JoinSet<u16>) {
    for status in within(asking.join_all()).await {
        assert_eq!(status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_go_on_while_ten_and_a_hundred_handlers_hold_their_threads() {
    for (handlers, path) in [(10, "/block"), (100, "/block"), (10, "/block_on")] {
        let served = serve(2, 256).await;
        let mut kept = served.kept(4).await;
        for round in 1..=5 {
            served.gate.close();
            let asking = served.ask(handlers, path);
            // From the first on, whatever is blocked by then.
            served.others_are_answered(&mut kept).await;
            served.gate.hold(round * handlers).await;
            served.others_are_answered(&mut kept).await;
            let stats = || served.engine.stats();
            until(|| stats().blocked == handlers).await;
            // A thread that the machine holds up, as in a page fault, loses its core too: beyond those that were asked for
            // there may be one more for each.
            let others = stats()
                .handed_off_total
                .checked_sub((round * handlers) as u64);
            let others = usize::try_from(others.expect("each is handed over")).expect("few");
            let threads = handlers + 2;
            assert!(
                (threads..=threads + others).contains(&stats().threads),
                "{:?}",
                stats()
            );
            assert_eq!(stats().refused_total, 0);
            served.gate.open();
            all_are_answered(asking).await;
            until(|| stats().blocked == 0).await;
            served.others_are_answered(&mut kept).await;
        }
        drop(kept);
        served.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_that_blocks_holds_up_nobody_of_the_only_core() {
    let served = serve(1, 256).await;
    let mut kept = served.kept(3).await;
    let asking = served.ask(1, "/block");
    served.gate.hold(1).await;
    served.others_are_answered(&mut kept).await;
    served.gate.open();
    all_are_answered(asking).await;
    drop(kept);
    served.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_go_on_while_handlers_compute() {
    let served = serve(2, 256).await;
    let mut kept = served.kept(4).await;
    let asking = served.ask(4, "/compute");
    served.gate.hold(4).await;
    served.others_are_answered(&mut kept).await;
    served.gate.open();
    all_are_answered(asking).await;
    drop(kept);
    served.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_core_tells_what_it_does_and_what_those_do_that_have_lost_it() {
    let served = serve(2, 256).await;
    let mut kept = served.kept(4).await;
    let asking = served.ask(2, "/compute");
    served.gate.hold(2).await;
    until(|| served.engine.stats().blocked == 2).await;
    served.others_are_answered(&mut kept).await;
    let cores = || served.engine.metrics().cores;
    assert_eq!(cores().len(), 2);
    let tasks = || cores().iter().map(|core| core.tasks).sum::<usize>();
    assert!(tasks() >= 2, "those that compute are there");
    assert!(cores().iter().map(|core| core.parks).sum::<u64>() > 0);
    // Nobody asks anything; what computes goes on.
    let busy = || cores().iter().map(|core| core.busy).sum::<Duration>();
    let before = busy();
    until(|| busy() > before + Duration::from_millis(100)).await;
    served.gate.open();
    all_are_answered(asking).await;
    drop(kept);
    until(|| tasks() == 0).await;
    served.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_behind_a_handler_on_its_own_connection_is_answered_after_it() {
    let served = serve(1, 256).await;
    let mut client = served.connect().await;
    for path in ["/block", "/", "/"] {
        client.send("GET", path, b"").await.expect("sends");
    }
    served.gate.hold(1).await;
    hello(&mut served.connect().await).await;
    served.gate.open();
    for _ in 0..3 {
        let answer = within(client.answer()).await.expect("answers");
        assert_eq!(answer.status, 200);
    }
    drop(client);
    served.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_after_the_core_went_ends_its_own_connection_only() {
    let served = serve(1, 256).await;
    let mut kept = served.kept(2).await;
    let mut client = served.connect().await;
    client.send("GET", "/panic", b"").await.expect("sends");
    served.gate.hold(1).await;
    served.others_are_answered(&mut kept).await;
    served.gate.open();
    within(client.answer())
        .await
        .expect_err("its connection is over");
    until(|| served.engine.stats().blocked == 0).await;
    served.others_are_answered(&mut kept).await;
    drop(kept);
    served.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_the_bound_a_core_waits_and_goes_on_when_a_thread_is_free() {
    let served = serve(1, 2).await;
    let mut kept = served.kept(2).await;
    // Twice as many lose the core, and the next one keeps it.
    let asking = served.ask(5, "/block");
    served.gate.hold(5).await;
    let stats = || served.engine.stats();
    until(|| stats().refused_total > 0).await;
    assert_eq!((stats().threads, stats().blocked), (5, 4));
    let waiting = tokio::spawn(async move {
        hello(&mut kept[0]).await;
        kept
    });
    served.gate.open();
    drop(within(waiting).await.expect("answered"));
    all_are_answered(asking).await;
    served.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_loses_nothing_of_what_is_held() {
    // Also when the core has not been given away yet, or is the only one.
    for (cores, handlers, waits) in [(1, 1, false), (1, 10, true), (2, 10, false), (2, 100, true)] {
        let served = serve(cores, 256).await;
        let kept = served.kept(4).await;
        let asking = served.ask(handlers, "/block");
        served.gate.hold(handlers).await;
        if waits {
            until(|| served.engine.stats().blocked == handlers).await;
        }
        let engine = Arc::clone(&served.engine);
        let stopping = tokio::spawn(async move { engine.stop(DEADLINE).await });
        // It goes on as far as it can: nobody listens any more, and idle clients leave.
        let refused = async { while Client::connect(served.address).await.is_ok() {} };
        within(refused).await;
        drop(kept);
        let held = handlers as u64;
        until(|| served.engine.metrics().connections_open == held).await;
        assert!(!stopping.is_finished());
        served.gate.open();
        all_are_answered(asking).await;
        let report = within(stopping).await.expect("no panic");
        assert_eq!((report.aborted, report.left), (0, 0));
        within(served.serving)
            .await
            .expect("no panic")
            .expect("served");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_blocks_for_ever_is_left_behind_and_does_not_hold_up_a_stop() {
    for handlers in [1, 10] {
        let served = serve(2, 256).await;
        let mut kept = served.kept(2).await;
        let mut asking = served.ask(handlers, "/block");
        served.gate.hold(handlers).await;
        served.others_are_answered(&mut kept).await;
        let report = within(served.engine.stop(Duration::from_millis(50))).await;
        assert_eq!(report.left, handlers as u64);
        // Nobody serves any more, though they still block.
        let ended = within(served.serving).await.expect("no panic");
        assert!(matches!(ended, Err(EngineError::Stopped)), "{ended:?}");
        served.gate.open();
        // Each is answered after all, or cut.
        while within(asking.join_next()).await.is_some() {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_may_be_dropped_in_any_state() {
    let engine = |cores| {
        HandoffEngine::builder()
            .connections(&connections())
            .cores(cores)
            .build()
    };
    drop(engine(2));
    let started = engine(2);
    started.start().expect("starts");
    started.start().expect("is no mistake");
    drop(started);
    let never_served = engine(2);
    never_served.start().expect("starts");
    within(never_served.stop(DEADLINE)).await;
    assert!(matches!(never_served.start(), Err(EngineError::Stopped)));
    let never_started = engine(2);
    within(never_started.stop(DEADLINE)).await;
    within(never_started.stop(DEADLINE)).await;
    assert!(matches!(never_started.start(), Err(EngineError::Stopped)));
    for blocked in [0, 3] {
        let served = serve(2, 256).await;
        let mut kept = served.kept(3).await;
        let asking = served.ask(blocked, "/block");
        served.gate.hold(blocked).await;
        let Served {
            engine,
            gate,
            serving,
            _at_last,
            ..
        } = served;
        drop(engine);
        // Its listeners and connections are closed.
        let ended = within(serving).await.expect("no panic");
        assert!(matches!(ended, Err(EngineError::Stopped)), "{ended:?}");
        for client in &mut kept {
            let answer = within(client.request("GET", "/", b"")).await;
            answer.expect_err("closed");
        }
        gate.open();
        drop(asking);
    }
}

#[test]
fn outside_of_a_runtime_it_says_so() {
    let engine = HandoffEngine::builder().connections(&connections()).build();
    assert!(matches!(engine.start(), Err(EngineError::NoRuntime)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_connection_has_its_service_and_keeps_it_while_others_block() {
    let engine = HandoffEngine::builder()
        .connections(&connections())
        .cores(1)
        .build();
    let gate = Arc::<Gate>::default();
    let _at_last = AtLast(Arc::clone(&gate));
    let handler = Arc::clone(&gate);
    let make = move |_: &ConnectInfo| {
        let (count, gate) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&handler));
        tower::service_fn(move |request: Request<Incoming>| {
            gate.handle(request.uri().path());
            let count = count.fetch_add(1, SeqCst);
            std::future::ready(Ok::<_, Infallible>(Response::new(count.to_string())))
        })
    };
    let (listeners, address) = bound().await;
    let serving = tokio::spawn(engine.serve_make(listeners, make));
    let mut blocks = Client::connect(address).await.expect("connects");
    blocks.send("GET", "/block", b"").await.expect("sends");
    gate.hold(1).await;
    for _ in 0..2 {
        let mut client = within(Client::connect(address)).await.expect("connects");
        for n in 0..3 {
            let answer = within(client.request("GET", "/", b"")).await;
            assert_eq!(answer.expect("answers").body, n.to_string().as_bytes());
        }
    }
    gate.open();
    assert_eq!(within(blocks.answer()).await.expect("answers").body, b"0");
    drop(blocks);
    within(engine.stop(DEADLINE)).await;
    within(serving).await.expect("no panic").expect("served");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_that_is_spare_gives_its_memory_back() {
    let purged = Arc::new(AtomicUsize::new(0));
    let connections = ConnectionManager::builder()
        .purge_hook({
            let purged = Arc::clone(&purged);
            move || {
                purged.fetch_add(1, SeqCst);
            }
        })
        .build()
        .expect("the defaults are valid");
    // Nothing parks, so that nothing else purges.
    connections.set_park_after(Duration::from_secs(3600));
    let engine = HandoffEngine::builder()
        .connections(&connections)
        .cores(1)
        .build();
    let gate = Arc::<Gate>::default();
    let _at_last = AtLast(Arc::clone(&gate));
    let handler = Arc::clone(&gate);
    let service = tower::service_fn(move |request: Request<Incoming>| {
        handler.handle(request.uri().path());
        std::future::ready(Ok::<_, Infallible>(Response::new(String::new())))
    });
    let (listeners, address) = bound().await;
    let serving = tokio::spawn(engine.serve(listeners, service));
    let mut client = Client::connect(address).await.expect("connects");
    client.send("GET", "/block", b"").await.expect("sends");
    until(|| engine.stats().blocked == 1).await;
    gate.open();
    within(client.answer()).await.expect("answers");
    until(|| purged.load(SeqCst) == 1).await;
    // And ends, when nobody needs it.
    until(|| engine.stats().threads == 1).await;
    drop(client);
    within(engine.stop(DEADLINE)).await;
    within(serving).await.expect("no panic").expect("served");
}

#[cfg(feature = "http2")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_the_second_time_on_streams_of_one_connection_do_not_wait_for_one_that_blocks() {
    use http_body_util::{BodyExt, Empty};
    use hyper_util::rt::{TokioExecutor, TokioIo};

    let served = serve(1, 256).await;
    let connect = async || {
        let socket = tokio::net::TcpStream::connect(served.address).await;
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let socket = TokioIo::new(socket.expect("connects"));
        let (client, connection) = builder.handshake(socket).await.expect("speaks HTTP/2");
        tokio::spawn(connection);
        client
    };
    type Client = hyper::client::conn::http2::SendRequest<Empty<hyper::body::Bytes>>;
    let ask = |client: &Client, path: &str| {
        let request = Request::get(format!("http://test{path}"));
        let request = request.body(Empty::new()).expect("valid");
        let answer = client.clone().send_request(request);
        async {
            let body = answer.await.expect("answers").into_body();
            let body = body.collect().await.expect("whole").to_bytes();
            assert_eq!(&*body, b"hello");
        }
    };
    let (client, other) = (connect().await, connect().await);
    within(ask(&client, "/")).await;
    // The first: another connection goes on.
    let first = tokio::spawn(ask(&client, "/block"));
    served.gate.hold(1).await;
    within(ask(&other, "/")).await;
    served.gate.open();
    within(first).await.expect("answered");
    // Those after it: the same connection goes on.
    served.gate.close();
    let held: Vec<_> = (0..20)
        .map(|_| tokio::spawn(ask(&client, "/block")))
        .collect();
    served.gate.hold(21).await;
    for _ in 0..10 {
        within(ask(&client, "/")).await;
        within(ask(&other, "/")).await;
    }
    served.gate.open();
    for held in held {
        within(held).await.expect("answered");
    }
    drop((client, other));
    served.end().await;
}

#[cfg(all(feature = "full", feature = "tls-ring"))]
#[path = "support/self_signed.rs"]
mod self_signed;

/// Over TLS, over WebSocket, and on connections that were parked: all that were there before, and new ones.
#[cfg(all(feature = "full", feature = "tls-ring"))]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_kinds_of_connections_go_on_while_handlers_hold_their_threads() {
    use axum::{
        extract::ws::{WebSocket, WebSocketUpgrade},
        routing::get,
    };
    use stellane_core::connection::TlsAcceptor;
    use tokio::{
        io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
        net::TcpStream,
    };

    async fn echo(mut socket: WebSocket) {
        while let Some(Ok(message)) = socket.recv().await {
            if socket.send(message).await.is_err() {
                break;
            }
        }
    }

    async fn ask<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut S) {
        let asked = b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n";
        socket.write_all(asked).await.expect("writes");
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello") {
            assert_ne!(socket.read_buf(&mut answer).await.expect("reads"), 0);
        }
    }

    async fn say(socket: &mut TcpStream) {
        // Text, masked with nothing.
        let message = b"\x81\x82\0\0\0\0ab";
        socket.write_all(message).await.expect("writes");
        let mut answer = [0; 4];
        socket.read_exact(&mut answer).await.expect("an echo");
        assert_eq!(&answer, b"\x81\x02ab");
    }

    async fn upgraded(address: SocketAddr) -> TcpStream {
        let mut socket = TcpStream::connect(address).await.expect("connects");
        let asked = b"GET /ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
            sec-websocket-version: 13\r\nsec-websocket-key: AQIDBAUGBwgJCgsMDQ4PEA==\r\n\r\n";
        socket.write_all(asked).await.expect("writes");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(socket.read_u8().await.expect("reads"));
        }
        assert!(answer.starts_with(b"HTTP/1.1 101"));
        socket
    }

    let gate = Arc::<Gate>::default();
    let _at_last = AtLast(Arc::clone(&gate));
    let handler = Arc::clone(&gate);
    let block = move || {
        let gate = Arc::clone(&handler);
        async move { gate.handle("/block") }
    };
    let upgrade = |upgrade: WebSocketUpgrade| async { upgrade.on_upgrade(echo) };
    let app = axum::Router::new()
        .route("/block", get(block))
        .route("/hello", get(async || "hello"))
        .route("/ws", get(upgrade));
    let connections = connections();
    connections.set_park_after(Duration::ZERO);
    let engine = HandoffEngine::builder()
        .connections(&connections)
        .cores(1)
        .build();
    let signed = self_signed::SelfSigned::new();
    let (mut listeners, address) = bound().await;
    let (secret, tls_address) = bound().await;
    let tls = TlsAcceptor::from_rustls(signed.server());
    listeners.extend(secret.into_iter().map(|listener| listener.tls(&tls)));
    let serving = tokio::spawn(engine.serve(listeners, app));
    let connect = async |address| TcpStream::connect(address).await.expect("connects");
    within(async {
        let mut secret = signed.connect(connect(tls_address).await).await;
        let mut parked = connect(address).await;
        ask(&mut secret).await;
        ask(&mut parked).await;
        let mut socket = upgraded(address).await;
        until(|| connections.stats().parked >= 1).await;
        for handlers in [1, 10] {
            let mut blocks = Vec::new();
            for _ in 0..handlers {
                let mut client = Client::connect(address).await.expect("connects");
                client.send("GET", "/block", b"").await.expect("sends");
                blocks.push(client);
            }
            until(|| engine.stats().blocked == handlers).await;
            for _ in 0..5 {
                ask(&mut secret).await;
                ask(&mut parked).await;
                say(&mut socket).await;
                ask(&mut signed.connect(connect(tls_address).await).await).await;
                say(&mut upgraded(address).await).await;
            }
            gate.open();
            for client in &mut blocks {
                assert_eq!(client.answer().await.expect("answers").status, 200);
            }
            gate.close();
        }
    })
    .await;
    within(engine.stop(DEADLINE)).await;
    within(serving).await.expect("no panic").expect("served");
}
