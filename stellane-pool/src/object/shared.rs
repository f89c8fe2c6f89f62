use std::sync::Arc;

use super::{
    PoolStats, Trimmed,
    magazine::{Leaving, Magazine, Refused, Slot},
    stats::{Drops, Trims},
};
use crate::{
    Budget, DropReason, Fate, Recycle, RecycleCx,
    sync::{AtomicBool, AtomicU64, AtomicUsize, Ordering, TryLock, thread_number},
};

/// The most one magazine holds, and twice what moves at a time between it and the exchange.
const MAGAZINE: usize = 32;

/// A value on cache lines of its own (two, since CPUs fetch them in pairs), so that one thread's magazine
/// never slows another's.
#[repr(align(128))]
struct Padded<T>(T);

pub(super) struct Shared<T: Recycle> {
    magazines: Box<[Padded<TryLock<Magazine<T>>>]>,
    exchange: Padded<TryLock<Magazine<T>>>,
    knobs: Knobs,
    budget: Budget,
    make: Box<dyn Fn() -> T + Send + Sync>,
    counters: Padded<Counters>,
}

/// Read on every take and return, written almost never.
struct Knobs {
    closed: AtomicBool,
    magazine: AtomicUsize,
    exchange: AtomicUsize,
    max_object_bytes: AtomicUsize,
    retain_percent: AtomicUsize,
}

/// Counters of what is slow anyway; hits and returns are counted in the magazines.
struct Counters {
    misses: AtomicU64,
    steals: AtomicU64,
    /// Values that left the pool's care: dropped on return, or detached.
    gone: AtomicU64,
    drops: [AtomicU64; DropReason::ALL.len()],
    trims: Trims,
}

impl<T: Recycle> Shared<T> {
    /// It keeps nothing yet: see [`set_max_idle`](Self::set_max_idle).
    pub(super) fn new(
        make: Box<dyn Fn() -> T + Send + Sync>,
        magazines: usize,
        budget: Budget,
    ) -> Self {
        let magazine = || Padded(TryLock::new(Magazine::new()));
        Self {
            magazines: (0..magazines.next_power_of_two())
                .map(|_| magazine())
                .collect(),
            exchange: magazine(),
            knobs: Knobs {
                closed: AtomicBool::new(false),
                magazine: AtomicUsize::new(0),
                exchange: AtomicUsize::new(0),
                max_object_bytes: AtomicUsize::new(0),
                retain_percent: AtomicUsize::new(0),
            },
            budget,
            make,
            counters: Padded(Counters {
                misses: AtomicU64::new(0),
                steals: AtomicU64::new(0),
                gone: AtomicU64::new(0),
                drops: std::array::from_fn(|_| AtomicU64::new(0)),
                trims: Trims::default(),
            }),
        }
    }

    /// How many magazines there are: a power of two.
    pub(super) fn magazines(&self) -> usize {
        self.magazines.len()
    }

    /// The running thread's magazine.
    #[inline]
    pub(super) fn own(&self) -> usize {
        thread_number() & (self.magazines.len() - 1)
    }

    #[inline]
    pub(super) fn is_off(&self) -> bool {
        self.knobs.exchange.load(Ordering::Relaxed) == 0
    }

    #[cold]
    pub(super) fn make(&self) -> Box<Slot<T>> {
        let value = (self.make)();
        self.counters.0.misses.fetch_add(1, Ordering::Relaxed);
        Slot::new(value)
    }

    #[inline]
    pub(super) fn take_idle(&self, own: usize) -> Option<Box<Slot<T>>> {
        if self.is_off() {
            return None;
        }
        let slot = self.magazines[own].0.try_with(|magazine| {
            let slot = magazine.pop(&self.budget);
            magazine.hits += u64::from(slot.is_some());
            slot
        });
        match slot {
            Some(Some(slot)) => Some(slot),
            _ => self.take_elsewhere(own),
        }
    }

    /// The own magazine is empty or busy: looks in the exchange, then in the others, and brings some
    /// more along.
    #[cold]
    fn take_elsewhere(&self, own: usize) -> Option<Box<Slot<T>>> {
        let room = self.knobs.magazine.load(Ordering::Relaxed) / 2;
        let (before, after) = self.magazines.split_at(own);
        let others = after[1..].iter().chain(before);
        let slot = std::iter::once(&self.exchange)
            .chain(others)
            .find_map(|Padded(other)| {
                let slot = other.try_with(|other| {
                    let slot = other.pop(&self.budget)?;
                    self.magazines[own].0.try_with(|magazine| {
                        if magazine.len() <= room {
                            // Half of it at most: its owner will want some too.
                            other.move_to(magazine, room.min(other.len() / 2), &self.budget);
                        }
                    });
                    Some(slot)
                });
                slot.flatten()
            })?;
        self.counters.0.steals.fetch_add(1, Ordering::Relaxed);
        Some(slot)
    }

