//! Reuse of what an HTTP request is made of: header maps, extensions, bodies.
//!
//! # The round trip of the header map
//!
//! hyper keeps the header map of the response it has just written for the next request on that
//! connection. [`reply`] turns the spent request into a response that carries the *request's* map, so one
//! map goes round for the life of the connection and no exchange allocates any, however many headers the
//! client sends. It needs no pool.
//!
//! ```
//! use http::{Request, Response, StatusCode, header};
//! use stellane_pool::http::reply;
//!
//! async fn handler(request: Request<String>) -> Response<&'static str> {
//!     let (mut parts, _body) = request.into_parts();
//!     let mut response = reply(&mut parts, StatusCode::OK).map(|()| "hello");
//!     response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
//!     response
//! }
//! ```

#[cfg(feature = "axum")]
mod axum;
#[cfg(feature = "axum")]
pub use self::axum::PoolsRejection;
mod body;
mod headers;

pub(crate) use self::headers::pool;
pub use self::{
    body::{CollectError, PooledBody},
    headers::reply,
};
