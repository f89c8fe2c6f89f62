//! What is left of a server's peak at ten times its load, and what a refusal costs: the preset on one core, keep-alive
//! connections, requests of 0.7 ms of computing on the worker pool, whatever the machine.
//!
//! Run with `cargo run --release -p stellane-examples --bin overload_refusals [rounds]`. The server is a process of its
//! own on the first core (by `taskset`, where there is one), the clients are on the others. Each round measures the
//! peak, with 8 clients that ask again at once, and then the overload: 1000 connections, each asking by its own clock
//! whatever became of the last request. A client that has heard nothing for a second comes again on a new connection.
//!
//! `bare` is what no server can do without: it reads, and writes. What a refusal costs there is the kernel's share, and what
//! is kept there is all that can be.
//!
//! What is kept is said twice: by the clock, and by CPU time (answers a second of the server's CPU), which does not
//! change with what else the machine does.

use std::{io, net::SocketAddr, process::ExitCode, sync::mpsc, thread, time::Duration};

use http::{Request, Response};
use stellane_core::{
    BoxError, RequestBody, Runtime, RuntimeConfig,
    pool::{JobError, WorkerPool},
};
use stellane_examples::measure::{self, GET, Server, TICK_MICROS};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::oneshot,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The preset as it is; with somebody to be asked for an answer before each refusal: then it takes the longer way, as it
/// does where something stands outside of the limit; and hardly a server at all.
const SERVERS: [&str; 3] = ["early", "late", BARE];
const BARE: &str = "bare";
const CONNECTIONS: u32 = 1000;
const TIMES: f64 = 10.0;
const PATIENCE: Duration = Duration::from_secs(1);
const PEAK: Duration = Duration::from_secs(2);
const WARM_UP: Duration = Duration::from_secs(2);
const OVERLOAD: Duration = Duration::from_secs(5);
/// What a request computes.
const WORK: Duration = Duration::from_micros(700);
/// How many wait for `bare` to compute their answer.
const BARE_QUEUE: usize = 8;
/// As long as a refusal of the preset.
const BARE_REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
retry-after: 1\r\ncontent-length: 138\r\ndate: Sat, 28 Nov 2026 12:00:00 GMT\r\n\r\n\
{\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\"reason\":\"queue_full\",\
\"detail\":\"The waiting queue is full. Retry later.\"}";

fn main() -> ExitCode {
    measure::run(serve, compare, 3, "overload_refusals [rounds]")
}

fn compare(rounds: usize) -> Result<(), BoxError> {
    measure::pin("1-");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    println!(
        "| server | peak/s | CPU µs per answer then | good/s | of peak | of peak by CPU | p50 | p99 | refused/s | unanswered | CPU µs per refusal |\n\
         |---|---|---|---|---|---|---|---|---|---|---|"
    );
    for _ in 0..rounds {
        for name in SERVERS {
            runtime.block_on(round(name))?;
        }
    }
    Ok(())
}

#[derive(Default)]
struct Tally {
    latencies: Vec<Duration>,
    refused: u64,
    unanswered: u64,
}

async fn round(name: &str) -> Result<(), BoxError> {
    let server = Server::start(name, &[])?;
    let cpu = |(before, after): ((u64, u64), (u64, u64))| {
        (after.0 + after.1 - before.0 - before.1) as f64 * TICK_MICROS
    };
    let now = Instant::now();
    load(&server, 8, Duration::ZERO, now, Duration::from_millis(500)).await?;
    let before = server.cpu()?;
    let peak = load(&server, 8, Duration::ZERO, Instant::now(), PEAK).await?;
    let peak_cpu = cpu((before, server.cpu()?)) / peak.latencies.len() as f64;
    let peak = peak.latencies.len() as f64 / PEAK.as_secs_f64();

    let pause = Duration::from_secs_f64(f64::from(CONNECTIONS) / (TIMES * peak));
    load(&server, CONNECTIONS, pause, Instant::now(), WARM_UP).await?;
    let before = server.cpu()?;
    let mut tally = load(&server, CONNECTIONS, pause, Instant::now(), OVERLOAD).await?;
    let used = cpu((before, server.cpu()?));
    tally.latencies.sort();
    let good = tally.latencies.len() as f64;
    let quantile = |q: f64| {
        let at = ((good - 1.0).max(0.0) * q) as usize;
        tally.latencies.get(at).copied().unwrap_or_default()
    };
    let seconds = OVERLOAD.as_secs_f64();
    let asked = good + (tally.refused + tally.unanswered) as f64;
    println!(
        "| {name} | {peak:.0} | {peak_cpu:.0} | {:.0} | {:.1} % | {:.1} % | {:.0?} | {:.0?} | {:.0} | {:.2} of 1000 | {:.1} |",
        good / seconds,
        100.0 * good / seconds / peak,
        100.0 * good * peak_cpu / used,
        quantile(0.5),
        quantile(0.99),
        tally.refused as f64 / seconds,
        1000.0 * tally.unanswered as f64 / asked,
        (used - good * peak_cpu) / tally.refused.max(1) as f64,
    );
    Ok(())
}

/// That many connections from `start` on, each with a request every `pause`.
async fn load(
    server: &Server,
    connections: u32,
    pause: Duration,
    start: Instant,
    lasts: Duration,
) -> Result<Tally, BoxError> {
    let mut clients = JoinSet::new();
    for client in 0..connections {
        let first = start + pause.mul_f64(f64::from(client) * 0.618 % 1.0);
        clients.spawn(ask(server.address, first, pause, start + lasts));
    }
    let mut all = Tally::default();
    for tally in clients.join_all().await {
        let tally = tally?;
        all.latencies.extend(tally.latencies);
        all.refused += tally.refused;
        all.unanswered += tally.unanswered;
    }
    Ok(all)
}

/// One client; a late answer delays its next request.
async fn ask(
    address: SocketAddr,
    mut next: Instant,
    pause: Duration,
    end: Instant,
) -> io::Result<Tally> {
    let mut tally = Tally::default();
    let mut stream = connect(address).await?;
    while next < end {
        sleep_until(next).await;
        let asked = Instant::now();
        match timeout(PATIENCE, request(&mut stream)).await {
            Ok(Ok(true)) => tally.latencies.push(asked.elapsed()),
            Ok(Ok(false)) => tally.refused += 1,
            Ok(Err(_)) | Err(_) => {
                tally.unanswered += 1;
                stream = connect(address).await?;
            }
        }
        next = (next + pause).max(Instant::now());
    }
    Ok(tally)
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whether the answer is a good one.
async fn request(stream: &mut TcpStream) -> io::Result<bool> {
    stream.write_all(GET).await?;
    let mut answer = [0; 1024];
    let mut filled = 0;
    loop {
        match stream.read(&mut answer[filled..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => filled += read,
        }
        if let Some(whole) = is_whole(&answer[..filled]) {
            return whole;
        }
    }
}

fn is_whole(answer: &[u8]) -> Option<io::Result<bool>> {
    let head = answer.windows(4).position(|end| end == b"\r\n\r\n")?;
    let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    let length = text.split_once("content-length: ")?.1;
    let length = length.split_once('\r').map_or(length, |(length, _)| length);
    if answer.len() < head + 4 + length.parse::<usize>().ok()? {
        return None;
    }
    Some(match answer.get(9..12) {
        Some(b"200") => Ok(true),
        Some(b"503") => Ok(false),
        _ => Err(io::ErrorKind::InvalidData.into()),
    })
}

fn serve(name: &str) -> Result<(), BoxError> {
    measure::pin("0");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let work = calibrate();
    runtime.block_on(async {
        if name == BARE {
            return bare(work).await;
        }
        let mut config = RuntimeConfig::from_env()?;
        config.server.admin_address = String::new();
        config.connection.listen.backlog = 4096;
        let mut builder = Runtime::builder().config(config);
        if name == "late" {
            builder = builder.on_refusal(|_, _| None);
        }
        let runtime = builder
            .service_with(|components| {
                let workers = components.workers.clone();
                tower::service_fn(move |_: Request<RequestBody>| primes(workers.clone(), work))
            })
            .build()?;
        let bound = runtime.bind("127.0.0.1:0").await?;
        println!("{}", bound.local_addr());
        bound.serve().await?;
        Ok(())
    })
}

async fn primes(workers: WorkerPool, below: u32) -> Result<Response<String>, JobError> {
    let count = workers.spawn_blocking(move || count_primes(below)).await?;
    Ok(Response::new(count.to_string()))
}

/// A task for each connection, a thread that computes, and a queue between them.
async fn bare(work: u32) -> Result<(), BoxError> {
    let (jobs, queue) = mpsc::sync_channel::<oneshot::Sender<usize>>(BARE_QUEUE);
    thread::spawn(move || {
        for answer in queue {
            let _ = answer.send(count_primes(work));
        }
    });
    let listener = TcpSocket::new_v4()?;
    listener.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let listener = listener.listen(4096)?;
    println!("{}", listener.local_addr()?);
    loop {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let jobs = jobs.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 1024];
            while stream.read(&mut buffer).await? > 0 {
                let (answer, answered) = oneshot::channel();
                match jobs.try_send(answer) {
                    Ok(()) => {
                        let text = answered.await.unwrap_or_default().to_string();
                        let length = text.len();
                        let head =
                            format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{text}");
                        stream.write_all(head.as_bytes()).await?;
                    }
                    Err(_) => stream.write_all(BARE_REFUSAL).await?,
                }
            }
            Ok::<_, io::Error>(())
        });
    }
}

/// Below which number the primes are to be counted for [`WORK`]: the quickest of many runs, as others have the CPU in some.
fn calibrate() -> u32 {
    const FIRST: u32 = 20_000;
    let run = || {
        let start = Instant::now();
        std::hint::black_box(count_primes(FIRST));
        start.elapsed()
    };
    let took = (0..100).map(|_| run()).min().unwrap_or(WORK);
    // It grows with the power 1.5.
    (f64::from(FIRST) * (WORK.as_secs_f64() / took.as_secs_f64()).powf(2.0 / 3.0)) as u32
}

fn count_primes(below: u32) -> usize {
    let divides = |n: u32| {
        (2..n)
            .take_while(|d| d * d <= n)
            .any(|d| n.is_multiple_of(d))
    };
    (2..std::hint::black_box(below))
        .filter(|n| !divides(*n))
        .count()
}
