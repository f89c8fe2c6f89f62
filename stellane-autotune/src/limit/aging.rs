use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Release},
};

/// Counts who is there by when they came, in `CELLS` epochs, and how many are older than all of these.
///
/// Who comes and who goes touches one counter. Each has its epoch and its count in one word, so that one who goes is
/// taken from where it is counted, also while an epoch ends.
#[derive(Debug)]
pub(super) struct Aging<const CELLS: usize> {
    cells: [AtomicU64; CELLS],
    epoch: AtomicU64,
    /// A difference: who goes may be subtracted before it was added.
    old: AtomicU64,
}

const COUNT: u64 = 0xffff_ffff;

/// The epoch of one who is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Epoch(u32);

impl<const CELLS: usize> Aging<CELLS> {
    pub(super) fn new() -> Self {
        Self {
            cells: std::array::from_fn(|epoch| AtomicU64::new((epoch as u64) << 32)),
            epoch: AtomicU64::new(0),
            old: AtomicU64::new(0),
        }
    }

    #[inline]
    pub(super) fn come(&self) -> Epoch {
        loop {
            let epoch = self.epoch.load(Acquire) as u32;
            let add = |word: u64| ((word >> 32) as u32 == epoch).then_some(word + 1);
            // It fails only while an epoch ends.
            if self.cell(epoch).fetch_update(Release, Acquire, add).is_ok() {
                return Epoch(epoch);
            }
        }
    }

    /// Whether it was among the old.
    #[inline]
    pub(super) fn go(&self, came: Epoch) -> bool {
        let sub = |word: u64| ((word >> 32) as u32 == came.0).then(|| word - 1);
        let is_old = self
            .cell(came.0)
            .fetch_update(Release, Acquire, sub)
            .is_err();
        if is_old {
            self.old.fetch_sub(1, Release);
        }
        is_old
    }

    /// Those who came `CELLS - 1` epochs ago and are still there become old. One thread at a time.
    pub(super) fn next_epoch(&self) {
        let next = (self.epoch.load(Acquire) as u32).wrapping_add(1);
        let before = self.cell(next).swap(u64::from(next) << 32, Release);
        self.old.fetch_add(before & COUNT, Release);
        self.epoch.store(u64::from(next), Release);
    }

    /// Those who are older than all epochs.
    pub(super) fn old(&self) -> u32 {
        (self.old.load(Acquire) as i64).clamp(0, i64::from(u32::MAX)) as u32
    }

    /// All who are there.
    pub(super) fn count(&self) -> u32 {
        let cells = self.cells.iter().map(|cell| cell.load(Acquire) & COUNT);
        (cells.sum::<u64>() as u32).saturating_add(self.old())
    }

    fn cell(&self, epoch: u32) -> &AtomicU64 {
        &self.cells[epoch as usize % CELLS]
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn who_stays_becomes_old_and_is_gone_when_it_goes() {
        let aging = Aging::<2>::new();
        let first = aging.come();
        aging.next_epoch();
        let second = aging.come();
        assert_eq!((aging.old(), aging.count()), (0, 2));
        aging.next_epoch();
        assert_eq!((aging.old(), aging.count()), (1, 2));
        assert!(aging.go(first));
        assert!(!aging.go(second));
        assert_eq!((aging.old(), aging.count()), (0, 0));
    }

    #[test]
    fn nobody_is_lost_while_epochs_end() {
        let aging = Aging::<4>::new();
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let came = [aging.come(), aging.come()];
                        for came in came {
                            aging.go(came);
                        }
                    }
                });
            }
            for _ in 0..20_000 {
                aging.next_epoch();
            }
        });
        assert_eq!((aging.old(), aging.count()), (0, 0));
    }
}
