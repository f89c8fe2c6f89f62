//! The production runtime for axum, tonic and hyper: connection manager, configuration and the
//! full-stack preset of Stellane.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let app = Router::new().route("/", get(async || "hello"));
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//!     stellane_core::serve(listener, app).await?; // was: axum::serve(listener, app).await?
//!     Ok(())
//! }
//! ```
//!
//! It ends at Ctrl-C or `SIGTERM`, when what is being answered is answered. `STELLANE__SERVER__ADMIN_ADDRESS=auto` in the
//! environment adds the live page and `/metrics` on `127.0.0.1:9090`, where axum's routes have names by one line more:
//! `.route_layer(`[`RouteLabelLayer::axum()`](stellane_metrics::RouteLabelLayer)`)`. What it has to say goes to `tracing`: a program
//! that has no subscriber hears nothing, until it calls [`logging::init`].
//!
//! # Which part do I want?
//!
//! | I have | I take |
//! |---|---|
//! | an axum app | [`serve`], or [`serve_make`] for `into_make_service…`; feature `axum-08` |
//! | services of tonic | [`serve`] of `tonic::service::Routes`; feature `tonic-014` |
//! | a service of hyper or tower | [`serve`] ([`HyperService`] for hyper's), or the [`connection`] manager alone |
//! | a configuration file, background work, readiness checks | [`Runtime`], which the docs of [`runtime`] tell of |
//! | an `axum::serve` that stays | the layers under [Components](#components) |
//! | many tests that each start a server | [`serve`], or [`BoxApp`]: the server is not compiled for each type of service |
//! | a server to choose | the table of [`runtime`]: what `axum::serve`, tonic's server and this one offer |
//!
//! Whole programs are in the [`guide`]; what can be set, and by which of file, environment and program, in [`config`].
//!
//! # Features
//!
//! | feature | in `full`, the default | brings |
//! |---|---|---|
//! | `preset` | yes | [`serve`], [`Runtime`], [`PresetLayer`], with all below that needs neither C nor a thread |
//! | `admin`, `tuner`, `workers`, `reload`, `restart` | yes | admin address, tuner, worker pool, a configuration that follows its file, restarts on the same sockets |
//! | `http2`, `tls` | yes | HTTP/2; TLS by rustls with the cryptography that you bring |
//! | `service-builder` | yes | each layer as a method of `ServiceBuilder` |
//! | `axum-08`, `tonic-014` | | what requests carry under `axum::serve` and under tonic's server |
//! | `tls-ring`, `tls-aws-lc-rs` | | cryptography for TLS from files |
//! | `http-layers` | | the section `[http]`: CORS, compression, request ids and others of tower-http's |
//! | `fleet` | | the section `[fleet]`: what replicas tell balancers and the services that they call |
//! | `redis` | | rates of `[rate_limit]` that replicas share by Redis or Valkey |
//! | `otlp` | | [`otlp`]: metrics and spans for a collector of OpenTelemetry |
//! | `profiling` | | profiles of CPU, heap and blocking: a service, and on the admin address of the preset |
//! | `cancel-points` | | [`cancel_points`]: a test that drops a future of any program at each await |
//! | `connection`, `engine`, `layers`, … | within `preset` | each component alone, by `default-features = false` |
//!
//! # Components
//!
//! Each is a tower `Layer` or `Service` of its own, and works in any tower stack. Each test runs twice, in a stack of
//! `axum::serve` (`tests/components/axum_serve.rs`) and in plain hyper-util (`tests/components/plain_hyper.rs`), where nothing else of
//! ours is.
//!
//! | component | in a stack | its test |
//! |---|---|---|
//! | connection manager | `Service` of connections: `ConnectionManager::service`, `make_service` | `a_limit_around_the_manager_counts_connections`, `a_timeout_around_the_manager_ends_connections`, `a_make_service_makes_one_for_each_connection` |
//! | engines | `Engine::serve`, of any service | `engines_serve_any_service` |
//! | tuner | `AutoTuneLayer` | `the_tuner_turns_a_limit_and_a_pool_of_others`, `the_tuner_undoes_what_made_things_worse` |
//! | adaptive limit | `AdaptiveLimitLayer` | `the_adaptive_limit_refuses_what_is_too_much` |
//! | the same for tower's balancers | `tower::load::Load` | `stellane-autotune/tests/load.rs` |
//! | rates by key | `RateLimitLayer` | `who_asks_too_often_is_told_so_and_nobody_else` |
//! | rates that replicas share | `SharedRateLimitLayer` | `stellane-autotune/tests/shared_rates.rs` |
//! | deadlines | `OverloadLayer` | `overload_ends_what_exceeds_its_deadline` |
//! | the same for the calls of a request | `DeadlineScopeLayer`; `HandOnDeadlineLayer` before a client | `calls_are_told_how_much_time_is_left` |
//! | request metrics, labels of routes | `MetricsLayer`, `RouteLabelLayer` | `metrics_count_by_the_labels_of_routes` |
//! | load reports for balancers | `LoadReportLayer` | `an_answer_tells_how_loaded_the_replica_is` |
//! | object and buffer pools | `PoolLayer` | `pools_are_within_reach_of_a_handler` |
//! | worker pool | `WorkerPoolLayer` | `workers_run_a_whole_app_and_end_what_panics`, `routes_and_pools_reach_the_worker_of_an_app` |
//! | router | `Router`, a `Service`; `RouteLayer` | `the_router_is_a_service_like_any_other`, `a_route_layer_tells_who_is_inside_the_route` |
//! | interner | `InternLayer` | `headers_and_claims_are_interned_without_a_router` |
//! | rules of HTTP/1 | `StrictHttp1Layer` | `strict_rules_refuse_what_is_ambiguous` |
//! | panics and errors | `CatchFaultsLayer` | `a_panic_is_answered_and_counted` |
//! | a client that leaves | `OnDisconnectLayer` | `a_handler_whose_client_has_left_goes_on` |
//! | memory of bodies | `MemoryBudgetLayer` | `what_a_client_has_not_read_counts` |
//! | prepared answers | `PreparedLayer`; `PreparedOnlyService` | `prepared_answers_come_before_the_service` |
//! | accelerated services | `EngineSelectorLayer` | `an_engine_selector_accelerates_chosen_routes` |
//! | reloading pages | `LiveReloadLayer` | `live_reload_adds_its_script_to_pages_only` |
//! | admin pages, scrapes | `AdminService`; `Prometheus`, a `Service` | `an_admin_service_shows_what_it_is_given`, `a_scrape_is_a_service_of_its_own` |
//! | profiles | `ProfileLayer`, `ProfileService`, `SlowPollLayer` | `profiles_tell_which_route_held_a_thread` |
//! | a line for each request | `AccessLogLayer` | `every_request_has_a_line` |
//! | spans | `TraceLayer` of `stellane-metrics` | `stellane-metrics/tests/trace.rs` |
//! | tower-http's by configuration | `HttpLayers`: `HttpOuterLayer`, `HttpInnerLayer` | `tests/middleware/http_layers.rs` |
//! | all of it | `PresetLayer` | `tests/preset/layer.rs`, `tests/preset/is_its_layers.rs` |
//! | the same one by one | `Components::layers`, with `BodyLimitLayer`, `RequestBytesLayer` | `tests/preset/is_its_layers.rs`, `stellane-metrics/tests/layer.rs` |
//! | each as a method of `ServiceBuilder` | `StellaneBuilderExt` | `one_chain_takes_methods_of_tower_http_and_ours` |
//!
//! # Words
//!
//! | word | here |
//! |---|---|
//! | abandon | to leave a request before its answer, as its client does |
//! | class | requests that share a part of the limit or of the workers' time |
//! | drain | to end all connections without losing a request |
//! | engine | what runs a service on runtimes: one for all cores, or one for each |
//! | knob | a value that can be changed while serving, and that the tuner may turn |
//! | lend | to give a place under the limit to others while its request waits for its client |
//! | park | to take an idle connection apart, so that it costs a socket and no buffer |
//! | place | what a request holds under the limit while the service works for it; what a connection holds |
//! | preset | all components in one stack, as `Runtime` serves it |
//! | pressure | how scarce memory, files or places are, from 0 to 1; timeouts shrink by it |
//! | shed | to refuse a request because there is too much to do, and only then |
//! | signal | a number that the tuner reads at each tick |
//! | sweep | the one walk over all connections by which their deadlines are kept |
//! | trim | to give idle pooled memory back to the system |
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(all(feature = "layers", feature = "logging"))]
pub mod access_log;
#[cfg(feature = "cancel-points")]
pub mod cancel_points;
#[cfg(feature = "layers")]
pub mod catch_faults;
#[cfg(feature = "config")]
pub mod config;
#[cfg(any(
    feature = "connection",
    feature = "engine-selector",
    feature = "layers"
))]
mod config_error;
#[cfg(feature = "connection")]
pub mod connection;
#[cfg(feature = "tls")]
mod cryptography;
#[cfg(any(feature = "reload", feature = "tls"))]
mod detached;
#[cfg(feature = "engine")]
pub mod engine;
#[cfg(feature = "engine-selector")]
pub mod engine_selector;
#[cfg(feature = "full")]
pub mod guide;
#[cfg(feature = "hot-reload")]
pub mod hot_reload;
#[cfg(feature = "logging")]
pub mod logging;
#[cfg(feature = "layers")]
pub mod memory;
#[cfg(feature = "engine-selector")]
mod of_threads;
#[cfg(feature = "on-disconnect")]
pub mod on_disconnect;
#[cfg(feature = "otlp")]
pub mod otlp;
#[cfg(feature = "engine-selector")]
pub mod prepared;
#[cfg(feature = "profiling")]
pub mod profiling;
#[cfg(all(unix, feature = "restart"))]
pub mod restart;
#[cfg(feature = "preset")]
pub mod runtime;
#[cfg(feature = "service-builder")]
mod service_builder;
#[cfg(feature = "config")]
mod size;
#[cfg(feature = "layers")]
pub mod strict_http1;
#[cfg(any(feature = "connection", feature = "layers"))]
mod transfer_coding;

