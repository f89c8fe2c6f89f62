//! For services that wrap futures and bodies anyway: what [`AdaptiveLimitLayer`](crate::AdaptiveLimitLayer) does for a
//! request, without a future and a body of its own.

pub use crate::limit::{admission::Admission, held::ThreadPlace};
