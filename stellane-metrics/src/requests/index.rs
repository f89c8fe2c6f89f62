//! Numbers found by what they stand for, by many threads at once and without a lock.

use std::sync::{
    Mutex, PoisonError,
    atomic::{
        AtomicU32,
        Ordering::{Acquire, Relaxed, Release},
    },
};

/// The numbers from `first` on, of which none is ever taken away: who looks takes no lock, also for what is not there, which
/// anybody may ask for. What a number stands for is kept by the caller.
#[derive(Debug)]
pub(super) struct Index {
    /// Open addressing, at most half full. Zero is nothing.
    slots: Box<[AtomicU32]>,
    first: u32,
    most: u32,
    len: AtomicU32,
    adding: Mutex<()>,
}

impl Index {
    /// With so many numbers at most. `first` is not zero.
    pub(super) fn new(first: u32, most: usize) -> Self {
        let most = u32::try_from(most).unwrap_or(u32::MAX - first);
        let slots = (most as usize * 2).next_power_of_two().max(2);
        Self {
            slots: (0..slots).map(|_| AtomicU32::new(0)).collect(),
            first,
            most,
            len: AtomicU32::new(0),
            adding: Mutex::new(()),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Relaxed) as usize
    }

    /// The number of what has this hash and `is_it`.
    pub(super) fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        self.slots_of(hash)
            .map(|slot| slot.load(Acquire))
            .take_while(|number| *number != 0)
            .find(|number| is_it(*number))
    }

    /// The same, and if there is none it gets the next number, for which `add` is called first. `None` if all are taken.
    pub(super) fn find_or_add(
        &self,
        hash: u64,
        is_it: impl Fn(u32) -> bool,
        add: impl FnOnce(u32),
    ) -> Option<u32> {
        // Before: what is not there then will never be.
        let is_full = self.len.load(Acquire) == self.most;
        let found = self.find(hash, &is_it);
        if found.is_some() || is_full {
            return found;
        }
        let _adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = self.find(hash, is_it) {
            return Some(number);
        }
        let len = self.len.load(Relaxed);
        if len == self.most {
            return None;
        }
        let slot = self.slots_of(hash).find(|slot| slot.load(Relaxed) == 0)?;
        let number = self.first + len;
        add(number);
        slot.store(number, Release);
        self.len.store(len + 1, Release);
        Some(number)
    }

    /// All slots, beginning with the one for this hash.
    fn slots_of(&self, hash: u64) -> impl Iterator<Item = &AtomicU32> {
        let (before, from) = self.slots.split_at(hash as usize % self.slots.len());
        from.iter().chain(before)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::OnceLock, thread};

    use super::*;

    #[test]
    fn numbers_follow_each_other_until_all_are_taken_also_where_all_hashes_are_the_same() {
        for spread in [0, 1, u64::MAX] {
            let (index, names) = (Index::new(2, 5), [const { OnceLock::new() }; 7]);
            let is_name = |name: u32| {
                let names = &names;
                move |number: u32| names[number as usize].get() == Some(&name)
            };
            let number_of = |name: u32| {
                let add = |number: u32| names[number as usize].set(name).expect("a new one");
                index.find_or_add(u64::from(name).wrapping_mul(spread), is_name(name), add)
            };
            for round in 0..2 {
                let numbers: Vec<_> = (10..16).map(number_of).collect();
                let expected = [Some(2), Some(3), Some(4), Some(5), Some(6), None];
                assert_eq!(numbers, expected, "{spread}, {round}");
            }
            assert_eq!(index.len(), 5);
            assert_eq!(index.find(spread.wrapping_mul(11), is_name(11)), Some(3));
            assert_eq!(index.find(spread.wrapping_mul(15), is_name(15)), None);
        }
    }

    #[test]
    fn without_room_there_is_none() {
        assert_eq!(Index::new(1, 0).find_or_add(7, |_| true, |_| ()), None);
    }

    #[test]
    fn threads_that_add_the_same_get_the_same_numbers() {
        let (index, names) = (Index::new(1, 100), [const { OnceLock::new() }; 101]);
        let numbers = || {
            let number_of = |name: u32| {
                let is_it = |number: u32| names[number as usize].get() == Some(&name);
                let add = |number: u32| names[number as usize].set(name).expect("a new one");
                index.find_or_add(u64::from(name % 7), is_it, add)
            };
            (0..150).map(number_of).collect::<Vec<_>>()
        };
        let found = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(numbers)).collect();
            threads
                .into_iter()
                .map(|t| t.join().expect("no panic"))
                .collect::<Vec<_>>()
        });
        let again = numbers();
        for numbers in found {
            for (name, number) in numbers.iter().enumerate() {
                // Who came when all were taken has none, and others may have been faster.
                assert_eq!(*number, again[name], "{name}");
            }
        }
        assert_eq!(index.len(), 100);
    }
}
