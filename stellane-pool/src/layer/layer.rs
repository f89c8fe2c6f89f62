use tower_layer::Layer;

use super::PoolService;
use crate::Pools;

/// Puts [`Pools`] within reach of the handlers below: [`Pools::current`] finds them, and so do the axum
/// extractors `Pools` and [`PooledBody`](crate::PooledBody). Costs no allocation.
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
    pools: Pools,
    extension: bool,
}

impl PoolLayer {
    /// A layer for `pools`.
    pub fn new(pools: &Pools) -> Self {
        Self {
            pools: pools.clone(),
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
