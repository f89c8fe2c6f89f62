//! [`PoolLayer`]: the pools within reach of every handler of a tower stack.

mod current;
mod future;
mod handles;
#[expect(
    clippy::module_inception,
    reason = "one folder for each middleware, with the layer in layer.rs"
)]
mod layer;
mod service;

pub use self::{
    current::{InPoolScope, PoolScope},
    future::PoolFuture,
    layer::PoolLayer,
    service::PoolService,
};
