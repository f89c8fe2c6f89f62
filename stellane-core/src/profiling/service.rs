use std::{
    convert::Infallible,
    fmt,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use tower_service::Service;

use super::{SlowPolls, cpu};
use crate::BoxError;

const PREFIX: &str = "/debug/profile";
const MAX_SECONDS: u64 = 120;
const MAX_FREQUENCY: u64 = 1000;

type Heap = dyn Fn() -> Result<Vec<u8>, BoxError> + Send + Sync;

/// Answers `/debug/profile/*`; see the [module docs](super) for the paths. A cheap handle.
#[derive(Clone)]
pub struct ProfileService {
    kinds: Arc<Kinds>,
    loopback: bool,
}

#[derive(Default)]
struct Kinds {
    cpu: bool,
    heap: Option<Box<Heap>>,
    block: Option<SlowPolls>,
    /// One at a time: two samplers in one process can deadlock each other.
    busy: Arc<AtomicBool>,
}

impl ProfileService {
    /// Every kind is off.
    pub fn builder() -> ProfileServiceBuilder {
        ProfileServiceBuilder {
            kinds: Kinds::default(),
        }
    }

    /// The service for a listener at this address: it refuses unless that is a loopback address.
    #[must_use]
    pub fn listening_on(&self, address: SocketAddr) -> Self {
        Self {
            kinds: self.kinds.clone(),
            loopback: address.ip().is_loopback(),
        }
    }

    /// Whether a path is one of this service's.
    #[must_use]
    pub fn serves(path: &str) -> bool {
        path.strip_prefix(PREFIX)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    async fn answer(self, request: Asked) -> Answer {
        if !self.loopback {
            return Answer::refused(
                StatusCode::FORBIDDEN,
                "profiles are shown on a loopback address only: set `server.admin_address` to one",
            );
        }
        if !request.host_is_local {
            // A page of somebody else's that had its name resolve to this machine.
            return Answer::refused(StatusCode::FORBIDDEN, "the host is not this machine");
        }
        if request.method != Method::GET {
            return Answer::refused(StatusCode::METHOD_NOT_ALLOWED, "only GET");
        }
        match request.path.strip_prefix(PREFIX).unwrap_or_default() {
            "" | "/" => Answer::text("text/html", self.index()),
            "/cpu" => self.cpu(&request.query).await,
            "/heap" => self.heap().await,
            "/block" => self.block(),
            _ => Answer::refused(StatusCode::NOT_FOUND, "no such profile: cpu, heap or block"),
        }
    }

    fn index(&self) -> String {
        let item = |on: bool, path: &str, what: &str, remedy: &str| match on {
            true => format!("<li><a href=\"{PREFIX}/{path}\">{what}</a>"),
            false => format!("<li>{what}: off, turn on by <code>{remedy}</code>"),
        };
        format!(
            "<!doctype html><meta charset=utf-8><title>Profiles</title><h1>Profiles</h1><ul>{}{}{}</ul>",
            item(
                self.kinds.cpu,
                "cpu?seconds=10",
                "CPU, 10 s",
                "STELLANE_PROFILE_CPU=true"
            ),
            item(
                self.kinds.heap.is_some(),
                "heap",
                "Heap",
                "STELLANE_PROFILE_MEM=true and a heap source"
            ),
            item(
                self.kinds.block.is_some(),
                "block",
                "Slow polls by route",
                "STELLANE_PROFILE_BLOCK=true"
            ),
        )
    }

    async fn cpu(&self, query: &str) -> Answer {
        if !self.kinds.cpu {
            return Answer::refused(
                StatusCode::NOT_FOUND,
                "CPU profiles are off: set `dev.profile_cpu` or STELLANE_PROFILE_CPU=true",
            );
        }
        let (seconds, frequency) = match (
            number(query, "seconds", 10, MAX_SECONDS),
            number(query, "frequency", 99, MAX_FREQUENCY),
        ) {
            (Ok(seconds), Ok(frequency)) => (seconds, frequency),
            (Err(message), _) | (_, Err(message)) => {
                return Answer::refused(StatusCode::BAD_REQUEST, message);
            }
        };
        let format = value(query, "format").unwrap_or("svg").to_owned();
        if !["svg", "pprof", "folded"].contains(&format.as_str()) {
            return Answer::refused(
                StatusCode::BAD_REQUEST,
                "`format` is one of svg, pprof, folded",
            );
        }
        let Some(turn) = Turn::take(&self.kinds.busy) else {
            return Answer::busy();
        };
        let profile = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let frequency = i32::try_from(frequency).unwrap_or(99);
            cpu::record(Duration::from_secs(seconds), frequency).map(|stacks| {
                match format.as_str() {
                    "pprof" => Answer::ok("application/octet-stream", stacks.pprof()),
                    "folded" => Answer::text("text/plain", stacks.folded()),
                    _ => Answer::text(
                        "image/svg+xml",
                        stacks.svg(&format!("CPU, {seconds} s at {frequency} Hz")),
                    ),
                }
            })
        });
        match profile.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Answer::refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            Err(_) => Answer::refused(StatusCode::INTERNAL_SERVER_ERROR, "the profiler panicked"),
        }
    }

    async fn heap(&self) -> Answer {
        if self.kinds.heap.is_none() {
            return Answer::refused(
                StatusCode::NOT_FOUND,
                "heap profiles are off: set `dev.profile_mem` or STELLANE_PROFILE_MEM=true, in a program that \
                 has a `HeapProfiler` for its global allocator and gives it to `RuntimeBuilder::heap_profiler`",
            );
        }
        let Some(turn) = Turn::take(&self.kinds.busy) else {
            return Answer::busy();
        };
        let kinds = self.kinds.clone();
        let profile = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            kinds.heap.as_ref().map(|heap| heap())
        });
        match profile.await {
            Ok(Some(Ok(profile))) => Answer::ok("application/octet-stream", profile),
            Ok(Some(Err(error))) => {
                Answer::refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
            }
            _ => Answer::refused(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the heap source panicked",
            ),
        }
    }

    fn block(&self) -> Answer {
        let Some(polls) = &self.kinds.block else {
            return Answer::refused(
                StatusCode::NOT_FOUND,
                "the block profile is off: set `dev.profile_block` or STELLANE_PROFILE_BLOCK=true",
            );
        };
        let mut text = format!(
            "# polls over {:?}: polls, together, longest, route\n",
            polls.threshold()
        );
        for route in polls.stats() {
            text.push_str(&format!(
                "{:>8} {:>12} {:>12}  {}\n",
                route.polls,
                format!("{:.1?}", route.total),
                format!("{:.1?}", route.max),
                route.route
            ));
            for function in &route.stack {
                text.push_str(&format!("{:34}  {function}\n", ""));
            }
        }
        Answer::text("text/plain", text)
    }
}

