//! Each middleware of this crate.

#[path = "../support/looks.rs"]
mod looks;
#[cfg(feature = "http-layers")]
#[path = "../support/self_signed.rs"]
mod self_signed;

#[path = "../support/steps.rs"]
mod steps;

mod engine_selector;
mod fault;
mod hot_reload;
mod http_layers;
mod memory;
mod on_disconnect;
mod prepared;
mod strict_http1;
