use bytes::BytesMut;

use crate::{Fate, Recycle, RecycleCx};

/// The memory of one pooled buffer.
///
/// `freeze` splits the written part off as `Bytes`; this handle keeps the rest, and with it a share in
/// the allocation. Once the `Bytes` and all their clones are gone, `try_reclaim` makes the whole of it
/// ours again without allocating.
pub(super) struct Slab {
    pub(super) buf: BytesMut,
    /// What the buffer was made for, in bytes.
    size: usize,
    /// How many bytes at the start still hold what was frozen from here.
    dirty: usize,
    scrub: bool,
}

impl Slab {
    pub(super) fn new(size: usize, scrub: bool) -> Self {
        Self {
            buf: BytesMut::with_capacity(size),
            size,
            dirty: 0,
            scrub,
        }
    }

    /// Splits off what was written.
    pub(super) fn split(&mut self) -> BytesMut {
        self.dirty = self.buf.len();
        self.buf.split()
    }

    /// Drops what was written beyond `len` bytes.
    pub(super) fn truncate(&mut self, len: usize) {
        if self.scrub
            && let Some(dropped) = self.buf.get_mut(len..)
        {
            dropped.fill(0);
        }
        self.buf.truncate(len);
    }

    fn clean(&mut self) {
        if self.scrub && self.dirty > 0 {
            self.buf.resize(self.dirty, 0);
        }
        self.dirty = 0;
        self.buf.clear();
    }
}

impl Recycle for Slab {
    fn recycle(&mut self, cx: &RecycleCx) -> Fate {
        self.truncate(0);
        cx.fate_of(self.size)
    }

    fn retained_bytes(&self) -> usize {
        self.size
    }

    fn is_free(&mut self) -> bool {
        if self.dirty == 0 {
            return true;
        }
        let free = self.buf.try_reclaim(self.size);
        if free {
            self.clean();
        }
        free
    }
}
