//! The `full_stack` example from a wrong configuration: one worker, a queue of two, a concurrency limit
//! of 4. Does the tuner find its way to what a hand-tuned server reaches?
//!
//! ```text
//! cargo run --release -p stellane-examples --bin overload_real_run -- [requests per second] [seconds]
//! ```
//!
//! Builds and starts the server as a user would, asks it at a constant rate (4000 by default; late answers
//! delay nobody) for a mix of work, most of which blocks a worker for 20 ms, and prints
//!
//! 1. what several hand-tuned configurations reach,
//! 2. what the wrong one reaches without the tuner, and with it over a minute, with the story that
//!    `/tuning` tells,
//! 3. what the tuner says, and that it does nothing, when it may only recommend.
//!
//! Ends with 1 unless the tuned server reached nine tenths of the best in its last ten seconds.

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, ExitCode, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use stellane_core::BoxError;
use tokio::time::{Instant, sleep_until, timeout};

/// Of ten requests, in turn: what a service does all day, and most of the time waits for.
const MIX: [&str; 10] = [
    "/hello",
    "/block/20",
    "/block/20",
    "/users/7",
    "/block/20",
    "/block/20",
    "/block/20",
    "/users/1234",
    "/block/20",
    "/hello/Ada",
];
/// Beyond so many requests at a time the client counts further ones as failed.
const MAX_IN_FLIGHT: usize = 3000;
/// Nobody waits longer.
const PATIENCE: Duration = Duration::from_secs(2);

const WRONG: &[(&str, &str)] = &[
    ("WORKERS__MIN_WORKERS", "1"),
    ("WORKERS__MAX_WORKERS", "1"),
    ("WORKERS__QUEUE_SIZE", "2"),
    ("LIMIT__INITIAL", "4"),
    ("LIMIT__MIN", "1"),
    ("LIMIT__MAX", "4"),
];

