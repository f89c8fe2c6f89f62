//! The marks of `stellane-core`'s `HandoffEngine` on real threads, for Miri, which finds what two of them would touch at once:
//! `cargo +nightly miri test -p stellane-pool --test engine_marks`. Every interleaving is loom's, in `engine_loom.rs`.
#![cfg(not(loom))]

mod sync {
    pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
}
#[path = "../../stellane-core/src/engine/handoff/marks.rs"]
mod marks;

use std::{cell::UnsafeCell, sync::mpsc::channel, thread};

use marks::{PollMark, Rest};

const ROUNDS: u32 = 50;

/// What only the thread that has the core may touch.
struct Core(UnsafeCell<u32>);

// SAFETY: whoever has the core is alone with it, which is what Miri is to find out.
unsafe impl Sync for Core {}

impl Core {
    fn touch(&self) {
        // SAFETY: as above.
        unsafe { *self.0.get() += 1 };
    }
}

#[test]
fn a_core_is_touched_by_one_thread_at_a_time() {
    let mut both = [0, 0];
    for _ in 0..ROUNDS {
        let (mark, core) = (PollMark::new(), Core(UnsafeCell::new(0)));
        let (give, given) = channel();
        let (mark, core) = (&mark, &core);
        let taken = thread::scope(|threads| {
            let polling = threads.spawn(move || {
                for poll in 1..=20 {
                    core.touch();
                    mark.begin(poll);
                    // The poll: it touches no core.
                    if !mark.end() {
                        return false;
                    }
                    core.touch();
                }
                true
            });
            let watching = threads.spawn(move || {
                assert!(!mark.is_lost());
                for _ in 0..20 {
                    if mark.running().is_some_and(|poll| mark.take_core(poll)) {
                        give.send(()).expect("it waits");
                        return true;
                    }
                    thread::yield_now();
                }
                false
            });
            threads.spawn(move || {
                if given.recv().is_ok() {
                    core.touch();
                }
            });
            let kept = polling.join().expect("no panic");
            let taken = watching.join().expect("no panic");
            assert_ne!(kept, taken, "one of the two has the core");
            taken
        });
        assert_eq!(mark.running(), None);
        both[usize::from(taken)] += 1;
    }
    println!("kept {}, taken {}", both[0], both[1]);
}

#[test]
fn who_watches_is_woken_when_a_core_works() {
    for _ in 0..ROUNDS {
        let rest = &Rest::new();
        rest.core_rests();
        let watch = thread::current();
        thread::scope(|threads| {
            threads.spawn(move || {
                if rest.core_works() {
                    watch.unpark();
                }
            });
            while rest.idle() == 1 {
                if rest.watch_may_sleep(1) {
                    thread::park();
                }
                thread::yield_now();
            }
        });
    }
}
