//! What Stellane costs beside what you would use instead, in one run: idle memory for each keep-alive
//! connection, and CPU time for each request.
//!
//! Run with `cargo run --release -p stellane-examples --bin side_by_side [connections]`. Each server is a
//! process of its own, with the same allocator, one worker thread and the same answer. Memory: every
//! connection sends one request, and after two seconds the resident memory of the server is compared with
//! that before the first connection. CPU: the servers take turns, and the median of their turns counts.
//! Last comes what the first request after a pause costs on a connection that was parked, and what parking costs.

use std::{convert::Infallible, io::Write, net::TcpStream, process::ExitCode, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use stellane_core::{
    BoxError, Runtime, RuntimeConfig,
    connection::{ConnectionConfig, ConnectionManager},
    router::Router,
};
use stellane_examples::measure::{self, GET, Server, TICK_MICROS, answer, request};
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SERVERS: [&str; 4] = [
    "hyper",
    "axum",
    "stellane, connections only",
    "stellane, full preset",
];
const NEVER_PARKED: &str = "stellane, connections only, never parked";
/// Turns of each server in the measurement of CPU time, requests in each turn, connections used.
const TURNS: usize = 15;
const REQUESTS: usize = 160_000;
const CONNECTIONS: usize = 64;

fn main() -> ExitCode {
    measure::run(serve, compare, 10_000, "side_by_side [connections]")
}

fn compare(connections: usize) -> Result<(), BoxError> {
    let mut turns = vec![Vec::new(); SERVERS.len()];
    let servers = SERVERS
        .iter()
        .map(|name| start(name))
        .collect::<Result<Vec<_>, _>>()?;
    for turn in 0..=TURNS {
        for (server, turns) in servers.iter().zip(&mut turns) {
            let cost = cpu_for_each_request(server)?;
            // The first turn warms up.
            if turn > 0 {
                turns.push(cost);
            }
        }
    }
    drop(servers);
    println!(
        "| server | user CPU µs for each request | kernel CPU µs for each request | both, of axum's in the same turn | \
         KB for each of {connections} idle connections |\n|---|---|---|---|---|"
    );
    let axum: Vec<f64> = turns[1]
        .iter()
        .map(|(user, kernel)| user + kernel)
        .collect();
    for (name, turns) in SERVERS.iter().zip(turns) {
        let ratios = turns
            .iter()
            .zip(&axum)
            .map(|((user, kernel), axum)| (user + kernel) / axum);
        let ratio = median(ratios.collect());
        let (user, kernel): (Vec<f64>, Vec<f64>) = turns.into_iter().unzip();
        let memory = memory_for_each_connection(&start(name)?, connections)?;
        println!(
            "| {name} | {:.2} | {:.2} | {ratio:.3} | {memory:.2} |",
            median(user),
            median(kernel)
        );
    }
    let [parked, kept] = [SERVERS[2], NEVER_PARKED].map(|name| cpu_after_a_pause(&start(name)?));
    let ((parked, parking), (kept, pausing)) = (parked?, kept?);
    println!(
        "\nThe first request after a pause costs {parked:.1} µs of CPU time on a parked connection and {kept:.1} µs \
         on one that was not parked; the pause itself {parking:.1} µs where it is parked, and {pausing:.1} µs."
    );
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// With one worker thread, whatever it is.
fn start(name: &str) -> Result<Server, BoxError> {
    Server::start(name, &[("TOKIO_WORKER_THREADS", "1")])
}

/// User and kernel time in microseconds, with all connections busy.
fn cpu_for_each_request(server: &Server) -> Result<(f64, f64), BoxError> {
    let mut open = (0..CONNECTIONS)
        .map(|_| TcpStream::connect(server.address))
        .collect::<Result<Vec<_>, _>>()?;
    for stream in &mut open {
        request(stream)?;
    }
    let before = server.cpu()?;
    for _ in 0..REQUESTS / CONNECTIONS {
        for stream in &mut open {
            stream.write_all(GET)?;
        }
        for stream in &mut open {
            answer(stream)?;
        }
    }
    let after = server.cpu()?;
    let each = |from: u64, to: u64| (to - from) as f64 * TICK_MICROS / REQUESTS as f64;
    Ok((each(before.0, after.0), each(before.1, after.1)))
}

/// User and kernel time in microseconds of a request on a connection that was idle before, and of the pause after it.
fn cpu_after_a_pause(server: &Server) -> Result<(f64, f64), BoxError> {
    const IDLE: usize = 1000;
    const ROUNDS: usize = 40;
    let mut open = (0..IDLE)
        .map(|_| TcpStream::connect(server.address))
        .collect::<Result<Vec<_>, _>>()?;
    let cpu = || server.cpu().map(|(user, kernel)| user + kernel);
    let (mut asking, mut pausing) = (0, 0);
    // The first round begins with connections that have not sent anything.
    for round in 0..=ROUNDS {
        let before = cpu()?;
        for stream in &mut open {
            stream.write_all(GET)?;
        }
        for stream in &mut open {
            answer(stream)?;
        }
        let answered = cpu()?;
        // Long enough for all to be parked.
        std::thread::sleep(Duration::from_millis(400));
        if round > 0 {
            asking += answered - before;
            pausing += cpu()? - answered;
        }
    }
    let each = |ticks| ticks as f64 * TICK_MICROS / (IDLE * ROUNDS) as f64;
    Ok((each(asking), each(pausing)))
}

fn memory_for_each_connection(server: &Server, connections: usize) -> Result<f64, BoxError> {
    // What is paid once, whatever the number of connections.
    for _ in 0..100 {
        request(&mut TcpStream::connect(server.address)?)?;
    }
    std::thread::sleep(Duration::from_secs(2));
    let before = server.resident()?;
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut stream = TcpStream::connect(server.address)?;
        request(&mut stream)?;
        open.push(stream);
    }
    std::thread::sleep(Duration::from_secs(2));
    let after = server.resident()?;
    // They must still be served.
    for stream in &mut open {
        request(stream)?;
    }
    Ok((after as f64 - before as f64) / 1024.0 / connections as f64)
}

#[tokio::main]
async fn serve(name: &str) -> Result<(), BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    if name != SERVERS[3] {
        println!("{}", listener.local_addr()?);
    }
    match name {
        "hyper" => loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(
                hyper_util::rt::TokioIo::new(stream),
                hyper::service::service_fn(hello),
            ));
        },
        "axum" => {
            let app = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
            Ok(axum::serve(listener, app).await?)
        }
        "stellane, connections only" | NEVER_PARKED => {
            let mut config = ConnectionConfig::default();
            config.park = name != NEVER_PARKED;
            let manager = ConnectionManager::builder()
                .config(config)
                .purge_hook(stellane_examples::purge)
                .build()?;
            // On the worker, where the connections are, and not on the thread of `main`.
            Ok(tokio::spawn(manager.serve(listener, tower::service_fn(hello))).await??)
        }
        "stellane, full preset" => {
            drop(listener);
            let mut config = RuntimeConfig::default();
            config.connection.max_connections = 0;
            config.server.admin_address = String::new();
            let router = Router::builder().get("/", || async { "hello" }).build()?;
            let runtime = Runtime::builder()
                .config(config)
                .purge_hook(stellane_examples::purge)
                .service(router)
                .build()?;
            let bound = runtime.bind("127.0.0.1:0").await?;
            println!("{}", bound.local_addr());
            bound.serve().await?;
            Ok(())
        }
        other => Err(format!("no server named {other}").into()),
    }
}

async fn hello<B>(_: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::new(Bytes::from_static(b"hello"))))
}
