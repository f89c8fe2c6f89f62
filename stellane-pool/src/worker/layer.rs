use tower_layer::Layer;

use super::{WorkerPool, WorkerPoolService};

/// Runs the inner service on a [`WorkerPool`]: for routes that compute.
///
/// A full queue is answered with 503 and `Retry-After`, a panic with 500, both as RFC 9457 problem
/// documents; the inner service's own errors pass. Put it on the routes that need it: short handlers are
/// faster without.
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
}

impl WorkerPoolLayer {
    /// A layer that runs services on `pool`.
    #[must_use]
    pub fn new(pool: &WorkerPool) -> Self {
        Self { pool: pool.clone() }
    }
}

impl<S> Layer<S> for WorkerPoolLayer {
    type Service = WorkerPoolService<S>;

    fn layer(&self, inner: S) -> WorkerPoolService<S> {
        WorkerPoolService::new(inner, self.pool.clone())
    }
}
