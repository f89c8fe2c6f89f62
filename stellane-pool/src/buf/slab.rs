use std::sync::Weak;

use bytes::BytesMut;

use crate::{Fate, Pool, Pooled, Recycle, RecycleCx};

/// The size classes, in bytes.
pub(super) const CLASSES: [usize; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];

pub(super) type Classes = [Pool<Slab>; CLASSES.len()];

/// The smallest pooled buffer with room for `capacity` bytes, unless it is not to be pooled.
#[inline]
pub(super) fn slab(classes: &Classes, capacity: usize) -> Option<Pooled<Slab>> {
    let class = CLASSES.iter().position(|size| capacity <= *size)?;
    let pool = &classes[class];
    // A pool that keeps nothing would only add to the cost of the allocation.
    (!pool.is_off()).then(|| pool.take())
}

/// The memory of one pooled buffer, while nobody writes to it.
///
/// `freeze` splits the written part off as `Bytes`; this handle keeps the rest, and with it a share in
/// the allocation. Once the `Bytes` and all their clones are gone, `try_reclaim` makes the whole of it
/// ours again without allocating.
pub(super) struct Slab {
    /// Lent to the [`PooledBuf`](super::PooledBuf) while it is out.
    pub(super) buf: BytesMut,
    /// What the buffer was made for, in bytes.
    size: usize,
    /// How many bytes at the start still hold what was frozen from here.
    pub(super) frozen: usize,
    pub(super) scrub: bool,
    /// Where a buffer that grows finds a larger one. Weak: a pool must not keep itself alive.
    pub(super) classes: Weak<Classes>,
}

impl Slab {
    pub(super) fn new(size: usize, scrub: bool, classes: Weak<Classes>) -> Self {
        Self {
            buf: BytesMut::with_capacity(size),
            size,
            frozen: 0,
            scrub,
            classes,
        }
    }
}

impl Recycle for Slab {
    #[inline]
    fn recycle(&mut self, cx: &RecycleCx) -> Fate {
        if self.scrub {
            self.buf.fill(0);
        }
        self.buf.clear();
        cx.fate_of(self.size)
    }

    #[inline]
    fn retained_bytes(&self) -> usize {
        self.size
    }

    fn is_free(&mut self) -> bool {
        if self.frozen > 0 {
            if !self.buf.try_reclaim(self.size) {
                return false;
            }
            if self.scrub {
                self.buf.resize(self.frozen, 0);
                self.buf.clear();
            }
            self.frozen = 0;
        }
        true
    }
}
