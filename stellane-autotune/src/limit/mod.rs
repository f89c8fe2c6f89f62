//! A concurrency limit that finds its own value.

mod admit;
mod aging;
pub mod algorithm;
mod aside;
mod body;
mod class;
mod class_config;
mod classify;
mod config;
mod control;
mod early;
mod fairness;
mod future;
mod gate;
mod grpc;
mod handle;
mod histogram;
mod keys;
mod layer;
mod lending;
#[cfg(feature = "load")]
mod load;
mod loan;
mod local_signal;
mod permit;
mod refusal;
mod request_body;
mod service;
mod shared;
pub(crate) mod slot;
pub(crate) mod visit;
pub(crate) mod wait;

pub use algorithm::{Algorithm, AlgorithmKind, LimitEvidence, LimitState};
pub use body::LimitBody;
pub use class::{Class, Outcome, Shed};
pub use class_config::ClassConfig;
pub use classify::{RequestHead, ResponseHead};
pub use config::{Hold, LimitConfig, LimitMode};
pub use future::LimitFuture;
pub use handle::{AdaptiveLimit, AdaptiveLimitBuilder, ClassStats, LimitStats};
pub use histogram::Latencies;
pub use keys::Key;
pub use layer::AdaptiveLimitLayer;
pub use local_signal::LocalSignal;
pub use permit::Permit;
pub use request_body::LimitRequestBody;
pub use service::AdaptiveLimitService;

pub(crate) use algorithm::Window;
pub(crate) use grpc::Dialect;
pub(crate) use histogram::{BUCKETS, Shard};
pub(crate) use refusal::{OnRefusal, Refusals};
pub(crate) use visit::Visit;
