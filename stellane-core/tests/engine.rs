//! The engines of this crate pass the public suite; what is theirs alone is tested here.
#![cfg(feature = "engine-testing")]

#[path = "support/looks.rs"]
mod looks;

use std::{
    cell::Cell,
    collections::{BTreeMap, HashSet},
    convert::Infallible,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use http::{Request, Response};
use looks::holds_soon;
use stellane_core::{
    connection::{CloseReason, ConnectionManager, Incoming, ListenConfig, Listener},
    engine::{
        Engine, EngineError, HandoffEngine, PerCoreEngine, SharedEngine,
        testing::{self, Client},
    },
};
use tokio::task::JoinHandle;

fn connections() -> ConnectionManager {
    ConnectionManager::builder()
        .build()
        .expect("the defaults are valid")
}

fn per_core(cores: usize) -> PerCoreEngine {
    PerCoreEngine::builder()
        .connections(&connections())
        .cores(cores)
        .build()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shared_engine_passes_the_suite() {
    testing::check_engine(|| SharedEngine::new(&connections()))
        .await
        .expect("passes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_per_core_engine_passes_the_suite() {
    testing::check_engine(|| per_core(3)).await.expect("passes");
    let pinned = || {
        PerCoreEngine::builder()
            .connections(&connections())
            .cores(1)
            .pin(true)
            .build()
    };
    testing::check_engine(pinned).await.expect("passes");
}

fn handoff(cores: usize) -> HandoffEngine {
    HandoffEngine::builder()
        .connections(&connections())
        .cores(cores)
        .build()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_handoff_engine_passes_the_suite() {
    testing::check_engine(|| handoff(3)).await.expect("passes");
    testing::check_engine(|| handoff(1)).await.expect("passes");
}

async fn reuse_port(sockets: usize) -> Vec<Listener> {
    let mut options = ListenConfig::default();
    options.sockets = sockets;
    Listener::bind_all("127.0.0.1:0", &options)
        .await
        .expect("binds")
}

/// Serves a text in the background.
fn serve_text(
    engine: &impl Engine,
    listeners: Vec<Listener>,
    text: &'static str,
) -> (SocketAddr, JoinHandle<Result<(), EngineError>>) {
    let address = listeners[0].local_addr().expect("tcp");
    let service = tower::service_fn(move |_: Request<Incoming>| async move {
        Ok::<_, Infallible>(Response::new(text.to_owned()))
    });
    (address, tokio::spawn(engine.serve(listeners, service)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cores_that_share_a_socket_share_its_connections_evenly() {
    let engine = per_core(3);
    let listeners = reuse_port(1).await;
    let address = listeners[0].local_addr().expect("tcp");
    let service = tower::service_fn(|_: Request<Incoming>| async {
        let core = std::thread::current().name().map(str::to_owned);
        Ok::<_, Infallible>(Response::new(core.unwrap_or_default()))
    });
    let serving = tokio::spawn(engine.serve(listeners, service));
    let mut of_each = BTreeMap::new();
    let mut clients = Vec::new();
    for n in 0..60 {
        let mut client = Client::connect(address).await.expect("connects");
        let answer = client.request("GET", "/", b"").await.expect("answers");
        clients.push((answer.body.clone(), client));
        *of_each.entry(answer.body).or_insert(0) += 1;
        // One core loses all it has, and is given the next ones.
        if n == 29 {
            let core = clients[0].0.clone();
            of_each.remove(&core);
            clients.retain(|(of, _)| *of != core);
            while engine.metrics().connections_open > clients.len() as u64 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
    let counts: Vec<usize> = of_each.into_values().collect();
    let even = clients.len() / 3;
    assert_eq!(counts.len(), 3);
    assert!(counts.iter().all(|n| n.abs_diff(even) <= 3), "{counts:?}");
    assert_eq!(engine.stop(Duration::from_secs(5)).await.aborted, 0);
    serving.await.expect("no panic").expect("served");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_not_send_is_made_once_on_each_core_and_stays_there() {
    let engine = per_core(3);
    let listeners = reuse_port(3).await;
    let address = listeners[0].local_addr().expect("tcp");
    let (made, makers) = mpsc::channel();
    let serving = tokio::spawn(engine.serve_local(listeners, move || {
        let home = std::thread::current().id();
        made.send(home).expect("the test waits");
        let count = Rc::new(Cell::new(0));
        tower::service_fn(move |_: Request<Incoming>| {
            let count = Rc::clone(&count);
            async move {
                // What is spawned here may be bound to the thread too.
                let counted = Rc::clone(&count);
                let spawned = tokio::task::spawn_local(async move {
                    tokio::task::yield_now().await;
                    counted.set(counted.get() + 1);
                    std::thread::current().id()
                });
                assert_eq!(spawned.await.expect("runs"), home);
                Ok::<_, Infallible>(Response::new(count.get().to_string()))
            }
        })
    }));
    let mut clients = Vec::new();
    for _ in 0..30 {
        clients.push(Client::connect(address).await.expect("connects"));
    }
    let mut last_counts = 0;
    for _ in 0..10 {
        for client in &mut clients {
            let answer = client.request("GET", "/", b"").await.expect("answers");
            assert_eq!(answer.status, 200);
            last_counts = last_counts.max(
                String::from_utf8(answer.body)
                    .expect("text")
                    .parse()
                    .expect("a number"),
            );
        }
    }
    assert!(last_counts >= 100, "one core of three has a third at least");
    assert_eq!(engine.metrics().requests_total, 300);
    engine.stop(Duration::from_secs(5)).await;
    serving.await.expect("no panic").expect("serves");
    let makers: Vec<_> = makers.iter().collect();
    assert_eq!(makers.len(), 3);
    assert_eq!(makers.iter().collect::<HashSet<_>>().len(), 3);
}

#[tokio::test]
async fn the_statistics_and_the_limit_of_the_manager_cover_all_cores() {
    let connections = connections();
    connections.set_max_connections(4);
    let engine = PerCoreEngine::builder()
        .connections(&connections)
        .cores(2)
        .build();
    let (address, serving) = serve_text(&engine, reuse_port(2).await, "hello");
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = Client::connect(address).await.expect("connects");
        client.request("GET", "/", b"").await.expect("answers");
        clients.push(client);
    }
    // A connection that is ending is counted a moment later.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let stats = connections.stats();
    assert!(stats.open <= 4, "{stats:?}");
    assert_eq!(stats.accepted_total, 20);
    // Those for whom no room could be made have been told so.
    assert_eq!(
        stats.requests_total + stats.closed(CloseReason::Refused),
        20
    );
    assert_eq!(engine.metrics().cores.len(), 2);
    engine.stop(Duration::from_secs(5)).await;
    serving.await.expect("no panic").expect("serves");
}

#[tokio::test]
async fn a_wave_of_parked_connections_gives_memory_back_on_every_core() {
    let per_core = |connections: &ConnectionManager| {
        let builder = PerCoreEngine::builder().connections(connections);
        builder.cores(3).build()
    };
    gives_memory_back_on_every_core(per_core).await;
    let handoff = |connections: &ConnectionManager| {
        let builder = HandoffEngine::builder().connections(connections);
        builder.cores(3).build()
    };
    gives_memory_back_on_every_core(handoff).await;
}

async fn gives_memory_back_on_every_core<E: Engine>(engine: impl Fn(&ConnectionManager) -> E) {
    let purged = Arc::new(Mutex::new(HashSet::new()));
    let connections = ConnectionManager::builder()
        .purge_hook({
            let purged = Arc::clone(&purged);
            move || {
                let core = std::thread::current().id();
                purged.lock().expect("no panic").insert(core);
            }
        })
        .build()
        .expect("the defaults are valid");
    connections.set_park_after(Duration::ZERO);
    let engine = engine(&connections);
    let (address, serving) = serve_text(&engine, reuse_port(3).await, "hello");
    let mut client = Client::connect(address).await.expect("connects");
    client.request("GET", "/", b"").await.expect("answers");
    // One connection on one core is a wave for all of them.
    let all = holds_soon(async || purged.lock().expect("no panic").len() == 3).await;
    engine.stop(Duration::from_secs(5)).await;
    serving.await.expect("no panic").expect("serves");
    assert!(all, "each core's thread is purged");
}

#[tokio::test]
async fn a_makers_panic_ends_serving_with_an_error() {
    let engine = per_core(2);
    let listeners = reuse_port(2).await;
    let serving = engine.serve_local(listeners, || {
        if true {
            panic!("no service today");
        }
        tower::service_fn(|_: Request<Incoming>| async {
            Ok::<_, Infallible>(Response::new(String::new()))
        })
    });
    serving.await.expect_err("there is no service");
}

#[cfg(feature = "full")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_preset_serves_on_the_engine_that_is_configured() {
    use stellane_core::{RequestBody, Runtime, RuntimeConfig, engine::EngineKind};

    for (kind, thread) in [
        (EngineKind::Shared, "tokio-"),
        (EngineKind::PerCore, "stellane-core-"),
        (EngineKind::Handoff, "stellane-core"),
    ] {
        let mut config = RuntimeConfig::default();
        config.engine.kind = kind;
        config.engine.cores = 2;
        config.server.admin_address = String::new();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let service = tower::service_fn(|_: Request<RequestBody>| async {
            let name = std::thread::current().name().map(str::to_owned);
            Ok::<_, Infallible>(Response::new(name.unwrap_or_default()))
        });
        let runtime = Runtime::builder()
            .config(config)
            .service(service)
            .shutdown_signal(async { drop(stopped.await) })
            .build()
            .expect("builds");
        let bound = runtime.bind("127.0.0.1:0").await.expect("binds");
        let address = bound.local_addr();
        let running = tokio::spawn(bound.serve());
        let mut client = Client::connect(address).await.expect("connects");
        let answer = client.request("GET", "/", b"").await.expect("answers");
        let name = String::from_utf8(answer.body).expect("text");
        assert!(name.starts_with(thread), "{name} for {kind:?}");
        stop.send(()).expect("is served");
        let report = running.await.expect("no panic").expect("serves");
        assert_eq!(report.drain.aborted, 0);
    }
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn a_tls_listener_stays_one_on_every_core() {
    use stellane_core::connection::TlsAcceptor;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let folder = std::env::temp_dir().join(format!("stellane-engine-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("makes");
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
    std::fs::write(&certificate, made.cert.pem()).expect("writes");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("writes");
    let tls = TlsAcceptor::from_files(&certificate, &key).expect("good files");
    std::fs::remove_dir_all(&folder).expect("removes");

    let engine = per_core(2);
    // One socket, so that the second core has a clone of it.
    let listeners: Vec<_> = reuse_port(1)
        .await
        .into_iter()
        .map(|l| l.tls(&tls))
        .collect();
    let (address, serving) = serve_text(&engine, listeners, "secret");
    for _ in 0..20 {
        let mut socket = tokio::net::TcpStream::connect(address)
            .await
            .expect("connects");
        let plain = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        socket.write_all(plain).await.expect("writes");
        let mut said = Vec::new();
        let _ = socket.read_to_end(&mut said).await;
        assert!(!said.starts_with(b"HTTP"), "answered without TLS");
    }
    engine.stop(Duration::from_secs(5)).await;
    serving.await.expect("no panic").expect("serves");
}
