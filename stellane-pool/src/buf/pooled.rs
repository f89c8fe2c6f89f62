use std::{
    fmt, io,
    ops::{Deref, DerefMut},
};

use bytes::{BufMut, Bytes, BytesMut, buf::UninitSlice};

use super::{BufPool, slab::Slab};
use crate::Pooled;

/// A growable buffer from a [`BufPool`]; it returns when dropped, or after [`freeze`](Self::freeze) when
/// the last of the `Bytes` is dropped.
///
/// Write through [`BufMut`], [`io::Write`], [`fmt::Write`] or
/// [`extend_from_slice`](Self::extend_from_slice). A buffer that outgrows its class moves to the next one;
/// past 1 MiB it is ordinary memory that is freed at the end.
pub struct PooledBuf {
    memory: Memory,
    pool: BufPool,
}

enum Memory {
    Pooled(Pooled<Slab>),
    /// Too large to keep.
    Loose(BytesMut),
}

impl PooledBuf {
    pub(super) fn new(pool: BufPool, slab: Option<Pooled<Slab>>, capacity: usize) -> Self {
        let memory = match slab {
            Some(slab) => Memory::Pooled(slab),
            None => Memory::Loose(BytesMut::with_capacity(capacity)),
        };
        Self { memory, pool }
    }

    /// How many bytes fit without growing.
    pub fn capacity(&self) -> usize {
        self.buf().capacity()
    }

    /// Makes room for `additional` more bytes.
    pub fn reserve(&mut self, additional: usize) {
        let buf = self.buf();
        if buf.capacity() - buf.len() < additional {
            self.grow(additional);
        }
    }

    /// Appends `bytes`.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.buf_mut().extend_from_slice(bytes);
    }

    /// Drops what was written.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Drops what was written beyond `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        match &mut self.memory {
            Memory::Pooled(slab) => slab.truncate(len),
            Memory::Loose(buf) => buf.truncate(len),
        }
    }

    /// What was written, as `Bytes` that share the memory. It goes back to the pool when the last clone is
    /// dropped; no allocation is made once the buffer has been frozen before.
    ///
    /// Keep the `Bytes` for the length of a request. Long-lived ones are fine, but after two ticks the
    /// pool leaves the whole buffer to them: copy a small part that is to live long.
    pub fn freeze(self) -> Bytes {
        match self.memory {
            Memory::Pooled(slab) if slab.buf.is_empty() => Bytes::new(),
            Memory::Pooled(mut slab) => {
                let bytes = slab.split().freeze();
                slab.lend();
                bytes
            }
            Memory::Loose(buf) => buf.freeze(),
        }
    }

    #[inline]
    fn buf(&self) -> &BytesMut {
        match &self.memory {
            Memory::Pooled(slab) => &slab.buf,
            Memory::Loose(buf) => buf,
        }
    }

    #[inline]
    fn buf_mut(&mut self) -> &mut BytesMut {
        match &mut self.memory {
            Memory::Pooled(slab) => &mut slab.buf,
            Memory::Loose(buf) => buf,
        }
    }

    #[cold]
    fn grow(&mut self, additional: usize) {
        let len = self.len();
        let wanted = len
            .saturating_add(additional)
            .max(self.capacity().saturating_mul(2));
        match &mut self.memory {
            Memory::Loose(buf) => buf.reserve(additional),
            Memory::Pooled(old) => {
                let memory = match self.pool.slab(wanted) {
                    Some(mut slab) => {
                        slab.buf.extend_from_slice(&old.buf);
                        Memory::Pooled(slab)
                    }
                    None => {
                        let mut buf = BytesMut::with_capacity(wanted);
                        buf.extend_from_slice(&old.buf);
                        Memory::Loose(buf)
                    }
                };
                self.memory = memory;
            }
        }
    }
}

impl Deref for PooledBuf {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.buf()
    }
}

impl DerefMut for PooledBuf {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.buf_mut()
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
        unsafe { self.buf_mut().advance_mut(count) }
    }

    #[inline]
    fn chunk_mut(&mut self) -> &mut UninitSlice {
        self.reserve(1);
        let spare = self.buf_mut().spare_capacity_mut();
        UninitSlice::uninit(spare)
    }

    fn put_slice(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn put_bytes(&mut self, byte: u8, count: usize) {
        self.reserve(count);
        self.buf_mut().put_bytes(byte, count);
    }
}

impl io::Write for PooledBuf {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Write for PooledBuf {
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
