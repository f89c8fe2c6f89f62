//! Ten handlers that block their threads for some seconds, on as many servers: what others wait for `GET /` meanwhile. And
//! what each server costs while nobody blocks. Then some that block for a moment, again and again.
//!
//! `cargo run --release -p stellane-examples --bin blocking [SECONDS]`: three quarters of a
//! minute and four times these seconds.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    process::ExitCode,
    sync::{
        LazyLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use axum::{Json, Router, extract::Path, routing::get};
use stellane_core::{
    BoxError, Runtime, RuntimeConfig, engine::EngineKind, metrics::RouteLabelLayer,
};
use stellane_examples::measure::{self, Server, TICK_MICROS};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UnixStream},
    sync::Mutex,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The last is the third whose routes have names, so that it learns which of them block.
const SERVERS: [&str; 4] = ["axum::serve", "shared", "handoff", "handoff, named"];
/// What each costs, with so many connections.
const ROUTES: [&str; 3] = ["/", "/json", "/own"];
const CONNECTIONS: [usize; 3] = [1, 16, 64];
const MEASURED: Duration = Duration::from_secs(1);
/// What some block for, again and again, on so many connections for so long.
const NAP: Duration = Duration::from_millis(50);
const NAPPING: usize = 8;
const NAPS: Duration = Duration::from_secs(3);

fn app() -> Router {
    Router::new()
        .route("/", get(async || "hello"))
        .route("/json", get(async || Json(["hello"; 20])))
        .route("/own", get(own))
        .route("/block/{seconds}", get(block))
        .route("/nap", get(nap))
}

async fn nap() -> &'static str {
    thread::sleep(NAP);
    "hello"
}

async fn block(Path(seconds): Path<u64>) -> &'static str {
    thread::sleep(Duration::from_secs(seconds));
    "hello"
}

/// A handler with sockets and a timer of its own, as one that asks a database has them.
async fn own() -> &'static str {
    type Ends = Mutex<(UnixStream, UnixStream)>;
    static PAIRS: LazyLock<Vec<Ends>> = LazyLock::new(|| {
        let pair = |_| Mutex::new(UnixStream::pair().expect("sockets"));
        (0..64).map(pair).collect()
    });
    for pair in &*PAIRS {
        let Ok(mut pair) = pair.try_lock() else {
            continue;
        };
        let (near, far) = &mut *pair;
        let asked = async {
            let echo = async {
                let byte = far.read_u8().await?;
                far.write_u8(byte).await
            };
            let ask = async {
                near.write_u8(1).await?;
                near.read_u8().await
            };
            tokio::try_join!(ask, echo)
        };
        let _ = tokio::time::timeout(Duration::from_secs(5), asked).await;
        break;
    }
    "hello"
}

fn serve(name: &str) -> Result<(), BoxError> {
    let tokio = tokio::runtime::Runtime::new()?;
    tokio.block_on(async {
        if name == "axum::serve" {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            println!("{}", listener.local_addr()?);
            return Ok(axum::serve(listener, app()).await?);
        }
        let config = RuntimeConfig::default().with(|config| {
            config.server.admin_address = String::new();
            // The limit is not what is measured.
            (config.limit.min, config.limit.initial) = (128, 128);
            config.engine.kind = match name {
                "shared" => EngineKind::Shared,
                _ => EngineKind::Handoff,
            };
        });
        let app = match name {
            "handoff, named" => app().route_layer(RouteLabelLayer::axum()),
            _ => app(),
        };
        let runtime = Runtime::builder().config(config).service(app).build()?;
        let bound = runtime.bind("127.0.0.1:0").await?;
        println!("{}", bound.local_addr());
        bound.serve().await?;
        Ok(())
    })
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    Ok(stream)
}

fn ask(stream: &mut TcpStream, path: &str) -> io::Result<()> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes())?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 1024]);
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.to_ascii_lowercase();
        let length = length.split("content-length: ").nth(1);
        let length = length.and_then(|rest| rest.lines().next()?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            if !head.starts_with("HTTP/1.1 200") {
                return Err(io::Error::other(
                    head.lines().next().unwrap_or("").to_owned(),
                ));
            }
            return Ok(());
        }
    }
}

/// Asks at fixed times, whatever came of the last; how long each took from when it was due.
fn probe(address: SocketAddr, is_kept: bool, stop: &AtomicBool) -> Vec<Duration> {
    let (every, began) = (Duration::from_millis(10), Instant::now());
    let (mut kept, mut took) = (None, Vec::new());
    for n in 0.. {
        let due = began + every * n;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if stop.load(Relaxed) && Instant::now() - due < every {
            break;
        }
        let stream = kept.take().map_or_else(|| connect(address), Ok);
        let asked = stream.and_then(|mut stream| ask(&mut stream, "/").map(|()| stream));
        match asked {
            Ok(stream) => {
                took.push(due.elapsed());
                kept = is_kept.then_some(stream);
            }
            Err(error) => println!("  GET /: {error}"),
        }
    }
    took
}

