//! When the task of a connection was woken: for who tells where the time of a request went, since that is before anybody
//! is called.

use std::{
    cell::Cell,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Wake, Waker},
    time::Duration,
};

/// A clock that is read when a task is woken: that of who asks.
pub(crate) trait Readings: Send + Sync {
    fn now(&self) -> u64;
    /// What it was so long before a reading.
    fn before(&self, now: u64, age: Duration) -> u64;
}

/// None, unless somebody asks.
#[derive(Clone, Default)]
pub(crate) struct WakeClock(Option<Arc<dyn Readings>>);

impl WakeClock {
    #[cfg(feature = "preset")]
    pub(crate) fn new(readings: impl Readings + 'static) -> Self {
        Self(Some(Arc::new(readings)))
    }

    /// The time, for a task that is spawned now.
    pub(crate) fn now(&self) -> Option<u64> {
        self.0.as_ref().map(|readings| readings.now())
    }

    /// Who reads without having been woken for one connection begins now.
    pub(crate) fn begin(&self) -> Turn {
        Woken(self.now().unwrap_or(ASLEEP)).enter()
    }

    /// The connection that this thread polls has read bytes, which its socket has for so long. A thread that was held has not
    /// looked for them meanwhile.
    #[inline]
    pub(crate) fn look_back(&self, age: impl FnOnce() -> Option<Duration>) {
        if HELD.get().1 != 0 {
            self.look_back_into_hold(age);
        }
    }

    #[cold]
    fn look_back_into_hold(&self, age: impl FnOnce() -> Option<Duration>) {
        // The system is asked for the age, at every read until the hold is over.
        let Some(readings) = &self.0 else { return };
        let (now, (from, to)) = (readings.now(), HELD.get());
        let Some(age) = age() else {
            // Of a Unix socket it tells nothing; where there are no others, it is not to be asked for ever.
            if readings.before(now, LONG) >= to {
                HELD.set((0, 0));
            }
            return;
        };
        // Never more than it was.
        let came = readings.before(now, age.saturating_sub(TICK));
        // So all is read that came before. Where nobody knows of a hold, there may be one at any time.
        let is_over = came >= to;
        let is_known = from > 0;
        if is_over && (is_known || readings.before(now, LONG) >= to) {
            HELD.set((0, 0));
        }
        if !(is_over && is_known) && WOKEN.get() != ASLEEP {
            WOKEN.set(WOKEN.get().min(came.max(from)));
        }
    }

    /// For the first poll of a task that was spawned then.
    pub(crate) fn stamped(&self, spawned: Option<u64>, task: &Waker) -> Option<Stamped> {
        let readings = self.0.clone()?;
        Some(Stamped::new(readings, task, spawned.unwrap_or(ASLEEP)))
    }
}

impl fmt::Debug for WakeClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WakeClock").field(&self.0.is_some()).finish()
    }
}

/// No reading.
const ASLEEP: u64 = u64::MAX;

thread_local! {
    /// Of the connection that this thread polls.
    static WOKEN: Cell<u64> = const { Cell::new(ASLEEP) };
    /// When it was held, until the end; or nothing, which ends at zero.
    static HELD: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// So exact is the age of what lies in a socket, where the system's clock is coarse.
const TICK: Duration = Duration::from_millis(10);

/// After so long a thread has read what came while it was held, and without a new reason it is not looked for another hold.
const LONG: Duration = Duration::from_secs(1);

/// A request has held this thread.
#[cfg(feature = "preset")]
pub(crate) fn thread_was_held(from: u64, to: u64) {
    let (before, end) = HELD.get();
    // One after the other.
    let from = if end == 0 { from } else { before };
    HELD.set((from, to));
}

/// What this thread reads from `now` on, for a second and then once more, is asked for its age: it may have lain in its
/// socket for long.
#[cfg(feature = "preset")]
pub(crate) fn look_back_from(now: u64) {
    HELD.set((0, now));
}

/// When the connection was woken that this thread polls, if it is one and that is known.
#[cfg(feature = "preset")]
#[inline]
pub(crate) fn woken() -> Option<u64> {
    Some(WOKEN.get()).filter(|woken| *woken != ASLEEP)
}

/// The waker of a task, which wakes it and says when that was.
struct Stamp {
    readings: Arc<dyn Readings>,
    /// When it was first woken since its last poll, or [`ASLEEP`].
    woken: AtomicU64,
    task: Waker,
}

/// What a task is polled with. Its waker is lent, so that a poll counts no reference.
pub(crate) struct Stamped {
    stamp: Arc<Stamp>,
    waker: Waker,
}

impl Stamped {
    fn new(readings: Arc<dyn Readings>, task: &Waker, woken: u64) -> Self {
        let stamp = Arc::new(Stamp {
            readings,
            woken: AtomicU64::new(woken),
            task: task.clone(),
        });
        Self {
            waker: Waker::from(Arc::clone(&stamp)),
            stamp,
        }
    }

    /// The task is polled now, and woken by this.
    #[inline]
    pub(crate) fn begin(&mut self, task: &Waker) -> Turn {
        let mut woken = self.stamp.woken.load(Relaxed);
        if woken != ASLEEP {
            woken = self.stamp.woken.swap(ASLEEP, Relaxed);
        }
        if !self.stamp.task.will_wake(task) && !self.is_of(task) {
            self.move_to(task);
        }
        Woken(woken).enter()
    }

    /// Whether it wakes that too: the table of the same functions may lie at several places.
    #[cold]
    fn is_of(&self, task: &Waker) -> bool {
        let own = &self.stamp.task;
        own.data() == task.data() && own.vtable() == task.vtable()
    }

    /// It is polled by somebody else from now on.
    #[cold]
    fn move_to(&mut self, task: &Waker) {
        let readings = Arc::clone(&self.stamp.readings);
        *self = Self::new(readings, task, ASLEEP);
    }

    #[inline]
    pub(crate) fn waker(&self) -> &Waker {
        &self.waker
    }
}

/// The wake of a connection, for what it begins in another task.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Woken(u64);

impl Woken {
    /// That of the connection that this thread polls.
    pub(crate) fn here() -> Self {
        Self(WOKEN.get())
    }

    #[inline]
    pub(crate) fn enter(self) -> Turn {
        let outer = WOKEN.replace(self.0);
        Turn { outer }
    }
}

/// Until it is dropped, [`woken`] tells of this one.
pub(crate) struct Turn {
    outer: u64,
}

impl Drop for Turn {
    #[inline]
    fn drop(&mut self) {
        WOKEN.set(self.outer);
    }
}

impl Wake for Stamp {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Before the task: it is to see the time with the wake. Of two at once either may be the first.
        if self.woken.load(Relaxed) == ASLEEP {
            self.woken.store(self.readings.now(), Relaxed);
        }
        self.task.wake_by_ref();
    }
}

