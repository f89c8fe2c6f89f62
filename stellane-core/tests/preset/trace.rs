//! A span for each request, under OpenTelemetry's names, and the log of those that are slow.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt::Debug,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use stellane_core::{
    Components, RequestBody, Runtime, RuntimeConfig, autotune::AlgorithmKind, logging::LogWriter,
    runtime::KeptAs, waits_for,
};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tower::service_fn;
use tracing::{
    Event, Id, Instrument, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Record},
    subscriber::DefaultGuard,
};
use tracing_subscriber::{
    Registry,
    layer::{Context, Layer, SubscriberExt},
    registry::LookupSpan,
};

use crate::{
    ask::{ask_at, get},
    log::Log,
    looks::holds_soon,
};

type Fields = BTreeMap<String, String>;

/// What a subscriber has heard.
#[derive(Debug, Clone, Default)]
struct Heard(Arc<Mutex<Vec<Span>>>, Arc<Mutex<Vec<Said>>>);

#[derive(Debug, Clone)]
struct Span {
    id: u64,
    name: &'static str,
    parent: Option<u64>,
    fields: Fields,
    /// Entered more often than left.
    depth: i32,
    is_closed: bool,
}

#[derive(Debug, Clone)]
struct Said {
    target: String,
    within: Option<u64>,
    fields: Fields,
}

struct Into<'a>(&'a mut Fields);

impl Visit for Into<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}").trim_matches('"').to_owned();
        self.0.insert(field.name().to_owned(), text);
    }
}

impl Heard {
    fn listen(&self) -> DefaultGuard {
        tracing::subscriber::set_default(Registry::default().with(self.clone()))
    }

    fn change(&self, id: &Id, change: impl FnOnce(&mut Span)) {
        let mut spans = self.0.lock().expect("no panic");
        // An id is used again when its span has closed.
        let span = spans.iter_mut().rev().find(|span| span.id == id.into_u64());
        change(span.expect("known"));
    }

    /// The spans of requests, once so many have closed.
    async fn requests(&self, count: usize) -> Vec<Span> {
        let requests = || -> Vec<Span> {
            let spans = self.0.lock().expect("no panic");
            let requests = spans.iter().filter(|span| span.name == "request");
            requests.cloned().collect()
        };
        let are_there = || {
            let requests = requests();
            requests.len() >= count && requests.iter().all(|span| span.is_closed)
        };
        until(are_there).await;
        let requests = requests();
        assert_eq!(requests.len(), count, "{requests:#?}");
        assert!(requests.iter().all(|span| span.depth == 0), "{requests:#?}");
        requests
    }

    fn said(&self, target: &str) -> Vec<Said> {
        let said = self.1.lock().expect("no panic");
        let said = said.iter().filter(|said| said.target == target);
        said.cloned().collect()
    }

    fn span(&self, name: &str) -> Span {
        let spans = self.0.lock().expect("no panic");
        let span = spans.iter().find(|span| span.name == name);
        span.expect("there is one").clone()
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Heard {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::new();
        attributes.record(&mut Into(&mut fields));
        let parent = context.span(id).and_then(|span| span.parent());
        self.0.lock().expect("no panic").push(Span {
            id: id.into_u64(),
            name: attributes.metadata().name(),
            parent: parent.map(|span| span.id().into_u64()),
            fields,
            depth: 0,
            is_closed: false,
        });
    }
    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        self.change(id, |span| values.record(&mut Into(&mut span.fields)));
    }
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::new();
        event.record(&mut Into(&mut fields));
        self.1.lock().expect("no panic").push(Said {
            target: event.metadata().target().to_owned(),
            within: context.lookup_current().map(|span| span.id().into_u64()),
            fields,
        });
    }
    fn on_enter(&self, id: &Id, _: Context<'_, S>) {
        self.change(id, |span| span.depth += 1);
    }
    fn on_exit(&self, id: &Id, _: Context<'_, S>) {
        self.change(id, |span| span.depth -= 1);
    }
    fn on_close(&self, id: Id, _: Context<'_, S>) {
        self.change(&id, |span| span.is_closed = true);
    }
}

const HERE: &str = "handler";

async fn handle(
    request: Request<RequestBody>,
) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, Infallible> {
    stellane_core::metrics::label_route("/{what}");
    tracing::info!(target: HERE, "called");
    let passed_on = request.headers().get("traceparent");
    let passed_on = passed_on.map_or(Bytes::new(), |value| {
        Bytes::copy_from_slice(value.as_bytes())
    });
    match request.uri().path() {
        "/hang" => std::future::pending().await,
        "/panic" => panic!("as asked"),
        "/db" => {
            let asked = async {
                tokio::time::sleep(Duration::from_millis(5)).await;
                tracing::info!(target: HERE, "asked");
            };
            let asked = asked.instrument(tracing::info_span!("query"));
            waits_for("db", asked).await;
        }
        "/upload" => drop(request.into_body().collect().await),
        _ => {}
    }
    let pieces = futures_util::stream::iter([passed_on, Bytes::from_static(b"end")]);
    let body = StreamBody::new(pieces.map(|piece| {
        tracing::info!(target: HERE, "piece");
        Ok(Frame::data(piece))
    }));
    Ok(Response::new(body.boxed_unsync()))
}

