//! Objects: reuse, vetoes, bounds, ageing, panics and closing.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use stellane_pool::{Budget, DropReason, Fate, Pool, Recycle, RecycleCx};

/// Counts how many of it are alive.
struct Counted {
    alive: Arc<AtomicUsize>,
    bytes: usize,
    dirty: bool,
}

impl Recycle for Counted {
    fn recycle(&mut self, cx: &RecycleCx) -> Fate {
        self.dirty = false;
        cx.fate_of(self.bytes)
    }

    fn retained_bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

fn counted(
    bytes: usize,
) -> (
    impl Fn() -> Counted + Send + Sync + 'static,
    Arc<AtomicUsize>,
) {
    let alive = Arc::new(AtomicUsize::new(0));
    let make = {
        let alive = Arc::clone(&alive);
        move || {
            alive.fetch_add(1, Ordering::Relaxed);
            Counted {
                alive: Arc::clone(&alive),
                bytes,
                dirty: false,
            }
        }
    };
    (make, alive)
}

fn take_many<T: Recycle>(pool: &Pool<T>, count: usize) {
    let taken: Vec<_> = (0..count).map(|_| pool.take()).collect();
    drop(taken);
}

#[test]
fn a_returned_value_is_clean_and_used_again() {
    let (make, alive) = counted(10);
    let pool = Pool::builder(make).build().unwrap();
    pool.take().dirty = true;
    let again = pool.take();
    assert!(!again.dirty);
    assert_eq!(alive.load(Ordering::Relaxed), 1);
    let stats = pool.stats();
    assert_eq!(
        (stats.hits, stats.misses, stats.outstanding, stats.idle),
        (1, 1, 1, 0)
    );
}

#[test]
fn a_value_that_grew_too_large_is_dropped() {
    let pool = Pool::builder(Vec::<u8>::new)
        .max_object_bytes(1000)
        .build()
        .unwrap();
    pool.take().reserve(1001);
    pool.take().reserve(500);
    let stats = pool.stats();
    assert_eq!(
        (stats.idle, stats.drops.count(DropReason::TooLarge)),
        (1, 1)
    );
    assert!(stats.retained_bytes >= 500);
}

#[test]
fn what_is_kept_never_passes_the_budget_or_the_count() {
    let budget = Budget::new(1000);
    let (make, alive) = counted(100);
    let pool = Pool::builder(make)
        .budget(&budget)
        .max_idle(64)
        .build()
        .unwrap();
    take_many(&pool, 40);
    let stats = pool.stats();
    assert_eq!(
        (stats.idle, stats.retained_bytes, stats.outstanding),
        (10, 1000, 0)
    );
    assert_eq!(stats.drops.count(DropReason::Budget), 30);
    assert_eq!(alive.load(Ordering::Relaxed), 10);

    budget.set_limit(1 << 20);
    take_many(&pool, 200);
    let stats = pool.stats();
    assert!(stats.idle <= 64, "{stats:?}");
    assert!(stats.drops.count(DropReason::Full) > 100, "{stats:?}");

    pool.set_max_idle(3);
    assert!(pool.stats().idle <= 3);
    pool.set_max_idle(0);
    assert_eq!((pool.stats().idle, budget.used()), (0, 0));
    drop(pool.take());
    assert_eq!(
        alive.load(Ordering::Relaxed),
        0,
        "a pool of size 0 keeps nothing"
    );
}

#[test]
fn idle_values_leave_after_two_ticks_and_used_ones_stay() {
    let (make, _) = counted(10);
    let pool = Pool::builder(make).build().unwrap();
    take_many(&pool, 20);
    pool.tick();
    assert_eq!(
        pool.stats().idle,
        20,
        "all were in use since the tick before"
    );
    take_many(&pool, 5);
    let trimmed = pool.tick();
    assert_eq!(
        (trimmed.objects, trimmed.bytes, pool.stats().idle),
        (15, 150, 5)
    );
    pool.tick();
    assert_eq!(pool.stats().idle, 0);
}

#[test]
fn the_retain_percentage_scales_what_survives_a_tick() {
    for (percent, kept) in [(0, 0), (50, 4), (100, 8), (300, 24), (1000, 30)] {
        let (make, _) = counted(10);
        let pool = Pool::builder(make).retain_percent(1000).build().unwrap();
        take_many(&pool, 30);
        pool.tick();
        take_many(&pool, 8);
        pool.set_retain_percent(percent);
        pool.tick();
        assert_eq!(pool.stats().idle, kept, "{percent} %");
    }
}

#[test]
fn a_value_held_during_a_panic_is_dropped() {
    let (make, alive) = counted(10);
    let pool = Pool::builder(make).build().unwrap();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let _held = pool.take();
        std::panic::panic_any("the handler fails");
    }));
    assert!(result.is_err());
    let stats = pool.stats();
    assert_eq!((stats.idle, stats.outstanding), (0, 0));
    assert_eq!(stats.drops.count(DropReason::Panicking), 1);
    assert_eq!(alive.load(Ordering::Relaxed), 0);
}

