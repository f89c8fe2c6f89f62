//! What each component does alone, over real sockets. Whoever includes this has `app`, the handler as a service; `serve`,
//! a server of somebody else's; `labelled`, `app` with its routes told to the metrics; and `make`, a make-service.

use std::{
    collections::HashSet,
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use http::{Request, Response, StatusCode, request::Parts};
use stellane_core::{
    access_log::AccessLogLayer,
    autotune::{
        ActionOutcome, AdaptiveLimit, AdaptiveLimitLayer, AlgorithmKind, AutoTuneLayer, AutoTuner,
        Condition, Hold, Key, Knob, LimitConfig, Objective, OverloadLayer, RateLimit,
        RateLimitLayer, Rule, TunerConfig, TunerMode,
        overload::{Deadline, DeadlineScopeLayer, HandOnDeadlineLayer},
    },
    catch_faults::{CatchFaultsLayer, Faults},
    config::AccessLogConfig,
    connection::{CloseReason, ConnectInfo, ConnectionManager, ListenConfig, Listener},
    engine::{Engine, HandoffEngine, PerCoreEngine, SharedEngine},
    engine_selector::{EngineSelector, EngineSelectorLayer},
    hot_reload::LiveReloadLayer,
    logging::LogWriter,
    memory::{MemoryBudget, MemoryBudgetLayer},
    metrics::{
        Admin, HttpMetrics, LoadReportLayer, LoadReports, MetricsLayer, RequestScope,
        RuntimeMetrics, prometheus,
    },
    on_disconnect::{Abandoned, OnDisconnectLayer},
    pool::{Carried, PoolConfig, PoolLayer, Pools, WorkerPool, WorkerPoolLayer},
    prepared::{Prepared, PreparedLayer, PreparedResponse},
    router::{InternLayer, Interned, Interner, RouteLayer, RouteMatch, RouteTable, Router},
    strict_http1::{Http1Rules, StrictHttp1Layer},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Barrier, Semaphore},
};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use super::{app, labelled, make, serve};
use crate::looks::{holds_soon, in_time};

pub(crate) type Answer = Pin<Box<dyn Future<Output = Response<String>> + Send>>;
pub(crate) type Handler = Arc<dyn Fn(Parts) -> Answer + Send + Sync>;

