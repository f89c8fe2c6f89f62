//! The live page with made-up traffic: `cargo run -p stellane-metrics --example live_page [quiet]`, then open the printed address.
//!
//! Everything but the requests is invented; in a server the sources are its pools, workers and connections.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use serde_json::{Value, json};
use stellane_metrics::{
    Admin, HttpMetrics, MetricsLayer, Readiness, RuntimeMetrics, label_route, prometheus,
};
use tower::{Layer, Service, service_fn};

type Error = Box<dyn std::error::Error>;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Error> {
    let quiet = std::env::args().any(|arg| arg == "quiet");
    let http = HttpMetrics::builder().build()?;
    let made_up = Arc::new(MadeUp::default());
    let source = Arc::clone(&made_up);
    let runtime = RuntimeMetrics::builder()
        .http(&http)
        .tokio(&tokio::runtime::Handle::current())
        .source(move |snapshot| {
            if !quiet {
                source.fill(snapshot)
            }
        })
        .build()?;
    tokio::spawn(runtime.clone().run());
    let readiness = Readiness::new();
    let scrape = prometheus()
        .runtime(&runtime)
        .readiness(&readiness)
        .build()?;

    let port = std::env::var("PORT").map_or(Ok(9090), |port| port.parse())?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let address = listener.local_addr()?;
    let (tuning, mode) = (Arc::clone(&made_up), Arc::clone(&made_up));
    let level = Arc::new(Mutex::new("info".to_owned()));
    let read_level = Arc::clone(&level);
    let admin = Admin::builder()
        .bound_to(address)
        .prometheus(scrape)
        .runtime(runtime)
        .readiness(readiness)
        .json("/tuning", move || tuning.tuning())
        .post("/tuning/mode", move |text| mode.set_mode(text))
        .json(
            "/config",
            || json!({ "listen": "0.0.0.0:3000", "admin": { "token": "hush" } }),
        )
        .log_level(
            move || lock(&read_level).clone(),
            move |new| {
                *lock(&level) = new.to_owned();
                Ok(())
            },
        )
        .build()?;

    if !quiet {
        for client in 0..24 {
            tokio::spawn(traffic(http.clone(), client, Arc::clone(&made_up)));
        }
    }
    println!("http://{address}/");
    loop {
        let (stream, _) = listener.accept().await?;
        let service = TowerToHyperService::new(admin.clone());
        tokio::spawn(async move {
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// One client: waves of requests to a few routes, some slow, some failing, some given up.
async fn traffic(http: HttpMetrics, client: u64, made_up: Arc<MadeUp>) {
    let mut random = client.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut service = MetricsLayer::new(&http).layer(service_fn(handle));
    for request_no in 0_u64.. {
        let wave = 1.0 + (request_no as f64 / 300.0).sin();
        tokio::time::sleep(Duration::from_micros(
            (wave * 2_000.0) as u64 + next() % 2_000,
        ))
        .await;
        let mut request = Request::new(Full::<Bytes>::default());
        request.extensions_mut().insert(next());
        let response = service.call(request);
        let patience = if next() % 200 == 0 { 0 } else { 1_000 };
        if let Ok(Ok(response)) =
            tokio::time::timeout(Duration::from_millis(patience), response).await
        {
            let _ = response.into_body().collect().await;
        }
        if client == 0 && request_no % 700 == 699 {
            made_up.tune(next());
        }
    }
}

async fn handle(request: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let dice = request.extensions().get().copied().unwrap_or(0_u64);
    let (route, micros) = match dice % 100 {
        0..60 => ("/users/{id}", 200),
        60..85 => ("/search", 1_500),
        85..97 => ("/upload", 6_000),
        _ => ("/report", 60_000),
    };
    label_route(route);
    tokio::time::sleep(Duration::from_micros(micros + dice / 7 % (2 * micros))).await;
    let mut response = Response::new(Full::new(Bytes::from_static(b"hello")));
    if dice % 150 == 0 {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    Ok(response)
}

/// Components that do not exist.
#[derive(Default)]
struct MadeUp {
    ticks: AtomicU64,
    limit: AtomicU64,
    mode: Mutex<Option<String>>,
    actions: Mutex<Vec<Value>>,
}

impl MadeUp {
    fn fill(&self, snapshot: &mut stellane_metrics::RuntimeSnapshot) {
        let tick = self.ticks.fetch_add(1, Relaxed);
        let wave = (1.0 + (tick as f64 / 40.0).sin()) / 2.0;
        snapshot.workers_active = (wave * 6.0) as u64;
        snapshot.workers_idle = 8 - snapshot.workers_active;
        snapshot.queue_depth = (wave * wave * 9.0) as u64;
        snapshot.connections_active = (wave * 40.0) as u64;
        snapshot.connections_idle = 60;
        snapshot.connections_parked = 300 + tick % 200;
        snapshot.connections_total = 460 + tick * 2;
        snapshot.limit = 48 + self.limit.load(Relaxed);
        snapshot.shed_total.insert("limit".into(), tick / 9);
        snapshot.pool_hits = tick * 90;
        snapshot.pool_misses = tick * 3;
        snapshot.pool_retained_bytes = 6_000_000 + (wave * 3e6) as u64;
        let actions = lock(&self.actions).len() as u64;
        snapshot
            .tuning_actions_total
            .insert("limit".into(), actions);
    }

    fn tune(&self, dice: u64) {
        let old = self.limit.load(Relaxed);
        let new = dice % 40;
        self.limit.store(new, Relaxed);
        lock(&self.actions).insert(
            0,
            json!({ "parameter": "limit", "old": 48 + old, "new": 48 + new,
                    "reason": "queue delay above its target for 3 periods" }),
        );
    }

    fn tuning(&self) -> Value {
        let mode = lock(&self.mode)
            .clone()
            .unwrap_or_else(|| "recommend".to_owned());
        json!({ "mode": mode, "actions": *lock(&self.actions) })
    }

    fn set_mode(&self, mode: &str) -> Result<Value, String> {
        if !["observe", "recommend", "apply"].contains(&mode) {
            return Err(format!(
                "no such mode {mode:?}: expected observe, recommend or apply"
            ));
        }
        *lock(&self.mode) = Some(mode.to_owned());
        Ok(json!({ "mode": mode }))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
