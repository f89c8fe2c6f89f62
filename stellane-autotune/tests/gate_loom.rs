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
#[expect(dead_code, reason = "the models ask for no age of a loan")]
mod loan;

use gate::Gate;

#[test]
fn threads_never_exceed_the_limit() {
    loom::model(|| {
        let shared = Arc::new((Gate::new(1, 2), AtomicU32::new(0)));
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
    let is_first = line.waiting == 0;
    if is_first {
        gate.set_waiters(true);
    }
    line.waiting += 1;
    drop(line);
    if is_first {
        grant(gate, queue);
    }
}

fn hand_on(gate: &Gate, queue: &Mutex<Queue>) -> bool {
    let (in_flight, limit) = gate.load();
    if in_flight != limit {
        return false;
    }
    let mut queue = queue.lock().unwrap();
    if queue.waiting == 0 {
        return false;
    }
    queue.waiting -= 1;
    queue.granted += 1;
    if queue.waiting == 0 {
        gate.set_waiters(false);
    }
    true
}

fn release(gate: &Gate, queue: &Mutex<Queue>) {
    if gate.has_waiters() && hand_on(gate, queue) {
        return;
    }
    if gate.leave().0 {
        grant(gate, queue);
    }
}

/// With three preemptions; with more these take hours.
fn three_threads(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

#[test]
fn a_place_is_handed_on_to_who_waits_and_nobody_else_gets_it() {
    three_threads(|| {
        let shared = Arc::new((Gate::new(1, 1), Mutex::new(Queue::default())));
        assert!(shared.0.try_enter(false, |limit| limit));
        let waiter = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || wait(&shared.0, &shared.1))
        };
        let other = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                if shared.0.try_enter(false, |limit| limit) {
                    assert_eq!(shared.1.lock().unwrap().granted, 0);
                    release(&shared.0, &shared.1);
                }
            })
        };
        release(&shared.0, &shared.1);
        waiter.join().unwrap();
        other.join().unwrap();
        let queue = shared.1.lock().unwrap();
        assert_eq!((queue.waiting, queue.granted), (0, 1));
        assert_eq!(shared.0.load(), (1, 1));
        assert!(!shared.0.has_waiters());
    });
}

#[test]
fn who_comes_to_others_who_wait_need_not_look_for_a_place() {
    three_threads(|| {
        let shared = Arc::new((Gate::new(2, 1), Mutex::new(Queue::default())));
        assert!(shared.0.try_enter(false, |limit| limit));
        assert!(shared.0.try_enter(false, |limit| limit));
        let waiters = [(); 2].map(|()| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || wait(&shared.0, &shared.1))
        });
        release(&shared.0, &shared.1);
        release(&shared.0, &shared.1);
        for waiter in waiters {
            waiter.join().unwrap();
        }
        let queue = shared.1.lock().unwrap();
        assert_eq!((queue.waiting, queue.granted), (0, 2));
        assert_eq!(shared.0.load(), (2, 2));
    });
}