fn config() -> RuntimeConfig {
    let mut config = RuntimeConfig::default();
    config.server.admin_address = String::new();
    config.workers.min_workers = 1;
    config.trace.enabled = true;
    config.limit.algorithm = AlgorithmKind::Fixed;
    (config.limit.initial, config.limit.min) = (1, 1);
    config.limit.max = 1;
    config.limit.max_wait = Duration::ZERO;
    config
}

async fn serve(config: RuntimeConfig) -> (SocketAddr, Components, Log) {
    let log = Log::default();
    let writer = LogWriter::new(log.clone(), |lost| format!("{lost} lost"));
    let runtime = Runtime::builder()
        .config(config)
        .access_log_writer(writer.expect("a thread"))
        .service(service_fn(handle))
        .build()
        .expect("builds");
    let components = runtime.components().clone();
    let bound = runtime.bind("127.0.0.1:0").await.expect("binds");
    let address = bound.local_addr();
    tokio::spawn(bound.serve());
    (address, components, log)
}

async fn until(holds: impl Fn() -> bool) {
    assert!(holds_soon(async || holds()).await, "never");
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// What a request with this parent is answered.
async fn get_below(address: SocketAddr, path: &str, sampled: u8) -> String {
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: a\r\nuser-agent: test\r\nconnection: close\r\n\
         traceparent: 00-{TRACE}-{PARENT}-0{sampled}\r\n\r\n"
    );
    ask_at(address, &head).await
}

#[tokio::test]
async fn a_request_is_one_span_whose_names_are_opentelemetrys() {
    let heard = Heard::default();
    let _listens = heard.listen();
    let mut config = config();
    config.access_log.enabled = true;
    let (address, components, log) = serve(config).await;
    let answer = get_below(address, "/db?token=1", 1).await;
    let requests = heard.requests(1).await;
    let span = &requests[0];
    for (name, value) in [
        ("otel.kind", "server"),
        ("otel.name", "GET /{what}"),
        ("http.request.method", "GET"),
        ("http.route", "/{what}"),
        ("http.response.status_code", "200"),
        ("http.request.body.size", "0"),
        ("http.response.body.size", "58"),
        ("url.path", "/db"),
        ("url.scheme", "http"),
        ("network.protocol.version", "1.1"),
        ("user_agent.original", "test"),
        ("network.peer.address", "127.0.0.1"),
        ("trace_id", TRACE),
        ("parent_id", PARENT),
    ] {
        let told = span.fields.get(name).map(String::as_str);
        assert_eq!(told, Some(value), "{name} of {span:#?}");
    }
    let without = [
        "error.type",
        "otel.status_code",
        "http.request.method_original",
    ];
    assert!(
        without.iter().all(|name| !span.fields.contains_key(*name)),
        "{span:#?}"
    );
    // Its ledger.
    let waits = &span.fields["stellane.waits"];
    assert!(waits.starts_with("db=0.0"), "{waits}");
    let seconds = |name: &str| -> f64 {
        let told = &span.fields[&format!("stellane.{name}_seconds")];
        told.parse().expect("a number")
    };
    assert!(seconds("computing") + seconds("blocking") > 0.0);
    assert!(seconds("head") > 0.004);
    // It is the parent of what the handler calls, and of what it opens and says, in the body too.
    let own = &span.fields["span_id"];
    assert!(answer.contains(&format!("00-{TRACE}-{own}-01")), "{answer}");
    assert_eq!(heard.span("query").parent, Some(span.id));
    let said = heard.said(HERE);
    let said: Vec<_> = said
        .iter()
        .map(|said| (&*said.fields["message"], said.within))
        .collect();
    let (own, query) = (Some(span.id), Some(heard.span("query").id));
    let expected = [
        ("called", own),
        ("asked", query),
        ("piece", own),
        ("piece", own),
    ];
    assert_eq!(said, expected);
    // The trace leads to what else is known of it.
    until(|| log.text().contains(TRACE)).await;
    let kept = components.kept_requests();
    assert_eq!(kept[0].trace_id.as_deref(), Some(TRACE));
}

