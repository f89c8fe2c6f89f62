//! The preset answers, counts and measures as the layers that it says it consists of, put together by hand.
//!
//! Rows that differ today are marked; one that does no longer fails, so that its mark goes.

use std::{
    cell::Cell,
    env,
    fmt::{Debug, Write},
    net::SocketAddr,
    ops::Range,
    panic,
    sync::{Arc, Once},
};

use crate::random::Random;
use crate::until::until;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::Incoming,
    client::conn::http2::{SendRequest, handshake},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use stellane_core::{
    BoxError, Components, Runtime, RuntimeConfig,
    catch_faults::Refusal,
    config::Loader,
    connection::{HttpService, Listener},
    strict_http1::Violation,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, oneshot},
    task::JoinHandle,
};
use tower::{Service, ServiceBuilder, service_fn};

const MAX_BODY: usize = 64;

/// What is sent; `connection: close` is added.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    request: &'static str,
    /// The preset and its layers do not answer alike, yet.
    differs: bool,
}

const fn case(name: &'static str, request: &'static str) -> Case {
    Case {
        name,
        request,
        differs: false,
    }
}

/// By the layer of strict HTTP/1: its answers have no text.
const fn differs(case: Case) -> Case {
    Case {
        differs: true,
        ..case
    }
}

const CASES: &[Case] = &[
    case("plain", "GET /ok HTTP/1.1\r\nhost: x\r\n\r\n"),
    case("head", "HEAD /ok HTTP/1.1\r\nhost: x\r\n\r\n"),
    case("404", "GET /404 HTTP/1.1\r\nhost: x\r\n\r\n"),
    case("204", "GET /204 HTTP/1.1\r\nhost: x\r\n\r\n"),
    case("503", "GET /503 HTTP/1.1\r\nhost: x\r\n\r\n"),
    case("error", "GET /error HTTP/1.1\r\nhost: x\r\n\r\n"),
    case(
        "a refusal as error",
        "GET /refusal HTTP/1.1\r\nhost: x\r\n\r\n",
    ),
    case(
        "panic in call",
        "GET /panic/call HTTP/1.1\r\nhost: x\r\n\r\n",
    ),
    case(
        "panic in future",
        "GET /panic/future HTTP/1.1\r\nhost: x\r\n\r\n",
    ),
    case(
        "panic later",
        "GET /panic/later HTTP/1.1\r\nhost: x\r\n\r\n",
    ),
    case(
        "panic in body",
        "GET /panic/body HTTP/1.1\r\nhost: x\r\n\r\n",
    ),
    case(
        "error in body",
        "GET /error/body HTTP/1.1\r\nhost: x\r\n\r\n",
    ),
    case("stream", "GET /stream HTTP/1.1\r\nhost: x\r\n\r\n"),
    case(
        "events",
        "GET /events HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n",
    ),
    case(
        "echo",
        "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello",
    ),
    case(
        "echo in chunks",
        "POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ),
    case(
        "echo with trailers",
        "POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 5\r\n\r\n",
    ),
    case(
        "trailers",
        "GET /trailers HTTP/1.1\r\nhost: x\r\nte: trailers\r\n\r\n",
    ),
    case(
        "a call of gRPC that fails",
        "POST /error HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc\r\ncontent-length: 5\r\n\r\nhello",
    ),
    case(
        "a call of gRPC that panics",
        "POST /panic/later HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc\r\ncontent-length: 5\r\n\r\nhello",
    ),
    case(
        "a long call of gRPC",
        "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n\
         41\r\n01234567890123456789012345678901234567890123456789012345678901234\r\n0\r\n\r\n",
    ),
    case("exempt", "GET /exempt HTTP/1.1\r\nhost: x\r\n\r\n"),
    case("of a class", "GET /class/a HTTP/1.1\r\nhost: x\r\n\r\n"),
    case(
        "as large as may be",
        "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 64\r\n\r\n\
         0123456789012345678901234567890123456789012345678901234567890123",
    ),
    case(
        "too large for who does not read it",
        "POST /ok HTTP/1.1\r\nhost: x\r\ncontent-length: 65\r\n\r\n\
         01234567890123456789012345678901234567890123456789012345678901234",
    ),
    case(
        "too large by its length",
        "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 65\r\n\r\n\
         0123456789012345678901234567890123456789012345678901234567890123456789",
    ),
    case(
        "too large in chunks",
        "POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n\
         41\r\n01234567890123456789012345678901234567890123456789012345678901234\r\n0\r\n\r\n",
    ),
    differs(case(
        "two hosts",
        "GET /ok HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
    )),
    case(
        "ok in time",
        "GET /ok HTTP/1.1\r\nhost: x\r\nx-request-timeout-ms: 60000\r\n\r\n",
    ),
    case(
        "hangs",
        "GET /hang HTTP/1.1\r\nhost: x\r\nx-request-timeout-ms: 500\r\n\r\n",
    ),
    case(
        "error in time",
        "GET /error HTTP/1.1\r\nhost: x\r\nx-request-timeout-ms: 60000\r\n\r\n",
    ),
    case(
        "panic in time",
        "GET /panic/later HTTP/1.1\r\nhost: x\r\nx-request-timeout-ms: 60000\r\n\r\n",
    ),
    differs(case(
        "two hosts in time",
        "GET /ok HTTP/1.1\r\nhost: x\r\nhost: y\r\nx-request-timeout-ms: 60000\r\n\r\n",
    )),
];

/// The body of a request.
type Sent = UnsyncBoxBody<Bytes, BoxError>;
type Answer = Result<Response<UnsyncBoxBody<Bytes, BoxError>>, BoxError>;

async fn answer<B>(request: Request<B>, go: Arc<Notify>) -> Answer
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let frame = |text: &'static str| Ok(Frame::data(Bytes::from_static(text.as_bytes())));
    let text = |text: &'static str| Full::from(text).map_err(Into::into).boxed_unsync();
    let path = request.uri().path().to_owned();
    assert_ne!(path, "/panic/future", "on purpose");
    let (status, body) = match path.as_str() {
        "/404" => (404, text("nothing here")),
        "/204" => (204, text("")),
        "/503" => (503, text("busy")),
        "/error" => return Err("on purpose".into()),
        "/refusal" => return Err(Refusal::new(StatusCode::CONFLICT).into()),
        "/hang" => std::future::pending().await,
        "/wait" | "/class/wait" => {
            go.notified().await;
            (200, text("waited"))
        }
        "/panic/later" => {
            tokio::task::yield_now().await;
            panic!("on purpose");
        }
        "/panic/body" => {
            let frames = stream::iter([0, 1]).map(move |n| match n {
                0 => frame("first"),
                _ => panic!("on purpose"),
            });
            (200, StreamBody::new(frames).boxed_unsync())
        }
        "/error/body" => {
            let frames = [
                frame("first"),
                Err::<Frame<Bytes>, BoxError>("on purpose".into()),
            ];
            (200, StreamBody::new(stream::iter(frames)).boxed_unsync())
        }
        "/stream" | "/events" => {
            let frames = stream::iter([frame("data: a\n\n"), frame("data: b\n\n")]);
            (200, StreamBody::new(frames).boxed_unsync())
        }
        "/trailers" => {
            let trailers = HeaderMap::from_iter([(
                HeaderName::from_static("x-sum"),
                HeaderValue::from_static("5"),
            )]);
            let frames = [frame("hello"), Ok(Frame::trailers(trailers))];
            (200, StreamBody::new(stream::iter(frames)).boxed_unsync())
        }
        "/endless" | "/endless/events" => {
            let frames = stream::once(async move { frame("first") });
            let frames = frames.chain(stream::pending());
            (200, StreamBody::new(frames).boxed_unsync())
        }
        "/echo" => {
            let body = request.into_body().collect().await.map_err(Into::into)?;
            (
                200,
                Full::new(body.to_bytes())
                    .map_err(Into::into)
                    .boxed_unsync(),
            )
        }
        _ => (200, text("fine")),
    };
    let mut response = Response::builder().status(status);
    if path.ends_with("/events") {
        response = response.header("content-type", "text/event-stream");
    }
    Ok(response.body(body)?)
}

