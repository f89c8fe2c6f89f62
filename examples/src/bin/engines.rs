//! What each engine costs beside what you would use instead: CPU time for each request and throughput, with connections
//! that are kept and with connections made anew every 25 requests, in paired turns.
//!
//! Run with `cargo run --release -p stellane-examples --bin engines [turns]`. Each server is a process of its own with
//! the same allocator and the same answer; servers and client use the same cores, and take turns. A ratio compares the
//! turns of the same round; its median counts.

use std::{
    convert::Infallible,
    io::Write,
    net::{SocketAddr, TcpStream},
    process::ExitCode,
    time::Instant,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use stellane_core::{
    BoxError,
    connection::{ConnectionManager, HttpService, ListenConfig, Listener},
    engine::{Engine, PerCoreEngine, SharedEngine},
    engine_selector::{EngineSelector, EngineSelectorLayer},
    prepared::{Prepared, PreparedLayer},
};
use stellane_examples::measure::{self, GET, Server, TICK_MICROS, answer};
use tower::Layer;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The first is what the others are compared with.
const SERVERS: [&str; 7] = [
    "bare hyper, thread per core",
    "PerCoreEngine",
    "PerCoreEngine, axum handler",
    "PerCoreEngine, the same prepared",
    "PerCoreEngine, the same prepared, selector",
    "SharedEngine",
    "axum",
];
const CONNECTIONS: usize = 64;
const REQUESTS: usize = 128_000;
const RECONNECT: usize = 25;

fn main() -> ExitCode {
    measure::run(serve, compare, 9, "engines [turns]")
}

#[derive(Clone, Copy)]
struct Turn {
    cpu_micros: f64,
    per_second: f64,
}

fn compare(turns: usize) -> Result<(), BoxError> {
    for (what, every) in [("kept", usize::MAX), ("every 25 requests", RECONNECT)] {
        let servers = SERVERS
            .iter()
            .map(|name| Server::start(name, &[]))
            .collect::<Result<Vec<_>, _>>()?;
        let mut measured = vec![Vec::new(); SERVERS.len()];
        for turn in 0..=turns {
            // Each goes first as often as the others.
            for i in 0..SERVERS.len() {
                let i = (i + turn) % SERVERS.len();
                let result = turn_of(&servers[i], every)?;
                // The first turn warms up.
                if turn > 0 {
                    measured[i].push(result);
                }
            }
        }
        println!(
            "connections: {what}\n\n\
             | server | CPU µs for each request | requests/s | CPU ratio | throughput ratio (quartiles) |\n\
             |---|---|---|---|---|"
        );
        for (name, turns) in SERVERS.iter().zip(&measured) {
            let pairs = || turns.iter().zip(&measured[0]);
            let throughput = pairs().map(|(a, b)| a.per_second / b.per_second);
            let [low, mid, high] = quartiles(throughput.collect());
            let cpu = quartiles(pairs().map(|(a, b)| a.cpu_micros / b.cpu_micros).collect())[1];
            println!(
                "| {name} | {:.2} | {:.0} | {cpu:.3} | {mid:.3} ({low:.3}-{high:.3}) |",
                quartiles(turns.iter().map(|turn| turn.cpu_micros).collect())[1],
                quartiles(turns.iter().map(|turn| turn.per_second).collect())[1],
            );
        }
        println!();
    }
    Ok(())
}

fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}

fn turn_of(server: &Server, reconnect: usize) -> Result<Turn, BoxError> {
    let before = server.cpu()?;
    let began = Instant::now();
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let address = server.address;
            std::thread::spawn(move || client(address, reconnect))
        })
        .collect();
    for client in clients {
        client.join().map_err(|_| "a client panicked")??;
    }
    let seconds = began.elapsed().as_secs_f64();
    let after = server.cpu()?;
    let requests = REQUESTS as f64;
    Ok(Turn {
        cpu_micros: (after.0 + after.1 - before.0 - before.1) as f64 * TICK_MICROS / requests,
        per_second: requests / seconds,
    })
}

