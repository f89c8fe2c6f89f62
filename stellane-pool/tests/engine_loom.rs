//! The marks of `stellane-core`'s `HandoffEngine` under every interleaving. They are tested here since tokio, without which
//! that crate has no engine, is another crate under `--cfg loom`:
//! `RUSTFLAGS="--cfg loom" cargo test -p stellane-pool --test engine_loom --release --target-dir target/loom`
#![cfg(loom)]

mod sync {
    pub(super) use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
}
#[path = "../../stellane-core/src/engine/handoff/marks.rs"]
#[expect(dead_code, reason = "who watches asks for more than the models do")]
mod marks;

use loom::{
    cell::UnsafeCell,
    sync::{Arc, Mutex, Notify},
    thread,
};
use marks::{PollMark, Rest};

/// What only the thread that has the core may touch.
struct Core(UnsafeCell<u32>);

// SAFETY: whoever has the core is alone with it, which is what loom is to find out.
unsafe impl Sync for Core {}
// SAFETY: as above.
unsafe impl Send for Core {}

impl Core {
    fn touch(&self) {
        // SAFETY: as above.
        self.0.with_mut(|n| unsafe { *n += 1 });
    }
}

#[test]
fn a_core_belongs_to_one_thread_at_a_time() {
    loom::model(|| {
        let mark = Arc::new(PollMark::new());
        let core = Arc::new(Core(UnsafeCell::new(0)));
        // How the core comes to another thread.
        let given = Arc::new(Mutex::new(false));
        let polling = {
            let (mark, core) = (Arc::clone(&mark), Arc::clone(&core));
            thread::spawn(move || {
                for poll in 1..=2 {
                    core.touch();
                    mark.begin(poll);
                    // The poll: it touches no core.
                    if !mark.end() {
                        return false;
                    }
                    core.touch();
                }
                true
            })
        };
        let watching = {
            let (mark, given) = (Arc::clone(&mark), Arc::clone(&given));
            thread::spawn(move || {
                let taken = mark.running().is_some_and(|poll| mark.take_core(poll));
                *given.lock().expect("no panic") = taken;
                taken
            })
        };
        let next = {
            let (core, given) = (Arc::clone(&core), Arc::clone(&given));
            thread::spawn(move || {
                let has_it = *given.lock().expect("no panic");
                if has_it {
                    core.touch();
                }
            })
        };
        let kept = polling.join().expect("no panic");
        let taken = watching.join().expect("no panic");
        next.join().expect("no panic");
        assert_ne!(kept, taken, "one of the two has the core");
        assert!(mark.running().is_none());
    });
}

#[test]
fn an_old_look_takes_no_core_from_a_later_poll() {
    loom::model(|| {
        let mark = Arc::new(PollMark::new());
        mark.begin(1);
        let polling = {
            let mark = Arc::clone(&mark);
            thread::spawn(move || {
                let kept = mark.end();
                if kept {
                    mark.begin(2);
                }
                kept
            })
        };
        let taken = mark.take_core(1);
        let kept = polling.join().expect("no panic");
        assert_ne!(kept, taken);
        assert_eq!(mark.running(), kept.then_some(2));
        assert!(!mark.take_core(1));
    });
}

#[test]
fn who_watches_never_sleeps_while_a_core_works() {
    loom::model(|| {
        let rest = Arc::new(Rest::new());
        let wake = Arc::new(Notify::new());
        rest.core_rests();
        let core = {
            let (rest, wake) = (Arc::clone(&rest), Arc::clone(&wake));
            thread::spawn(move || {
                if rest.core_works() {
                    wake.notify();
                }
            })
        };
        // It ends: a wake-up that is lost is a deadlock, which loom reports.
        while rest.idle() == 1 {
            if rest.watch_may_sleep(1) {
                wake.wait();
            }
            thread::yield_now();
        }
        core.join().expect("no panic");
    });
}
