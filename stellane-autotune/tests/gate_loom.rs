//! Every interleaving of admission, release and waiting at the gate, for small cases:
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p stellane-autotune --test gate_loom --release --target-dir target/loom`
#![cfg(loom)]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use loom::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

#[path = "../src/limit/gate.rs"]
#[expect(dead_code, reason = "the gate has more than the models ask of it")]
mod gate;
#[path = "../src/limit/loan.rs"]
mod loan;

use gate::Gate;

#[test]
fn threads_never_exceed_the_limit() {
    loom::model(|| {
        let shared = Arc::new((Gate::new(1), AtomicU32::new(0)));
        let work = |(gate, inside): &(Gate, AtomicU32)| {
            if gate.try_enter(false, |limit| limit) {
                assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0);
                inside.fetch_sub(1, Ordering::Relaxed);
                gate.leave();
            }
        };
        let threads = [(); 2].map(|()| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || work(&shared))
        });
        work(&shared);
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(shared.0.load(), (0, 1));
    });
}

/// The queue as `limit/wait.rs` keeps it: how many wait, and how many were let in.
#[derive(Default)]
struct Queue {
    waiting: u32,
    granted: u32,
}

fn grant(gate: &Gate, queue: &Mutex<Queue>) {
    loop {
        let mut queue = queue.lock().unwrap();
        if queue.waiting == 0 || !gate.try_enter(true, |limit| limit) {
            return;
        }
        queue.waiting -= 1;
        queue.granted += 1;
        if queue.waiting == 0 {
            gate.set_waiters(false);
        }
    }
}

fn wait(gate: &Gate, queue: &Mutex<Queue>) {
    let mut line = queue.lock().unwrap();
    if line.waiting == 0 {
        gate.set_waiters(true);
    }
    line.waiting += 1;
    drop(line);
    grant(gate, queue);
}

#[test]
fn a_place_that_comes_back_is_never_missed_by_who_waits_for_it() {
    loom::model(|| {
        let shared = Arc::new((Gate::new(1), Mutex::new(Queue::default())));
        assert!(shared.0.try_enter(false, |limit| limit));
        let waiter = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || wait(&shared.0, &shared.1))
        };
        if shared.0.leave().0 {
            grant(&shared.0, &shared.1);
        }
        waiter.join().unwrap();
        let queue = shared.1.lock().unwrap();
        assert_eq!((queue.waiting, queue.granted), (0, 1));
        assert_eq!(shared.0.load(), (1, 1));
        assert!(!shared.0.has_waiters());
    });
}

#[test]
fn nobody_who_comes_later_takes_the_place_of_who_waits() {
    loom::model(|| {
        let shared = Arc::new((Gate::new(1), Mutex::new(Queue::default())));
        assert!(shared.0.try_enter(false, |limit| limit));
        wait(&shared.0, &shared.1);
        let late = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.0.try_enter(false, |limit| limit))
        };
        assert!(shared.0.leave().0, "somebody waits");
        grant(&shared.0, &shared.1);
        assert!(!late.join().unwrap());
        assert_eq!(shared.1.lock().unwrap().granted, 1);
    });
}

/// A handler that waits and a body that has nothing, on two threads, and both go on.
#[test]
fn a_place_that_is_lent_is_given_back_and_taken_again_as_often() {
    loom::model(|| {
        let shared = Arc::new((Gate::new(1), loan::State::new()));
        assert!(shared.0.try_enter(false, |limit| limit));
        let wait = |(gate, state): &(Gate, loan::State), reason| {
            if let loan::Begun::Lent { .. } = state.begin(reason, || true) {
                gate.leave();
            }
            if state.end_reason(reason) {
                gate.enter_beyond_limit();
            }
        };
        let body = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || wait(&shared, loan::STARVED))
        };
        wait(&shared, loan::PAUSED);
        body.join().unwrap();
        assert_eq!(shared.0.load(), (1, 1));
        if !shared.1.end().lent {
            shared.0.leave();
        }
        assert_eq!(shared.0.load(), (0, 1));
    });
}

/// The handler is dropped while the body gets something, or finds nothing.
#[test]
fn a_request_that_leaves_gives_its_place_back_once() {
    for feeds in [true, false] {
        loom::model(move || {
            let shared = Arc::new((Gate::new(1), loan::State::new()));
            assert!(shared.0.try_enter(false, |limit| limit));
            let begin = |(gate, state): &(Gate, loan::State), reason| {
                if let loan::Begun::Lent { .. } = state.begin(reason, || true) {
                    gate.leave();
                }
            };
            begin(&shared, loan::PAUSED);
            if feeds {
                begin(&shared, loan::STARVED);
            }
            let body = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    if !feeds {
                        begin(&shared, loan::STARVED);
                    } else if shared.1.end_reason(loan::STARVED) {
                        shared.0.enter_beyond_limit();
                        let _ = shared.1.owe();
                    }
                })
            };
            if !shared.1.end().lent {
                shared.0.leave();
            }
            body.join().unwrap();
            assert_eq!(shared.0.load(), (0, 1));
        });
    }
}