#[cfg(all(test, feature = "preset"))]
mod tests {
    use super::*;

    /// A clock of milliseconds, which stands at what it was set to.
    #[derive(Clone, Default)]
    struct Given(Arc<AtomicU64>);

    struct Task;

    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }

    impl Readings for Given {
        fn now(&self) -> u64 {
            self.0.load(Relaxed)
        }

        fn before(&self, now: u64, age: Duration) -> u64 {
            now - u64::try_from(age.as_millis()).expect("short")
        }
    }

    #[test]
    fn the_first_wake_since_the_last_poll_counts_and_only_within_the_poll() {
        let given = Given::default();
        let at = |millis| given.0.store(millis, Relaxed);
        let clock = WakeClock::new(given.clone());
        at(5);
        let spawned = clock.now();
        at(9);
        // One that is the same wherever it is cloned.
        let task = &Waker::from(Arc::new(Task));
        let mut stamped = clock.stamped(spawned, task).expect("there is a clock");
        let woken_at_next = |stamped: &mut Stamped| {
            let turn = stamped.begin(task);
            let at = woken();
            drop(turn);
            assert_eq!(woken(), None);
            at
        };
        assert_eq!(woken_at_next(&mut stamped), Some(5), "when it was spawned");
        assert_eq!(woken_at_next(&mut stamped), None, "for nothing");
        let lent = stamped.waker().clone();
        for now in [12, 15] {
            at(now);
            lent.wake_by_ref();
        }
        assert_eq!(woken_at_next(&mut stamped), Some(12));
        // What is begun now is for later.
        at(20);
        lent.wake();
        let turn = stamped.begin(task);
        let here = Woken::here();
        drop(turn);
        let later = here.enter();
        assert_eq!(woken(), Some(20));
        drop(later);
    }

    #[test]
    fn bytes_that_came_while_the_thread_was_held_have_waited_since_then() {
        let given = Given::default();
        let clock = WakeClock::new(given.clone());
        let read = |woken_at, age| {
            let turn = Woken(woken_at).enter();
            clock.look_back(|| age);
            let at = woken();
            drop(turn);
            at
        };
        let ago = |millis| Some(Duration::from_millis(millis) + TICK);
        given.0.store(1000, Relaxed);
        let nobody = || -> Option<Duration> { panic!("nobody was held") };
        let turn = Woken(990).enter();
        clock.look_back(nobody);
        drop(turn);
        thread_was_held(800, 900);
        // Without a clock no request hears of it.
        WakeClock::default().look_back(|| panic!("the system was asked for nothing"));
        // As if it went on.
        thread_was_held(905, 990);
        assert_eq!(read(995, None), Some(995), "nobody knows");
        assert_eq!(read(995, ago(50)), Some(950));
        assert_eq!(read(995, ago(150)), Some(850));
        assert_eq!(read(995, ago(700)), Some(800), "before it was held");
        assert_eq!(read(930, ago(50)), Some(930), "woken before");
        assert_eq!(read(995, ago(10)), Some(995), "after it was held");
        assert_eq!(read(995, ago(150)), Some(995), "so that is over");
        look_back_from(990);
        assert_eq!(read(995, ago(50)), Some(950), "nobody knew of that");
        given.0.store(5000, Relaxed);
        assert_eq!(read(4995, ago(700)), Some(4300), "nor that one came later");
        assert_eq!(read(4995, ago(700)), Some(4995), "and then nobody is asked");
        given.0.store(1000, Relaxed);
        thread_was_held(800, 990);
        for (now, held) in [(1989, (800, 990)), (1990, (0, 0))] {
            given.0.store(now, Relaxed);
            assert_eq!(read(1985, None), Some(1985), "nobody knows");
            assert_eq!(HELD.get(), held, "a second later nobody is asked");
        }
    }
}
