//! What one request costs in the layer, beside `axum-prometheus` and the bare macros of the `metrics` facade.
//!
//! `cargo bench --bench metrics_layer` in `examples/compare` runs all of them in one process, in turns, and prints the cheapest of
//! several rounds: nanoseconds and allocations per request above the bare handler. For instructions per request:
//! `benches/metrics_layer_instructions`, which runs single variants (`VARIANT REQUESTS`) under callgrind.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    convert::Infallible,
    future::{Ready, ready},
    hint::black_box,
    pin::{Pin, pin},
    sync::OnceLock,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use axum_prometheus::PrometheusMetricLayer;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use stellane_metrics::{HttpMetrics, MetricsLayer, Prometheus, metrics, prometheus};
use tower::{Layer, Service, service_fn};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: forwards to the system allocator; the counter is a plain thread-local that never allocates.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

type RequestBody = Full<Bytes>;

type Run = fn(u64);

const VARIANTS: [(&str, Run); 4] = [
    ("bare", bare),
    ("stellane", stellane),
    ("macros", macros),
    ("axum-prometheus", axum_prometheus),
];

fn main() {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let _recorder = recorder();
    if let [variant, requests] = &args[..]
        && let Ok(requests) = requests.parse()
    {
        let known = VARIANTS.iter().find(|(name, _)| name == variant);
        let Some((_, run)) = known else {
            return eprintln!("no variant {variant}");
        };
        return run(requests);
    }

    // Short turns and many of them: the cheapest of each variant is one that nobody disturbed.
    const REQUESTS: u64 = 1_000;
    const ROUNDS: usize = 400;
    let mut best = [Duration::MAX; VARIANTS.len()];
    let mut allocations = [0; VARIANTS.len()];
    for _ in 0..ROUNDS {
        for (i, (_, run)) in VARIANTS.iter().enumerate() {
            run(100);
            let before = ALLOCATIONS.get();
            let start = Instant::now();
            run(REQUESTS);
            best[i] = best[i].min(start.elapsed());
            allocations[i] = ALLOCATIONS.get() - before;
        }
        recorder().render();
    }
    println!("{:<16} {:>10} {:>14}", "", "ns/request", "allocations");
    for (i, (name, _)) in VARIANTS.iter().enumerate() {
        let ns = (best[i].as_nanos() as f64 - best[0].as_nanos() as f64) / REQUESTS as f64;
        let allocations = (allocations[i] as f64 - allocations[0] as f64) / REQUESTS as f64;
        println!("{name:<16} {ns:>10.1} {allocations:>14.3}");
    }
}

fn recorder() -> &'static Prometheus {
    static RECORDER: OnceLock<Prometheus> = OnceLock::new();
    RECORDER.get_or_init(|| {
        let recorder = prometheus().build().expect("builds");
        recorder.install().expect("the only one of this process");
        recorder
    })
}

fn handler(request: Request<RequestBody>) -> Ready<Result<Response<Full<Bytes>>, Infallible>> {
    black_box(request);
    ready(Ok(Response::new(Full::new(Bytes::from_static(b"hello")))))
}

fn bare(requests: u64) {
    drive(service_fn(handler), requests);
}

fn stellane(requests: u64) {
    static HTTP: OnceLock<HttpMetrics> = OnceLock::new();
    let http = HTTP.get_or_init(|| {
        HttpMetrics::builder()
            .build()
            .expect("the defaults are valid")
    });
    let layer =
        MetricsLayer::new(http).route_from_request(|_: &Request<RequestBody>| Some("/users/{id}"));
    drive(layer.layer(service_fn(handler)), requests);
}

/// What people write by hand: a counter and two histograms with three labels, a gauge around them.
fn macros(requests: u64) {
    let service = service_fn(|request: Request<RequestBody>| async {
        let start = Instant::now();
        let method = request.method().to_string();
        metrics::gauge!("bench_active").increment(1.0);
        let response = handler(request).await?;
        let labels = [
            ("method", method),
            ("status", response.status().as_u16().to_string()),
            ("route", "/users/{id}".to_owned()),
        ];
        metrics::counter!("bench_requests_total", &labels).increment(1);
        metrics::histogram!("bench_duration_seconds", &labels)
            .record(start.elapsed().as_secs_f64());
        let size = response.body().size_hint().exact().unwrap_or(0);
        metrics::histogram!("bench_size_bytes", &labels).record(size as f64);
        metrics::gauge!("bench_active").decrement(1.0);
        Ok::<_, Infallible>(response)
    });
    drive(service, requests);
}

fn axum_prometheus(requests: u64) {
    drive(
        PrometheusMetricLayer::new().layer(service_fn(handler)),
        requests,
    );
}

/// Sends requests one after the other and reads their bodies to the end, without a runtime.
///
/// The only function in which `metrics_layer_instructions` counts.
#[inline(never)]
fn drive<S, B>(mut service: S, requests: u64)
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
    B: Body,
{
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..requests {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = http::Uri::from_static("/users/7");
        let Poll::Ready(Ok(response)) = pin!(service.call(request)).poll(&mut cx) else {
            panic!("the handler answers at once");
        };
        let mut body = pin!(response.into_body());
        while !body.is_end_stream() {
            let Poll::Ready(Some(frame)) = Pin::new(&mut body).as_mut().poll_frame(&mut cx) else {
                break;
            };
            drop(black_box(frame));
        }
    }
}
