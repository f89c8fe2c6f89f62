//! Metrics and spans of a runtime, as a collector of OpenTelemetry hears them.
#![cfg(all(feature = "full", feature = "otlp"))]

use std::{
    collections::VecDeque,
    convert::Infallible,
    io::Read,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{KeyValue, any_value},
    metrics::v1::{AggregationTemporality, Metric, metric::Data, number_data_point},
    trace::v1::{Span, span::SpanKind},
};
use prost::Message;
use stellane_core::{
    RequestBody, Runtime, RuntimeConfig,
    otlp::{Otlp, OtlpStats},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use tokio_rustls::TlsAcceptor;
#[cfg(feature = "tls-ring")]
use tokio_rustls::rustls;
use tracing::Instrument;
use tracing_subscriber::layer::SubscriberExt;

#[path = "support/ask.rs"]
mod ask;
#[path = "support/looks.rs"]
mod looks;

use ask::{ask_at, get};
use looks::{holds_soon, in_time};

/// How a collector answers.
#[derive(Debug, Clone, Copy)]
enum How {
    Well,
    Unavailable,
    /// For good.
    BadRequest,
    Stalls,
    Partly,
    Garbage,
}

/// A collector, and what it has heard.
#[derive(Debug, Clone, Default)]
struct Collector {
    heard: Arc<Mutex<Heard>>,
    /// How it answers the next ones; when there is nothing left, as usual.
    script: Arc<Mutex<VecDeque<How>>>,
}

#[derive(Debug, Default)]
struct Heard {
    metrics: Vec<ExportMetricsServiceRequest>,
    traces: Vec<ExportTraceServiceRequest>,
    headers: Vec<HeaderMap>,
}

impl Collector {
    fn scripted(how: impl IntoIterator<Item = How>) -> Self {
        let collector = Self::default();
        collector.script.lock().expect("no panic").extend(how);
        collector
    }

    fn how(&self) -> How {
        let mut script = self.script.lock().expect("no panic");
        script.pop_front().unwrap_or(How::Well)
    }

    fn hear(&self, hear: impl FnOnce(&mut Heard)) {
        hear(&mut self.heard.lock().expect("no panic"));
    }

    fn look<T>(&self, look: impl FnOnce(&Heard) -> T) -> T {
        look(&self.heard.lock().expect("no panic"))
    }

    /// Answers both protocols on an address of its own.
    async fn serve(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        self.serve_on(listener);
        address
    }

    /// The same over TLS.
    #[cfg(feature = "tls-ring")]
    async fn serve_tls(&self, tls: rustls::ServerConfig) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        self.serve_by(listener, Some(TlsAcceptor::from(Arc::new(tls))));
        address
    }

    fn serve_on(&self, listener: TcpListener) {
        self.serve_by(listener, None);
    }

    fn serve_by(&self, listener: TcpListener, tls: Option<TlsAcceptor>) {
        let this = self.clone();
        tokio::spawn(async move {
            let routes = tonic::service::Routes::new(MetricsServiceServer::new(this.clone()))
                .add_service(TraceServiceServer::new(this.clone()));
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                let (this, routes) = (this.clone(), routes.clone());
                let answer = move |request: Request<Incoming>| {
                    let (this, routes) = (this.clone(), routes.clone());
                    async move {
                        if request.version() == http::Version::HTTP_2 {
                            let answer = tower::ServiceExt::oneshot(routes, request).await;
                            let answer = answer.expect("is infallible");
                            return Ok::<_, Infallible>(answer.map(|body| body.boxed_unsync()));
                        }
                        let answer = this.answer_http(request).await;
                        Ok(answer.map(|body| body.map_err(|never| match never {}).boxed_unsync()))
                    }
                };
                let tls = tls.clone();
                tokio::spawn(async move {
                    let auto = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let Some(tls) = tls else {
                        let io = TokioIo::new(stream);
                        let _ = auto.serve_connection(io, service_fn(answer)).await;
                        return;
                    };
                    if let Ok(stream) = tls.accept(stream).await {
                        let io = TokioIo::new(stream);
                        let _ = auto.serve_connection(io, service_fn(answer)).await;
                    }
                });
            }
        });
    }

    async fn answer_http(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let mut bytes = body.collect().await.expect("reads").to_bytes();
        if head
            .headers
            .get("content-encoding")
            .is_some_and(|is| is == "gzip")
        {
            let mut plain = Vec::new();
            let mut gzip = flate2::read::GzDecoder::new(&*bytes);
            gzip.read_to_end(&mut plain).expect("is gzip");
            bytes = plain.into();
        }
        assert_eq!(head.headers["content-type"], "application/x-protobuf");
        let how = self.how();
        let status = match how {
            How::Stalls => std::future::pending().await,
            How::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            How::BadRequest => StatusCode::BAD_REQUEST,
            _ => StatusCode::OK,
        };
        let body = match how {
            How::Partly => partly().encode_to_vec(),
            How::Garbage => vec![0xff; 1 << 20],
            _ => Vec::new(),
        };
        if status == StatusCode::OK {
            self.hear(|heard| {
                heard.headers.push(head.headers.clone());
                match head.uri.path() {
                    "/v1/metrics" => heard.metrics.push(decoded(bytes)),
                    "/v1/traces" => heard.traces.push(decoded(bytes)),
                    other => panic!("{other}"),
                }
            });
        }
        let answer = Response::builder().status(status);
        answer.body(body.into()).expect("valid")
    }

    async fn answer_grpc(&self, metadata: tonic::metadata::MetadataMap) -> tonic::Result<()> {
        match self.how() {
            How::Stalls => std::future::pending().await,
            How::Unavailable => Err(tonic::Status::unavailable("later")),
            How::BadRequest => Err(tonic::Status::invalid_argument("no")),
            _ => {
                self.hear(|heard| heard.headers.push(metadata.into_headers()));
                Ok(())
            }
        }
    }
}

