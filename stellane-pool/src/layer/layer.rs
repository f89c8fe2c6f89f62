use tower_layer::Layer;

use super::{PoolService, handles::Handles};
use crate::Pools;

/// For handlers that take their memory from it, by [`Pools::current`], the axum extractor `Pools`,
/// [`PooledBody`](crate::PooledBody) or [`reply`](crate::http::reply): they are spared allocations, and on the system's
/// allocator (glibc) up to a third of the CPU time where bodies are large; with mimalloc they are not faster. A handler that
/// does not ask for the pools gains nothing.
///
/// Collecting the bodies of such a handler into pooled memory before it runs was measured, and is not done: small bodies
/// cost some per cent more CPU time, only those of 1 MiB on glibc gain, and a handler that streams would no longer (the
/// crate's `FIGURES.md` has the measurements). The layer itself costs no allocation.
///
/// ```
/// use http::{Request, Response};
/// use stellane_pool::{PoolLayer, Pools};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pools = Pools::builder().enabled(true).build()?;
/// let service = ServiceBuilder::new().layer(PoolLayer::new(&pools)).service(service_fn(
///     async |_: Request<()>| {
///         let pools = Pools::current().ok_or("no PoolLayer")?;
///         let mut body = pools.buf().get(64);
///         body.extend_from_slice(b"hello");
///         Ok::<_, &str>(Response::new(body.freeze()))
///     },
/// ));
/// let response = service.oneshot(Request::new(())).await?;
/// assert_eq!(response.body(), "hello");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct PoolLayer {
    pools: Handles,
    extension: bool,
}

impl PoolLayer {
    /// A layer for `pools`.
    pub fn new(pools: &Pools) -> Self {
        Self {
            pools: Handles::to(pools),
            extension: false,
        }
    }

    /// Also puts the pools into the request's extensions, where they stay with the request when another
    /// layer moves it to another thread. Costs up to three allocations per request.
    #[must_use = "this is the layer that does"]
    pub fn with_extension(mut self) -> Self {
        self.extension = true;
        self
    }
}

impl<S> Layer<S> for PoolLayer {
    type Service = PoolService<S>;

    fn layer(&self, inner: S) -> PoolService<S> {
        PoolService {
            inner,
            pools: self.pools.clone(),
            extension: self.extension,
        }
    }
}