/// The same service for both forms.
fn service<B>(
    go: &Arc<Notify>,
) -> impl Service<
    Request<B>,
    Response = Response<UnsyncBoxBody<Bytes, BoxError>>,
    Error = BoxError,
    Future: Send,
> + Clone
+ Send
+ 'static
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let go = Arc::clone(go);
    service_fn(move |request: Request<B>| {
        assert_ne!(request.uri().path(), "/panic/call", "on purpose");
        answer(request, Arc::clone(&go))
    })
}

/// What the preset says it consists of.
fn layers(components: &Components, config: &RuntimeConfig, go: &Arc<Notify>) -> impl HttpService {
    ServiceBuilder::new()
        .layer(components.layers(&config.server))
        .service(service(go))
}

/// One of the two forms, on a port of its own.
struct Server {
    components: Components,
    address: SocketAddr,
    go: Arc<Notify>,
    serving: JoinHandle<()>,
}

impl Server {
    async fn preset(config: &RuntimeConfig) -> Self {
        let components = Components::new(config).expect("valid");
        let go = Arc::new(Notify::new());
        let bound = Runtime::builder()
            .config(config.clone())
            .components(components.clone())
            .service(service(&go))
            .build()
            .expect("builds")
            .bind("127.0.0.1:0")
            .await
            .expect("binds");
        let address = bound.local_addr();
        let serving = tokio::spawn(async move { drop(bound.serve().await) });
        Self {
            components,
            address,
            go,
            serving,
        }
    }