fn report(what: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let last = took.len().saturating_sub(1);
    let at = |part: f64| {
        let at = ((took.len() as f64 * part) as usize).min(last);
        took.get(at)
            .map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
    };
    let (half, most, all) = (at(0.5), at(0.99), at(1.0));
    println!("  {what:<18} p50 {half:>9.2}  p99 {most:>9.2}  max {all:>9.2} ms");
}

/// Ten block; others ask.
fn blocks(name: &str, seconds: usize) -> Result<(), BoxError> {
    let server = Server::start(name, &[])?;
    let address = server.address;
    let before = server.resident()?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let kept = [0, 1].map(|_| scope.spawn(|| probe(address, true, &stop)));
        let new = scope.spawn(|| probe(address, false, &stop));
        thread::sleep(Duration::from_millis(300));
        let began = Instant::now();
        let path = format!("/block/{seconds}");
        thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| {
                    let blocked = connect(address).and_then(|mut stream| ask(&mut stream, &path));
                    if let Err(error) = blocked {
                        println!("  {path}: {error}");
                    }
                });
            }
        });
        let took = began.elapsed().as_secs_f64();
        thread::sleep(Duration::from_millis(300));
        stop.store(true, Relaxed);
        println!("{name}: the ten were done after {took:.1} s");
        let kept = kept.map(|kept| kept.join().unwrap_or_default());
        report("GET / meanwhile", kept.concat());
        report("and on new ones", new.join().unwrap_or_default());
    });
    let more = server.resident()?.saturating_sub(before) / 1024;
    println!("  {more} KiB more memory");
    Ok(())
}

/// CPU time of the server for a request, in microseconds.
fn cost(server: &Server, path: &str, connections: usize) -> Result<f64, BoxError> {
    let stop = AtomicBool::new(false);
    let ask_again = || {
        let mut stream = connect(server.address)?;
        let mut asked = 0;
        while !stop.load(Relaxed) {
            ask(&mut stream, path)?;
            asked += 1;
        }
        Ok::<u64, io::Error>(asked)
    };
    let before = server.cpu()?;
    let asked = thread::scope(|scope| {
        let asking: Vec<_> = (0..connections).map(|_| scope.spawn(ask_again)).collect();
        thread::sleep(MEASURED);
        stop.store(true, Relaxed);
        let ended = asking.into_iter().map(|asking| asking.join());
        let counts = ended.map(|ended| ended.map_err(|_| io::Error::other("panic"))?);
        counts.sum::<io::Result<u64>>()
    })?;
    let after = server.cpu()?;
    let ticks = (after.0 + after.1) - (before.0 + before.1);
    Ok(ticks as f64 * TICK_MICROS / asked.max(1) as f64)
}

/// Some block for a moment, again and again; others ask.
fn naps(name: &str) -> Result<(), BoxError> {
    let server = Server::start(name, &[])?;
    let address = server.address;
    let stop = AtomicBool::new(false);
    let before = server.cpu()?;
    let (naps, took) = thread::scope(|scope| {
        let napping = [(); NAPPING].map(|()| {
            scope.spawn(|| {
                let mut took = Vec::new();
                let mut stream = connect(address)?;
                while !stop.load(Relaxed) {
                    let began = Instant::now();
                    ask(&mut stream, "/nap")?;
                    took.push(began.elapsed());
                }
                Ok::<_, io::Error>(took)
            })
        });
        let kept = [0, 1].map(|_| scope.spawn(|| probe(address, true, &stop)));
        thread::sleep(NAPS);
        stop.store(true, Relaxed);
        let naps = napping.map(|napping| napping.join().map(Result::unwrap_or_default));
        let took = kept.map(|kept| kept.join().unwrap_or_default());
        (naps.map(Result::unwrap_or_default).concat(), took.concat())
    });
    let after = server.cpu()?;
    let ticks = (after.0 + after.1) - (before.0 + before.1);
    let asked = naps.len() + took.len();
    let cost = ticks as f64 * TICK_MICROS / asked.max(1) as f64;
    println!(
        "{name}: {} naps, {cost:.0} us of CPU for a request",
        naps.len()
    );
    report("a nap", naps);
    report("GET / meanwhile", took);
    Ok(())
}

fn compare(seconds: usize) -> Result<(), BoxError> {
    println!("ten handlers block their threads for {seconds} s:");
    for name in SERVERS {
        blocks(name, seconds)?;
    }
    println!("\n{NAPPING} connections ask for what blocks for {NAP:?}, again and again:");
    for name in SERVERS {
        naps(name)?;
    }
    println!("\nmicroseconds of CPU for a request, while nobody blocks:");
    let servers = SERVERS.map(|name| Server::start(name, &[]));
    print!("{:<18}", "");
    SERVERS.iter().for_each(|name| print!("{name:>14}"));
    println!();
    for path in ROUTES {
        for connections in CONNECTIONS {
            print!("{path:<8}{connections:>4} at once");
            for server in &servers {
                let server = server.as_ref().map_err(ToString::to_string)?;
                // Twice, the lower: others may have disturbed one.
                let costs = [
                    cost(server, path, connections)?,
                    cost(server, path, connections)?,
                ];
                print!("{:>14.1}", costs[0].min(costs[1]));
            }
            println!();
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    measure::run(serve, compare, 5, "blocking [SECONDS]")
}