fn handler<F>(answer: impl Fn(Parts) -> F + Send + Sync + 'static) -> Handler
where
    F: Future<Output = String> + Send + 'static,
{
    Arc::new(move |parts| {
        let text = answer(parts);
        Box::pin(async move { Response::new(text.await) })
    })
}

fn hello() -> Handler {
    handler(async |_| "hello".to_owned())
}

/// What a client is told, to the end of its connection.
async fn ask(address: SocketAddr, head: &str) -> String {
    let request = format!("{head}\r\nconnection: close\r\n\r\n");
    within(crate::ask::ask_at(address, &request)).await
}

async fn get(address: SocketAddr, path: &str) -> String {
    within(crate::ask::get(address, path)).await
}

/// Fails instead of hanging.
async fn within<F: Future>(future: F) -> F::Output {
    in_time(future).await.expect("in time")
}

async fn until(holds: impl Fn() -> bool) {
    assert!(holds_soon(async || holds()).await, "never");
}

/// A limit that never moves.
fn limit_of(places: u32) -> AdaptiveLimit {
    let config = LimitConfig::default().with(|config| {
        config.algorithm = AlgorithmKind::Fixed;
        (config.initial, config.min, config.max) = (places, places, places);
        config.hold = Hold::Headers;
    });
    AdaptiveLimit::builder()
        .config(config)
        .build()
        .expect("valid")
}

#[tokio::test]
async fn the_adaptive_limit_refuses_what_is_too_much() {
    let limit = limit_of(1);
    let (begun, gate) = (Arc::new(AtomicU64::new(0)), Arc::new(Semaphore::new(0)));
    let slow = handler({
        let (begun, gate) = (Arc::clone(&begun), Arc::clone(&gate));
        move |_| {
            begun.fetch_add(1, SeqCst);
            let gate = Arc::clone(&gate);
            async move {
                let _open = gate.acquire().await;
                "done".to_owned()
            }
        }
    });
    let address = serve(AdaptiveLimitLayer::new(&limit).layer(app(slow))).await;
    let first = tokio::spawn(get(address, "/"));
    until(|| begun.load(SeqCst) == 1).await;
    let refused = get(address, "/").await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(refused.contains("retry-after: "), "{refused}");
    gate.add_permits(10);
    assert!(first.await.expect("asked").ends_with("done"));
    assert!(get(address, "/").await.ends_with("done"));
    assert_eq!((limit.stats().successes, limit.stats().shed), (2, 1));
}

#[tokio::test]
async fn who_asks_too_often_is_told_so_and_nobody_else() {
    let limit = RateLimit::builder()
        .rule("2/h".parse().expect("a rate"))
        .build()
        .expect("valid");
    let layer = RateLimitLayer::new(&limit, |head| head.headers.get("x-tenant").map(Key::of));
    let address = serve(layer.layer(app(hello()))).await;
    let of = |tenant: &str| format!("GET / HTTP/1.1\r\nhost: localhost\r\nx-tenant: {tenant}");
    for _ in 0..2 {
        assert!(ask(address, &of("ada")).await.ends_with("hello"));
    }
    let refused = ask(address, &of("ada")).await;
    assert!(refused.starts_with("HTTP/1.1 429"), "{refused}");
    assert!(refused.contains("retry-after: 1800"), "{refused}");
    assert!(ask(address, &of("bob")).await.ends_with("hello"));
    assert!(get(address, "/").await.ends_with("hello"));
    assert_eq!(
        (limit.stats().allowed, limit.stats().rules[0].refused),
        (3, 1)
    );
}

#[tokio::test]
async fn overload_ends_what_exceeds_its_deadline() {
    let overload = OverloadLayer::builder().build().expect("valid");
    let handler = handler(async |parts: Parts| {
        assert!(parts.extensions.get::<Deadline>().is_some());
        if parts.uri.path() == "/slow" {
            std::future::pending::<()>().await;
        }
        "in time".to_owned()
    });
    let address = serve(overload.layer(app(handler))).await;
    let with_timeout = |path: &str, millis: u32| {
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nx-request-timeout-ms: {millis}")
    };
    let late = ask(address, &with_timeout("/slow", 20)).await;
    assert!(late.starts_with("HTTP/1.1 504"), "{late}");
    let answered = ask(address, &with_timeout("/", 20_000)).await;
    assert!(answered.ends_with("in time"), "{answered}");
    assert_eq!(overload.stats().timed_out, 1);
}

#[tokio::test]
async fn calls_are_told_how_much_time_is_left() {
    let overload = OverloadLayer::builder().build().expect("valid");
    // In place of a server elsewhere: it says what it was asked with.
    let elsewhere = service_fn(async |call: Request<()>| {
        let left = call.headers().get("x-request-timeout-ms");
        let left = left.and_then(|left| left.to_str().ok()).unwrap_or("any");
        Ok::<_, Infallible>(Response::new(left.to_owned()))
    });
    let client = HandOnDeadlineLayer::new().layer(elsewhere);
    let handler = handler(move |_: Parts| {
        let answer = client.clone().oneshot(Request::new(()));
        async move { answer.await.expect("is answered").into_body() }
    });
    let address = serve(overload.layer(DeadlineScopeLayer::new().layer(app(handler)))).await;
    let asked = "GET / HTTP/1.1\r\nhost: localhost\r\nx-request-timeout-ms: 20000";
    let answer = ask(address, asked).await;
    let left = answer.rsplit_once("\r\n\r\n").expect("a head").1;
    let left: u32 = left.parse().unwrap_or_else(|_| panic!("{answer}"));
    assert!((1..=20_000).contains(&left), "{answer}");
    assert!(get(address, "/").await.ends_with("any"));
}

#[tokio::test]
async fn metrics_count_by_the_labels_of_routes() {
    let metrics = HttpMetrics::builder().build().expect("valid");
    let address = serve(MetricsLayer::new(&metrics).layer(labelled(hello()))).await;
    for path in ["/users/7", "/users/8", "/elsewhere"] {
        get(address, path).await;
    }
    until(|| metrics.stats().requests_total == 3).await;
    let routes: HashSet<_> = metrics
        .routes()
        .into_iter()
        .map(|route| (route.route.to_owned(), route.requests))
        .collect();
    assert!(
        routes.contains(&("/users/{id}".to_owned(), 2)),
        "{routes:?}"
    );
}

#[tokio::test]
async fn an_answer_tells_how_loaded_the_replica_is() {
    let time = Arc::new(AtomicU64::new(0));
    let now = Arc::clone(&time);
    let metrics = HttpMetrics::builder()
        .clock(move || Duration::from_secs(now.load(Relaxed)))
        .build()
        .expect("valid");
    let reports = LoadReports::builder(&metrics)
        .application_utilization(|| Some(0.5))
        .build()
        .expect("valid");
    let layers = ServiceBuilder::new()
        .layer(LoadReportLayer::new(&reports))
        .layer(MetricsLayer::new(&metrics));
    let address = serve(layers.service(app(hello()))).await;
    assert!(!get(address, "/").await.contains("endpoint-load-metrics"));
    time.store(2, Relaxed);
    let answer = get(address, "/").await;
    assert!(answer.contains("endpoint-load-metrics: TEXT "), "{answer}");
    assert!(answer.contains("application_utilization:0.5"), "{answer}");
}

#[tokio::test]
async fn pools_are_within_reach_of_a_handler() {
    let pools = Pools::builder()
        .config(PoolConfig::enabled())
        .build()
        .expect("valid");
    let handler = handler(async |_| {
        tokio::task::yield_now().await;
        let pools = Pools::current().expect("inside of the layer");
        let mut buffer = pools.buf().get(64);
        buffer.extend_from_slice(b"from the pool");
        String::from_utf8_lossy(&buffer).into_owned()
    });
    let address = serve(PoolLayer::new(&pools).layer(app(handler))).await;
    assert!(get(address, "/").await.ends_with("from the pool"));
}

/// A pool that takes the metrics' request along.
fn workers() -> WorkerPool {
    let workers = WorkerPool::builder().carry(|| {
        let scope = Arc::new(RequestScope::current()?);
        let back = Arc::clone(&scope);
        let hand_back = move || back.hand_back();
        Some(Carried::new(move |inside| scope.run(inside), hand_back))
    });
    workers.build().expect("valid")
}

fn on_worker() -> bool {
    let thread = std::thread::current();
    thread
        .name()
        .is_some_and(|name| name.starts_with("stellane-worker-"))
}

#[tokio::test]
async fn workers_run_a_whole_app_and_end_what_panics() {
    let handler = handler(async |parts: Parts| {
        assert!(parts.uri.path() != "/panic");
        format!("on a worker: {}", on_worker())
    });
    let address = serve(WorkerPoolLayer::new(&workers()).layer(app(handler))).await;
    assert!(get(address, "/").await.ends_with("on a worker: true"));
    assert!(get(address, "/panic").await.starts_with("HTTP/1.1 500"));
}

#[tokio::test]
async fn routes_and_pools_reach_the_worker_of_an_app() {
    let metrics = HttpMetrics::builder().build().expect("valid");
    let pools = Pools::builder().build().expect("valid");
    let handler = handler(async |parts: Parts| {
        let route = stellane_core::metrics::current_route();
        tokio::task::yield_now().await;
        assert_eq!(route, stellane_core::metrics::current_route());
        assert!(Pools::current().is_some() && on_worker());
        assert!(!parts.uri.path().ends_with("/panic"), "as it should");
        format!("{route:?}")
    });
    let stack = ServiceBuilder::new()
        .layer(MetricsLayer::new(&metrics))
        .layer(PoolLayer::new(&pools))
        .layer(WorkerPoolLayer::new(&workers()))
        .service(labelled(handler));
    let address = serve(stack).await;
    let answer = get(address, "/users/7").await;
    assert!(answer.ends_with("Some(\"/users/{id}\")"), "{answer}");
    let panicked = get(address, "/users/panic").await;
    assert!(panicked.starts_with("HTTP/1.1 500"), "{panicked}");
    until(|| metrics.stats().requests_total == 2).await;
    let route = metrics
        .routes()
        .into_iter()
        .find(|route| route.route == "/users/{id}");
    assert_eq!(
        route.map(|route| route.requests),
        Some(2),
        "{:?}",
        metrics.routes()
    );
}

#[tokio::test]
async fn headers_and_claims_are_interned_without_a_router() {
    #[derive(Clone)]
    struct Claims {
        tenant: String,
    }
    let interner = Interner::builder().admit_after(1).build().expect("valid");
    let layer = InternLayer::new(&interner)
        .header("X-Region")
        .value("tenant", |request| {
            Some(&request.extensions.get::<Claims>()?.tenant)
        });
    let seen = Arc::new(Mutex::new(Vec::new()));
    let handler = handler({
        let seen = Arc::clone(&seen);
        move |parts: Parts| {
            let interned = parts
                .extensions
                .get::<Interned>()
                .cloned()
                .unwrap_or_default();
            seen.lock().expect("not poisoned").push(interned);
            async { String::new() }
        }
    });
    let stack = ServiceBuilder::new()
        .map_request(|mut request: Request<_>| {
            if request.uri().path() == "/with" {
                let tenant = "acme".to_owned();
                request.extensions_mut().insert(Claims { tenant });
            }
            request
        })
        .layer(layer)
        .service(app(handler));
    let address = serve(stack).await;
    for _ in 0..2 {
        ask(
            address,
            "GET /with HTTP/1.1\r\nhost: localhost\r\nx-region: eu-west",
        )
        .await;
    }
    get(address, "/without").await;
    let seen = seen.lock().expect("not poisoned");
    let texts = |at: usize| {
        let text = |name| seen[at].get(name).map(|atom| atom.as_str());
        (text("X-Region"), text("tenant"))
    };
    assert_eq!(texts(0), (Some("eu-west"), Some("acme")));
    assert_eq!(texts(2), (None, None));
    for name in ["X-Region", "tenant"] {
        let place = |at: usize| seen[at].get(name).map(|atom| atom.as_ptr());
        assert_eq!(place(0), place(1), "one text for both");
    }
    assert_eq!(interner.stats().entries, 2);
}

#[tokio::test]
async fn a_route_layer_tells_who_is_inside_the_route() {
    let table = RouteTable::new(["/users/{id}"]).expect("valid");
    let handler = handler(async |parts: Parts| {
        let route = parts.extensions.get::<RouteMatch>();
        format!("{:?}", route.map(RouteMatch::template))
    });
    let address = serve(RouteLayer::new(table).layer(app(handler))).await;
    let answer = get(address, "/users/7").await;
    assert!(answer.ends_with("Some(\"/users/{id}\")"), "{answer}");
    assert!(get(address, "/none").await.ends_with("None"));
}

#[tokio::test]
async fn the_router_is_a_service_like_any_other() {
    let user = async |stellane_core::router::Path(id): stellane_core::router::Path<u64>| {
        format!("user {id}")
    };
    let router = Router::builder()
        .get("/users/{id}", user)
        .build()
        .expect("valid");
    let address = serve(router).await;
    assert!(get(address, "/users/7").await.ends_with("user 7"));
    assert!(get(address, "/none").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn an_admin_service_shows_what_it_is_given() {
    let admin = Admin::builder()
        .runtime(RuntimeMetrics::builder().build().expect("valid"))
        .guarded()
        .json("/what", || "this".into())
        .build()
        .expect("valid");
    let address = serve(admin).await;
    assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get(address, "/what").await.ends_with("\"this\""));
    assert!(get(address, "/else").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn a_scrape_is_a_service_of_its_own() {
    let metrics = HttpMetrics::builder().build().expect("valid");
    let app = serve(MetricsLayer::new(&metrics).layer(app(hello()))).await;
    get(app, "/").await;
    until(|| metrics.stats().requests_total == 1).await;
    let scrape = serve(prometheus().http(&metrics).build().expect("valid")).await;
    let text = get(scrape, "/").await;
    assert!(text.contains("http_server_request_duration_seconds_count{"));
    assert!(text.contains("content-type: text/plain"), "{text}");
}

#[cfg(feature = "profiling")]
#[tokio::test]
async fn profiles_tell_which_route_held_a_thread() {
    use stellane_core::profiling::{ProfileLayer, ProfileService, SlowPolls};

    // Every poll is a slow one.
    let polls = SlowPolls::new(Duration::from_nanos(1));
    let address = serve(polls.layer().layer(app(hello()))).await;
    get(address, "/").await;
    until(|| !polls.stats().is_empty()).await;
    let profiles = ProfileService::builder().block(polls).build();
    let own = SocketAddr::from(([127, 0, 0, 1], 9090));
    let profiles = ProfileLayer::new(profiles.listening_on(own));
    let address = serve(profiles.layer(app(hello()))).await;
    let slow = get(address, "/debug/profile/block").await;
    assert!(
        slow.starts_with("HTTP/1.1 200") && slow.contains("polls"),
        "{slow}"
    );
    assert!(get(address, "/").await.ends_with("hello"));
}

#[tokio::test]
async fn strict_rules_refuse_what_is_ambiguous() {
    let rules = Http1Rules::default();
    let address = serve(StrictHttp1Layer::new(&rules).layer(app(hello()))).await;
    assert!(get(address, "/").await.ends_with("hello"));
    let two_hosts = ask(address, "GET / HTTP/1.1\r\nhost: a\r\nhost: b").await;
    assert!(two_hosts.starts_with("HTTP/1.1 400"), "{two_hosts}");
    assert_eq!(rules.stats().refused_total(), 1);
}

#[tokio::test]
async fn a_panic_is_answered_and_counted() {
    let faults = Faults::new();
    let handler = handler(async |parts: Parts| {
        assert!(parts.uri.path() != "/panic", "as it should");
        "hello".to_owned()
    });
    let address = serve(CatchFaultsLayer::new(&faults).layer(app(handler))).await;
    assert!(get(address, "/panic").await.starts_with("HTTP/1.1 500"));
    assert!(get(address, "/").await.ends_with("hello"));
    assert_eq!(faults.stats().panics, 1);
}

#[tokio::test]
async fn a_handler_whose_client_has_left_goes_on() {
    let (abandoned, gate) = (Abandoned::default(), Arc::new(Semaphore::new(0)));
    let handler = handler({
        let gate = Arc::clone(&gate);
        move |_| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.expect("open").forget();
                "done".to_owned()
            }
        }
    });
    let layer = OnDisconnectLayer::finish(Duration::from_secs(3600)).counted_by(&abandoned);
    let address = serve(layer.layer(app(handler))).await;
    let leaves = tokio::time::timeout(Duration::from_millis(50), get(address, "/"));
    assert!(leaves.await.is_err());
    until(|| abandoned.stats().running == 1).await;
    gate.add_permits(1);
    until(|| abandoned.stats().finished_total == 1).await;
}

#[tokio::test]
async fn what_a_client_has_not_read_counts() {
    let budget = MemoryBudget::new(64 << 20);
    let large = handler(async |_| "x".repeat(16 << 20));
    let address = serve(MemoryBudgetLayer::new(&budget).layer(app(large))).await;
    let mut client = TcpStream::connect(address).await.expect("connects");
    let head = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    client.write_all(head).await.expect("writes");
    until(|| budget.stats().answers_bytes == 16 << 20).await;
    let mut answer = Vec::new();
    within(client.read_to_end(&mut answer))
        .await
        .expect("reads");
    assert!(answer.len() > 16 << 20);
    until(|| budget.stats().held_bytes == 0).await;
}

#[tokio::test]
async fn every_request_has_a_line() {
    let log = crate::log::Log::default();
    let writer = LogWriter::new(log.clone(), |lost| format!("{lost} lost"));
    let writer = writer.expect("a thread");
    let handler = handler(async |parts: Parts| {
        stellane_metrics::label_route("/{name}");
        parts.uri.path().to_owned()
    });
    let http = HttpMetrics::builder().build().expect("valid");
    let config = AccessLogConfig::default();
    let layer = AccessLogLayer::new(&config, writer).request_id("x-id".parse().expect("valid"));
    let stack = MetricsLayer::new(&http).layer(layer.layer(app(handler)));
    let address = serve(stack).await;
    let head = "GET /a?password=7 HTTP/1.1\r\nhost: x\r\nx-id: 17\r\nuser-agent: \"a\\b\r\n\
                traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert!(ask(address, head).await.ends_with("/a"));
    until(|| !log.text().is_empty()).await;
    let line = log.text();
    for part in [
        r#""method":"GET","route":"/{name}","path":"/a","version":"1.1","status":200,"#,
        r#""response_bytes":2,"#,
        r#""end":"complete","request_id":"17","trace_id":"0af7651916cd43dd8448eb211c80319c","#,
        r#""user_agent":"\"a\\b"}"#,
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert!(
        !line.contains("password") && line.ends_with("}\n"),
        "{line}"
    );
}

#[tokio::test]
async fn prepared_answers_come_before_the_service() {
    let prepared = Prepared::new();
    prepared.insert(
        "/prepared",
        PreparedResponse::new("text/plain", "from memory"),
    );
    let address = serve(PreparedLayer::new(&prepared).layer(app(hello()))).await;
    assert!(get(address, "/prepared").await.ends_with("from memory"));
    assert!(get(address, "/").await.ends_with("hello"));
}

#[tokio::test]
async fn an_engine_selector_accelerates_chosen_routes() {
    let prepared = Prepared::new();
    prepared.insert("/fast", PreparedResponse::new("text/plain", "accelerated"));
    let selector = EngineSelector::builder()
        .route("/fast")
        .route("/missing")
        .build()
        .expect("valid");
    let layer = EngineSelectorLayer::new(&selector, prepared.service());
    let address = serve(layer.layer(app(hello()))).await;
    assert!(get(address, "/fast").await.ends_with("accelerated"));
    assert!(get(address, "/missing").await.ends_with("hello"));
    assert!(get(address, "/").await.ends_with("hello"));
}

#[tokio::test]
async fn live_reload_adds_its_script_to_pages_only() {
    let pages: Handler = Arc::new(|parts: Parts| {
        let kind = match parts.uri.path() {
            "/page" => "text/html",
            _ => "text/plain",
        };
        Box::pin(async move {
            let mut page = Response::new("<p>hello</p>".to_owned());
            let kind = http::HeaderValue::from_static(kind);
            page.headers_mut().insert("content-type", kind);
            page
        })
    });
    let address = serve(LiveReloadLayer::new().layer(app(pages))).await;
    assert!(get(address, "/page").await.contains("<script>"));
    assert!(get(address, "/text").await.ends_with("<p>hello</p>"));
}

/// A stack of somebody else's: a limit that refuses with 503, and a pool of connections to a database, of which who finds
/// none fails. Once the database has more connections than it bears, all fail.
struct Foreign {
    limit: Knobbed,
    pool: Knobbed,
    bears: usize,
    /// Requests that come together are decided together.
    together: Barrier,
}

/// Places, and how many of them there are.
struct Knobbed {
    places: Semaphore,
    size: AtomicUsize,
}

impl Knobbed {
    fn new(size: usize) -> Self {
        Self {
            places: Semaphore::new(size),
            size: AtomicUsize::new(size),
        }
    }

    fn set(&self, size: usize) {
        let before = self.size.swap(size, SeqCst);
        self.places.add_permits(size.saturating_sub(before));
        self.places.forget_permits(before.saturating_sub(size));
    }
}

/// How many requests come at once: so many that what becomes of them is no chance.
const CROWD: usize = 40;

impl Foreign {
    fn new(limit: usize, pool: usize, bears: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: Knobbed::new(limit),
            pool: Knobbed::new(pool),
            bears,
            together: Barrier::new(CROWD),
        })
    }

    async fn answer(&self) -> StatusCode {
        let place = self.limit.places.try_acquire();
        let connection = place.is_ok().then(|| self.pool.places.try_acquire());
        self.together.wait().await;
        let answer = match &connection {
            None => StatusCode::SERVICE_UNAVAILABLE,
            Some(Ok(_)) if self.pool.size.load(SeqCst) <= self.bears => StatusCode::OK,
            Some(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        // All have seen what there was before the first gives it back.
        self.together.wait().await;
        answer
    }

    fn handler(self: &Arc<Self>) -> Handler {
        let foreign = Arc::clone(self);
        Arc::new(move |_| {
            let foreign = Arc::clone(&foreign);
            Box::pin(async move {
                let mut response = Response::new(String::new());
                *response.status_mut() = foreign.answer().await;
                response
            })
        })
    }

    fn knob(self: &Arc<Self>, name: &'static str, of: fn(&Self) -> &Knobbed) -> Knob {
        let (get, set) = (Arc::clone(self), Arc::clone(self));
        let read = move || of(&get).size.load(SeqCst) as f64;
        Knob::new(name, 1.0..=64.0, 1.0, read, move |size| {
            of(&set).set(size as usize)
        })
    }

    fn tuned(self: &Arc<Self>) -> AutoTuneLayer {
        AutoTuner::builder()
            .config(TunerConfig::default().with(|config| config.mode = TunerMode::Apply))
            .default_rules(false)
            .knob(self.knob("their.limit", |foreign| &foreign.limit))
            .knob(self.knob("their.pool", |foreign| &foreign.pool))
            .rule(
                Rule::new("refuses")
                    .when(Condition::above("shed_rate", 0.5))
                    .scale("their.limit", 2.0),
            )
            .rule(
                Rule::new("no_connection")
                    .when(Condition::above("error_rate", 0.5))
                    .scale("their.pool", 2.0),
            )
            .objective(Objective::maximize("throughput"))
            .build_layer()
            .expect("valid")
    }
}

/// A crowd each second, of which the tuner is told the time.
async fn crowds(address: SocketAddr, layer: &AutoTuneLayer, seconds: u64) {
    for second in 0..seconds {
        let crowd: Vec<_> = (0..CROWD)
            .map(|_| tokio::spawn(get(address, "/")))
            .collect();
        for one in crowd {
            one.await.expect("answered");
        }
        until(|| layer.stats().in_flight == 0).await;
        layer.tuner().tick(Duration::from_secs(second));
    }
}

#[tokio::test]
async fn the_tuner_turns_a_limit_and_a_pool_of_others() {
    let foreign = Foreign::new(2, 1, 64);
    let layer = foreign.tuned();
    let address = serve(layer.layer(app(foreign.handler()))).await;
    crowds(address, &layer, 60).await;
    let sizes = (&foreign.limit.size, &foreign.pool.size);
    let said = layer.tuner().history();
    assert!(sizes.0.load(SeqCst) >= CROWD, "{said:?}");
    assert!(sizes.1.load(SeqCst) >= CROWD, "{said:?}");
    let before = layer.stats();
    crowds(address, &layer, 1).await;
    assert_eq!(layer.stats().answered, before.answered + CROWD as u64);
}

#[tokio::test]
async fn the_tuner_undoes_what_made_things_worse() {
    let foreign = Foreign::new(64, 8, 16);
    let layer = foreign.tuned();
    let address = serve(layer.layer(app(foreign.handler()))).await;
    crowds(address, &layer, 20).await;
    let said = layer.tuner().history();
    let undone = said
        .iter()
        .find(|action| action.outcome == ActionOutcome::RollBack);
    let undone = undone.unwrap_or_else(|| panic!("{said:?}"));
    assert_eq!(
        (undone.old_value, undone.new_value),
        (32.0, 16.0),
        "{said:?}"
    );
    assert_eq!(foreign.pool.size.load(SeqCst), 16);
}

/// Accepts for a service of connections, each ready before it is called.
async fn accept<S, E>(service: S) -> SocketAddr
where
    S: Service<TcpStream, Response = CloseReason, Error = E, Future: Send> + Clone + Send + 'static,
    E: Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let mut service = service;
        loop {
            let Ok(ready) = service.ready().await else {
                continue;
            };
            let Ok((socket, _)) = listener.accept().await else {
                return;
            };
            tokio::spawn(ready.call(socket));
        }
    });
    address
}