#[test]
fn a_place_that_comes_back_is_never_missed_by_who_waits_for_it() {
    loom::model(|| {
        let shared = Arc::new((Gate::new(1, 2), Mutex::new(Queue::default())));
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
        let shared = Arc::new((Gate::new(1, 2), Mutex::new(Queue::default())));
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

#[test]
fn a_place_that_is_lent_is_never_missed_by_who_waits_for_it() {
    loom::model(|| {
        let shared = Arc::new((Gate::new(1, 2), Mutex::new(Queue::default())));
        assert!(shared.0.try_enter(false, |limit| limit));
        let waiter = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || wait(&shared.0, &shared.1))
        };
        if shared.0.lend() {
            grant(&shared.0, &shared.1);
        }
        waiter.join().unwrap();
        let queue = shared.1.lock().unwrap();
        assert_eq!((queue.waiting, queue.granted), (0, 1));
        assert_eq!((shared.0.load(), shared.0.inside()), ((1, 1), 2));
    });
}

/// As `limit/shared.rs` does it.
fn enter(gate: &Gate, thread: usize) -> bool {
    gate.try_enter_kept(thread) || gate.try_enter(false, |limit| limit)
}

/// Gives a place back; whether somebody waits for it.
fn leave(gate: &Gate, thread: usize) -> bool {
    !gate.keep(thread) && gate.leave().0
}

/// A gate of which the first thread keeps a place.
fn kept(limit: u32) -> Gate {
    let gate = Gate::new(limit, 2);
    gate.let_keep(1);
    assert!(enter(&gate, 0));
    assert!(!leave(&gate, 0));
    assert_eq!((gate.load().0, gate.in_flight()), (1, 0));
    gate
}

#[test]
fn threads_that_keep_places_never_exceed_the_limit() {
    loom::model(|| {
        let gate = Arc::new(kept(2));
        let other = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || u32::from(enter(&gate, 1)))
        };
        let entered = u32::from(enter(&gate, 0)) + u32::from(enter(&gate, 0));
        assert_eq!(entered + other.join().unwrap(), 2);
        assert_eq!((gate.load(), gate.in_flight()), ((2, 2), 2));
    });
}

#[test]
fn nobody_is_refused_while_a_thread_keeps_a_place() {
    loom::model(|| {
        let gate = Arc::new(kept(2));
        let threads = [1, 2].map(|thread| {
            let gate = Arc::clone(&gate);
            thread::spawn(move || enter(&gate, thread))
        });
        for thread in threads {
            assert!(thread.join().unwrap());
        }
        assert!(!enter(&gate, 0));
        assert_eq!((gate.load(), gate.in_flight()), ((2, 2), 2));
    });
}

#[test]
fn a_place_that_comes_back_is_free_for_others_also_while_threads_begin_to_keep() {
    loom::model(|| {
        let gate = Arc::new(Gate::new(1, 2));
        assert!(enter(&gate, 0));
        let keeper = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || gate.let_keep(1))
        };
        let other = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                leave(&gate, 0);
                assert!(enter(&gate, 1));
            })
        };
        keeper.join().unwrap();
        other.join().unwrap();
        assert_eq!(gate.in_flight(), 1);
    });
}

#[test]
fn a_place_that_a_thread_keeps_is_never_missed_by_who_waits() {
    let mut model = loom::model::Builder::new();
    // Of three threads; those of two are few.
    model.preemption_bound = Some(3);
    for opens in [false, true] {
        model.check(move || {
            let gate = if opens { Gate::new(2, 2) } else { kept(2) };
            let shared = Arc::new((gate, Mutex::new(Queue::default())));
            assert!(enter(&shared.0, 0));
            let waiter = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || wait(&shared.0, &shared.1))
            };
            let keeper = opens.then(|| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || shared.0.let_keep(1))
            });
            if leave(&shared.0, 0) {
                grant(&shared.0, &shared.1);
            }
            waiter.join().unwrap();
            if let Some(keeper) = keeper {
                keeper.join().unwrap();
            }
            assert_eq!(shared.1.lock().unwrap().granted, 1);
            assert_eq!(shared.0.in_flight(), 1);
        });
    }
}

#[test]
fn a_lower_limit_holds_also_for_what_threads_keep() {
    loom::model(|| {
        let gate = Arc::new(kept(4));
        let lower = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || gate.set_limit(1))
        };
        let entered = enter(&gate, 0);
        lower.join().unwrap();
        assert!(entered);
        assert!(!enter(&gate, 0) && !enter(&gate, 1));
        leave(&gate, 0);
        assert!(enter(&gate, 1) && !enter(&gate, 0));
    });
}

