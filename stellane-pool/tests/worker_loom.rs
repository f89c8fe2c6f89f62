//! The sleeping and waking of workers under every interleaving of up to two preemptions:
//! `RUSTFLAGS="--cfg loom" cargo test -p stellane-pool --test worker_loom --release --target-dir target/loom`
#![cfg(loom)]

#[path = "../src/worker/idle.rs"]
mod idle;

use std::time::Duration;

use idle::{Idle, Wake};
use loom::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::*},
    },
    thread,
};

const NEVER: Duration = Duration::MAX;

/// Work is a number that goes down; it comes into an inbox, from which whoever has the lock sorts it into the queue, as
/// in `Shard`. A lost wake-up is a deadlock, which loom reports.
#[derive(Default)]
struct Model {
    idle: Idle,
    inbox: AtomicUsize,
    queue: Mutex<()>,
    len: AtomicUsize,
    left: AtomicUsize,
}

impl Model {
    fn with_left(left: usize) -> Arc<Self> {
        let model = Arc::new(Self::default());
        model.left.store(left, Release);
        model
    }

    fn publish(&self) {
        self.inbox.fetch_add(1, SeqCst);
        self.idle.notify();
    }

    fn has_work(&self) -> bool {
        self.inbox.load(SeqCst) > 0 || self.len.load(Acquire) > 0
    }

    fn take(&self) -> bool {
        if !self.has_work() {
            return false;
        }
        let _queue = self.queue.lock();
        let new = self.inbox.load(SeqCst);
        let len = self.len.load(Relaxed) + new;
        self.len.store(len, Release);
        self.inbox.fetch_sub(new, SeqCst);
        self.len.store(len.saturating_sub(1), Release);
        len > 0
    }

    /// Ends when nothing is left to do for anybody; like the worker's own loop.
    fn work(&self) {
        self.work_and_tell(false);
    }

    /// `early`: tells of its search before a job is quite done, as a worker does that sees no other.
    fn work_and_tell(&self, early: bool) {
        let mut searching = false;
        while self.left.load(Acquire) > 0 {
            if self.take() {
                if searching {
                    searching = false;
                    self.idle.found(|| self.has_work());
                }
                if early && !self.has_work() {
                    searching = true;
                    self.idle.search();
                }
                if self.left.fetch_sub(1, AcqRel) == 1 {
                    self.idle.notify_all();
                }
            } else if !searching {
                searching = true;
                self.idle.search();
            } else {
                self.idle
                    .sleep(NEVER, || self.has_work() || self.left.load(Acquire) == 0);
            }
        }
        if searching {
            self.idle.found(|| self.has_work());
        }
    }
}

fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(2);
    builder.check(model);
}

fn spawn<T: 'static>(
    model: &Arc<Model>,
    run: impl FnOnce(&Model) -> T + 'static,
) -> thread::JoinHandle<T> {
    let model = Arc::clone(model);
    thread::spawn(move || run(&model))
}

#[test]
fn work_published_while_a_worker_falls_asleep_is_done() {
    explore(|| {
        let model = Model::with_left(2);
        let worker = spawn(&model, Model::work);
        model.publish();
        model.publish();
        worker.join().expect("it does not panic");
    });
}

#[test]
fn two_workers_share_what_is_published_at_once() {
    explore(|| {
        let model = Model::with_left(2);
        let workers = [(); 2].map(|()| spawn(&model, Model::work));
        model.publish();
        model.publish();
        for worker in workers {
            worker.join().expect("it does not panic");
        }
        assert_eq!((model.idle.asleep(), model.idle.searching()), (0, 0));
    });
}

#[test]
fn a_worker_that_tells_of_its_search_before_a_job_is_done_loses_nothing() {
    explore(|| {
        let model = Model::with_left(2);
        let workers = [(); 2].map(|()| spawn(&model, |model| model.work_and_tell(true)));
        model.publish();
        model.publish();
        for worker in workers {
            worker.join().expect("it does not panic");
        }
        assert_eq!((model.idle.asleep(), model.idle.searching()), (0, 0));
    });
}

/// The supervisor may wake one more at any time.
#[test]
fn a_worker_that_is_woken_although_another_searches_does_no_harm() {
    explore(|| {
        let model = Model::with_left(1);
        let workers = [(); 2].map(|()| spawn(&model, Model::work));
        model.publish();
        model.idle.wake_another();
        for worker in workers {
            worker.join().expect("it does not panic");
        }
        assert_eq!((model.idle.asleep(), model.idle.searching()), (0, 0));
    });
}

/// A woken worker that ends instead of looking (a pool that shrinks) hands its wake-up on.
#[test]
fn a_worker_that_ends_when_woken_passes_the_work_on() {
    explore(|| {
        let model = Model::with_left(1);
        let worker = spawn(&model, Model::work);
        let leaver = spawn(&model, |model| {
            model.idle.search();
            let left = || model.left.load(Acquire) == 0;
            let _ = model.idle.sleep(NEVER, || model.has_work() || left());
            model.idle.found(|| model.has_work());
        });
        model.publish();
        worker.join().expect("it does not panic");
        leaver.join().expect("it does not panic");
    });
}

#[test]
fn a_sleep_that_times_out_while_it_is_woken_loses_nothing() {
    explore(|| {
        let model = Model::with_left(1);
        let worker = spawn(&model, Model::work);
        let sleeper = spawn(&model, |model| {
            model.idle.search();
            let wake = model.idle.sleep(Duration::ZERO, || model.has_work());
            model.idle.found(|| model.has_work());
            wake
        });
        model.publish();
        worker.join().expect("it does not panic");
        let wake = sleeper.join().expect("it does not panic");
        assert!(matches!(wake, Wake::Work | Wake::TimedOut));
    });
}