/// A connection that stays.
struct Kept(TcpStream);

impl Kept {
    async fn to(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.expect("connects"))
    }

    async fn send(&mut self) {
        let request = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
        self.0.write_all(request).await.expect("writes");
    }

    /// The answer, whose text ends with `.`.
    async fn answer(&mut self) -> String {
        let mut answer = Vec::new();
        within(async {
            while !answer.ends_with(b".") {
                assert!(
                    self.0.read_buf(&mut answer).await.expect("reads") > 0,
                    "closed"
                );
            }
        })
        .await;
        String::from_utf8(answer).expect("text")
    }

    async fn ask(&mut self) -> String {
        self.send().await;
        self.answer().await
    }

    async fn ends(mut self) -> bool {
        matches!(within(self.0.read(&mut [0; 64])).await, Ok(0) | Err(_))
    }
}

#[tokio::test]
async fn a_limit_around_the_manager_counts_connections() {
    let manager = ConnectionManager::builder().build().expect("valid");
    let asked = Arc::new(AtomicU64::new(0));
    let handler = handler({
        let asked = Arc::clone(&asked);
        move |_| {
            asked.fetch_add(1, SeqCst);
            async { "hello.".to_owned() }
        }
    });
    let service = manager.service(app(handler));
    let address = accept(ServiceBuilder::new().concurrency_limit(1).service(service)).await;
    let (mut first, mut second) = (Kept::to(address).await, Kept::to(address).await);
    assert!(first.ask().await.ends_with("hello."));
    second.send().await;
    for _ in 0..20 {
        first.ask().await;
    }
    assert_eq!((asked.load(SeqCst), manager.list().len()), (21, 1));
    drop(first);
    assert!(second.answer().await.ends_with("hello."));
}