#[tokio::main]
async fn main() -> ExitCode {
    match compare().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

async fn compare() -> Result<bool, BoxError> {
    let mut arguments = env::args().skip(1);
    let rate: f64 = arguments.next().map_or(Ok(4000.0), |rate| rate.parse())?;
    let seconds: usize = arguments.next().map_or(Ok(60), |seconds| seconds.parse())?;
    let server = build()?;

    println!(
        "offered: {rate} requests per second, {} of 10 block a worker for 20 ms\n",
        MIX.iter().filter(|path| path.starts_with("/block")).count()
    );
    println!(
        "| configuration | answers/s | p50 | p99 | refused/s | failed/s |\n|---|---|---|---|---|---|"
    );
    let mut best = 0.0_f64;
    for (workers, limit) in [(16, 64), (64, 256), (128, 256), (256, 1000)] {
        let (count, limit) = (workers.to_string(), limit.to_string());
        let by_hand = [
            ("WORKERS__MIN_WORKERS", &*count),
            ("WORKERS__MAX_WORKERS", &*count),
            // So many, however few the CPUs: the work sleeps.
            ("WORKERS__SCALE", "queue"),
            ("WORKERS__QUEUE_SIZE", "1000"),
            ("LIMIT__ALGORITHM", "fixed"),
            ("LIMIT__INITIAL", &*limit),
            ("TUNER__MODE", "observe"),
        ];
        let running = Running::start(&server, &by_hand)?;
        let ticks = load(running.address, rate, 9).await?;
        let reached = Second::sum(&ticks[3..]);
        reached.print(&format!("by hand: {workers} workers, limit {limit}"));
        best = best.max(reached.answered());
    }

    let untuned = Running::start(&server, &[WRONG, &[("TUNER__MODE", "observe")]].concat())?;
    let ticks = load(untuned.address, rate, 9).await?;
    Second::sum(&ticks[3..]).print("wrong: 1 worker, queue of 2, limit 4");
    drop(untuned);

    let tuned = Running::start(&server, &[WRONG, &[("TUNER__MODE", "apply")]].concat())?;
    let ticks = load(tuned.address, rate, seconds).await?;
    for (index, ten) in ticks.chunks(10).enumerate() {
        let from = 10 * index;
        Second::sum(ten).print(&format!("wrong, tuned: {from} to {} s", from + ten.len()));
    }
    let reached = Second::sum(&ticks[seconds.saturating_sub(10)..]).answered();
    let tuning = tuned.tuning()?;
    drop(tuned);
    println!("\nThe story of `/tuning`:\n\n{}", story(&tuning));

    let advised = Running::start(&server, &[WRONG, &[("TUNER__MODE", "recommend")]].concat())?;
    load(advised.address, rate, 15).await?;
    let tuning = advised.tuning()?;
    drop(advised);
    println!("With applying off:\n\n{}", story(&tuning));
    let moved = knobs(&tuning, "value") != knobs(&tuning, "initial");

    let part = reached / best;
    println!(
        "Tuned, it reached {:.1} % of the best ({reached:.0} of {best:.0} per second).",
        100.0 * part
    );
    println!(
        "With applying off it turned {} knob.",
        if moved { "a" } else { "no" }
    );
    Ok(part >= 0.9 && !moved)
}

/// What `/tuning` says was decided, a line each, and where the knobs are now.
fn story(tuning: &Value) -> String {
    let line = |action: &Value| {
        let text = |key: &str| action[key].as_str().unwrap_or_default().to_owned();
        format!(
            "- {} [{}] {}\n",
            text("at"),
            text("outcome"),
            text("reason")
        )
    };
    let actions = tuning["actions"].as_array().into_iter().flatten();
    let values: Vec<_> = knobs(tuning, "value")
        .into_iter()
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    format!(
        "{}\nKnobs: {}.\n",
        actions.map(line).collect::<String>(),
        values.join(", ")
    )
}

/// The knobs by name, as they are now (`value`) or as they were at the first tick (`initial`).
fn knobs(tuning: &Value, when: &str) -> Vec<(String, f64)> {
    let knobs = tuning["stats"]["knobs"].as_array().into_iter().flatten();
    knobs
        .filter_map(|knob| Some((knob["name"].as_str()?.to_owned(), knob[when].as_f64()?)))
        .collect()
}

/// Builds the server with the cargo that runs this, and says where it is.
fn build() -> Result<PathBuf, BoxError> {
    let server =
        env::current_exe()?.with_file_name(format!("full_stack{}", env::consts::EXE_SUFFIX));
    if let Some(cargo) = env::var_os("CARGO") {
        let mut command = Command::new(cargo);
        command.args([
            "build",
            "-q",
            "-p",
            "stellane-examples",
            "--bin",
            "full_stack",
        ]);
        if !cfg!(debug_assertions) {
            command.arg("--release");
        }
        if !command.status()?.success() {
            return Err("the server does not build".into());
        }
    }
    Ok(server)
}

/// A started server; killed when dropped.
struct Running {
    child: Child,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Running {
    fn start(server: &PathBuf, settings: &[(&str, &str)]) -> Result<Self, BoxError> {
        let settings = settings
            .iter()
            .map(|(key, value)| (format!("STELLANE__{key}"), *value));
        let mut child = Command::new(server)
            .env("STELLANE__SERVER__ADDRESS", "127.0.0.1:0")
            .env("STELLANE__SERVER__ADMIN_ADDRESS", "127.0.0.1:0")
            .env("STELLANE_LOG_LEVEL", "off")
            .envs(settings)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("no output")?;
        let mut addresses = Vec::new();
        for line in BufReader::new(output).lines() {
            let line = line?;
            if (line.starts_with("service") || line.starts_with("admin"))
                && let Some((_, rest)) = line.split_once("http://")
            {
                addresses.push(rest.split('/').next().unwrap_or(rest).trim().parse()?);
            }
            if let [address, admin] = addresses[..] {
                return Ok(Self {
                    child,
                    address,
                    admin,
                });
            }
        }
        let _ = child.kill();
        Err(format!("the server ended at once: {}", child.wait()?).into())
    }

    fn tuning(&self) -> Result<Value, BoxError> {
        let mut stream = TcpStream::connect(self.admin)?;
        stream
            .write_all(b"GET /tuning HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let body = answer.split_once("\r\n\r\n").ok_or("no body")?.1;
        Ok(serde_json::from_str(body)?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What became of the requests that were sent within a second, or within several.
#[derive(Debug, Clone, Default)]
struct Second {
    latencies: Vec<Duration>,
    refused: u64,
    failed: u64,
    seconds: f64,
}

impl Second {
    fn sum(seconds: &[Self]) -> Self {
        let mut sum = Self::default();
        for second in seconds {
            sum.latencies.extend(&second.latencies);
            sum.refused += second.refused;
            sum.failed += second.failed;
            sum.seconds += second.seconds;
        }
        sum.latencies.sort();
        sum
    }

    fn answered(&self) -> f64 {
        self.latencies.len() as f64 / self.seconds.max(1.0)
    }

    fn print(&self, name: &str) {
        let quantile = |q: f64| {
            let index = (self.latencies.len().saturating_sub(1) as f64 * q) as usize;
            let latency = self.latencies.get(index).copied().unwrap_or_default();
            1000.0 * latency.as_secs_f64()
        };
        println!(
            "| {name} | {:.0} | {:.0} ms | {:.0} ms | {:.0} | {:.0} |",
            self.answered(),
            quantile(0.5),
            quantile(0.99),
            self.refused as f64 / self.seconds.max(1.0),
            self.failed as f64 / self.seconds.max(1.0),
        );
    }
}

/// Connections that wait for a request.
type Idle = Arc<Mutex<Vec<SendRequest<Empty<Bytes>>>>>;

/// Sends `rate` requests per second, evenly, no matter what comes back.
async fn load(address: SocketAddr, rate: f64, seconds: usize) -> Result<Vec<Second>, BoxError> {
    let idle = Idle::default();
    let in_flight = Arc::new(tokio::sync::Semaphore::new(MAX_IN_FLIGHT));
    let ticks = Arc::new(Mutex::new(vec![
        Second {
            seconds: 1.0,
            ..Second::default()
        };
        seconds
    ]));
    let start = Instant::now();
    let count = (rate * seconds as f64) as usize;
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..count {
        let at = index as f64 / rate;
        // The timer is exact to a millisecond: what is due by then is sent together.
        if index % (rate / 1000.0).ceil() as usize == 0 {
            sleep_until(start + Duration::from_secs_f64(at)).await;
        }
        while tasks.try_join_next().is_some() {}
        let second = at as usize;
        let Ok(place) = Arc::clone(&in_flight).try_acquire_owned() else {
            lock(&ticks)[second].failed += 1;
            continue;
        };
        let (idle, ticks) = (Arc::clone(&idle), Arc::clone(&ticks));
        tasks.spawn(async move {
            let asked = Instant::now();
            let answer = timeout(PATIENCE, ask(address, &idle, MIX[index % MIX.len()])).await;
            let tick = &mut lock(&ticks)[second];
            match answer {
                Ok(Ok(status)) if status.is_success() => tick.latencies.push(asked.elapsed()),
                Ok(Ok(StatusCode::SERVICE_UNAVAILABLE)) => tick.refused += 1,
                _ => tick.failed += 1,
            }
            drop(place);
        });
    }
    tasks.join_all().await;
    Ok(std::mem::take(&mut *lock(&ticks)))
}

async fn ask(address: SocketAddr, idle: &Idle, path: &str) -> Result<StatusCode, BoxError> {
    let known = lock(idle).pop();
    let mut connection = match known {
        Some(connection) => connection,
        None => {
            let stream = tokio::net::TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let io = TokioIo::new(stream);
            let (sender, driver) = hyper::client::conn::http1::handshake(io).await?;
            tokio::spawn(driver);
            sender
        }
    };
    let request = Request::get(path)
        .header("host", "localhost")
        .body(Empty::new())?;
    connection.ready().await?;
    let response = connection.send_request(request).await?;
    let status = response.status();
    response.into_body().collect().await?;
    lock(idle).push(connection);
    Ok(status)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
