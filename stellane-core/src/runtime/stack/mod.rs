//! The layers around the user's service.
//!
//! Each request goes through metrics, deadlines, the limit, pools, the checks of strict HTTP/1, the body limit and
//! [`CatchFaultsLayer`](crate::catch_faults::CatchFaultsLayer). As many layers would move request and response as often, and count as many
//! references: they are one [service](service), with one future and one body, and what they keep for a request lies in
//! one box that the thread [uses again](in_flight). Requests that the limit does not let in at once are [rare](limited),
//! and take the layers themselves.

mod body;
mod future;
mod in_flight;
mod label;
mod layer;
mod layers;
mod queued;
mod service;

pub(super) use self::label::{tell as tell_route, tell_early};
pub use self::{
    body::PresetBody,
    future::PresetFuture,
    layer::PresetLayer,
    layers::{BodyLimitFuture, BodyLimitLayer, BodyLimitService, PresetLayers},
    service::PresetService,
};