fn decoded<M: Message + Default>(bytes: Bytes) -> M {
    M::decode(bytes).expect("is a message")
}

fn partly() -> ExportMetricsServiceResponse {
    ExportMetricsServiceResponse {
        partial_success: Some(ExportMetricsPartialSuccess {
            rejected_data_points: 3,
            error_message: "too old".to_owned(),
        }),
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> tonic::Result<tonic::Response<ExportMetricsServiceResponse>> {
        self.answer_grpc(request.metadata().clone()).await?;
        self.hear(|heard| heard.metrics.push(request.into_inner()));
        Ok(tonic::Response::new(partly()))
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> tonic::Result<tonic::Response<ExportTraceServiceResponse>> {
        self.answer_grpc(request.metadata().clone()).await?;
        self.hear(|heard| heard.traces.push(request.into_inner()));
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

fn otlp_to(address: SocketAddr, more: &[(&str, &str)]) -> Otlp {
    let endpoint = format!("http://{address}");
    let usual = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
        ("OTEL_SERVICE_NAME", "shop"),
        ("OTEL_BSP_SCHEDULE_DELAY", "10"),
    ];
    let all = usual.iter().chain(more);
    let all = all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let otlp = Otlp::from_vars(all).expect("valid");
    otlp.expect("on")
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    assert!(holds_soon(async || holds()).await, "never {what}");
}

const LONG: Duration = Duration::from_secs(60);

struct Serving {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    served: tokio::task::JoinHandle<()>,
}

/// A runtime whose requests are traced and whose metrics are sent.
async fn serve(otlp: &Otlp, change: impl FnOnce(&mut RuntimeConfig)) -> Serving {
    let mut config = RuntimeConfig::default();
    config.server.admin_address = String::new();
    config.server.drain_delay = Duration::ZERO;
    config.workers.min_workers = 1;
    config.trace.enabled = true;
    change(&mut config);
    let service = tower::service_fn(async |request: Request<RequestBody>| {
        stellane_core::metrics::label_route("/{what}");
        let passed_on = request.headers().get("traceparent");
        let passed_on = passed_on.map_or(Vec::new(), |value| value.as_bytes().to_vec());
        async { tracing::info!("asked") }
            .instrument(tracing::info_span!("query", db.system = "none"))
            .await;
        let mut response = Response::new(String::from_utf8(passed_on).expect("ascii"));
        if request.uri().path() == "/bad" {
            *response.status_mut() = StatusCode::BAD_GATEWAY;
        }
        Ok::<_, Infallible>(response)
    });
    let (stop, stopped) = oneshot::channel();
    let runtime = Runtime::builder()
        .config(config)
        .otlp(otlp.clone())
        .shutdown_signal(async {
            let _ = stopped.await;
        })
        .service(service)
        .build()
        .expect("builds");
    let bound = runtime.bind("127.0.0.1:0").await.expect("binds");
    let address = bound.local_addr();
    let served = tokio::spawn(async move {
        bound.serve().await.expect("serves");
    });
    Serving {
        address,
        stop,
        served,
    }
}

impl Serving {
    async fn stop(self) {
        let _ = self.stop.send(());
        let served = in_time(self.served).await;
        served.expect("ends").expect("no panic");
    }
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|one| one.key == key)?;
    Some(match found.value.clone()?.value? {
        any_value::Value::StringValue(text) => text,
        any_value::Value::IntValue(number) => number.to_string(),
        any_value::Value::DoubleValue(number) => number.to_string(),
        any_value::Value::BoolValue(is) => is.to_string(),
        other => format!("{other:?}"),
    })
}

fn metric(request: &ExportMetricsServiceRequest, name: &str) -> Metric {
    let resources = request.resource_metrics.iter();
    let scopes = resources.flat_map(|resource| &resource.scope_metrics);
    let mut metrics = scopes.flat_map(|scope| &scope.metrics);
    let found = metrics.find(|metric| metric.name == name);
    found
        .unwrap_or_else(|| panic!("{name}: {request:#?}"))
        .clone()
}

/// All of the routes and methods together.
fn requests(metric: &Metric) -> u64 {
    match &metric.data {
        Some(Data::Histogram(histogram)) => {
            histogram.data_points.iter().map(|point| point.count).sum()
        }
        other => panic!("{other:?}"),
    }
}

const DURATION: &str = "http.server.request.duration";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

async fn get_below(address: SocketAddr, path: &str, sampled: u8) -> String {
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: a\r\nuser-agent: test\r\nconnection: close\r\n\
         traceparent: 00-{TRACE}-{PARENT}-0{sampled}\r\n\r\n"
    );
    ask_at(address, &head).await
}

#[tokio::test]
async fn metrics_and_spans_arrive_by_both_protocols() {
    for more in [
        &[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")][..],
        &[("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")],
    ] {
        let collector = Collector::default();
        let headers = ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20key");
        let more: Vec<_> = more.iter().copied().chain([headers]).collect();
        let otlp = otlp_to(collector.serve().await, &more);
        let subscriber = tracing_subscriber::registry().with(otlp.layer());
        let _listens = tracing::subscriber::set_default(subscriber);
        let serving = serve(&otlp, |config| config.connection.connect_info = true).await;
        let answer = get_below(serving.address, "/bad", 1).await;
        get_below(serving.address, "/unsampled", 0).await;
        assert!(otlp.flush(LONG).await, "{:?}", otlp.stats());

        collector.look(|heard| {
            assert!(
                heard
                    .headers
                    .iter()
                    .all(|headers| headers["authorization"] == "Bearer key")
            );
            let last = heard.metrics.last().expect("there");
            let resource = last.resource_metrics[0].resource.as_ref().expect("there");
            let resource = &resource.attributes;
            assert_eq!(text(resource, "service.name").as_deref(), Some("shop"));
            assert!(text(resource, "service.instance.id").is_some());
            let duration = metric(last, DURATION);
            assert_eq!(duration.unit, "s");
            let Some(Data::Histogram(histogram)) = &duration.data else {
                panic!("{duration:?}");
            };
            let cumulative = AggregationTemporality::Cumulative;
            assert_eq!(histogram.aggregation_temporality(), cumulative);
            let of = |status: &str| {
                let points = &histogram.data_points;
                let point = points.iter().find(|point| {
                    text(&point.attributes, "http.response.status_code").as_deref() == Some(status)
                });
                point.expect(status)
            };
            let bad = of("502");
            for (key, value) in [
                ("http.request.method", "GET"),
                ("http.route", "/{what}"),
                ("error.type", "502"),
                ("url.scheme", "http"),
                ("network.protocol.version", "1.1"),
            ] {
                assert_eq!(text(&bad.attributes, key).as_deref(), Some(value), "{key}");
            }
            assert_eq!((bad.count, bad.bucket_counts.iter().sum()), (1, 1));
            assert_eq!(bad.bucket_counts.len(), bad.explicit_bounds.len() + 1);
            assert!(bad.sum > Some(0.0) && bad.start_time_unix_nano < bad.time_unix_nano);
            assert_eq!(hex(&bad.exemplars[0].trace_id), TRACE);
            assert!(of("200").exemplars.is_empty(), "it was not sampled");
            let active = metric(last, "http.server.active_requests");
            assert_eq!(active.unit, "{request}");
            assert!(matches!(&active.data, Some(Data::Sum(sum)) if !sum.is_monotonic));
            let shed = metric(last, "stellane.requests_shed");
            assert!(matches!(&shed.data, Some(Data::Sum(sum)) if sum.is_monotonic));
            metric(last, "stellane.concurrency_limit");
            assert_eq!(metric(last, "process.memory.usage").unit, "By");
        });

        let spans = spans(&collector);
        let [query, request] = &*spans else {
            panic!("{spans:#?}");
        };
        assert_eq!(request.name, "GET /{what}");
        assert_eq!(request.kind(), SpanKind::Server);
        assert_eq!(hex(&request.trace_id), TRACE);
        assert_eq!(hex(&request.parent_span_id), PARENT);
        assert_eq!(request.status.as_ref().map(|status| status.code), Some(2));
        for (key, value) in [
            ("http.route", "/{what}"),
            ("http.response.status_code", "502"),
            ("url.path", "/bad"),
            ("error.type", "502"),
            ("http.response.body.size", "55"),
            ("http.request.body.size", "0"),
            ("http.request.method", "GET"),
            ("url.scheme", "http"),
            ("network.protocol.version", "1.1"),
            ("network.peer.address", "127.0.0.1"),
            ("user_agent.original", "test"),
        ] {
            assert_eq!(
                text(&request.attributes, key).as_deref(),
                Some(value),
                "{key}"
            );
        }
        assert!(text(&request.attributes, "network.peer.port").is_some());
        // Its ledger, and each attribute once; its ids are no attributes.
        for account in [
            "head",
            "before_call",
            "computing",
            "blocking",
            "poll_delay",
            "waiting",
            "client_reading",
        ] {
            let took = text(&request.attributes, &format!("stellane.{account}_seconds"));
            let took: f64 = took.expect(account).parse().expect("a number");
            assert!((0.0..60.0).contains(&took), "{account}: {took}");
        }
        let mut keys: Vec<_> = request.attributes.iter().map(|one| &one.key).collect();
        let all = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), all, "{:#?}", request.attributes);
        for id in ["trace_id", "span_id", "parent_id", "otel.name", "otel.kind"] {
            assert_eq!(text(&request.attributes, id), None);
        }
        assert_eq!(query.name, "query");
        assert_eq!(query.parent_span_id, request.span_id);
        assert_eq!(query.events[0].name, "asked");
        // What the handler passes on is what the collector knows.
        let own = format!("00-{TRACE}-{}-01", hex(&request.span_id));
        assert!(answer.contains(&own), "{answer}");
        serving.stop().await;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn spans(collector: &Collector) -> Vec<Span> {
    collector.look(|heard| {
        let resources = heard.traces.iter().flat_map(|one| &one.resource_spans);
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    })
}

#[tokio::test]
async fn a_new_trace_has_the_ids_that_its_handler_passes_on() {
    let collector = Collector::default();
    let otlp = otlp_to(collector.serve().await, &[]);
    let subscriber = tracing_subscriber::registry().with(otlp.layer());
    let _listens = tracing::subscriber::set_default(subscriber);
    let serving = serve(&otlp, |_| {}).await;
    let answer = get(serving.address, "/").await;
    assert!(otlp.flush(LONG).await);
    let spans = spans(&collector);
    let request = spans.iter().find(|span| span.name == "GET /{what}");
    let request = request.expect("there");
    let own = format!("00-{}-{}-01", hex(&request.trace_id), hex(&request.span_id));
    assert!(answer.contains(&own), "{own} in {answer}");
    assert!(request.parent_span_id.is_empty());
    serving.stop().await;
}

#[tokio::test]
async fn deltas_lose_nothing_that_a_collector_has_not_taken() {
    for protocol in ["grpc", "http/protobuf"] {
        use How::{Unavailable, Well};
        let collector = Collector::scripted([Well, Unavailable, Unavailable, Well, Well]);
        let otlp = otlp_to(
            collector.serve().await,
            &[
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ("OTEL_TRACES_EXPORTER", "none"),
                ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
            ],
        );
        assert!(otlp.layer::<tracing_subscriber::Registry>().is_none());
        let serving = serve(&otlp, |_| {}).await;
        // Of five exports the second and the third fail.
        for is_well in [true, false, false, true] {
            get(serving.address, "/").await;
            assert_eq!(otlp.flush(LONG).await, is_well);
        }
        assert!(otlp.flush(LONG).await);
        collector.look(|heard| {
            let counts = heard.metrics[..2].iter();
            let counts = counts.map(|one| requests(&metric(one, DURATION)));
            assert_eq!(counts.collect::<Vec<_>>(), [1, 3]);
            let start = |at: usize| match metric(&heard.metrics[at], DURATION).data {
                Some(Data::Histogram(histogram)) => {
                    let temporality = histogram.aggregation_temporality();
                    assert_eq!(temporality, AggregationTemporality::Delta);
                    let point = &histogram.data_points[0];
                    (point.start_time_unix_nano, point.time_unix_nano)
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(
                start(1).0,
                start(0).1,
                "each begins where the last one ended"
            );
            // Nothing new: nothing is said.
            let metrics = &heard.metrics[2].resource_metrics[0].scope_metrics[0].metrics;
            assert!(metrics.iter().all(|metric| metric.name != DURATION));
        });
        let OtlpStats {
            metrics_sent,
            metrics_failed,
            ..
        } = otlp.stats();
        assert_eq!((metrics_sent, metrics_failed), (3, 2));
        serving.stop().await;
    }
}

#[tokio::test]
async fn a_collector_that_is_away_costs_nothing_but_a_number_and_gets_all_when_it_comes() {
    // An address where nobody listens yet.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let otlp = otlp_to(address, &[("OTEL_METRIC_EXPORT_INTERVAL", "50")]);
    let serving = serve(&otlp, |_| {}).await;
    until("failed", || otlp.stats().metrics_failed > 1).await;
    assert!(get(serving.address, "/").await.starts_with("HTTP/1.1 200"));
    let collector = Collector::default();
    collector.serve_on(TcpListener::bind(address).await.expect("binds again"));
    until("sent", || otlp.stats().metrics_sent > 0).await;
    let count = collector.look(|heard| {
        let last = heard.metrics.last().expect("there");
        // The exporter's own failures are among them.
        match metric(last, "stellane.otlp_exports").data {
            Some(Data::Sum(sum)) => {
                let failed = sum.data_points.iter().find(|point| {
                    text(&point.attributes, "outcome").as_deref() == Some("failed")
                        && text(&point.attributes, "signal").as_deref() == Some("metrics")
                });
                assert!(matches!(
                    failed.and_then(|point| point.value),
                    Some(number_data_point::Value::AsDouble(count)) if count > 1.0
                ));
            }
            other => panic!("{other:?}"),
        }
        requests(&metric(last, DURATION))
    });
    assert_eq!(count, 1);
    serving.stop().await;
}

#[tokio::test]
async fn the_last_numbers_and_spans_are_sent_at_the_end() {
    let collector = Collector::default();
    let long = ("OTEL_BSP_SCHEDULE_DELAY", "3600000");
    let otlp = otlp_to(collector.serve().await, &[long]);
    let subscriber = tracing_subscriber::registry().with(otlp.layer());
    let _listens = tracing::subscriber::set_default(subscriber);
    let serving = serve(&otlp, |_| {}).await;
    get(serving.address, "/").await;
    serving.stop().await;
    // Of nobody who waits: they have arrived.
    collector.look(|heard| {
        let last = heard.metrics.last().expect("there");
        assert_eq!(requests(&metric(last, DURATION)), 1);
    });
    assert_eq!(spans(&collector).len(), 2);
}

#[tokio::test]
async fn a_message_that_is_full_is_sent_before_its_time_and_the_rest_when_it_is_asked_for() {
    let collector = Collector::default();
    let more = [
        ("OTEL_BSP_SCHEDULE_DELAY", "3600000"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4"),
        ("OTEL_METRICS_EXPORTER", "none"),
    ];
    let otlp = otlp_to(collector.serve().await, &more);
    let subscriber = tracing_subscriber::registry().with(otlp.layer());
    let _listens = tracing::subscriber::set_default(subscriber);
    let serving = serve(&otlp, |_| {}).await;
    // Two spans each.
    for _ in 0..5 {
        get(serving.address, "/").await;
    }
    until("sent", || otlp.stats().traces_sent == 2).await;
    assert_eq!(spans(&collector).len(), 8);
    assert!(otlp.flush(LONG).await);
    assert_eq!(spans(&collector).len(), 10);
    assert_eq!(otlp.stats().spans_lost, 0);
    serving.stop().await;
}

#[tokio::test]
async fn a_collector_that_stalls_holds_nobody_up_and_no_memory() {
    let collector = Collector::scripted([How::Stalls; 64]);
    let small = ("OTEL_BSP_MAX_QUEUE_SIZE", "10");
    let otlp = otlp_to(collector.serve().await, &[small]);
    let subscriber = tracing_subscriber::registry().with(otlp.layer());
    let _listens = tracing::subscriber::set_default(subscriber);
    let serving = serve(&otlp, |_| {}).await;
    for _ in 0..50 {
        assert!(get(serving.address, "/").await.starts_with("HTTP/1.1 200"));
    }
    // A hundred spans: at most one message and the queue wait.
    assert!(otlp.stats().spans_lost >= 80, "{:?}", otlp.stats());
    assert!(!otlp.flush(Duration::from_millis(50)).await);
    serving.stop().await;
}

#[tokio::test]
async fn what_is_refused_for_good_is_given_up_and_what_passes_is_tried_again() {
    for protocol in ["grpc", "http/protobuf"] {
        use How::{BadRequest, Unavailable};
        let collector = Collector::scripted([BadRequest, Unavailable]);
        let otlp = otlp_to(
            collector.serve().await,
            &[
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ("OTEL_METRICS_EXPORTER", "none"),
            ],
        );
        let subscriber = tracing_subscriber::registry().with(otlp.layer());
        let _listens = tracing::subscriber::set_default(subscriber);
        let span = |name| {
            drop(tracing::info_span!(
                "s",
                otel.kind = "server",
                otel.name = name
            ))
        };
        span("refused");
        until("refused", || otlp.stats().spans_lost == 1).await;
        span("late");
        until("sent", || otlp.stats().traces_sent == 1).await;
        let spans = spans(&collector);
        assert_eq!(spans.len(), 1);
        assert_eq!(spans[0].name, "late");
        let stats = otlp.stats();
        assert_eq!((stats.traces_failed, stats.spans_lost), (2, 1));
    }
}

#[tokio::test]
async fn strange_answers_do_no_harm() {
    for (how, rejected) in [(How::Partly, 3), (How::Garbage, 0)] {
        let collector = Collector::scripted([how]);
        let otlp = otlp_to(collector.serve().await, &[]);
        let serving = serve(&otlp, |_| {}).await;
        assert!(otlp.flush(LONG).await);
        assert_eq!(otlp.stats().rejected, rejected);
        serving.stop().await;
    }
    // One that speaks another language, and one that hangs up.
    for bytes in [&b"SSH-2.0-OpenSSH\r\n"[..], b""] {
        for protocol in ["grpc", "http/protobuf"] {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
            let address = listener.local_addr().expect("bound");
            let answering = tokio::spawn(async move {
                loop {
                    let (mut stream, _): (TcpStream, _) = listener.accept().await.expect("accepts");
                    let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, bytes).await;
                }
            });
            let otlp = otlp_to(address, &[("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)]);
            otlp.send_metrics(|_| {});
            assert!(!otlp.flush(LONG).await);
            assert_eq!(otlp.stats().metrics_failed, 1);
            answering.abort();
        }
    }
}

/// A program that ends with its test.
struct Agent(std::process::Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
#[ignore = "needs a collector: STELLANE_COLLECTOR names rotel's program (pip install rotel), as `.ci/release collector` does"]
async fn a_real_collector_reads_it() {
    let program = std::env::var("STELLANE_COLLECTOR").expect("STELLANE_COLLECTOR");
    let free = async || {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        listener.local_addr().expect("bound")
    };
    let (http, grpc) = (free().await, free().await);
    let heard = std::env::temp_dir().join(format!("stellane-collector-{}", std::process::id()));
    let output = std::fs::File::create(&heard).expect("a file");
    let agent = std::process::Command::new(program)
        .args([
            "start",
            "--exporter",
            "blackhole",
            "--debug-log",
            "metrics",
            "--debug-log",
            "traces",
        ])
        .args(["--debug-log-verbosity", "detailed"])
        .args(["--otlp-http-endpoint", &http.to_string()])
        .args(["--otlp-grpc-endpoint", &grpc.to_string()])
        .env("NO_COLOR", "1")
        .stdout(output.try_clone().expect("a handle"))
        .stderr(output)
        .spawn()
        .expect("starts");
    let agent = Agent(agent);
    let text = || String::from_utf8_lossy(&std::fs::read(&heard).expect("reads")).into_owned();
    for (protocol, address, trace) in [
        ("http/protobuf", http, "1af7651916cd43dd8448eb211c80319c"),
        ("grpc", grpc, "2af7651916cd43dd8448eb211c80319c"),
    ] {
        let listens = holds_soon(async || TcpStream::connect(address).await.is_ok());
        assert!(listens.await, "never listens");
        let otlp = otlp_to(address, &[("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)]);
        let subscriber = tracing_subscriber::registry().with(otlp.layer());
        let _listens = tracing::subscriber::set_default(subscriber);
        let serving = serve(&otlp, |_| {}).await;
        let head = format!(
            "GET /bad HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntraceparent: 00-{trace}-{PARENT}-01\r\n\r\n"
        );
        ask_at(serving.address, &head).await;
        assert!(otlp.flush(LONG).await, "{:?}", otlp.stats());
        serving.stop().await;
        until("shown", || text().contains(trace)).await;
    }
    let shows = || {
        let text = text();
        [
            DURATION,
            "http.server.active_requests",
            "GET /{what}",
            "shop",
            "query",
        ]
        .into_iter()
        .filter(|part| text.matches(part).count() < 2)
        .collect::<Vec<_>>()
    };
    until("all shown", || shows().is_empty()).await;
    drop(agent);
    let _ = std::fs::remove_file(&heard);
}

#[cfg(feature = "tls-ring")]
mod over_tls {
    use std::path::PathBuf;

    use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
    use rustls::{RootCertStore, pki_types::PrivatePkcs8KeyDer, server::WebPkiClientVerifier};

    use super::*;

    fn key() -> CertifiedKey<KeyPair> {
        generate_simple_self_signed(["localhost".to_owned()]).expect("a key")
    }

    /// One that shows `own`, to whom it speaks, or to those only that show `client`.
    fn server(
        own: &CertifiedKey<KeyPair>,
        client: Option<&CertifiedKey<KeyPair>>,
    ) -> rustls::ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("versions");
        let config = match client {
            None => config.with_no_client_auth(),
            Some(client) => {
                let mut roots = RootCertStore::empty();
                roots.add(client.cert.der().clone()).expect("a root");
                let asks = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                config.with_client_cert_verifier(asks.build().expect("valid"))
            }
        };
        let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
        let chain = vec![own.cert.der().clone()];
        let mut config = config.with_single_cert(chain, key.into()).expect("valid");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }

    /// A file of this process.
    fn file(name: &str, text: &str) -> String {
        let name = format!("stellane-otlp-{}-{name}.pem", std::process::id());
        let path: PathBuf = std::env::temp_dir().join(name);
        std::fs::write(&path, text).expect("writes");
        path.to_str().expect("is text").to_owned()
    }

    fn otlp(address: SocketAddr, more: &[(&str, &str)]) -> Otlp {
        let endpoint = format!("https://localhost:{}", address.port());
        let mut all = vec![("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint)];
        all.extend(more);
        otlp_to(address, &all)
    }

    async fn sends(otlp: &Otlp) -> bool {
        otlp.send_metrics(|_| {});
        otlp.flush(LONG).await
    }

    #[tokio::test]
    async fn a_collector_is_spoken_to_by_tls_if_it_is_who_it_says() {
        let (own, other) = (key(), key());
        let trusted = file("trusted", &own.cert.pem());
        let by = ("OTEL_EXPORTER_OTLP_CERTIFICATE", &*trusted);
        for protocol in ["http/protobuf", "grpc"] {
            let collector = Collector::default();
            let address = collector.serve_tls(server(&own, None)).await;
            let protocol = ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol);
            let otlp = otlp(address, &[by, protocol]);
            assert!(sends(&otlp).await, "{:?}", otlp.stats());
            assert_eq!(collector.look(|heard| heard.metrics.len()), 1);
        }
        // A stranger in its place gets nothing, until it is trusted: the file is read again.
        let collector = Collector::default();
        let address = collector.serve_tls(server(&other, None)).await;
        let otlp = otlp(address, &[by]);
        assert!(!sends(&otlp).await);
        assert_eq!(collector.look(|heard| heard.headers.len()), 0);
        assert_eq!(otlp.stats().metrics_failed, 1);
        std::fs::write(&trusted, other.cert.pem()).expect("writes");
        assert!(otlp.flush(LONG).await, "{:?}", otlp.stats());
        assert_eq!(collector.look(|heard| heard.metrics.len()), 1);
    }

    #[tokio::test]
    async fn a_collector_that_asks_who_this_is_is_told() {
        let (own, client) = (key(), key());
        let trusted = file("asks", &own.cert.pem());
        let by = ("OTEL_EXPORTER_OTLP_CERTIFICATE", &*trusted);
        let certificate = file("client", &client.cert.pem());
        let key = file("client-key", &client.signing_key.serialize_pem());
        let collector = Collector::default();
        let address = collector.serve_tls(server(&own, Some(&client))).await;
        assert!(!sends(&otlp(address, &[by])).await);
        assert_eq!(collector.look(|heard| heard.headers.len()), 0);
        let known = [
            by,
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &*certificate),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &*key),
        ];
        let otlp = otlp(address, &known);
        assert!(sends(&otlp).await, "{:?}", otlp.stats());
        assert_eq!(collector.look(|heard| heard.metrics.len()), 1);
    }
}