#[cfg(feature = "config")]
#[doc(inline)]
pub use config::RuntimeConfig;
#[cfg(feature = "connection")]
#[doc(inline)]
pub use connection::drain_token;
#[cfg(feature = "on-disconnect")]
#[doc(inline)]
pub use on_disconnect::OnDisconnectLayer;
#[cfg(feature = "http-layers")]
#[doc(inline)]
pub use runtime::HttpLayers;
#[cfg(feature = "preset")]
#[doc(inline)]
pub use runtime::{
    App, BoxApp, Components, HyperService, IntoListener, PresetLayer, RefusalKind, RequestBody,
    RequestBodyError, RequestLimits, Runtime, RuntimeError, connections, serve, serve_make,
    waits_for,
};
#[cfg(feature = "axum-08")]
#[doc(inline)]
pub use runtime::{AxumService, axum_listener};
#[cfg(feature = "service-builder")]
#[doc(inline)]
pub use service_builder::StellaneBuilderExt;
/// The crates of the components, as this version of the preset uses them.
#[cfg(feature = "autotune")]
pub use stellane_autotune as autotune;
#[cfg(feature = "metrics")]
pub use stellane_metrics as metrics;
#[cfg(feature = "pool")]
pub use stellane_pool as pool;
#[cfg(feature = "router")]
pub use stellane_router as router;

/// Any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
