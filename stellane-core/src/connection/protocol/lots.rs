//! Whether connections that are refused are read in lots.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::connection::{
    protocol::http1::fast_path::refusal::{self, Pressed},
    spawn,
    table::{clock::millis, record::Record},
};

/// So many refusals within so many milliseconds are many: from there on a wake for each costs more than what is saved by
/// leaving a connection to its task.
const MANY: u32 = 10;
const WINDOW: u64 = 10;
/// So many of these later nobody [asks again](Pressed::again).
const FORGOTTEN: u64 = refusal::LATE.as_millis() as u64 / WINDOW;
/// A lot that comes later than this is late: the thread has to share its processor with so many that it had better read
/// whatever there is whenever it has its turn.
pub(crate) const LATE: Duration = Duration::from_millis(10);
/// So many milliseconds pass then until the next attempt, and fewer the more were in time before: one that is late after
/// hundreds says that others had the processor once.
const LONGEST_REST: u64 = 10_000;
/// So many lots have to come in time before anybody is parked for them, without one that is late.
const PROOF: u32 = 20;

/// Of one call of `serve`. At many times its load a server reads mostly what it refuses. Each such request wakes the thread
/// that reads, which takes the processor from a handler for it, finds nothing of the connection in its caches, and goes
/// back: that costs more than the answer. So while many are refused, a connection that was is parked at once, and what is
/// parked is looked at once a millisecond: whatever has come meanwhile is refused one after the other.
#[derive(Debug)]
pub(crate) struct Lots {
    /// Else what is read is left to many tasks: there is one poller.
    few_threads: bool,
    /// The latest one with a refusal, how many there were in it, and whether there were many in the one before.
    window: AtomicU64,
    count: AtomicU32,
    many: AtomicBool,
    rests_until: AtomicU64,
    /// How many lots were read since the latest that was late.
    in_time: AtomicU32,
    /// Of those who are parked since they were refused, by their slots.
    pressed: Mutex<HashMap<u32, Pressed>>,
}

impl Lots {
    /// For a call on the runtime of the caller.
    pub(crate) fn new() -> Self {
        Self {
            few_threads: spawn::are_few_threads(),
            window: AtomicU64::new(0),
            count: AtomicU32::new(0),
            many: AtomicBool::new(false),
            rests_until: AtomicU64::new(0),
            in_time: AtomicU32::new(0),
            pressed: Mutex::default(),
        }
    }

    /// A request was refused.
    pub(crate) fn note_refused(&self, now: Duration) {
        if self.rest(now) {
            return;
        }
        let window = millis(now) / WINDOW;
        let before = self.window.swap(window, Relaxed);
        if before != window {
            let count = self.count.swap(0, Relaxed);
            let many = before + 1 == window && count >= MANY;
            self.many.store(many, Relaxed);
        }
        self.count.fetch_add(1, Relaxed);
    }

    /// Whether connections are to be parked for lots.
    pub(crate) fn takes(&self, now: Duration) -> bool {
        self.in_time.load(Relaxed) >= PROOF && self.are_read(now)
    }

    /// Whether many were refused lately.
    pub(crate) fn are_read(&self, now: Duration) -> bool {
        let is_recent = millis(now) / WINDOW <= self.window.load(Relaxed) + 1;
        is_recent && self.many.load(Relaxed) && !self.rest(now)
    }

    /// A lot was read, so long after the one before.
    pub(crate) fn note_read(&self, since_lot: Duration, now: Duration) {
        if since_lot <= LATE {
            self.in_time.fetch_add(1, Relaxed);
            return;
        }
        let in_time = self.in_time.swap(0, Relaxed).max(PROOF);
        let rest = LONGEST_REST * u64::from(PROOF) / u64::from(in_time);
        self.rests_until.store(millis(now) + rest, Relaxed);
    }

    /// Whether nobody is refused but by tasks: always, or for a while after a lot that was late.
    pub(crate) fn rest(&self, now: Duration) -> bool {
        !self.few_threads || millis(now) < self.rests_until.load(Relaxed)
    }