#[test]
fn who_takes_a_lent_place_again_leaves_no_place_to_keep_near_the_limit() {
    loom::model(|| {
        let gate = Arc::new(Gate::new(1, 2));
        assert!(enter(&gate, 0));
        gate.lend();
        let keeper = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || gate.let_keep(1))
        };
        assert!(!gate.retake());
        keeper.join().unwrap();
        assert!(!gate.keeps() && !enter(&gate, 0) && !enter(&gate, 1));
    });
}

type Place = Arc<(Gate, loan::State)>;

fn place() -> Place {
    let shared = Arc::new((Gate::new(1, 2), loan::State::new()));
    assert!(shared.0.try_enter(false, |limit| limit));
    shared
}

fn pause((gate, state): &(Gate, loan::State)) {
    if let loan::Begun::Lent { .. } = state.pause(|| true) {
        gate.lend();
    }
}

fn resume((gate, state): &(Gate, loan::State)) {
    if state.resume() {
        gate.retake();
    }
}

fn starve((gate, state): &(Gate, loan::State), inside: bool) {
    if let loan::Begun::Lent { .. } = state.starve(inside, || true) {
        gate.lend();
    }
}

fn feed((gate, state): &(Gate, loan::State), inside: bool) {
    if state.feed(inside) {
        gate.retake();
    }
}

fn end((gate, state): &(Gate, loan::State)) {
    if state.end().lent {
        gate.leave_lent();
    } else {
        gate.leave();
    }
}

/// A handler that waits and a body that has nothing, on two threads, and both go on.
#[test]
fn a_place_that_is_lent_is_given_back_and_taken_again_as_often() {
    loom::model(|| {
        let shared = place();
        let body = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                starve(&shared, false);
                feed(&shared, false);
            })
        };
        pause(&shared);
        resume(&shared);
        body.join().unwrap();
        assert_eq!((shared.0.load(), shared.0.lent()), ((1, 1), 0));
        end(&shared);
        assert_eq!(shared.0.load(), (0, 1));
    });
}

/// A handler has polled its body, and gives it to another thread before it waits itself.
#[test]
fn a_body_that_goes_elsewhere_takes_what_its_handler_has_noted_along() {
    for (dry_before, dry_then) in [(true, false), (false, true), (true, true), (false, false)] {
        loom::model(move || {
            let shared = place();
            let find = |shared: &Place, inside, dry| match dry {
                true => starve(shared, inside),
                false => feed(shared, inside),
            };
            find(&shared, true, dry_before);
            let body = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || find(&shared, false, dry_then))
            };
            pause(&shared);
            body.join().unwrap();
            assert_eq!(shared.0.lent(), u32::from(dry_then));
            resume(&shared);
            assert_eq!(shared.0.load(), (1, 1));
            pause(&shared);
            assert_eq!(shared.0.lent(), u32::from(dry_then));
            end(&shared);
            assert_eq!((shared.0.load(), shared.0.lent()), ((0, 1), 0));
        });
    }
}

/// The same, when it was polled by the handler in a poll before.
#[test]
fn a_body_that_is_given_away_while_its_place_is_lent_is_fed_there() {
    loom::model(|| {
        let shared = place();
        starve(&shared, true);
        pause(&shared);
        assert_eq!(shared.0.lent(), 1);
        let body = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || feed(&shared, false))
        };
        resume(&shared);
        pause(&shared);
        body.join().unwrap();
        assert_eq!((shared.0.load(), shared.0.lent()), ((1, 1), 0));
    });
}

/// The handler is dropped while the body gets something, or finds nothing.
#[test]
fn a_request_that_leaves_gives_its_place_back_once() {
    for feeds in [true, false] {
        loom::model(move || {
            let shared = place();
            pause(&shared);
            if feeds {
                starve(&shared, false);
            }
            let body = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || match feeds {
                    false => starve(&shared, false),
                    true => {
                        feed(&shared, false);
                        let _ = shared.1.owe();
                    }
                })
            };
            end(&shared);
            body.join().unwrap();
            assert_eq!((shared.0.load(), shared.0.lent()), ((0, 1), 0));
        });
    }
}
