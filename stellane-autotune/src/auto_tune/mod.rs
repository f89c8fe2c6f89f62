//! [`AutoTuneLayer`]: a tuner whose signals are the requests that pass.

mod body;
mod future;
mod layer;
mod service;
mod traffic;

pub use self::{
    body::AutoTuneBody, future::AutoTuneFuture, layer::AutoTuneLayer, service::AutoTuneService,
    traffic::TrafficStats,
};
