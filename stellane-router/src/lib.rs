//! A tower router that copies nothing, and a bounded string interner.
//!
//! # Router
//!
//! ```
//! use stellane_router::{Path, Router};
//!
//! async fn hello() -> &'static str {
//!     "hello"
//! }
//!
//! async fn user(Path(id): Path<u64>) -> String {
//!     format!("user {id}")
//! }
//!
//! let api = Router::builder().get("/users/{id}", user);
//! let router = Router::builder().get("/", hello).nest("/api", api).build()?;
//! assert!(router.explain("/api/users/7").contains("/api/users/{id}"));
//! # Ok::<(), stellane_router::BuildReport>(())
//! ```
//!
//! A [`Router`] is a `tower::Service`. Handlers are async functions whose arguments are axum-core
//! extractors (those of axum work), or any tower service. A request is matched once, by one walk of a
//! tree compiled when the router was built; what its parameters are is kept as spans of the
//! request's own path. Calling a handler allocates nothing: its future lives in memory the thread
//! keeps, and the headers of the response in the map of the request.
//!
//! ## Templates
//!
//! | in a template | matches |
//! |---|---|
//! | `/users` | itself; `{{` and `}}` are braces |
//! | `{id}` | one segment or the part of it around which text stands, never empty: `/{name}.json`, `/v{major}.{minor}` |
//! | `{id:u64}` | the same if it is a `u32`, `u64`, `i64`, `uuid`, `date`, `hex`, `alpha`, `alnum`, `len(2..8)` or `one(a\|b)` |
//! | `{region:atom}` | anything; the value is worth interning, see `InternLayer` |
//! | `{*rest}` | what is left, slashes and all, possibly nothing |
//! | `{+rest}` | what is left, at least one character |
//!
//! A parameter before text ends at the first place where that text stands (at the last of the
//! segment, if the text ends it).
//!
//! The most specific route wins, in whatever order they were added. Read from the left, at the first
//! place where two templates differ: literal text before a parameter, longer text after the parameter
//! before shorter, a narrower constraint before a wider one, a parameter before the rest. If the one
//! preferred does not have the method, the next that has it answers; 405 means that none has it.
//!
//! ## Paths
//!
//! Matching sees the path as it was sent, except that escaped unreserved characters (`%61`) are
//! decoded first: RFC 3986 says they are the same path. `%2F` never separates. Parameters are decoded
//! once, after matching. A `%` that begins no escape is answered with 400. Dots (`/../`) and doubled
//! slashes are text like any other.
//!
//! ## Answers the router gives
//!
//! `HEAD` from `GET`; `OPTIONS` with `Allow`; 404; 405 with `Allow`; 501 for a method no route of the
//! table has; 308 under [`SlashPolicy::Redirect`].
//!
//! # Interner
//!
//! See `Interner`.
//!
//! # Features
//!
//! | feature | default | what |
//! |---|---|---|
//! | `router` | yes | the router |
//! | `json` | yes | `Json` |
//! | `interner` | yes | the interner; alone it depends on `quick_cache` and `foldhash` only |
//! | `serde` | no | config structs can be read and written |
//! | `metrics` | no | an `Atom` becomes a `metrics::SharedString` |

mod error;
pub use error::ConfigError;

#[cfg(feature = "router")]
mod block;
#[cfg(feature = "router")]
mod body;
#[cfg(feature = "router")]
mod build;
#[cfg(feature = "router")]
mod builder;
#[cfg(feature = "router")]
mod compiled;
#[cfg(feature = "router")]
mod config;
#[cfg(feature = "router")]
mod endpoint;
#[cfg(feature = "router")]
mod escape;
#[cfg(feature = "router")]
mod handler;
#[cfg(feature = "router")]
mod host;
#[cfg(feature = "interner")]
mod interner;
#[cfg(feature = "json")]
mod json;
#[cfg(feature = "router")]
mod layer;
#[cfg(feature = "router")]
mod matcher;
#[cfg(feature = "router")]
mod methods;
#[cfg(feature = "router")]
mod params;
#[cfg(feature = "router")]
mod path;
#[cfg(feature = "router")]
mod reply;
#[cfg(feature = "router")]
mod report;
#[cfg(feature = "router")]
mod router;
#[cfg(feature = "router")]
mod scan;
#[cfg(feature = "router")]
mod stats;
#[cfg(feature = "router")]
mod table;
#[cfg(feature = "router")]
mod witness;

#[cfg(feature = "interner")]
pub use interner::{Atom, Interner, InternerBuilder, InternerConfig, InternerStats};
#[cfg(all(feature = "interner", feature = "router"))]
pub use interner::{InternLayer, InternService, InternedRoute};
#[cfg(feature = "json")]
pub use json::Json;
#[cfg(feature = "router")]
pub use {
    body::Body,
    builder::RouterBuilder,
    config::RouterConfig,
    endpoint::{EndpointFuture, Route},
    handler::Handler,
    layer::{RouteLayer, RouteService},
    params::{NoRoute, Params, RouteMatch},
    path::{Path, PathRejection},
    reply::IntoReply,
    report::{BuildReport, Problem},
    router::{RouteFuture, Router},
    stats::{RouteLayerStats, RouterStats},
    table::{Located, RouteId, RouteInfo, RouteTable, SlashPolicy},
};
