//! Pools of buffers.

mod pool;
mod pooled;
mod slab;

pub use self::{pool::BufPool, pooled::PooledBuf};
