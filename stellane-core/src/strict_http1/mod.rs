//! [`StrictHttp1Layer`]: an HTTP/1 request that two parties could read differently is refused.
//!
//! Request smuggling lives from a proxy and a server that disagree about one request. hyper refuses most of
//! what is ambiguous; this layer refuses the rest that can be seen in a parsed request, and the `ConnectionManager`
//! (`ConnectionConfig::strict_http1`) what can be seen in the bytes only: behind any other server that goes unseen. What
//! both can see, both answer alike. The preset has both.
//!
//! | request | RFC | answer | by |
//! |---|---|---|---|
//! | HTTP/1.1 without `Host` and without one in the target, any with two `Host`, or with one that is not `host[:port]` (a user, a list, blanks) | 9112 3.2 | 400 | layer |
//! | an empty `Host` | ours: a name is wanted (9110 4.2.1) | 400 | layer |
//! | `*` for another method than `OPTIONS`; an authority (`GET a:80`) for another than `CONNECT` | 9112 3.2.3, 3.2.4 | 400 | layer |
//! | `CONNECT` for anything but a host and a port | 9110 9.3.6 | 400 | layer |
//! | an absolute target (`GET http://a/`) with user information | 9110 4.2.4 | 400 | layer |
//! | one whose host or port is not that of `Host`: `http://a:443/` beside `Host: a:80`, or `Host: a:443` | ours: 9112 3.2.2 has a server ignore `Host` | 400 | layer |
//! | a target longer than [`max_target_bytes`](StrictHttp1Config::max_target_bytes) | 9110 4.1 | 414 | layer |
//! | more header lines than [`max_headers`](StrictHttp1Config::max_headers) | 6585 5 | 431 | layer |
//! | bytes above 0x7f in a target, where [`allow_non_ascii_target`](StrictHttp1Config::allow_non_ascii_target) is off | 3986 2 | 400 | layer |
//! | `Transfer-Encoding` with a coding other than `chunked` | 9112 6.1 | 501 | both |
//! | one with `chunked` twice, not as the last, or with parameters; empty members | 9112 6.3, 7.1 | 400 | both |
//! | `Transfer-Encoding` beside `Content-Length`, in either order | 9112 6.3 | 400 | both |
//! | `Content-Length` twice, also if they are equal | ours: 9110 8.6 lets a server take equal ones | 400 | manager |
//! | a bare line feed as the end of a line, in heads and trailers | ours: 9112 2.2 lets a server take it | 400 | manager |
//! | a chunk's line that is not a size with extensions: `5;`, `5 `, `5;a=`, controls, open quotes | 9112 7.1 | the body fails, and the connection ends | manager |
//! | `Content-Length`, `Transfer-Encoding` or `Host` in a trailer | 9110 6.5.1 | the same | manager |
//! | a lone carriage return, folded lines, blanks before a colon, no number as a length, controls in names, values or targets | 9112 2.2, 5, 6.2 | 400 | hyper |
//! | a chunk's size with a sign, `0x`, `_`, too large, or no digit | 9112 7.1 | the body fails, and the connection ends | hyper |
//! | `Transfer-Encoding` in HTTP/1.0 | 9112 6.1 | 400 | hyper |
//!
//! These pass, since the grammar allows them: any blanks and tabs around a value, zeros before a length or a size,
//! extensions of chunks with blanks around `;` and `=` and with quoted strings, other fields in trailers, empty lines
//! before a request, the usual port of a scheme given or not. So do these, which it does not: bytes above 0x7f and `"`,
//! `|`, `{`, `\` and the like in a target, since curl, browsers and scripts send them; a fragment, which hyper cuts off;
//! HTTP/1.1 without `Host` whose target names the host (`GET http://a/`, `CONNECT a:80`), since hyper's client leaves it to
//! its user to add one, and a single name can't be read in two ways.
//!
//! Each answer says `Connection: close`. Over HTTP/2 the lengths hold too, 414 and 431, where cookies that come in
//! fields of their own count as one (9113 8.2.3). What else is meant here can't be said in it, but for authorities: the
//! `ConnectionManager` resets streams with `PROTOCOL_ERROR` whose `:authority` is not the `host`, is given twice or
//! carries user information (9113 8.3.1).
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
mod rules;
mod service;
mod violation;

pub use self::{
    body::StrictHttp1Body,
    config::StrictHttp1Config,
    future::StrictHttp1Future,
    layer::StrictHttp1Layer,
    rules::{BuildError, Http1Rules, Http1RulesBuilder, StrictHttp1Stats},
    service::StrictHttp1Service,
    violation::Violation,
};
pub use crate::config_error::ConfigError;