#[tokio::test]
async fn refused_failed_and_abandoned_requests_have_their_spans() {
    let heard = Heard::default();
    let _listens = heard.listen();
    let (address, components, _) = serve(config()).await;
    get(address, "/panic").await;
    get(address, "/a").await;
    ask_at(
        address,
        "BREW /a HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    )
    .await;
    let mut client = TcpStream::connect(address).await.expect("connects");
    let head = b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n";
    client.write_all(head).await.expect("writes");
    until(|| components.limit.stats().in_flight > 0).await;
    assert!(get(address, "/a").await.starts_with("HTTP/1.1 503"));
    drop(client);
    let requests = heard.requests(5).await;
    let of = |status: &str| {
        let field = |span: &&Span| span.fields["http.response.status_code"] == status;
        requests.iter().find(field).expect(status)
    };
    for (status, error, is_error) in [
        ("500", Some("500"), true),
        ("503", Some("503"), true),
        ("499", Some("cancelled"), false),
        ("200", None, false),
    ] {
        let span = of(status);
        let told = span.fields.get("error.type").map(String::as_str);
        assert_eq!(told, error, "{span:#?}");
        let marked = span.fields.get("otel.status_code").map(String::as_str);
        assert_eq!(marked, is_error.then_some("ERROR"), "{span:#?}");
    }
    let brewed = &requests[2].fields;
    assert_eq!(brewed["http.request.method"], "_OTHER");
    assert_eq!(brewed["http.request.method_original"], "BREW");
    // Each is a trace of its own.
    let mut traces: Vec<_> = requests
        .iter()
        .map(|span| &span.fields["trace_id"])
        .collect();
    traces.sort();
    traces.dedup();
    assert_eq!(traces.len(), 5);
}

#[tokio::test]
async fn who_is_refused_where_it_was_read_is_in_the_trace_of_its_caller() {
    let heard = Heard::default();
    let _listens = heard.listen();
    let (address, components, _) = serve(config()).await;
    let mut holds = TcpStream::connect(address).await.expect("connects");
    let head = b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n";
    holds.write_all(head).await.expect("writes");
    until(|| components.limit.stats().in_flight > 0).await;
    // Nothing of it is hyper's.
    let mut client = TcpStream::connect(address).await.expect("connects");
    let head = format!("GET /a HTTP/1.1\r\nhost: a\r\ntraceparent: 00-{TRACE}-{PARENT}-01\r\n\r\n");
    client.write_all(head.as_bytes()).await.expect("writes");
    until(|| components.limit.stats().shed_limit == 1).await;
    drop(holds);
    let requests = heard.requests(2).await;
    let is_refused = |span: &&Span| span.fields["http.response.status_code"] == "503";
    let refused = requests.iter().find(is_refused).expect("a span");
    for (name, value) in [("trace_id", TRACE), ("parent_id", PARENT)] {
        assert_eq!(refused.fields[name], value, "{refused:#?}");
    }
    let kept = components.kept_requests();
    let refused = kept.iter().find(|one| one.kept_as == KeptAs::Refused);
    assert_eq!(refused.expect("is kept").trace_id.as_deref(), Some(TRACE));
}

#[tokio::test]
async fn who_waits_for_a_place_is_in_its_span_all_the_same() {
    let heard = Heard::default();
    let _listens = heard.listen();
    let mut config = config();
    config.limit.max_wait = Duration::from_secs(3600);
    // Who has left is not waited for.
    config.connection.half_close_grace = Duration::from_millis(1);
    let (address, components, _) = serve(config).await;
    let mut client = TcpStream::connect(address).await.expect("connects");
    let head = b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n";
    client.write_all(head).await.expect("writes");
    until(|| components.limit.stats().in_flight > 0).await;
    let waits = tokio::spawn(async move { get(address, "/db").await });
    until(|| components.limit.stats().waiting > 0).await;
    drop(client);
    assert!(waits.await.expect("no panic").starts_with("HTTP/1.1 200"));
    let requests = heard.requests(2).await;
    let span = requests
        .iter()
        .find(|span| span.fields["url.path"] == "/db");
    let span = span.expect("there");
    let waits = &span.fields["stellane.waits"];
    assert!(waits.contains("limit=") && waits.contains("db="), "{waits}");
    assert_eq!(heard.span("query").parent, Some(span.id));
}

#[tokio::test]
async fn the_caller_decides_and_else_the_share() {
    for (accept, share, sampled, expected) in [
        (true, 0.0, 1, true),
        (true, 1.0, 0, false),
        (false, 0.0, 1, false),
        (false, 1.0, 0, true),
    ] {
        let heard = Heard::default();
        let _listens = heard.listen();
        let mut config = config();
        (config.trace.accept, config.trace.sample) = (accept, share);
        let (address, ..) = serve(config).await;
        let answer = get_below(address, "/a", sampled).await;
        let requests = heard.requests(usize::from(expected)).await;
        // Without a span the header is passed on as it came.
        let sent = format!("00-{TRACE}-{PARENT}-0{sampled}");
        assert_eq!(answer.contains(&sent), !expected, "{answer}");
        let trace = requests
            .first()
            .map(|span| span.fields["trace_id"] == TRACE);
        assert_eq!(trace, expected.then_some(accept));
    }
}

#[tokio::test]
async fn a_span_says_the_same_whoever_has_decided_for_it() {
    let of = async |share: f64, header: &str| {
        let heard = Heard::default();
        let _listens = heard.listen();
        let mut config = config();
        config.trace.sample = share;
        config.http.request_id.enabled = true;
        let (address, ..) = serve(config).await;
        let head = format!(
            "GET /a HTTP/1.1\r\nhost: a\r\nuser-agent: test\r\nconnection: close\r\n{header}\r\n"
        );
        let answer = ask_at(address, &head).await.to_lowercase();
        let fields = heard.requests(1).await.remove(0).fields;
        // The id that the client is told, and the context that the handler sees.
        let id = format!("x-request-id: {}", fields["request_id"]);
        assert!(answer.contains(&id), "{id} in {answer}");
        let own = format!("00-{}-{}-01", fields["trace_id"], fields["span_id"]);
        assert!(answer.contains(&own), "{own} in {answer}");
        fields
    };
    let caller = of(0.0, &format!("traceparent: 00-{TRACE}-{PARENT}-01\r\n")).await;
    let share = of(1.0, "").await;
    // What is no `traceparent` decides nothing.
    let broken = of(1.0, &format!("traceparent: 00-{TRACE}-{PARENT}-x1\r\n")).await;
    assert_eq!(caller["parent_id"], PARENT);
    assert_ne!(broken["trace_id"], TRACE);
    let names = |fields: &Fields| -> Vec<String> {
        let names = fields.keys().filter(|name| *name != "parent_id");
        let mut names: Vec<_> = names.cloned().collect();
        names.sort();
        names
    };
    assert_eq!(names(&caller), names(&share));
    assert_eq!(names(&share), names(&broken));
}

#[tokio::test]
async fn of_those_nobody_has_decided_for_a_share_is_recorded() {
    let heard = Heard::default();
    let _listens = heard.listen();
    let mut config = config();
    config.trace.sample = 0.25;
    let components = Components::new(&config).expect("components");
    let layer = components.layer(&config.server);
    let mut service = tower::Layer::layer(
        &layer,
        service_fn(async |_: Request<RequestBody<String>>| {
            Ok::<_, Infallible>(Response::new("hello".to_owned()))
        }),
    );
    for _ in 0..2000 {
        let answer = tower::Service::call(&mut service, Request::new(String::new())).await;
        drop(answer.expect("answered").into_body().collect().await);
    }
    let spans = heard.0.lock().expect("no panic").len();
    // Twelve standard deviations.
    assert!((270..730).contains(&spans), "{spans} of 2000");
}

#[tokio::test]
async fn where_nobody_listens_or_it_is_off_a_request_passes_as_it_came() {
    let sent = format!("00-{TRACE}-{PARENT}-01");
    {
        let nobody = tracing::subscriber::NoSubscriber::new();
        let _nobody = tracing::subscriber::set_default(nobody);
        let (address, ..) = serve(config()).await;
        assert!(get_below(address, "/a", 1).await.contains(&sent));
    }
    let heard = Heard::default();
    let _listens = heard.listen();
    let mut off = config();
    off.trace.enabled = false;
    let (address, components, _) = serve(off).await;
    assert!(get_below(address, "/a", 1).await.contains(&sent));
    heard.requests(0).await;
    assert_eq!(components.kept_requests()[0].trace_id, None);
}

#[tokio::test]
async fn who_is_slow_is_logged_with_the_reason() {
    let heard = Heard::default();
    let _listens = heard.listen();
    let mut config = config();
    config.trace.enabled = false;
    config.trace.slow = Duration::from_millis(4);
    let (address, ..) = serve(config).await;
    let slow = || heard.said("stellane_core::slow");
    let mut whys = Vec::new();
    // Where neighbours have the CPU, some wait longer for that than for the database.
    while whys.len() < 100 {
        get(address, "/db?token=secret").await;
        until(|| slow().len() > whys.len()).await;
        let fields = slow().remove(whys.len()).fields;
        assert_eq!(fields["message"], "slow request");
        assert_eq!(fields["http.route"], "/{what}");
        assert_eq!(fields["http.response.status_code"], "200");
        let took: f64 = fields["duration_seconds"].parse().expect("a number");
        assert!(took >= 0.004, "{took}");
        if fields["why"].contains("waited for db") {
            return;
        }
        whys.push(fields["why"].clone());
    }
    panic!("{whys:?}");
}