    /// A connection is parked since it was refused.
    pub(crate) fn park(&self, record: &Record, pressed: Pressed) {
        self.pressed().insert(record.slot(), pressed);
    }

    /// It has something to read, if it is one.
    pub(crate) fn unpark(&self, record: &Record) -> Option<Pressed> {
        self.pressed().remove(&record.slot())
    }

    /// If nobody was refused for a second, those who were are parked like all others: also those who were closed meanwhile.
    pub(crate) fn forget(&self, now: Duration) {
        if millis(now) / WINDOW > self.window.load(Relaxed) + FORGOTTEN {
            *self.pressed() = HashMap::new();
        }
    }

    fn pressed(&self) -> MutexGuard<'_, HashMap<u32, Pressed>> {
        self.pressed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn proven() -> Lots {
        let lots = Lots::new();
        (0..PROOF).for_each(|_| lots.note_read(LATE, at(1)));
        lots
    }

    /// Whether the last of so many at once is to be parked.
    fn refuse(lots: &Lots, count: u32, now: u64) -> bool {
        (0..count).for_each(|_| lots.note_refused(at(now)));
        lots.takes(at(now))
    }

    #[tokio::test]
    async fn they_are_read_from_many_refusals_on_until_there_are_few() {
        let lots = proven();
        assert!(
            !refuse(&lots, MANY - 1, 100) && !refuse(&lots, 100, 110),
            "one less"
        );
        assert!(
            !lots.are_read(at(119)),
            "that is for the next window to say"
        );
        assert!(refuse(&lots, 1, 120) && lots.are_read(at(129)) && lots.are_read(at(139)));
        assert!(!lots.are_read(at(140)), "nobody was refused since");
        assert!(!refuse(&lots, 100, 150) && refuse(&lots, MANY, 160) && refuse(&lots, 1, 170));
        assert!(!refuse(&lots, 1, 180), "only one was, before");
        // A window without any lies between these.
        assert!(!refuse(&lots, 100, 200) && !refuse(&lots, 100, 220) && refuse(&lots, 1, 230));
    }

    #[tokio::test]
    async fn nobody_is_parked_before_some_have_come_in_time_and_for_a_while_after_one_that_was_late()
     {
        let lots = Lots::new();
        refuse(&lots, MANY, 100);
        for _ in 0..PROOF {
            assert!(!refuse(&lots, MANY, 110) && lots.are_read(at(110)));
            lots.note_read(LATE, at(110));
        }
        assert!(refuse(&lots, MANY, 110));
        lots.note_read(LATE + at(1), at(117));
        assert!(!lots.are_read(at(118)) && lots.rest(at(118)) && !refuse(&lots, MANY, 120));
        assert!(lots.rest(at(116 + LONGEST_REST)) && !lots.rest(at(117 + LONGEST_REST)));
        // The more come in time, the shorter is the next rest.
        for (now, in_time, rest) in [
            (20_000, PROOF, LONGEST_REST),
            (40_000, 5 * PROOF, LONGEST_REST / 5),
        ] {
            refuse(&lots, MANY, now - 10);
            assert!(!refuse(&lots, MANY, now), "they have to prove it anew");
            (0..in_time).for_each(|_| lots.note_read(LATE, at(now)));
            assert!(refuse(&lots, MANY, now));
            lots.note_read(LATE + at(1), at(now));
            assert!(lots.rest(at(now + rest - 1)) && !lots.rest(at(now + rest)));
        }
    }

    #[tokio::test]
    async fn who_was_refused_is_forgotten_a_second_later() {
        let lots = proven();
        refuse(&lots, MANY, 100);
        lots.pressed().insert(7, Pressed::default());
        lots.forget(at(1109));
        assert_eq!(lots.pressed().len(), 1);
        lots.forget(at(1110));
        assert_eq!(lots.pressed().capacity(), 0);
    }

    #[test]
    fn without_a_runtime_of_few_threads_there_are_none() {
        let lots = proven();
        assert!((1..10).all(|window| !refuse(&lots, 100, window * WINDOW)));
        assert!(lots.rest(at(0)) && !lots.are_read(at(10 * WINDOW)));
    }
}
