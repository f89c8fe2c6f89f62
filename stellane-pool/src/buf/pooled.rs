use std::{
    fmt, io, mem,
    ops::{Deref, DerefMut},
};

use bytes::{BufMut, Bytes, BytesMut, buf::UninitSlice};

use super::slab::{Classes, Slab, slab};
use crate::Pooled;

/// A growable buffer from a [`BufPool`](super::BufPool); it returns when dropped, or after [`freeze`](Self::freeze) when
/// the last of the `Bytes` is dropped.
///
/// Write through [`BufMut`], [`io::Write`], [`fmt::Write`] or
/// [`extend_from_slice`](Self::extend_from_slice). A buffer that outgrows its class moves to the next one;
/// past 1 MiB it is ordinary memory that is freed at the end.
pub struct PooledBuf {
    /// The memory, in the open: writing touches nothing else.
    buf: BytesMut,
    /// Where it returns to; `None` if it is too large to keep.
    slab: Option<Pooled<Slab>>,
}

impl PooledBuf {
    #[inline]
    pub(super) fn take(classes: &Classes, capacity: usize) -> Self {
        match slab(classes, capacity) {
            Some(mut slab) => Self {
                buf: mem::take(&mut slab.buf),
                slab: Some(slab),
            },
            None => Self {
                buf: BytesMut::with_capacity(capacity),
                slab: None,
            },
        }
    }

    /// How many bytes fit without growing.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.buf.capacity()
    }

    /// Makes room for `additional` more bytes.
    #[inline]
    pub fn reserve(&mut self, additional: usize) {
        if self.buf.capacity() - self.buf.len() < additional {
            self.grow(additional);
        }
    }

    /// Appends `bytes`.
    #[inline]
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.buf.extend_from_slice(bytes);
    }

    /// Drops what was written.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Drops what was written beyond `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        if self.slab.as_ref().is_some_and(|slab| slab.scrub)
            && let Some(dropped) = self.buf.get_mut(len..)
        {
            dropped.fill(0);
        }
        self.buf.truncate(len);
    }

    /// What was written, as `Bytes` that share the memory. It goes back to the pool when the last clone is
    /// dropped; no allocation is made once the buffer has been frozen before.
    ///
    /// Keep the `Bytes` for the length of a request. Long-lived ones are fine, but after two ticks the
    /// pool leaves the whole buffer to them: copy a small part that is to live long.
    #[inline]
    pub fn freeze(mut self) -> Bytes {
        if self.buf.is_empty() {
            return Bytes::new();
        }
        let bytes = self.buf.split().freeze();
        if let Some(mut slab) = self.slab.take() {
            slab.frozen = bytes.len();
            slab.buf = mem::take(&mut self.buf);
            slab.lend();
        }
        bytes
    }

    #[cold]
    fn grow(&mut self, additional: usize) {
        let wanted = self
            .len()
            .saturating_add(additional)
            .max(self.capacity().saturating_mul(2));
        let classes = self.slab.as_ref().and_then(|slab| slab.classes.upgrade());
        if let Some(classes) = classes {
            let mut larger = Self::take(&classes, wanted);
            larger.buf.extend_from_slice(&self.buf);
            *self = larger;
            return;
        }
        // Not pooled, or the pool is gone: this memory will not return, so it may grow where it is.
        drop(self.slab.take().map(Pooled::detach));
        self.buf.reserve(additional);
    }
}

impl Drop for PooledBuf {
    #[inline]
    fn drop(&mut self) {
        if let Some(slab) = &mut self.slab {
            slab.buf = mem::take(&mut self.buf);
        }
    }
}

impl Deref for PooledBuf {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.buf
    }
}

impl DerefMut for PooledBuf {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.buf
    }
}

impl AsRef<[u8]> for PooledBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

// SAFETY: `chunk_mut` is the spare capacity of one `BytesMut`, and `advance_mut` is that buffer's own,
// which checks the bound; growing keeps what was written.
unsafe impl BufMut for PooledBuf {
    fn remaining_mut(&self) -> usize {
        isize::MAX as usize - self.len()
    }

    #[inline]
    unsafe fn advance_mut(&mut self, count: usize) {
        // SAFETY: the caller keeps the contract of `advance_mut`.
        unsafe { self.buf.advance_mut(count) }
    }

    #[inline]
    fn chunk_mut(&mut self) -> &mut UninitSlice {
        self.reserve(1);
        UninitSlice::uninit(self.buf.spare_capacity_mut())
    }

    #[inline]
    fn put_slice(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn put_bytes(&mut self, byte: u8, count: usize) {
        self.reserve(count);
        self.buf.put_bytes(byte, count);
    }
}

impl io::Write for PooledBuf {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Write for PooledBuf {
    #[inline]
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

impl fmt::Debug for PooledBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Sizes only: a request's bytes do not belong in a log.
        f.debug_struct("PooledBuf")
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}
