//! The synchronisation the pools rest on, and loom's stand-ins for it under `--cfg loom`.

#[cfg(loom)]
pub(crate) use loom::{
    cell::UnsafeCell,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    thread::yield_now,
};
#[cfg(not(loom))]
pub(crate) use std::{
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    thread::yield_now,
};

#[cfg(not(loom))]
#[derive(Debug)]
struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    const fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

/// A lock that is tried, not waited for: one atomic exchange to enter and one store to leave, half of
/// what a mutex costs. Whoever finds it taken goes elsewhere, so nobody ever blocks behind a preempted
/// thread; only the rare [`with`](Self::with) waits.
///
/// The closure must not run foreign code (a destructor, a factory): it would run inside the lock.
pub(crate) struct TryLock<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `value` is reached only between a successful exchange of `taken` and the store that undoes it,
// so by one thread at a time; `T: Send` lets that thread be any.
unsafe impl<T: Send> Sync for TryLock<T> {}

impl<T> TryLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            taken: AtomicBool::new(false),
            value: UnsafeCell::new(value),
        }
    }

    /// Runs `f` on the value, or returns `None` at once if somebody else is inside.
    #[inline]
    pub(crate) fn try_with<R>(&self, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.taken
            .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
            .ok()?;
        let _leave = Leave(&self.taken);
        // SAFETY: the exchange above let exactly this thread in, and `_leave` lets the next one in only
        // when this borrow is over, also if `f` panics.
        Some(self.value.with_mut(|value| f(unsafe { &mut *value })))
    }

    /// Runs `f` on the value as soon as nobody else is inside. Must not be called inside another lock.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        let mut f = Some(f);
        loop {
            let done = self.try_with(|value| f.take().map(|f| f(value)));
            if let Some(Some(result)) = done {
                return result;
            }
            yield_now();
        }
    }
}

struct Leave<'a>(&'a AtomicBool);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[cfg(not(loom))]
mod threads {
    use std::{cell::Cell, sync::atomic::AtomicUsize};

    pub(super) static NEXT: AtomicUsize = AtomicUsize::new(0);

    thread_local! {
        pub(super) static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) };
    }
}

#[cfg(loom)]
mod threads {
    use std::cell::Cell;

    use loom::sync::atomic::AtomicUsize;

    // Starts again with every execution of the model, which has to be repeatable.
    loom::lazy_static! {
        pub(super) static ref NEXT: AtomicUsize = AtomicUsize::new(0);
    }

    loom::thread_local! {
        pub(super) static NUMBER: Cell<usize> = Cell::new(usize::MAX);
    }
}

/// A small number for the running thread, dense over all threads: it spreads threads over magazines and
/// means nothing else. A value without a destructor, so it also works while a thread is ending.
#[inline]
pub(crate) fn thread_number() -> usize {
    threads::NUMBER.with(|number| match number.get() {
        usize::MAX => {
            number.set(threads::NEXT.fetch_add(1, Ordering::Relaxed));
            number.get()
        }
        number => number,
    })
}
