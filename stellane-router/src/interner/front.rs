//! What a thread asks for again and again: found without a lock, and counted by that thread alone.

use std::{cell::RefCell, sync::Arc};

/// So many words at most, of all interners together.
const SLOTS: usize = 512;
/// From this on a word is worth a copy.
const HOT: u8 = 16;

thread_local! {
    static FRONT: RefCell<Vec<Slot>> = const { RefCell::new(Vec::new()) };
}

#[derive(Default)]
struct Slot {
    /// The hash of the word, in its interner.
    key: u64,
    /// Two for each time that it was asked for, less one for each other word that came here.
    score: u8,
    /// A copy of this thread's own: the references to the one in the cache are counted by all threads.
    text: Option<Arc<str>>,
}

/// The copy of a word, if this thread has one.
#[inline]
pub(super) fn find(key: u64, word: &str) -> Option<Arc<str>> {
    with(|slots| {
        let slot = slots.get_mut(at(key)).filter(|slot| slot.key == key)?;
        let text = slot.text.as_ref().filter(|text| ***text == *word)?;
        slot.score = slot.score.saturating_add(2);
        Some(Arc::clone(text))
    })
}

/// The word was asked for and had to be looked up.
#[inline(never)]
pub(super) fn note(key: u64, word: &str) {
    with(|slots| {
        if slots.is_empty() {
            slots.resize_with(SLOTS, Slot::default);
        }
        let slot = &mut slots[at(key)];
        if slot.key != key {
            slot.score = slot.score.saturating_sub(1);
            if slot.score > 0 {
                return None;
            }
            *slot = Slot {
                key,
                ..Slot::default()
            };
        }
        slot.score = slot.score.saturating_add(2);
        if slot.score >= HOT {
            slot.text = Some(word.into());
        }
        Some(())
    });
}

fn with<T>(f: impl FnOnce(&mut Vec<Slot>) -> Option<T>) -> Option<T> {
    // A thread that is ending has none.
    let found = FRONT.try_with(|front| f(&mut *front.try_borrow_mut().ok()?));
    found.ok().flatten()
}

fn at(key: u64) -> usize {
    // The cache and the doorkeeper use other bits.
    (key >> 20) as usize % SLOTS
}
