use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::BodyExt;
use tower_service::Service;

use super::PreparedResponse;
use crate::{BoxError, of_threads::OfThreads};

/// Responses by their paths; a cheap handle. See the [module docs](super).
///
/// ```
/// use stellane_core::prepared::{Prepared, PreparedResponse};
///
/// let prepared = Prepared::new();
/// prepared.insert("/robots.txt", PreparedResponse::new("text/plain", "User-agent: *"));
/// ```
#[derive(Debug, Clone, Default)]
pub struct Prepared {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Replaced as a whole: reading takes no lock.
    responses: ArcSwap<HashMap<Box<str>, Arc<Entry>>>,
    /// How often each path was changed by hand or invalidated; held while the map is replaced.
    changes: Mutex<HashMap<Box<str>, u64>>,
    counts: OfThreads<Counts>,
}

/// What is prepared for a path. Each thread has a copy with references of its own to the same bytes: an answer takes one to
/// its bytes and to each of its headers.
#[derive(Debug)]
struct Entry {
    response: Arc<PreparedResponse>,
    copies: OfThreads<PreparedResponse>,
}

impl Entry {
    fn new(response: PreparedResponse) -> Arc<Self> {
        Arc::new(Self {
            response: Arc::new(response),
            copies: OfThreads::default(),
        })
    }
}

/// What one thread has done.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Counts {
    served: AtomicU64,
    not_modified: AtomicU64,
    declined: AtomicU64,
}

/// What [`Prepared`] has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PreparedStats {
    /// Responses that are prepared now.
    pub entries: usize,
    /// Their bytes, those of compressed variants left out.
    pub bytes: usize,
    /// Responses served in full.
    pub served: u64,
    /// Responses of 304.
    pub not_modified: u64,
    /// Requests that were left to the native service.
    pub declined: u64,
}

/// How a preparation went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The response is new, or other than before.
    Changed,
    /// It is the same as before: clients keep what they have.
    Unchanged,
    /// The path was invalidated or changed meanwhile: what was rendered is thrown away.
    Overtaken,
}

/// Why a response could not be prepared; what was prepared before is left as it was.
#[derive(Debug)]
#[non_exhaustive]
pub enum PrepareError {
    /// The path is no URI.
    Path,
    /// The service answered with something else than 200.
    Status(StatusCode),
    /// The response is not for everybody: it sets a cookie, forbids shared caches (`Cache-Control: private` or
    /// `no-store`), or varies by more than the encoding.
    Personal,
    /// The service failed, or its body did.
    Service(BoxError),
}

impl fmt::Display for PrepareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path => f.write_str("the path is no URI"),
            Self::Status(status) => write!(f, "the service answered with {status}, not with 200"),
            Self::Personal => f.write_str(
                "the response is not for everybody: it has set-cookie, a cache-control of private or no-store, or a vary",
            ),
            Self::Service(source) => write!(f, "the service failed: {source}"),
        }
    }
}

impl std::error::Error for PrepareError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Service(source) => Some(&**source),
            Self::Path | Self::Status(_) | Self::Personal => None,
        }
    }
}

impl Prepared {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves `response` for a path, without its query: requests with a query are declined.
    pub fn insert(&self, path: &str, response: PreparedResponse) {
        self.change(path, |responses| {
            responses.insert(path.into(), Entry::new(response));
        });
    }

    /// From now on the native service answers for a path; whether it was prepared.
    pub fn invalidate(&self, path: &str) -> bool {
        let mut was = false;
        self.change(path, |responses| was = responses.remove(path).is_some());
        was
    }

