//! A tower router that copies nothing, and a bounded string interner.
//!
//! # Which part do I want?
//!
//! | I have | I take |
//! |---|---|
//! | handlers, or services, for paths | [`Router`] |
//! | a stack inside that wants to know the route | [`RouteLayer`] |
//! | the same few strings in millions of requests | [`Interner`], by [`InternLayer`] in front of any service |
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
//! | `{id:u64}` | the same if it is, from narrow to wide, `one(a\|b)`, a `uuid`, `date`, `u32`, `u64`, `i64`, `hex`, `alpha`, `alnum` or of `len(2..8)` characters |
//! | `{region:atom}` | anything; the value is worth interning, see `InternLayer` |
//! | `{*rest}` | what is left, slashes and all, possibly nothing |
//! | `{+rest}` | what is left, at least one character |
//! | `{*path}/-/x` | the same before a `/`, as little of the path as what follows allows: `/{*group}/{project}/-/issues` |
//!
//! A parameter before text ends at the last place of its segment where that text stands or, if the rest of
//! the template does not fit then, at the first: `/{name}.{ext}` reads `/a.tar.gz` as `a.tar` and `gz`,
//! `/{id:u64}-{title}` reads `/7-a-b` as `7` and `a-b`.
//!
//! The most specific route wins, in whatever order they were added. Read from the left, at the first
//! place where two templates differ: literal text before a parameter, longer text after the parameter
//! before shorter, a narrower constraint before a wider one, a
//! parameter before `{+path}/…`, that before `{*path}/…`, that before the rest. Where they do not differ but
//! take different parts of the path, the one wins whose parameter before text ends last, and whose
//! `{*path}/…` ends first. If the one preferred does not have the method, the next that has it answers; 405
//! means that none has it. Templates that differ only in the names of their parameters are one place, with
//! the names of each for its own methods.
//!
//! Where nothing decides, as between `/{a}.{b}` and `/{a}-{b}`, the routes are refused with a path that both
//! match, and so are routes that can never answer.
//!
//! ## Paths
//!
//! A path is matched as it was sent, except that what clients send in two forms is one text:
//!
//! | character | browsers, Node | curl | Python | matches |
//! |---|---|---|---|---|
//! | letters, digits, `-` `.` `_` `~` | as it is | as it is | as it is | raw and escaped (`%61`) |
//! | `\|` `^` `[` `]` | as it is (newer ones `%5E`) | as it is | escaped | raw and escaped |
//! | `"` `{` `}` | escaped | as it is | escaped | raw and escaped |
//! | `\` | `/` instead | as it is | escaped | raw and escaped |
//! | not ASCII | escaped | as it is | escaped | raw and escaped |
//! | space `<` `>` `` ` `` | escaped | no URI holds it | escaped | escaped |
//! | `:` `@` `!` `$` `&` `'` `(` `)` `*` `+` `,` `;` `=` | as it is | as it is | as it is, by `quote` escaped | as in the template: by RFC 3986 `%3A` is not `:` |
//!
//! `%2F` never separates. Parameters are decoded once, after matching; the handler finds the target as it
//! was sent in the request. A `%` that begins no escape is answered with 400. Dots (`/../`) and doubled
//! slashes are text like any other.
//!
//! ## Answers the router gives
//!
//! `HEAD` from `GET`; `OPTIONS` with `Allow`; 404; 405 with `Allow`; 501 for a method that is neither standard
//! nor one of the table's (`get` is not `GET`); 308 under [`SlashPolicy::Redirect`].
//!
//! # Interner
//!
//! See `Interner`, and `InternLayer`, which interns headers, tenants or claims in front of any service.
//!
//! # Features
//!
//! | feature | default | what |
//! |---|---|---|
//! | `router` | yes | the router |
//! | `json` | yes | `Json` |
//! | `axum-08` | no | `Path`, `RawPathParams` and `MatchedPath` of axum 0.8 work in our handlers and within extractors of your own, for some allocations more each; ours cost none |
//! | `interner` | yes | the interner; alone it depends on `quick_cache` and `foldhash` only |
//! | `intern-layer` | yes | `InternLayer`; needs no router |
//! | `serde` | no | config structs can be read and written |
//! | `tracing` | yes | a line for every 500 of an extractor that does not fit its route |
//! | `metrics` | no | an `Atom` becomes a `metrics::SharedString` |
#![cfg_attr(docsrs, feature(doc_cfg))]

mod error;
pub use error::ConfigError;

#[cfg(feature = "axum-08")]
mod axum_view;
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
mod conflicts;
#[cfg(feature = "router")]
mod current;
#[cfg(feature = "router")]
mod de;
#[cfg(feature = "router")]
mod endpoint;
#[cfg(feature = "router")]
mod escape;
#[cfg(feature = "router")]
mod explain;
#[cfg(feature = "router")]
mod foreign;
#[cfg(feature = "router")]
mod future;
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
mod openapi;
#[cfg(feature = "router")]
mod params;
#[cfg(feature = "router")]
mod path;
#[cfg(feature = "router")]
mod recycled_box;
#[cfg(feature = "router")]
mod reply;
#[cfg(feature = "router")]
mod report;
#[cfg(feature = "router")]
mod route_match;
#[cfg(feature = "router")]
mod router;
#[cfg(feature = "router")]
mod scan;
#[cfg(feature = "router")]
mod scope;
#[cfg(feature = "router")]
mod seldom;
#[cfg(feature = "router")]
mod stats;
#[cfg(feature = "router")]
mod table;
#[cfg(feature = "router")]
mod types;
#[cfg(feature = "router")]
mod unreachable;
#[cfg(feature = "router")]
mod url;

#[cfg(all(feature = "intern-layer", feature = "router"))]
pub use interner::InternedRoute;
#[cfg(feature = "interner")]
pub use interner::{Atom, Interner, InternerBuilder, InternerConfig, InternerStats};
#[cfg(feature = "intern-layer")]
pub use interner::{InternLayer, InternService, Interned};
#[cfg(feature = "json")]
pub use json::Json;
#[cfg(feature = "router")]
pub use {
    body::set_default_body_limit,
    builder::RouterBuilder,
    config::RouterConfig,
    endpoint::{EndpointFuture, Route, ScopeService},
    future::RouteFuture,
    handler::Handler,
    layer::{RouteLayer, RouteService},
    methods::IntoMethods,
    openapi::{ApiParameter, ApiRoute, ApiSchema},
    params::Params,
    path::{Path, PathRejection},
    reply::IntoReply,
    report::{BuildReport, Problem},
    route_match::NoRoute,
    router::Router,
    stats::{RouteLayerStats, RouterStats},
    table::Located,
    types::{Body, RouteId, RouteInfo, RouteMatch, RouteTable, SlashPolicy},
    url::{Link, UrlError, UrlValues},
};
