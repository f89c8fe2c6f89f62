//! The preset: what it consists of, how it is wired, what it answers and measures.
#![cfg(feature = "full")]

#[path = "../support/ask.rs"]
mod ask;
#[path = "../support/frames.rs"]
mod frames;
#[path = "../support/log.rs"]
mod log;
#[path = "../support/looks.rs"]
mod looks;
#[path = "../support/random.rs"]
mod random;
#[path = "../support/self_signed.rs"]
mod self_signed;
#[path = "../support/steps.rs"]
mod steps;
#[path = "../support/until.rs"]
mod until;

mod access_log;
mod bypass;
mod classes;
mod drain;
mod figures;
#[cfg(feature = "fleet")]
mod fleet;
mod is_its_layers;
mod layer;
mod ledger;
mod memory;
mod on_disconnect;
mod parity;
mod places;
mod rate_limits;
mod refusals;
mod route_limits;
mod runtime;
mod tonic;
mod trace;
mod waited;
mod watching;
mod wiring;
