use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    pin::{Pin, pin},
    sync::{Arc, atomic::AtomicUsize},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body::Body;
use serde_json::{Value, json};
use tower_service::Service;

use super::{
    access::Access,
    body::{AdminBody, Stream},
};
use crate::{Readiness, RuntimeMetrics};

const PAGE: &str = include_str!("page.html");
const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";

/// The page runs its own script, talks to its own server, and nothing else; nobody may frame it.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                      connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// What a change may send at most.
const MOST_BODY: usize = 64 * 1024;

/// Answers `/healthz`, `/readyz`, `/metrics`, `/runtime.json`, `/history.json`, `/events`, `/about`, `/` and what was
/// plugged in.
///
/// A tower service: mount it in any server. It needs a tokio runtime. See [`AdminBuilder`](crate::AdminBuilder).
#[derive(Clone)]
pub struct AdminService {
    pub(super) shared: Arc<Shared>,
}

pub(super) type Read = Box<dyn Fn() -> Value + Send + Sync>;
pub(super) type Health = Box<dyn Fn() -> Result<(), String> + Send + Sync>;
pub(super) type Change = Box<dyn Fn(&str) -> Result<Value, String> + Send + Sync>;

pub(super) struct Shared {
    pub(super) prefix: String,
    pub(super) about: Value,
    pub(super) access: Access,
    pub(super) runtime: Option<RuntimeMetrics>,
    pub(super) readiness: Option<Readiness>,
    pub(super) health: Option<Health>,
    #[cfg(feature = "prometheus")]
    pub(super) prometheus: Option<crate::Prometheus>,
    pub(super) reads: BTreeMap<String, Read>,
    pub(super) changes: BTreeMap<String, Change>,
    pub(super) streams: Arc<AtomicUsize>,
}

impl<B> Service<Request<B>> for AdminService
where
    B: Body + Send + 'static,
    B::Data: Send,
{
    type Response = Response<AdminBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { Ok(answer(shared, request).await) })
    }
}

impl fmt::Debug for AdminService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminService")
            .field("paths", &self.shared.paths())
            .finish_non_exhaustive()
    }
}

