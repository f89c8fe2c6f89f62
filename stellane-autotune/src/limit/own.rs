use std::sync::{Arc, OnceLock};

use super::{
    shared::{Own, Shared},
    thread_number::{self, NUMBERS},
};

/// One for each of the first threads, then one that the others share.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Owns([OnceLock<Arc<Own>>; NUMBERS + 1]);

impl Owns {
    /// Another thread than this one allocates with its first permit.
    pub(super) fn to(shared: &Arc<Shared>) -> Self {
        let owns = Self([const { OnceLock::new() }; NUMBERS + 1]);
        owns.of_this_thread(shared);
        owns
    }

    #[inline]
    pub(super) fn of_this_thread(&self, shared: &Arc<Shared>) -> &Arc<Own> {
        self.0[thread_number::current()].get_or_init(|| Own::new(shared))
    }
}
