//! A caller that looks for its result a few times before it has itself woken.
//!
//! To sleep and be woken costs a caller some microseconds, to look again in the reactor's next turn a few hundred
//! nanoseconds. So the caller of a job that is about to run, and of a class whose jobs are very short, does that
//! first; all else that the reactor has to do is done in between.

use std::{
    future::Future,
    hint::spin_loop,
    pin::pin,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    task::Context,
};

/// The longest mean run of a class whose callers look, in nanoseconds; the wake-ups that a run ends with included.
pub(super) const SHORT: u64 = 8_000;

/// Who may look, as it paid lately.
#[derive(Debug)]
pub(super) struct SpinWaits {
    /// How many more jobs are awaited as usual.
    pause: AtomicU32,
    enabled: bool,
}

impl SpinWaits {
    /// Some 2 µs in all.
    const MOST: u8 = 3;
    /// So that looking in vain costs less than a tenth of a microsecond for each job.
    const PAUSE: u32 = 32;

    pub(super) fn new(enabled: bool) -> Self {
        let pause = AtomicU32::new(0);
        Self { pause, enabled }
    }

    /// How many spins the caller of the next short job has. Racing callers may miscount: it does not matter.
    pub(super) fn grant(&self) -> u8 {
        if !self.enabled {
            return 0;
        }
        match self.pause.load(Relaxed) {
            0 => Self::MOST,
            pause => {
                self.pause.store(pause - 1, Relaxed);
                0
            }
        }
    }

    /// Worker and caller share a CPU, or the job was not so short.
    pub(super) fn failed(&self) {
        self.pause.store(Self::PAUSE, Relaxed);
    }
}

/// Looks for about as long as it takes another CPU to begin and end a tiny job: some hundred nanoseconds.
pub(super) fn spin(finished: impl Fn() -> bool) -> bool {
    for _ in 0..20 {
        if finished() {
            return true;
        }
        spin_loop();
    }
    finished()
}

/// Has the calling task polled again when the reactor has looked after everything else; at once where there is none.
pub(super) fn poll_again(cx: &mut Context<'_>) {
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}