async fn answer<B>(shared: Arc<Shared>, request: Request<B>) -> Response<AdminBody>
where
    B: Body + Send + 'static,
    B::Data: Send,
{
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let path = path.strip_prefix(&shared.prefix).unwrap_or(path).to_owned();
    let path = if path.is_empty() { "/" } else { &*path };
    let public = matches!(path, "/healthz" | "/readyz" | "/metrics");
    if let Err((status, why)) = shared.access.check(&head, public) {
        let mut response = problem(status, why);
        if status == StatusCode::UNAUTHORIZED {
            let ask = HeaderValue::from_static(r#"Basic realm="admin", charset="UTF-8""#);
            let headers = response.headers_mut();
            headers.insert(header::WWW_AUTHENTICATE, ask);
        }
        return response;
    }
    match head.method {
        Method::GET | Method::HEAD => shared.read(path, &head).await,
        Method::POST | Method::PUT if shared.changes.contains_key(path) => {
            match read_text(body).await {
                Ok(text) => Shared::change(shared, path.to_owned(), text).await,
                Err((status, why)) => problem(status, why),
            }
        }
        _ => not_allowed(shared.allowed(path)),
    }
}

impl Shared {
    async fn read(self: Arc<Self>, path: &str, head: &Parts) -> Response<AdminBody> {
        let query = head.uri.query().unwrap_or_default();
        match path {
            "/" => page(),
            "/healthz" => self.healthy(),
            "/readyz" => self.ready(query),
            "/about" => respond(StatusCode::OK, JSON, self.about.to_string()),
            "/paths" => respond(StatusCode::OK, JSON, json!(self.paths()).to_string()),
            "/runtime.json" if self.runtime.is_some() => self.runtime_json(),
            "/history.json" if self.runtime.is_some() => self.history_json(query),
            "/events" if self.runtime.is_some() => self.events(),
            #[cfg(feature = "prometheus")]
            "/metrics" if self.prometheus.is_some() => {
                let Some(prometheus) = self.prometheus.clone() else {
                    return self.not_found();
                };
                let scrape = prometheus.answer(&head.headers).await;
                unsniffed(scrape.map(AdminBody::full))
            }
            _ if self.reads.contains_key(path) => {
                let path = path.to_owned();
                let value = blocking(move || {
                    let mut value = self.reads.get(&path).map_or(Value::Null, |read| read());
                    if path == "/config" {
                        redact(&mut value);
                    }
                    value
                });
                value.await.map_or_else(failed, |value| {
                    respond(StatusCode::OK, JSON, value.to_string())
                })
            }
            _ if self.changes.contains_key(path) => not_allowed(self.allowed(path)),
            _ => self.not_found(),
        }
    }

    async fn change(self: Arc<Self>, path: String, text: String) -> Response<AdminBody> {
        let result = blocking(move || {
            self.changes
                .get(&path)
                .map_or(Ok(Value::Null), |change| change(&text))
        });
        match result.await {
            Ok(Ok(value)) => respond(StatusCode::OK, JSON, value.to_string()),
            Ok(Err(why)) => problem(StatusCode::BAD_REQUEST, &why),
            Err(error) => failed(error),
        }
    }

    fn healthy(&self) -> Response<AdminBody> {
        match self.health.as_ref().map_or(Ok(()), |health| health()) {
            Ok(()) => respond(StatusCode::OK, JSON, r#"{"status":"ok"}"#),
            Err(why) => {
                let body = json!({ "status": "stalled", "reason": why });
                respond(StatusCode::SERVICE_UNAVAILABLE, JSON, body.to_string())
            }
        }
    }

    /// `?soft`: not ready is an answer, not a failure (which a browser would log as an error of the page).
    fn ready(&self, query: &str) -> Response<AdminBody> {
        let asks = |name| query.split('&').any(|part| part == name);
        let readiness = self.readiness.as_ref();
        let reasons = readiness.map(Readiness::reasons).unwrap_or_default();
        let ready = reasons.is_empty();
        let status = if ready || asks("soft") {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        let mut body = json!({ "ready": ready, "reasons": reasons });
        if asks("verbose") {
            // To anybody: nothing of what the checks said, which may name a password.
            body["dependencies"] =
                json!(readiness.map(Readiness::dependencies).unwrap_or_default());
        }
        respond(status, JSON, body.to_string())
    }

    fn runtime_json(&self) -> Response<AdminBody> {
        let json = self
            .runtime
            .as_ref()
            .map(|runtime| serde_json::to_string(&*runtime.snapshot()));
        match json {
            Some(Ok(json)) => respond(StatusCode::OK, JSON, json),
            _ => problem(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the snapshot has no JSON form",
            ),
        }
    }

    /// `?route=TEMPLATE`: of a route, if it is one of the busiest. `?since=SECONDS`: what came after this uptime.
    fn history_json(&self, query: &str) -> Response<AdminBody> {
        let Some(runtime) = &self.runtime else {
            return self.not_found();
        };
        let asked = |name| query.split('&').find_map(|part| part.strip_prefix(name));
        let since =
            asked("since=").and_then(|since| Duration::try_from_secs_f64(since.parse().ok()?).ok());
        let json = match asked("route=") {
            None => serde_json::to_string(&runtime.history_since(since.unwrap_or_default())),
            Some(route) => match runtime.route_history(&percent_decoded(route)) {
                Some(history) => serde_json::to_string(&history),
                None => return problem(StatusCode::NOT_FOUND, "the route is none of the busiest"),
            },
        };
        match json {
            Ok(json) => respond(StatusCode::OK, JSON, json),
            Err(_) => problem(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the history has no JSON form",
            ),
        }
    }

    fn events(&self) -> Response<AdminBody> {
        let (Some(runtime), Some(stream)) = (&self.runtime, Stream::open(&self.streams)) else {
            return problem(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many event streams are open",
            );
        };
        with_type(
            Response::new(AdminBody::events(runtime.clone(), stream)),
            EVENTS,
        )
    }

    fn allowed(&self, path: &str) -> &'static str {
        match (
            self.changes.contains_key(path),
            self.reads.contains_key(path),
        ) {
            (true, true) => "GET, HEAD, POST, PUT",
            (true, false) => "POST, PUT",
            _ => "GET, HEAD",
        }
    }

    fn not_found(&self) -> Response<AdminBody> {
        let body = json!({ "error": "no such page", "paths": self.paths() });
        respond(StatusCode::NOT_FOUND, JSON, body.to_string())
    }

    fn paths(&self) -> Vec<&str> {
        let mut paths = vec!["/", "/about", "/healthz", "/paths", "/readyz"];
        #[cfg(feature = "prometheus")]
        paths.extend(self.prometheus.is_some().then_some("/metrics"));
        if self.runtime.is_some() {
            paths.extend(["/runtime.json", "/history.json", "/events"]);
        }
        paths.extend(self.reads.keys().map(String::as_str));
        paths.extend(self.changes.keys().map(String::as_str));
        paths.sort_unstable();
        paths.dedup();
        paths
    }
}

/// A part of a query as it was meant. What is no escape stays as it is.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let escaped = text.get(at + 1..at + 3).filter(|_| *byte == b'%');
        let escaped = escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        decoded.push(escaped.unwrap_or(*byte));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Runs what was plugged in where it may block.
async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<T, tokio::task::JoinError> {
    tokio::task::spawn_blocking(f).await
}

async fn read_text<B: Body>(body: B) -> Result<String, (StatusCode, &'static str)> {
    let mut body = pin!(body);
    let mut bytes = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let frame = frame.map_err(|_| (StatusCode::BAD_REQUEST, "the body did not arrive"))?;
        if let Ok(mut data) = frame.into_data() {
            if bytes.len() + data.remaining() > MOST_BODY {
                return Err((
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "the body is longer than 64 KiB",
                ));
            }
            while data.has_remaining() {
                let chunk = data.chunk();
                bytes.extend_from_slice(chunk);
                let n = chunk.len();
                data.advance(n);
            }
        }
    }
    String::from_utf8(bytes).map_err(|_| (StatusCode::BAD_REQUEST, "the body is not UTF-8"))
}

/// Replaces the values of keys that look like secrets.
fn redact(value: &mut Value) {
    const SECRETS: [&str; 7] = [
        "token",
        "secret",
        "password",
        "passwd",
        "private",
        "credential",
        "api_key",
    ];
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let key = key.to_ascii_lowercase();
                let secret = SECRETS.iter().any(|word| key.contains(word));
                if secret && !matches!(value, Value::Null | Value::Bool(_) | Value::Object(_)) {
                    *value = Value::String("<redacted>".to_owned());
                } else {
                    redact(value);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(redact),
        _ => {}
    }
}

fn page() -> Response<AdminBody> {
    let mut response = respond(StatusCode::OK, HTML, PAGE);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(POLICY),
    );
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    response
}

fn failed(_: tokio::task::JoinError) -> Response<AdminBody> {
    problem(
        StatusCode::INTERNAL_SERVER_ERROR,
        "the handler of this path panicked",
    )
}

fn not_allowed(allowed: &'static str) -> Response<AdminBody> {
    let mut response = problem(
        StatusCode::METHOD_NOT_ALLOWED,
        "the path does not take this method",
    );
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

fn problem(status: StatusCode, why: &str) -> Response<AdminBody> {
    respond(status, JSON, json!({ "error": why }).to_string())
}

fn respond(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<AdminBody> {
    let mut response = Response::new(AdminBody::full(body));
    *response.status_mut() = status;
    with_type(response, kind)
}

fn with_type(mut response: Response<AdminBody>, kind: &'static str) -> Response<AdminBody> {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    unsniffed(response)
}

fn unsniffed(mut response: Response<AdminBody>) -> Response<AdminBody> {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}
