use std::{sync::Arc, time::Duration};

use tower_layer::Layer;

use super::{
    Carried, Class, JobBuilder, Moved, Placed, WorkerPool, WorkerPoolService, placement::Placement,
};

/// Runs the inner service on a [`WorkerPool`]: for routes that compute.
///
/// A full queue is answered with 503 and `Retry-After`, a panic with 500, both as RFC 9457 problem
/// documents; the inner service's own errors pass. Put it on the routes that need it, or give it a
/// [`threshold`](Self::threshold): short handlers are faster without. Around a whole router it is right too:
/// [`Pools::current`](crate::Pools::current) and what the pool [carries](super::WorkerPoolBuilder::carry) are there on the
/// worker as they are where the call was made.
///
/// ```
/// use http::{Request, Response};
/// use stellane_pool::{WorkerPool, WorkerPoolLayer};
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let workers = WorkerPool::builder().build()?;
/// let service = WorkerPoolLayer::new(&workers).layer(service_fn(async |_: Request<()>| {
///     let thread = std::thread::current().name().unwrap_or_default().to_owned();
///     Ok::<_, std::convert::Infallible>(Response::new(thread))
/// }));
/// let response = service.oneshot(Request::new(())).await?;
/// # use http_body_util::BodyExt;
/// # let text = response.into_body().collect().await?.to_bytes();
/// assert!(text.starts_with(b"stellane-worker-"));
/// # Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
/// # })?;
/// # Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[derive(Debug, Clone)]
pub struct WorkerPoolLayer {
    pool: WorkerPool,
    class: Class,
    name: Arc<str>,
    timeout: Option<Duration>,
    pub(super) placement: Option<Arc<Placement>>,
}

impl WorkerPoolLayer {
    /// A layer that runs services on `pool`.
    #[must_use]
    pub fn new(pool: &WorkerPool) -> Self {
        Self {
            pool: pool.clone(),
            class: Class::default(),
            name: "default".into(),
            timeout: None,
            placement: None,
        }
    }

    /// Names the route, for its own share of the workers and for reports of blocked workers: see
    /// [`WorkerPool::class`]. Default: the class that all others share.
    #[must_use]
    pub fn class(mut self, name: &str, weight: u32) -> Self {
        self.class = self.pool.class(name, weight);
        self.name = name.into();
        self
    }

    /// How long a request may wait for a worker before it is answered with 503. Default: without end.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Runs requests where they come in until more than one in eight has a poll longer than this, a few for
    /// polls much longer; then on the pool, until 1000 in a row were shorter than a quarter of it.
    ///
    /// Moving a call costs some microseconds of CPU. Too low moves calls that cost less than the move, too
    /// high lets them hold up others for as long. A good value is 200 µs. Default: always on the pool.
    #[must_use]
    pub fn threshold(self, threshold: Duration) -> Self {
        self.threshold_with(threshold, |_| {})
    }

    /// As [`threshold`](Self::threshold), and says when the route moves. Call it after
    /// [`class`](Self::class).
    #[must_use]
    pub fn threshold_with(
        mut self,
        threshold: Duration,
        on_move: impl Fn(&Moved) + Send + Sync + 'static,
    ) -> Self {
        let placement = Placement::new(Arc::clone(&self.name), threshold, Box::new(on_move));
        self.placement = Some(Arc::new(placement));
        self
    }

    /// Where the next request runs.
    #[must_use]
    pub fn placed(&self) -> Placed {
        let placement = self.placement.as_ref();
        placement.map_or(Placed::Pool, |placement| placement.placed())
    }

    pub(super) fn carried(&self) -> Option<Carried> {
        self.pool.carried()
    }

    pub(super) fn job(&self) -> JobBuilder<'_> {
        let job = self.pool.job().class(self.class);
        match self.timeout {
            Some(timeout) => job.timeout(timeout),
            None => job,
        }
    }
}

impl<S> Layer<S> for WorkerPoolLayer {
    type Service = WorkerPoolService<S>;

    fn layer(&self, inner: S) -> WorkerPoolService<S> {
        WorkerPoolService::new(inner, self.clone())
    }
}