/// Half of the requests, over half of the connections: all are written, then all are read.
fn client(address: SocketAddr, reconnect: usize) -> std::io::Result<()> {
    let connect = || {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok::<_, std::io::Error>(stream)
    };
    let mut open = (0..CONNECTIONS / 2)
        .map(|i| Ok((connect()?, i)))
        .collect::<Result<Vec<_>, std::io::Error>>()?;
    for _ in 0..REQUESTS / CONNECTIONS {
        for (stream, _) in &mut open {
            stream.write_all(GET)?;
        }
        for (stream, requests) in &mut open {
            answer(stream)?;
            *requests += 1;
            if *requests % reconnect == 0 {
                *stream = connect()?;
            }
        }
    }
    Ok(())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Hyper as its users do it when they want all of it: a thread, a runtime and a listener for each core.
fn bare_hyper() -> Result<(), BoxError> {
    let mut address = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut threads = Vec::new();
    for _ in 0..cores() {
        let socket = tokio::net::TcpSocket::new_v4()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        socket.set_reuseport(true)?;
        socket.bind(address)?;
        let guard = runtime.enter();
        let listener = socket.listen(1024)?;
        drop(guard);
        address = listener.local_addr()?;
        threads.push(std::thread::spawn(move || {
            runtime.block_on(async {
                let mut http = hyper::server::conn::http1::Builder::new();
                http.pipeline_flush(false);
                while let Ok((stream, _)) = listener.accept().await {
                    let _ = stream.set_nodelay(true);
                    let io = hyper_util::rt::TokioIo::new(stream);
                    let service = hyper::service::service_fn(hello);
                    tokio::spawn(http.serve_connection(io, service));
                }
            });
        }));
    }
    println!("{address}");
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}

fn serve(name: &str) -> Result<(), BoxError> {
    if name == SERVERS[0] {
        return bare_hyper();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let connections = ConnectionManager::builder()
            .purge_hook(stellane_examples::purge)
            .build()?;
        match name {
            "SharedEngine" => {
                let engine = SharedEngine::new(&connections);
                answer_on(&engine, 1, tower::service_fn(hello)).await
            }
            "axum" => {
                let app = app();
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
                println!("{}", listener.local_addr()?);
                Ok(axum::serve(listener, app).await?)
            }
            per_core => {
                let engine = PerCoreEngine::builder().connections(&connections).build();
                match per_core {
                    "PerCoreEngine" => answer_on(&engine, cores(), tower::service_fn(hello)).await,
                    "PerCoreEngine, axum handler" => answer_on(&engine, cores(), app()).await,
                    "PerCoreEngine, the same prepared" => {
                        let fast = PreparedLayer::new(&prepared().await?);
                        answer_on(&engine, cores(), fast.layer(app())).await
                    }
                    "PerCoreEngine, the same prepared, selector" => {
                        let prepared = prepared().await?;
                        let selector = EngineSelector::builder().route("/").build()?;
                        let fast = EngineSelectorLayer::new(&selector, prepared.service());
                        answer_on(&engine, cores(), fast.layer(app())).await
                    }
                    other => Err(format!("no server named {other}").into()),
                }
            }
        }
    })
}

async fn prepared() -> Result<Prepared, BoxError> {
    let prepared = Prepared::new();
    prepared
        .prepare::<_, axum::body::Body, _>("/", app())
        .await?;
    Ok(prepared)
}

fn app() -> axum::Router {
    axum::Router::new().route("/", axum::routing::get(|| async { "hello" }))
}

async fn answer_on(
    engine: &impl Engine,
    sockets: usize,
    service: impl HttpService,
) -> Result<(), BoxError> {
    let mut options = ListenConfig::default();
    options.sockets = sockets;
    let listeners = Listener::bind_all("127.0.0.1:0", &options).await?;
    let address = listeners.first().and_then(Listener::local_addr);
    println!("{}", address.ok_or("no address")?);
    Ok(engine.serve(listeners, service).await?)
}

async fn hello<B>(_: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::new(Bytes::from_static(b"hello"))))
}
