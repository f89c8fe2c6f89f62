//! Deadlines that requests bring along, and how much pressure the process is under.
//!
//! [`OverloadLayer`] takes the time a client is willing to wait from the request, refuses what
//! cannot be answered in it, passes the rest on as a [`Deadline`], and ends what exceeds it.
//! [`DeadlineScopeLayer`] and [`HandOnDeadlineLayer`] hand it on to the calls that are made for the request.
//! [`Pressure`] turns memory, file descriptors, stalls and lag into one level from 0 to 1, by which
//! timeouts are scaled down and idle connections are given up.

mod config;
mod deadline;
mod future;
mod hand_on;
mod layer;
mod pressure;
mod service;
pub mod sources;

pub use config::OverloadConfig;
pub use deadline::Deadline;
pub use future::OverloadFuture;
pub(crate) use future::{TimeOut, Timed, timed_body};
pub use hand_on::{
    DeadlineScopeFuture, DeadlineScopeLayer, DeadlineScopeService, HandOnDeadlineLayer,
    HandOnDeadlineService,
};
pub(crate) use layer::Shared;
pub use layer::{OverloadLayer, OverloadLayerBuilder, OverloadStats};
pub use pressure::{Pressure, PressureBuilder};
pub use service::OverloadService;
