//! What came once, and is worth knowing when it comes again.

use std::mem;

use bytes::Bytes;

/// The latest bytes that came, if there are no more than `MAX`.
#[derive(Default)]
pub(crate) struct Once<const MAX: usize>(Vec<u8>);

impl<const MAX: usize> Once<MAX> {
    /// Those that come twice in a row, in memory of their own: what was read must not be kept for longer than its request.
    pub(crate) fn again(&mut self, bytes: &[u8]) -> Option<Bytes> {
        if bytes.len() > MAX {
            return None;
        }
        if self.0 == bytes {
            return Some(mem::take(&mut self.0).into());
        }
        self.0.clear();
        self.0.extend_from_slice(bytes);
        None
    }
}
