//! How often each client may ask: rates by key, as a layer.
//!
//! An [`AdaptiveLimit`](crate::AdaptiveLimit) protects the service, and asks nobody who they are. A rate is what was agreed with
//! one of them: ten requests a second for each token, a thousand an hour for each address. Who exceeds it gets 429, and nobody
//! else notices.
//!
//! ```
//! use http::{Request, Response, StatusCode};
//! use stellane_autotune::{Key, RateLimit, RateLimitLayer};
//! use tower::{Layer, Service, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let limit = RateLimit::builder().rule("2/s".parse()?).rule("1000/h burst 100".parse()?).build()?;
//! let layer = RateLimitLayer::new(&limit, |head| head.headers.get("x-api-key").map(Key::of));
//! # type Body = http_body_util::Full<bytes::Bytes>;
//! let mut service = layer.layer(tower::service_fn(|_: Request<Body>| async {
//!     Ok::<_, std::convert::Infallible>(Response::new(Body::from("hello")))
//! }));
//! let ask = |key: &str| Request::builder().header("x-api-key", key).body(Body::default());
//! assert_eq!(service.ready().await?.call(ask("a")?).await?.status(), StatusCode::OK);
//! assert_eq!(service.ready().await?.call(ask("a")?).await?.status(), StatusCode::OK);
//! assert_eq!(service.ready().await?.call(ask("a")?).await?.status(), StatusCode::TOO_MANY_REQUESTS);
//! assert_eq!(service.ready().await?.call(ask("b")?).await?.status(), StatusCode::OK);
//! # Ok(()) }
//! ```
//!
//! # Whose rate
//!
//! Take what a client can't choose: an address by [`Key::peer`](crate::Key::peer), a token that was checked, a tenant that was
//! looked up. A header that anybody may write gives whoever writes another one a rate of his own. Behind a proxy the address
//! of the connection is the proxy's: all of its clients would share one rate. Requests without a key are let through.
//!
//! # Where it goes
//!
//! Outside of an adaptive limit what it refuses takes no place; inside of it a 429 says nothing about the load, and closes
//! nothing. Several rates by several keys, an address and a tenant, go into one layer: [`RateLimitLayer::and`].
//!
//! # What it remembers
//!
//! For each key and rule one number: when its bucket will be full again. Room is for
//! [`max_keys`](RateLimitConfig::max_keys), taken as keys come. When more are there at once than it holds, the one is forgotten
//! that owes least, and begins anew with a full bucket: nobody is refused for others, and whoever makes keys by the million
//! gains no more than each new one gives. Nothing is shared between processes: of three replicas each lets in what the rule says,
//! unless they share a store, by the module `shared` (feature `redis`).
//!
//! The crate `governor` is not used: it keeps every key until somebody tells it to forget, so what it remembers has no bound of its
//! own. Take it for rates of a few keys that are known.

mod config;
mod handle;
mod layer;
mod refusal;
mod rule;
#[cfg(feature = "redis")]
pub mod shared;
mod table;

pub use config::{RateLimitConfig, RateLimitHeaders, WithoutStore};
pub use handle::{RateLeft, RateLimit, RateLimitBuilder, RateLimitStats, RateLimited, RuleStats};
pub use layer::{RateLimitFuture, RateLimitLayer, RateLimitService};
pub use rule::{RateRule, RateRuleError};