    /// Renders a path with the native service, and serves what it answers from now on.
    ///
    /// Call it at the start, and again when the data behind it has changed, after
    /// [`invalidate`](Self::invalidate) if nothing stale may be served meanwhile. Variants are not made: add them with
    /// [`insert`](Self::insert).
    ///
    /// # Errors
    /// The service fails, or answers with something else than 200.
    pub async fn prepare<S, B, RB>(&self, path: &str, service: S) -> Result<Outcome, PrepareError>
    where
        S: Service<Request<B>, Response = Response<RB>>,
        S::Error: Into<BoxError>,
        B: Default,
        RB: Body<Error: Into<BoxError>>,
    {
        let mut service = service;
        let before = self.changes_of(path);
        let request = Request::get(path)
            .body(B::default())
            .map_err(|_| PrepareError::Path)?;
        let failed = |error: S::Error| PrepareError::Service(error.into());
        std::future::poll_fn(|cx| service.poll_ready(cx))
            .await
            .map_err(failed)?;
        let (parts, body) = service.call(request).await.map_err(failed)?.into_parts();
        if parts.status != StatusCode::OK {
            return Err(PrepareError::Status(parts.status));
        }
        if is_personal(&parts.headers) {
            return Err(PrepareError::Personal);
        }
        let body = body.collect().await;
        let bytes = body
            .map_err(|error| PrepareError::Service(error.into()))?
            .to_bytes();
        let response = PreparedResponse::of(&parts.headers, bytes);

        let changes = self.lock();
        if changes.get(path).copied().unwrap_or_default() != before {
            return Ok(Outcome::Overtaken);
        }
        let responses = self.shared.responses.load();
        if responses
            .get(path)
            .is_some_and(|old| *old.response == response)
        {
            return Ok(Outcome::Unchanged);
        }
        let mut responses = HashMap::clone(&responses);
        responses.insert(path.into(), Entry::new(response));
        self.shared.responses.store(Arc::new(responses));
        drop(changes);
        Ok(Outcome::Changed)
    }

    /// What is prepared for a path.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<Arc<PreparedResponse>> {
        let responses = self.shared.responses.load();
        responses.get(path).map(|entry| Arc::clone(&entry.response))
    }

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> PreparedStats {
        let shared = &self.shared;
        let responses = shared.responses.load();
        PreparedStats {
            entries: responses.len(),
            bytes: responses.values().map(|r| r.response.bytes().len()).sum(),
            served: shared.counts.sum(|counts| counts.served.load(Relaxed)),
            not_modified: shared
                .counts
                .sum(|counts| counts.not_modified.load(Relaxed)),
            declined: shared.counts.sum(|counts| counts.declined.load(Relaxed)),
        }
    }

    /// Looks at this thread's copy of what is prepared for a path.
    pub(super) fn with<T>(
        &self,
        path: &str,
        look: impl FnOnce(Option<&PreparedResponse>) -> T,
    ) -> T {
        let responses = self.shared.responses.load();
        let entry = responses.get(path);
        look(entry.map(|entry| entry.copies.here(|| entry.response.apart())))
    }

    pub(super) fn count_served(&self) {
        self.counts().served.fetch_add(1, Relaxed);
    }

    pub(super) fn count_not_modified(&self) {
        self.counts().not_modified.fetch_add(1, Relaxed);
    }

    pub(super) fn count_declined(&self) {
        self.counts().declined.fetch_add(1, Relaxed);
    }

    fn counts(&self) -> &Counts {
        self.shared.counts.here(Counts::default)
    }

    fn change(&self, path: &str, change: impl FnOnce(&mut HashMap<Box<str>, Arc<Entry>>)) {
        let mut changes = self.lock();
        *changes.entry(path.into()).or_default() += 1;
        let mut responses = HashMap::clone(&self.shared.responses.load());
        change(&mut responses);
        self.shared.responses.store(Arc::new(responses));
    }

    fn changes_of(&self, path: &str) -> u64 {
        self.lock().get(path).copied().unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Box<str>, u64>> {
        self.shared
            .changes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_personal(headers: &HeaderMap) -> bool {
    let has = |name: HeaderName, forbidden: fn(&str) -> bool| {
        headers.get_all(name).iter().any(|value| {
            let text = value.to_str().unwrap_or_default();
            text.split(',')
                .map(str::trim)
                .any(|item| forbidden(&item.to_ascii_lowercase()))
        })
    };
    headers.contains_key(header::SET_COOKIE)
        || has(header::VARY, |by| by != "accept-encoding")
        || has(header::CACHE_CONTROL, |directive| {
            directive.starts_with("private") || directive == "no-store"
        })
}