    async fn layers(config: &RuntimeConfig) -> Self {
        let components = Components::new(config).expect("valid");
        let go = Arc::new(Notify::new());
        let listener = Listener::bind("127.0.0.1:0", &config.connection.listen).await;
        let listener = listener.expect("binds");
        let address = listener.local_addr().expect("TCP");
        let served = components
            .connections
            .serve(listener, layers(&components, config, &go));
        let serving = tokio::spawn(async move { drop(served.await) });
        Self {
            components,
            address,
            go,
            serving,
        }
    }

    async fn send(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.expect("connects");
        // Behind the request's line.
        let request = request.replacen("\r\n", "\r\nconnection: close\r\n", 1);
        stream.write_all(request.as_bytes()).await.expect("writes");
        stream
    }

    /// What comes, but for the date.
    async fn answer_to(&self, request: &str) -> String {
        receive(self.send(request).await).await
    }

    /// While another request has the only place, if there is only one.
    async fn answer_behind_another(&self, request: &str) -> String {
        let limit = &self.components.limit;
        let first = self.send("GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await;
        self.until("inside", || limit.stats().in_flight == 1).await;
        let second = tokio::spawn(receive(self.send(request).await));
        let is_there = || limit.stats().waiting == 1 || second.is_finished();
        self.until("waiting", is_there).await;
        self.go.notify_one();
        let first = receive(first).await;
        assert!(first.ends_with("waited"), "{first}");
        second.await.expect("no panic")
    }

    /// Leaves when this much has come of the answer.
    async fn leave(&self, path: &str, after: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        let mut stream = self.send(&request).await;
        let inside = || self.components.metrics.stats().requests_in_flight == 1;
        self.until("inside", inside).await;
        read_until(&mut stream, after).await;
        drop(stream);
        self.until_idle().await;
    }

    async fn until_idle(&self) {
        let Components { limit, metrics, .. } = &self.components;
        let idle = || limit.stats().in_flight == 0 && metrics.stats().requests_in_flight == 0;
        self.until("idle", idle).await;
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        until(&self.components.connections, what, |_| holds()).await;
    }

    /// All that was counted and does not hang on time.
    async fn counts(&self) -> String {
        self.until_idle().await;
        let components = &self.components;
        let mut text = String::new();
        for line in components.metrics.render().lines() {
            let of_time = line.contains("duration_seconds_bucket") || line.contains("seconds_sum");
            if line.starts_with("http_") && !of_time {
                writeln!(text, "{line}").expect("fits");
            }
        }
        let limit = components.limit.stats();
        let places = (
            limit.admitted,
            limit.successes,
            limit.overloads,
            limit.ignored,
        );
        let shed = (limit.cancelled, limit.shed_queue_full, limit.shed_deadline);
        let more = (limit.shed, limit.shed_class_full, limit.would_shed);
        let (faults, overload) = (components.faults.stats(), components.overload.stats());
        let timed = (overload.with_deadline, overload.refused, overload.timed_out);
        writeln!(text, "{places:?} {shed:?} {more:?} {faults:?} {timed:?}").expect("fits");
        let rules = components.http1_rules.stats();
        let broken = (
            rules.refused_total(),
            rules.refused(Violation::HostRepeated),
        );
        writeln!(text, "{broken:?}").expect("fits");
        text
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn receive(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // An answer that ends within its body may end with a reset.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).expect("text");
    let lines = answer.split_inclusive("\r\n");
    lines.filter(|line| !line.starts_with("date: ")).collect()
}

fn config(places: u32) -> RuntimeConfig {
    let text = format!(
        "[server]\nadmin_address = \"\"\nmax_body_bytes = {MAX_BODY}\n[connection]\nhalf_close_grace = \"50ms\"\n[workers]\nmin_workers = 1\n\
         [limit]\nalgorithm = \"fixed\"\ninitial = {places}\nmin = {places}\nmax = {places}\nmax_wait = \"60s\"\n\
         exempt = [\"/exempt\"]\n[limit.classes.gpu]\nlimit = 1\npaths = [\"/class/{{what}}\"]\n"
    );
    let loaded = Loader::new().text("app.toml", &text).load();
    loaded.expect("loads")
}

/// Panics on purpose are not worth a backtrace each.
fn quiet() {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !info.to_string().contains("on purpose") {
                usual(info);
            }
        }));
    });
}