impl fmt::Debug for ProfileService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProfileService")
            .field("cpu", &self.kinds.cpu)
            .field("heap", &self.kinds.heap.is_some())
            .field("block", &self.kinds.block)
            .field("loopback", &self.loopback)
            .finish()
    }
}

impl<B> Service<Request<B>> for ProfileService {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = ProfileFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ProfileFuture {
        let asked = Asked::new(&request);
        let service = self.clone();
        ProfileFuture {
            inner: Box::pin(async move { Ok(service.answer(asked).await.into_response()) }),
        }
    }
}

type Outcome = Result<Response<Full<Bytes>>, Infallible>;

/// The response of [`ProfileService`]. Boxed: a profile takes seconds, an allocation does not matter.
pub struct ProfileFuture {
    inner: Pin<Box<dyn Future<Output = Outcome> + Send>>,
}

impl Future for ProfileFuture {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.inner.as_mut().poll(cx)
    }
}

impl fmt::Debug for ProfileFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProfileFuture").finish_non_exhaustive()
    }
}

/// Turns on the kinds of profile; see [`ProfileService::builder`].
#[must_use]
pub struct ProfileServiceBuilder {
    kinds: Kinds,
}

impl ProfileServiceBuilder {
    /// Offers CPU profiles. Default: off.
    pub fn cpu(mut self, on: bool) -> Self {
        self.kinds.cpu = on;
        self
    }

    /// Offers heap profiles from this source, which blocks until it has one: only the program knows its
    /// allocator. That is [`HeapProfiler::pprof`](super::HeapProfiler::pprof), or with jemalloc
    /// `jemalloc_pprof`'s `dump_pprof`. Default: none.
    pub fn heap(
        mut self,
        source: impl Fn() -> Result<Vec<u8>, BoxError> + Send + Sync + 'static,
    ) -> Self {
        self.kinds.heap = Some(Box::new(source));
        self
    }

    /// Offers the block profile in this table. Default: none.
    pub fn block(mut self, polls: SlowPolls) -> Self {
        self.kinds.block = Some(polls);
        self
    }

    /// The service; it refuses everything until [`ProfileService::listening_on`] names a loopback address.
    #[must_use]
    pub fn build(self) -> ProfileService {
        ProfileService {
            kinds: Arc::new(self.kinds),
            loopback: false,
        }
    }
}

impl fmt::Debug for ProfileServiceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProfileServiceBuilder")
            .finish_non_exhaustive()
    }
}

/// What is needed of a request, without its body.
struct Asked {
    method: Method,
    path: String,
    query: String,
    host_is_local: bool,
}

impl Asked {
    fn new<B>(request: &Request<B>) -> Self {
        let uri = request.uri();
        let host = request
            .headers()
            .get(header::HOST)
            .and_then(|value| value.to_str().ok());
        let host = uri.authority().map(|authority| authority.as_str()).or(host);
        Self {
            method: request.method().clone(),
            path: uri.path().to_owned(),
            query: uri.query().unwrap_or_default().to_owned(),
            host_is_local: host.is_none_or(is_local),
        }
    }
}

fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost"
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

/// The only profile that is being taken.
struct Turn(Arc<AtomicBool>);

impl Turn {
    fn take(busy: &Arc<AtomicBool>) -> Option<Self> {
        (!busy.swap(true, Ordering::AcqRel)).then(|| Self(busy.clone()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

struct Answer {
    status: StatusCode,
    kind: &'static str,
    body: Vec<u8>,
}

impl Answer {
    fn ok(kind: &'static str, body: Vec<u8>) -> Self {
        Self {
            status: StatusCode::OK,
            kind,
            body,
        }
    }

    fn text(kind: &'static str, text: String) -> Self {
        Self::ok(kind, text.into_bytes())
    }

    fn refused(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            kind: "text/plain",
            body: (message.into() + "\n").into_bytes(),
        }
    }

    fn busy() -> Self {
        Self::refused(
            StatusCode::CONFLICT,
            "another profile is being taken: one at a time",
        )
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body.into()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.kind));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        response
    }
}

fn value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

fn number(query: &str, name: &str, default: u64, max: u64) -> Result<u64, String> {
    match value(query, name).map(str::parse) {
        None => Ok(default),
        Some(Ok(number)) if (1..=max).contains(&number) => Ok(number),
        Some(_) => Err(format!("`{name}` is a whole number from 1 to {max}")),
    }
}