#[tokio::test]
async fn a_timeout_around_the_manager_ends_connections() {
    let manager = ConnectionManager::builder().build().expect("valid");
    let service = manager.service(app(handler(async |_| "hello.".to_owned())));
    let address = accept(
        ServiceBuilder::new()
            .timeout(Duration::from_millis(200))
            .service(service),
    )
    .await;
    assert!(Kept::to(address).await.ends().await);
    until(|| manager.list().is_empty()).await;
    assert!(Kept::to(address).await.ask().await.ends_with("hello."));
}

#[tokio::test]
async fn a_make_service_makes_one_for_each_connection() {
    let manager = ConnectionManager::builder().build().expect("valid");
    let peers = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&peers);
    let made = service_fn(move |connection: ConnectInfo| {
        seen.lock().expect("not poisoned").push(connection.peer());
        let count = AtomicU64::new(0);
        let app = app(handler(move |_| {
            let nth = count.fetch_add(1, Relaxed) + 1;
            async move { format!("{nth}.") }
        }));
        async move {
            tokio::task::yield_now().await;
            Ok::<_, Infallible>(app)
        }
    });
    let address = accept(manager.make_service(made)).await;
    let (mut first, mut second) = (Kept::to(address).await, Kept::to(address).await);
    assert!(first.ask().await.ends_with("1."));
    assert!(first.ask().await.ends_with("2."));
    assert!(second.ask().await.ends_with("1."));
    let addresses = [&first, &second].map(|kept| kept.0.local_addr().ok());
    assert_eq!(*peers.lock().expect("not poisoned"), addresses);
    // One of this house.
    let address = accept(manager.make_service(make(hello()))).await;
    assert!(get(address, "/").await.ends_with("hello"));
}

