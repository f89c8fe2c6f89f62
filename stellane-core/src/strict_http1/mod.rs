//! [`StrictHttp1Layer`]: an HTTP/1 request that two parties could read differently is refused.
//!
//! Request smuggling lives from a proxy and a server that disagree about one request. hyper refuses most of
//! what is ambiguous; this layer refuses the rest that can be seen in a parsed request:
//!
//! | request | answer |
//! |---|---|
//! | HTTP/1.1 without `Host`, any with two, or one that is not `host[:port]` | 400 |
//! | an absolute target (`GET http://a/`) whose authority is not the `Host`, or that carries user information | 400 |
//! | `Transfer-Encoding` beside `Content-Length`, twice, or other than `chunked` | 400 |
//! | a target longer than [`max_target_bytes`](StrictHttp1Config::max_target_bytes) | 414 |
//! | more header lines than [`max_headers`](StrictHttp1Config::max_headers) | 431 |
//!
//! Each answer says `Connection: close`. Requests of HTTP/2 pass untouched: what is meant here can't be
//! said in it.
//!
//! Some of it is gone before a layer can see it: hyper removes a `Content-Length` that stands beside a
//! `Transfer-Encoding`, and takes a bare line feed for the end of a line. The
//! `ConnectionManager` looks at the bytes themselves, see `ConnectionConfig::strict_http1`; behind any
//! other server these two go unseen.
//!
//! ```
//! use http::{Request, Response, StatusCode};
//! use stellane_core::strict_http1::{Http1Rules, StrictHttp1Layer, Violation};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! let rules = Http1Rules::default();
//! let service = StrictHttp1Layer::new(&rules).layer(service_fn(|_: Request<()>| async {
//!     Ok::<_, std::io::Error>(Response::new(String::new()))
//! }));
//! let without_host = Request::get("/").body(())?;
//! let response = service.oneshot(without_host).await?;
//! assert_eq!(response.status(), StatusCode::BAD_REQUEST);
//! assert_eq!(rules.stats().refused(Violation::HostMissing), 1);
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

mod body;
mod config;
mod future;
mod host;
mod layer;
mod service;
mod violation;

pub use self::{
    body::StrictBody,
    config::StrictHttp1Config,
    future::ResponseFuture,
    layer::{BuildError, Http1Rules, Http1RulesBuilder, StrictHttp1Layer, StrictHttp1Stats},
    service::StrictHttp1,
    violation::Violation,
};
pub use crate::config_error::ConfigError;