    /// A value comes home.
    #[inline]
    pub(super) fn give_back(&self, mut slot: Box<Slot<T>>, lent: bool) {
        if std::thread::panicking() {
            return self.refuse((slot, DropReason::Panicking));
        }
        let cx = RecycleCx::new(self.knobs.max_object_bytes.load(Ordering::Relaxed));
        // If `recycle` panics, `slot` is dropped with it.
        let panicking = CountPanic(self);
        let mut fate = slot.value.recycle(&cx);
        slot.bytes = slot.value.retained_bytes();
        std::mem::forget(panicking);
        if fate == Fate::Keep {
            fate = cx.fate_of(slot.bytes);
        }
        let kept = match fate {
            Fate::Keep => self.keep(slot, lent),
            Fate::Drop(reason) => Err((slot, reason)),
        };
        if let Err(refused) = kept {
            self.refuse(refused);
        }
    }

    #[inline]
    fn keep(&self, slot: Box<Slot<T>>, lent: bool) -> Result<(), Refused<T>> {
        let mut slot = Some(slot);
        let stored = self.magazines[self.own()].0.try_with(|magazine| {
            let max = self.knobs.magazine.load(Ordering::Relaxed);
            if magazine.len() >= max {
                self.spill(magazine, max);
            }
            self.store(magazine, max, slot.take(), lent)
        });
        match stored {
            Some(Ok(())) => Ok(()),
            Some(Err((slot, DropReason::Full))) => self.keep_elsewhere(slot, lent),
            Some(refused) => refused,
            None => slot.map_or(Ok(()), |slot| self.keep_elsewhere(slot, lent)),
        }
    }

    /// Moves half of a full magazine to the exchange.
    #[cold]
    fn spill(&self, magazine: &mut Magazine<T>, max: usize) {
        self.exchange.0.try_with(|exchange| {
            let room = self
                .knobs
                .exchange
                .load(Ordering::Relaxed)
                .saturating_sub(exchange.len());
            magazine.move_to(exchange, room.min(max.div_ceil(2)), &self.budget);
        });
    }

    /// The own magazine is busy, as another thread takes from it or ages it, or it is full and so is the
    /// exchange: wherever there is room.
    #[cold]
    fn keep_elsewhere(&self, slot: Box<Slot<T>>, lent: bool) -> Result<(), Refused<T>> {
        let mut slot = Some(slot);
        let mut why = DropReason::Contended;
        for (place, max) in self.places() {
            match place.try_with(|magazine| self.store(magazine, max, slot.take(), lent)) {
                Some(Ok(())) => return Ok(()),
                Some(Err((refused, reason))) => {
                    slot = Some(refused);
                    why = reason;
                }
                None => {}
            }
        }
        slot.map_or(Ok(()), |slot| Err((slot, why)))
    }

    #[inline]
    fn store(
        &self,
        magazine: &mut Magazine<T>,
        max: usize,
        slot: Option<Box<Slot<T>>>,
        lent: bool,
    ) -> Result<(), Refused<T>> {
        let Some(slot) = slot else { return Ok(()) };
        if magazine.len() >= max {
            return Err((slot, DropReason::Full));
        }
        // `close` sets the flag before it goes through the magazines: whoever is here before it is swept,
        // whoever is here after it sees the flag.
        if self.knobs.closed.load(Ordering::Relaxed) {
            return Err((slot, DropReason::Closed));
        }
        magazine.push(slot, lent, &self.budget)?;
        magazine.returns += 1;
        Ok(())
    }

    /// The exchange and all magazines, with the most each may hold.
    fn places(&self) -> impl Iterator<Item = (&TryLock<Magazine<T>>, usize)> {
        let magazine = self.knobs.magazine.load(Ordering::Relaxed);
        let exchange = self.knobs.exchange.load(Ordering::Relaxed);
        let magazines = self.magazines.iter().map(move |place| (&place.0, magazine));
        std::iter::once((&self.exchange.0, exchange)).chain(magazines)
    }

    pub(super) fn forget(&self) {
        self.counters.0.gone.fetch_add(1, Ordering::Relaxed);
    }

    #[cold]
    fn refuse(&self, (slot, reason): Refused<T>) {
        self.forget();
        self.count(reason, 1);
        drop(slot);
    }

