//! Overload over real sockets: a service of fixed capacity at its peak and at ten times its load,
//! without a limit, with fixed limits, and with the adaptive one; a tenth of the capacity is asked for
//! by clients of a high class.
//!
//! ```text
//! cargo run -p stellane-examples --bin overload_sockets
//! ```
//!
//! The service sleeps, so that capacity does not depend on the machine: 8 places of 40 ms, 200
//! answers per second. What counts as good is an answer within 200 ms, twice the target.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use stellane_autotune::{
    AdaptiveLimit, AdaptiveLimitLayer, AlgorithmKind, Class, LimitConfig, LimitRequestBody,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until};
use tower::{Layer, service_fn};

const PLACES: usize = 8;
const WORK: Duration = Duration::from_millis(40);
const CAPACITY: f64 = 200.0;
const GOOD: Duration = Duration::from_millis(200);
const WARM_UP: Duration = Duration::from_secs(5);
const MEASURE: Duration = Duration::from_secs(8);

type BoxError = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    println!("| limit | load | good/s | of peak | p50 | p99 | high served | limit at the end |");
    println!("|---|---|---|---|---|---|---|---|");
    // Timers round up, so the true capacity is a little below 200: measure it.
    let mut peak = 0.0_f64;
    for limit in [8, 10, 12] {
        peak = peak.max(case(&format!("fixed {limit}"), Some(fixed(limit)), 1.2, None).await?);
    }
    case("none", None, 10.0, Some(peak)).await?;
    for limit in [4, 8, 16, 64] {
        case(
            &format!("fixed {limit}"),
            Some(fixed(limit)),
            10.0,
            Some(peak),
        )
        .await?;
    }
    case("adaptive", Some(adaptive()), 0.8, Some(peak)).await?;
    case("adaptive", Some(adaptive()), 10.0, Some(peak)).await?;
    Ok(())
}

fn adaptive() -> LimitConfig {
    let mut config = LimitConfig::default();
    config.classes.insert("high".into(), 0.3.into());
    config
}

fn fixed(limit: u32) -> LimitConfig {
    let mut config = adaptive();
    config.algorithm = AlgorithmKind::Fixed;
    config.initial = limit;
    config
}

#[derive(Default)]
struct Tally {
    latencies: Vec<Duration>,
    refused: u64,
    high: (u64, u64),
}

/// Runs one load against one limit and prints a line; returns good answers per second.
async fn case(
    name: &str,
    config: Option<LimitConfig>,
    load: f64,
    peak: Option<f64>,
) -> Result<f64, BoxError> {
    let enforce = config.is_some();
    let limit = AdaptiveLimit::builder()
        .config(config.unwrap_or_default())
        .build()?;
    let address = serve(limit.clone(), enforce).await?;
    let clients = 400;
    // A tenth of the capacity comes from high clients, the rest of the load from low ones.
    let high_clients = 20;
    let pause = |clients: u32, rate: f64| Duration::from_secs_f64(f64::from(clients) / rate);
    let high_pause = pause(high_clients, 0.1 * CAPACITY);
    let low_pause = pause(clients - high_clients, (load - 0.1) * CAPACITY);
    let start = Instant::now() + Duration::from_millis(200);
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let high = client < high_clients;
            let pause = if high { high_pause } else { low_pause };
            let offset = pause.mul_f64(f64::from(client) * 0.618 % 1.0);
            tokio::spawn(ask(address, high, start + offset, pause, start))
        })
        .collect();
    let mut all = Tally::default();
    for task in tasks {
        let tally = task.await??;
        all.latencies.extend(tally.latencies);
        all.refused += tally.refused;
        all.high = (all.high.0 + tally.high.0, all.high.1 + tally.high.1);
    }
    all.latencies.sort();
    let good = all
        .latencies
        .iter()
        .filter(|latency| **latency <= GOOD)
        .count();
    let good = good as f64 / MEASURE.as_secs_f64();
    let quantile = |q: f64| {
        let index = (all.latencies.len().saturating_sub(1) as f64 * q) as usize;
        all.latencies
            .get(index)
            .copied()
            .unwrap_or_default()
            .as_secs_f64()
            * 1000.0
    };
    println!(
        "| {name} | {load} x | {good:.0} | {:.0} % | {:.0} ms | {:.0} ms | {:.1} % | {} |",
        100.0 * good / peak.unwrap_or(good),
        quantile(0.5),
        quantile(0.99),
        100.0 * all.high.0 as f64 / all.high.1.max(1) as f64,
        if enforce {
            limit.stats().limit.to_string()
        } else {
            "-".to_owned()
        },
    );
    Ok(good)
}

async fn serve(limit: AdaptiveLimit, enforce: bool) -> Result<SocketAddr, BoxError> {
    let places = Arc::new(Semaphore::new(PLACES));
    let work = service_fn(move |_: Request<LimitRequestBody<hyper::body::Incoming>>| {
        let places = Arc::clone(&places);
        async move {
            if let Ok(_place) = places.acquire().await {
                sleep(WORK).await;
            }
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"done"))))
        }
    });
    let high = limit.class("high").unwrap_or_default();
    let layer = AdaptiveLimitLayer::new(&limit)
        .exempt(move |_| !enforce)
        .classify_request(move |head| match head.uri.path() {
            "/high" => high,
            _ => Class::DEFAULT,
        });
    let service = layer.layer(work);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(async move {
                let _ = connection.await;
            });
        }
    });
    Ok(address)
}

/// One client: a request every `pause` over one connection; a late answer delays the next request.
async fn ask(
    address: SocketAddr,
    high: bool,
    mut next: Instant,
    pause: Duration,
    start: Instant,
) -> Result<Tally, BoxError> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let (from, to) = (start + WARM_UP, start + WARM_UP + MEASURE);
    let mut tally = Tally::default();
    while next < to {
        sleep_until(next).await;
        let request = Request::builder()
            .uri(if high { "/high" } else { "/low" })
            .header("host", "localhost")
            .body(Empty::<Bytes>::new())?;
        let asked = Instant::now();
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        let served = response.status().is_success();
        response.into_body().collect().await?;
        if (from..to).contains(&asked) {
            if served {
                tally.latencies.push(asked.elapsed());
            } else {
                tally.refused += 1;
            }
            if high {
                tally.high = (tally.high.0 + u64::from(served), tally.high.1 + 1);
            }
        }
        next = (next + pause).max(Instant::now());
    }
    Ok(tally)
}