async fn both(places: u32) -> (Server, Server) {
    quiet();
    let config = config(places);
    (Server::preset(&config).await, Server::layers(&config).await)
}

fn compare(case: &Case, preset: &str, layers: &str) {
    if case.differs {
        assert_ne!(preset, layers, "{}: its mark can go", case.name);
        // But they mean the same.
        assert_eq!(
            preset.split(' ').nth(1),
            layers.split(' ').nth(1),
            "{}",
            case.name
        );
    } else {
        assert_eq!(preset, layers, "{}", case.name);
    }
}

/// Only what differs is shown.
fn compare_counts(preset: &str, layers: &str, what: &dyn Debug) {
    let only = |these: &str, those: &str| {
        let is_missing = |line: &&str| !those.lines().any(|other| other == *line);
        these
            .lines()
            .filter(is_missing)
            .collect::<Vec<_>>()
            .join("\n")
    };
    let (preset, layers) = (only(preset, layers), only(layers, preset));
    let is_same = preset.is_empty() && layers.is_empty();
    assert!(is_same, "{what:?}\npreset: {preset}\nlayers: {layers}");
}

/// Each case in servers of its own, with so many places.
async fn compare_all(places: u32, ask: impl AsyncFn(&Server, &str) -> String) {
    for case in CASES {
        let (preset, layers) = both(places).await;
        let answers = (
            ask(&preset, case.request).await,
            ask(&layers, case.request).await,
        );
        compare(case, &answers.0, &answers.1);
        let counts = (preset.counts().await, layers.counts().await);
        if case.differs {
            assert_ne!(counts.0, counts.1, "{}: its mark can go", case.name);
        } else {
            compare_counts(&counts.0, &counts.1, &case.name);
        }
    }
}

#[tokio::test]
async fn with_room_under_the_limit() {
    compare_all(100, Server::answer_to).await;
}

#[tokio::test]
async fn with_one_place_and_a_request_that_waits_for_it() {
    compare_all(1, Server::answer_behind_another).await;
}