    fn count(&self, reason: DropReason, count: usize) {
        self.counters.0.drops[reason as usize].fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(super) fn tick(&self) -> Trimmed {
        let percent = self.retain_percent();
        self.counters.0.trims.time(|| {
            let mut trimmed = self.sweep(DropReason::Aged, |magazine, _, leaving| {
                magazine.tick(percent, &self.budget, leaving);
            });
            trimmed += self.trim_bytes(self.budget.excess());
            trimmed
        })
    }

    pub(super) fn trim(&self) -> Trimmed {
        self.counters.0.trims.time(|| {
            self.sweep(DropReason::Aged, |magazine, _, leaving| {
                magazine.clear(&self.budget, leaving);
            })
        })
    }

    /// Frees at least `bytes`, if there is as much.
    pub(super) fn trim_bytes(&self, bytes: usize) -> Trimmed {
        if bytes == 0 {
            return Trimmed::default();
        }
        let mut bytes = bytes;
        self.sweep(DropReason::Budget, |magazine, _, leaving| {
            bytes = bytes.saturating_sub(magazine.trim(bytes, &self.budget, leaving));
        })
    }

    pub(super) fn close(&self) {
        self.knobs.closed.store(true, Ordering::SeqCst);
        self.sweep(DropReason::Closed, |magazine, _, leaving| {
            magazine.clear(&self.budget, leaving)
        });
    }

    pub(super) fn set_max_idle(&self, count: usize) {
        // Not more in the magazines than half: the exchange has a place unless the pool has none.
        let magazine = MAGAZINE.min(count / (2 * self.magazines.len()));
        self.knobs.magazine.store(magazine, Ordering::Relaxed);
        self.knobs
            .exchange
            .store(count - magazine * self.magazines.len(), Ordering::Relaxed);
        self.sweep(DropReason::Full, |magazine, max, leaving| {
            magazine.truncate(max, &self.budget, leaving);
        });
    }

    pub(super) fn set_max_object_bytes(&self, bytes: usize) {
        self.knobs.max_object_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn retain_percent(&self) -> usize {
        self.knobs.retain_percent.load(Ordering::Relaxed)
    }

    pub(super) fn set_retain_percent(&self, percent: usize) {
        self.knobs.retain_percent.store(percent, Ordering::Relaxed);
    }

    /// Runs `each` on every magazine and the exchange, one after the other, with the most it may hold;
    /// what leaves is dropped outside the locks.
    fn sweep(
        &self,
        reason: DropReason,
        mut each: impl FnMut(&mut Magazine<T>, usize, &mut Leaving<T>),
    ) -> Trimmed {
        let mut trimmed = Trimmed::default();
        for (magazine, max) in self.places() {
            let mut leaving = Leaving::new();
            magazine.with(|magazine| each(magazine, max, &mut leaving));
            self.count(reason, leaving.aged.len());
            self.count(DropReason::Lent, leaving.lent.len());
            for slot in leaving.aged.iter().chain(&leaving.lent) {
                trimmed.objects += 1;
                trimmed.bytes += slot.bytes;
            }
        }
        trimmed
    }

    pub(super) fn stats(&self) -> PoolStats {
        let counters = &self.counters.0;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut drops = Drops::default();
        for reason in DropReason::ALL {
            drops.set(reason, load(&counters.drops[reason as usize]));
        }
        let mut stats = PoolStats {
            hits: load(&counters.steals),
            misses: load(&counters.misses),
            steals: load(&counters.steals),
            drops,
            trims: counters.trims.count(),
            last_trim: counters.trims.last(),
            ..PoolStats::default()
        };
        let mut back = load(&counters.gone);
        for (magazine, _) in self.places() {
            magazine.with(|magazine| {
                stats.hits += magazine.hits;
                stats.idle += magazine.len();
                stats.retained_bytes += magazine.held();
                back += magazine.returns;
            });
        }
        // Values that move between two places while they are read one by one are seen twice; the charge
        // is one number, and never less than what is kept.
        stats.retained_bytes = stats.retained_bytes.min(self.budget.used());
        let taken = stats.hits + stats.misses;
        stats.outstanding = usize::try_from(taken.saturating_sub(back)).unwrap_or(usize::MAX);
        stats
    }
}

/// The way home of a value that is out.
#[repr(align(128))]
pub(super) struct Anchor<T: Recycle> {
    pub(super) shared: Arc<Shared<T>>,
}

/// Counts a value whose `recycle` panics.
struct CountPanic<'a, T: Recycle>(&'a Shared<T>);

impl<T: Recycle> Drop for CountPanic<'_, T> {
    fn drop(&mut self) {
        self.0.forget();
        self.0.count(DropReason::Panicking, 1);
    }
}
