//! [`Prepared`]: responses rendered once and served with no handler, by a [`PreparedLayer`] or as the accelerated service
//! of an [`EngineSelectorLayer`](crate::engine_selector::EngineSelectorLayer).
//!
//! - `GET` and `HEAD` of a path that is prepared are answered from memory; everything else is
//!   [declined](crate::engine_selector::Declined), so that the native service answers.
//! - Every response has a strong `ETag` of its bytes, the same in all processes. A request whose `If-None-Match` has it
//!   is answered with 304 and no body.
//! - [Variants](PreparedResponse::variant) compressed beforehand are chosen by `Accept-Encoding`.
//! - What changes is prepared [again](Prepared::prepare): the native service renders it, once. From
//!   [`invalidate`](Prepared::invalidate) until that is done the native service answers, so nothing stale is served. If the bytes are the
//!   same as before, clients keep what they have.
//!
//! ```
//! use std::convert::Infallible;
//!
//! use http::{Request, Response, StatusCode, header};
//! use stellane_core::{
//!     engine_selector::{EngineSelector, EngineSelectorLayer},
//!     prepared::{Prepared, PreparedResponse},
//! };
//! use tower::{Layer, Service, ServiceExt, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let prepared = Prepared::new();
//! prepared.insert("/hello", PreparedResponse::new("text/plain; charset=utf-8", "hello"));
//!
//! let selector = EngineSelector::builder().route("/hello").build()?;
//! let native = service_fn(|_| async { Ok::<_, Infallible>(Response::new(String::from("native"))) });
//! let service = EngineSelectorLayer::new(&selector, prepared.service()).layer(native);
//!
//! let first = service.clone().oneshot(Request::get("/hello").body(String::new())?).await?;
//! let etag = &first.headers()[header::ETAG];
//! let again = Request::get("/hello").header(header::IF_NONE_MATCH, etag).body(String::new())?;
//! assert_eq!(service.oneshot(again).await?.status(), StatusCode::NOT_MODIFIED);
//! # Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
//! # })?;
//! # Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
//! ```

mod encoding;
mod handle;
mod layer;
mod response;
mod service;

#[cfg(feature = "http-layers")]
pub(crate) use self::encoding::{accepted, is_named};
pub use self::{
    encoding::Encoding,
    handle::{Outcome, PrepareError, Prepared, PreparedStats},
    layer::{PreparedFuture, PreparedLayer, PreparedService},
    response::PreparedResponse,
    service::PreparedOnlyService,
};