#[tokio::test]
async fn a_make_service_that_fails_costs_its_own_connection() {
    let manager = ConnectionManager::builder().build().expect("valid");
    let calls = Arc::new(AtomicU64::new(0));
    let made = service_fn(move |_: ConnectInfo| {
        let first = calls.fetch_add(1, SeqCst) == 0;
        let app = app(handler(async |_| "hello.".to_owned()));
        async move {
            match first {
                true => Err("not now"),
                false => Ok(app),
            }
        }
    });
    let address = accept(manager.make_service(made)).await;
    assert!(Kept::to(address).await.ends().await);
    assert!(Kept::to(address).await.ask().await.ends_with("hello."));
    let stats = manager.stats();
    assert_eq!(stats.closed(CloseReason::ServiceError), 1);
    until(|| manager.list().is_empty()).await;
}

#[tokio::test]
async fn a_service_that_is_never_made_keeps_no_place() {
    let manager = ConnectionManager::builder().build().expect("valid");
    let never = service_fn(|_: ConnectInfo| {
        // It is never made.
        let made = std::future::pending::<Result<(), Infallible>>();
        let app = app(hello());
        async move { made.await.map(|()| app) }
    });
    let service = manager.make_service(never);
    let (_client, server) = tokio::io::duplex(64);
    let serving = tokio::spawn(service.clone().oneshot(server));
    until(|| manager.list().len() == 1).await;
    serving.abort();
    until(|| manager.list().is_empty()).await;
    // Nor can it hold up a drain, or a close by hand.
    let (_client, server) = tokio::io::duplex(64);
    let serving = tokio::spawn(service.oneshot(server));
    until(|| manager.list().len() == 1).await;
    assert!(manager.close(manager.list()[0].id));
    let ended = within(serving).await.expect("no panic");
    assert_eq!(ended, Ok(CloseReason::Killed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engines_serve_any_service() {
    async fn check(engine: impl Engine) {
        let mut options = ListenConfig::default();
        options.sockets = 2;
        let listeners = Listener::bind_all("127.0.0.1:0", &options)
            .await
            .expect("binds");
        let address = listeners[0].local_addr().expect("bound");
        engine.start().expect("starts");
        let serving = tokio::spawn(engine.serve(listeners, app(hello())));
        for _ in 0..4 {
            assert!(get(address, "/").await.ends_with("hello"));
        }
        assert_eq!(
            within(engine.stop(Duration::from_secs(10))).await.aborted,
            0
        );
        serving.await.expect("no panic").expect("ends well");
    }
    let connections = || ConnectionManager::builder().build().expect("valid");
    check(SharedEngine::new(&connections())).await;
    check(
        PerCoreEngine::builder()
            .connections(&connections())
            .cores(2)
            .build(),
    )
    .await;
    check(
        HandoffEngine::builder()
            .connections(&connections())
            .cores(2)
            .build(),
    )
    .await;
}

#[tokio::test]
async fn one_chain_takes_methods_of_tower_http_and_ours() {
    use stellane_core::StellaneBuilderExt;
    use tower_http::ServiceBuilderExt;

    let metrics = HttpMetrics::builder().build().expect("valid");
    let (limit, faults, rules) = (limit_of(10), Faults::new(), Http1Rules::default());
    let overload = OverloadLayer::builder().build().expect("valid");
    let pools = Pools::builder().build().expect("valid");
    let interner = Interner::builder().build().expect("valid");
    let tuner = AutoTuner::builder().build_layer().expect("valid");
    let prepared = Prepared::new();
    prepared.insert(
        "/prepared",
        PreparedResponse::new("text/plain", "from memory"),
    );
    let stack = ServiceBuilder::new()
        .propagate_x_request_id()
        .http_metrics(&metrics)
        .auto_tune(&tuner)
        .strict_http1(&rules)
        .deadlines(&overload)
        .adaptive_limit(&limit)
        .map_response(|response| response)
        .prepared(&prepared)
        .pools(&pools)
        .intern(&InternLayer::new(&interner).header("x-region"))
        .on_workers(&workers())
        .catch_faults(&faults)
        .memory_budget(&MemoryBudget::new(1 << 20))
        .service(app(hello()));
    let address = serve(stack).await;
    let answer = ask(
        address,
        "GET / HTTP/1.1\r\nhost: localhost\r\nx-request-id: 7",
    )
    .await;
    assert!(
        answer.contains("x-request-id: 7") && answer.ends_with("hello"),
        "{answer}"
    );
    assert!(get(address, "/prepared").await.ends_with("from memory"));
    until(|| metrics.stats().requests_total == 2).await;
    assert_eq!((limit.stats().successes, tuner.stats().answered), (2, 2));
}