#[tokio::test]
async fn with_clients_that_leave() {
    let (preset, layers) = both(100).await;
    for (path, after) in [("/wait", ""), ("/endless", "first")] {
        preset.leave(path, after).await;
        layers.leave(path, after).await;
        compare_counts(&preset.counts().await, &layers.counts().await, &path);
    }
}

/// What is said to one of the two, by one version of HTTP, and what is left open meanwhile.
struct Talk<'a> {
    server: &'a Server,
    http2: Option<SendRequest<Sent>>,
    held: Vec<Held>,
}

/// What holds a place, or lends it, or needs none, while others are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// An answer that goes on for ever: it has its place.
    Download,
    /// A stream of events that does: it needs none.
    Events,
    /// A body that does not come: it lends its place.
    Upload,
}

enum Held {
    Http1(Hold, TcpStream),
    /// A body that never ends.
    Http2(#[expect(dead_code, reason = "dropped")] Incoming),
    /// What sends the rest of the body, and has the answer told.
    Upload(oneshot::Sender<()>, JoinHandle<String>),
}

impl<'a> Talk<'a> {
    async fn new(server: &'a Server, http2: bool) -> Self {
        let http2 = match http2 {
            false => None,
            true => {
                let socket = TcpStream::connect(server.address).await.expect("connects");
                let shaken = handshake(TokioExecutor::new(), TokioIo::new(socket)).await;
                let (sender, connection) = shaken.expect("HTTP/2");
                tokio::spawn(connection);
                Some(sender)
            }
        };
        Self {
            server,
            http2,
            held: Vec::new(),
        }
    }

    async fn ask(&self, request: &str) -> String {
        match self.http2.clone() {
            None => self.server.answer_to(request).await,
            Some(sender) => ask_by_http2(sender, request).await,
        }
    }

    /// While another request is there, which goes on once this one is there too.
    async fn ask_beside(&self, other: &str, request: &str) -> String {
        let server = self.server;
        let there = u64::try_from(self.held.len()).expect("few");
        let is_there = |n| move || server.components.metrics.stats().requests_in_flight == n;
        let other = server
            .send(&format!("GET {other} HTTP/1.1\r\nhost: x\r\n\r\n"))
            .await;
        server.until("inside", is_there(there + 1)).await;
        let is_done = Cell::new(false);
        let asking = async {
            let answer = self.ask(request).await;
            is_done.set(true);
            answer
        };
        let going_on = async {
            // It is there, and waits or works.
            let is_there = is_there(there + 2);
            let goes_on = || is_done.get() || is_there();
            server.until("there", goes_on).await;
            server.go.notify_one();
            receive(other).await;
        };
        tokio::join!(asking, going_on).0
    }

    async fn hold(&mut self, hold: Hold) {
        let path = match hold {
            Hold::Download => "/endless",
            Hold::Events => "/endless/events",
            Hold::Upload => "/echo",
        };
        let held = match (self.http2.clone(), hold) {
            (None, Hold::Upload) => {
                let head = "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n";
                Held::Http1(hold, self.server.send(head).await)
            }
            (None, Hold::Download | Hold::Events) => {
                let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
                let mut stream = self.server.send(&head).await;
                read_until(&mut stream, "first").await;
                Held::Http1(hold, stream)
            }
            (Some(sender), Hold::Upload) => {
                let (go_on, goes_on) = oneshot::channel();
                let rest = stream::once(async move {
                    goes_on.await?;
                    Ok(Frame::data(Bytes::from("hello")))
                });
                let request =
                    Request::post("http://x/echo").body(StreamBody::new(rest).boxed_unsync());
                let answer = send_by_http2(sender, request.expect("a request"));
                Held::Upload(go_on, tokio::spawn(answer))
            }
            (Some(mut sender), Hold::Download | Hold::Events) => {
                let request = Request::get(format!("http://x{path}"));
                let request = request.body(Empty::new().map_err(Into::into).boxed_unsync());
                let answer = sender.send_request(request.expect("a request")).await;
                let mut body = answer.expect("an answer").into_body();
                let frame = body.frame().await.expect("a frame");
                assert!(frame.expect("whole").is_data());
                Held::Http2(body)
            }
        };
        self.held.push(held);
        self.until_at_rest().await;
    }