#[test]
fn a_recycle_that_panics_drops_the_value_once() {
    struct Bomb(Arc<AtomicUsize>);
    impl Recycle for Bomb {
        fn recycle(&mut self, _: &RecycleCx) -> Fate {
            std::panic::panic_any("recycle fails");
        }
        fn retained_bytes(&self) -> usize {
            0
        }
    }
    impl Drop for Bomb {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let dropped = Arc::new(AtomicUsize::new(0));
    let pool = Pool::builder({
        let dropped = Arc::clone(&dropped);
        move || Bomb(Arc::clone(&dropped))
    })
    .build()
    .unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| drop(pool.take()))).is_err());
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
    assert_eq!((pool.stats().idle, pool.stats().outstanding), (0, 0));
}

#[test]
fn a_pool_closed_or_dropped_with_values_out_drops_them_when_they_return() {
    let (make, alive) = counted(10);
    let budget = Budget::new(1000);
    let pool = Pool::builder(make).budget(&budget).build().unwrap();
    let (one, two) = (pool.take(), pool.take());
    drop(pool.take());
    pool.close();
    assert_eq!(alive.load(Ordering::Relaxed), 2, "the idle one is gone");
    drop(one);
    assert_eq!(pool.stats().drops.count(DropReason::Closed), 2);
    drop(pool.take());
    drop(pool);
    drop(two);
    assert_eq!((alive.load(Ordering::Relaxed), budget.used()), (0, 0));
}

#[test]
fn a_detached_value_is_no_longer_counted() {
    let (make, alive) = counted(10);
    let pool = Pool::builder(make).build().unwrap();
    let value = pool.take().detach();
    assert_eq!(pool.stats().outstanding, 0);
    drop((value, pool));
    assert_eq!(alive.load(Ordering::Relaxed), 0);
}

#[test]
fn values_taken_on_one_thread_and_returned_on_others_are_found_again() {
    const ROUNDS: usize = if cfg!(miri) { 50 } else { 5_000 };
    for magazines in [1, 4, 16] {
        let (make, alive) = counted(100);
        // Room for what can be under way, not for what flows by.
        let budget = Budget::new(100 * 1_000);
        let pool = Pool::builder(make)
            .budget(&budget)
            .magazines(magazines)
            .build()
            .unwrap();
        let (send, receive) = std::sync::mpsc::sync_channel(8);
        let receive = Arc::new(std::sync::Mutex::new(receive));
        thread::scope(|scope| {
            for _ in 0..4 {
                let receive = Arc::clone(&receive);
                scope.spawn(move || {
                    loop {
                        let next = receive.lock().unwrap().recv();
                        match next {
                            Ok(value) => drop::<stellane_pool::Pooled<Counted>>(value),
                            Err(_) => break,
                        }
                    }
                });
            }
            for _ in 0..ROUNDS {
                send.send(pool.take()).unwrap();
            }
            drop(send);
        });
        let stats = pool.stats();
        assert_eq!(stats.outstanding, 0);
        assert_eq!(stats.hits + stats.misses, ROUNDS as u64);
        if !cfg!(miri) {
            assert!(
                stats.hit_ratio() >= 0.95,
                "{magazines} magazines: {stats:?}"
            );
        }
        assert!(stats.retained_bytes <= budget.used() && budget.used() <= budget.limit());
        drop(pool);
        assert_eq!((alive.load(Ordering::Relaxed), budget.used()), (0, 0));
    }
}

#[test]
fn numbers_read_while_values_move_between_threads_stay_within_the_budget() {
    const READS: usize = if cfg!(miri) { 50 } else { 20_000 };
    const BUDGET: usize = 100 * 256;
    let (make, _) = counted(100);
    let pool = Pool::builder(make)
        .budget(&Budget::new(BUDGET))
        .magazines(16)
        .build()
        .unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let values: Vec<_> = (0..256).map(|_| pool.take()).collect();
                    thread::yield_now();
                    drop(values);
                    thread::yield_now();
                }
            });
        }
        let most = (0..READS)
            .map(|_| pool.stats().retained_bytes)
            .max()
            .unwrap_or_default();
        done.store(true, Ordering::Relaxed);
        assert!(most <= BUDGET, "{most} bytes of {BUDGET}");
    });
}

#[test]
fn a_struct_is_recycled_field_by_field() {
    struct Scratch {
        spans: Vec<(u16, u16)>,
        text: String,
        depth: usize,
    }
    stellane_pool::recycle!(Scratch { spans, text, depth = 0 });
    let make = || Scratch {
        spans: Vec::new(),
        text: String::new(),
        depth: 0,
    };
    let pool = Pool::builder(make).max_object_bytes(1000).build().unwrap();
    let mut scratch = pool.take();
    scratch.spans.push((1, 2));
    scratch.text.push_str("secret");
    scratch.depth = 7;
    drop(scratch);
    let scratch = pool.take();
    assert!(scratch.spans.is_empty() && scratch.text.is_empty() && scratch.depth == 0);
    assert!(
        scratch.text.capacity() >= 6,
        "what was allocated is still there"
    );
    drop(scratch);
    pool.take().text.reserve(2000);
    assert_eq!(pool.stats().drops.count(DropReason::TooLarge), 1);
}
