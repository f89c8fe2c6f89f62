//! For services that wrap futures anyway: what [`PoolLayer`](crate::PoolLayer) does for a request, without a future of its
//! own.

pub use crate::layer::{InPoolScope, PoolScope};