    /// Lets go of what is held, or has it come to its end: what was answered, if anything.
    async fn let_go(&mut self, n: usize, how: usize) -> Option<String> {
        let answer = match self.held.swap_remove(n) {
            Held::Http1(Hold::Upload, mut stream) if how == 0 => {
                stream.write_all(b"hello").await.expect("writes");
                Some(receive(stream).await)
            }
            Held::Http1(_, stream) => {
                if how == 1 {
                    stream.set_zero_linger().expect("a socket");
                }
                None
            }
            Held::Http2(_) => None,
            Held::Upload(go_on, answer) if how == 0 => {
                go_on.send(()).expect("is waited for");
                Some(answer.await.expect("no panic"))
            }
            Held::Upload(_, answer) => {
                answer.abort();
                None
            }
        };
        self.until_at_rest().await;
        answer
    }

    fn uploads(&self) -> usize {
        let is_upload = |held: &&Held| match held {
            Held::Http1(hold, _) => *hold == Hold::Upload,
            Held::Upload(..) => true,
            Held::Http2(_) => false,
        };
        self.held.iter().filter(is_upload).count()
    }

    /// Only what is held is there.
    async fn until_at_rest(&self) {
        let Components { limit, metrics, .. } = &self.server.components;
        let uploads = self.uploads();
        let at_rest = || {
            let is_left = metrics.stats().requests_in_flight == self.held.len() as u64;
            is_left && limit.stats().lent as usize >= uploads && limit.stats().waiting == 0
        };
        self.server.until("at rest", at_rest).await;
    }
}

async fn read_until(stream: &mut TcpStream, text: &str) {
    let mut got = String::new();
    while !got.contains(text) {
        let mut piece = [0; 512];
        let n = stream.read(&mut piece).await.expect("reads");
        assert!(n > 0, "{got}");
        got.push_str(&String::from_utf8_lossy(&piece[..n]));
    }
}

/// The request as it is written for HTTP/1.
async fn ask_by_http2(sender: SendRequest<Sent>, request: &str) -> String {
    let (head, body) = request.split_once("\r\n\r\n").expect("a head");
    let mut lines = head.split("\r\n");
    let mut line = lines.next().expect("a line").split(' ');
    let mut parts = Request::builder()
        .method(line.next().expect("a method"))
        .uri(format!("http://x{}", line.next().expect("a path")));
    let mut is_chunked = false;
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        match name {
            "host" | "content-length" => {}
            "transfer-encoding" => is_chunked = true,
            _ => parts = parts.header(name, value),
        }
    }
    let body = match is_chunked {
        false => Full::from(body.to_owned())
            .map_err(Into::into)
            .boxed_unsync(),
        true => {
            let mut frames = Vec::new();
            let (chunks, trailers) = body.split_once("\r\n0\r\n").expect("a last chunk");
            let data = chunks.split_once("\r\n").expect("a chunk").1.to_owned();
            frames.push(Ok(Frame::data(Bytes::from(data))));
            if let Some((name, value)) = trailers.trim().split_once(": ") {
                let mut map = HeaderMap::new();
                map.insert(
                    HeaderName::try_from(name).expect("a name"),
                    HeaderValue::try_from(value).expect("a value"),
                );
                frames.push(Ok(Frame::trailers(map)));
            }
            StreamBody::new(stream::iter(frames)).boxed_unsync()
        }
    };
    send_by_http2(sender, parts.body(body).expect("a request")).await
}

