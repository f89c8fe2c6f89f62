//! The frozen tier: a hash table nothing is ever added to.

use std::hash::BuildHasher;

/// Open addressing, half empty at least; an empty slot ends every search.
pub(super) struct Frozen {
    slots: Box<[Option<(u64, &'static str)>]>,
    len: usize,
}

impl Frozen {
    pub(super) fn new(mut words: Vec<Box<str>>, hasher: &impl BuildHasher) -> Self {
        words.sort_unstable();
        words.dedup();
        let len = words.len();
        let mut slots = vec![None; (len * 2).next_power_of_two().max(2)];
        for word in words {
            let word: &'static str = Box::leak(word);
            let hash = hasher.hash_one(word);
            let mut at = hash as usize & (slots.len() - 1);
            while slots[at].is_some() {
                at = (at + 1) & (slots.len() - 1);
            }
            slots[at] = Some((hash, word));
        }
        Self {
            slots: slots.into(),
            len,
        }
    }

    #[inline]
    pub(super) fn find(&self, hash: u64, text: &str) -> Option<&'static str> {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while let Some((known, word)) = self.slots[at] {
            if known == hash && word == text {
                return Some(word);
            }
            at = (at + 1) & mask;
        }
        None
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }
}
