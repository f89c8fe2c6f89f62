//! Every interleaving of the exchange, of closing and of ageing, for small cases:
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p stellane-pool --test pool_loom --release --target-dir target/loom`
//!
//! With at most three preemptions, unless `LOOM_MAX_PREEMPTIONS` says otherwise.
#![cfg(loom)]

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use loom::thread;
use stellane_pool::{Budget, Fate, Pool, Recycle, RecycleCx};

/// Counts how many of it are alive. Plain atomics: the model has nothing to explore in them.
struct Counted(Arc<AtomicUsize>);

impl Recycle for Counted {
    fn recycle(&mut self, _: &RecycleCx) -> Fate {
        Fate::Keep
    }

    fn retained_bytes(&self) -> usize {
        100
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Model {
    pool: Pool<Counted>,
    alive: Arc<AtomicUsize>,
    budget: Budget,
}

impl Model {
    fn new(max_idle: usize) -> Self {
        let alive = Arc::new(AtomicUsize::new(0));
        let budget = Budget::new(1_000);
        let make = {
            let alive = Arc::clone(&alive);
            move || {
                alive.fetch_add(1, Ordering::Relaxed);
                Counted(Arc::clone(&alive))
            }
        };
        let builder = Pool::builder(make)
            .budget(&budget)
            .magazines(2)
            .max_idle(max_idle);
        let pool = builder.build().expect("within bounds");
        Self {
            pool,
            alive,
            budget,
        }
    }

    /// Nothing is lost and nothing is there twice; then nothing is left.
    fn check(self) {
        let stats = self.pool.stats();
        assert_eq!(stats.outstanding, 0);
        assert_eq!(stats.idle, self.alive.load(Ordering::Relaxed));
        assert_eq!(stats.retained_bytes, 100 * stats.idle);
        assert!(stats.retained_bytes <= self.budget.used());
        drop(self.pool);
        assert_eq!(
            (self.alive.load(Ordering::Relaxed), self.budget.used()),
            (0, 0)
        );
    }
}

fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(model);
}

#[test]
fn values_returned_on_another_thread_are_neither_lost_nor_doubled() {
    explore(|| {
        let model = Model::new(4);
        let (one, two) = (model.pool.take(), model.pool.take());
        let other = thread::spawn(move || drop((one, two)));
        drop(model.pool.take());
        drop(model.pool.take());
        other.join().expect("it does not panic");
        model.check();
    });
}

#[test]
fn two_threads_in_a_pool_of_one_never_hold_the_same_value() {
    explore(|| {
        let model = Model::new(1);
        let pool = model.pool.clone();
        let other = thread::spawn(move || drop(pool.take()));
        drop(model.pool.take());
        other.join().expect("it does not panic");
        model.check();
    });
}

#[test]
fn a_value_that_returns_while_the_pool_closes_is_dropped() {
    explore(|| {
        let model = Model::new(4);
        let value = model.pool.take();
        let other = thread::spawn(move || drop(value));
        model.pool.close();
        other.join().expect("it does not panic");
        assert_eq!(
            (model.alive.load(Ordering::Relaxed), model.budget.used()),
            (0, 0)
        );
    });
}

#[test]
fn the_last_handle_may_go_while_a_value_returns() {
    explore(|| {
        let Model {
            pool,
            alive,
            budget,
        } = Model::new(4);
        let value = pool.take();
        let other = thread::spawn(move || drop(value));
        drop(pool);
        other.join().expect("it does not panic");
        assert_eq!((alive.load(Ordering::Relaxed), budget.used()), (0, 0));
    });
}

#[test]
fn ageing_goes_on_while_values_come_and_go() {
    explore(|| {
        let model = Model::new(4);
        drop((model.pool.take(), model.pool.take()));
        model.pool.tick();
        let pool = model.pool.clone();
        let other = thread::spawn(move || drop(pool.take()));
        model.pool.tick();
        other.join().expect("it does not panic");
        model.check();
    });
}