/// All of the answer.
async fn send_by_http2(mut sender: SendRequest<Sent>, request: Request<Sent>) -> String {
    sender.ready().await.expect("open");
    let response = match sender.send_request(request).await {
        Ok(response) => response,
        Err(error) => return format!("no answer: {error}"),
    };
    let (parts, mut body) = response.into_parts();
    let fields = |map: &HeaderMap| {
        let mut fields: Vec<_> = map.iter().map(|field| format!("{field:?}")).collect();
        fields.retain(|field| !field.starts_with("(\"date\""));
        fields.sort();
        fields.join(" ")
    };
    let mut answer = format!("HTTP/2 {} {}\n", parts.status, fields(&parts.headers));
    loop {
        match body.frame().await {
            None => return answer,
            Some(Err(error)) => {
                let error: &dyn std::error::Error = &error;
                write!(
                    answer,
                    "broken: {:?}",
                    error.source().map(ToString::to_string)
                )
                .expect("fits");
                return answer;
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => answer.push_str(&String::from_utf8_lossy(&data)),
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    write!(answer, "trailers: {}", fields(&trailers)).expect("fits");
                }
            },
        }
    }
}

/// How many random conversations there are, and the first of their seeds.
fn scripts() -> Range<u64> {
    let number = |name: &str, default: u64| match env::var(name) {
        Ok(text) => text.parse().expect("a number"),
        Err(_) => default,
    };
    let first = number("STELLANE_FIRST_SEED", 0);
    first..first + number("STELLANE_SCRIPTS", 100)
}

#[tokio::test]
async fn whatever_comes_after_what() {
    let (roomy, narrow) = (both(100).await, both(1).await);
    // What differs is told by the tests above; what hangs takes its time.
    let is_quick = |case: &&Case| !case.differs && case.name != "hangs";
    let cases: Vec<_> = CASES.iter().filter(is_quick).collect();
    for seed in scripts() {
        let mut random = Random::new(seed);
        let is_narrow = random.below(3) == 0;
        let (preset, layers) = match is_narrow {
            true => (&narrow.0, &narrow.1),
            false => (&roomy.0, &roomy.1),
        };
        let http2 = random.below(2) == 0;
        let mut preset = Talk::new(preset, http2).await;
        let mut layers = Talk::new(layers, http2).await;
        let mut script = vec![format!("seed {seed}, narrow {is_narrow}, HTTP/2 {http2}")];
        for _ in 0..=random.below(6) {
            let holds = match is_narrow {
                false => &[Hold::Events, Hold::Upload, Hold::Download][..],
                // The only place is not to be had for ever, and lent but once.
                true if preset.uploads() == 0 => &[Hold::Events, Hold::Upload],
                true => &[Hold::Events],
            };
            let (n, how) = (random.below(preset.held.len().max(1)), random.below(3));
            match random.below(6) {
                0 => {
                    let hold = holds[random.below(holds.len())];
                    script.push(format!("hold {hold:?}"));
                    preset.hold(hold).await;
                    layers.hold(hold).await;
                }
                1 if !preset.held.is_empty() => {
                    script.push(format!("let go of {n} {how}"));
                    let answers = (preset.let_go(n, how).await, layers.let_go(n, how).await);
                    assert_eq!(answers.0, answers.1, "{script:?}");
                }
                // Alone, behind one that works, behind one of its class.
                turn => {
                    let case = cases[random.below(cases.len())];
                    let beside = match turn {
                        2 => Some(["/wait", "/class/wait"][random.below(2)]),
                        _ => None,
                    };
                    script.push(format!("{} {beside:?}", case.name));
                    let answers = match beside {
                        None => (
                            preset.ask(case.request).await,
                            layers.ask(case.request).await,
                        ),
                        Some(other) => (
                            preset.ask_beside(other, case.request).await,
                            layers.ask_beside(other, case.request).await,
                        ),
                    };
                    assert_eq!(answers.0, answers.1, "{script:?}");
                    preset.until_at_rest().await;
                    layers.until_at_rest().await;
                }
            }
        }
        // Whoever is left leaves without a word.
        preset.held.clear();
        layers.held.clear();
        let counts = (preset.server.counts().await, layers.server.counts().await);
        compare_counts(&counts.0, &counts.1, &script);
    }
}
