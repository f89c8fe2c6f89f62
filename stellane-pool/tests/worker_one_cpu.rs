//! Workers and reactor on one CPU.
#![cfg(all(feature = "worker", target_os = "linux", not(loom), not(miri)))]

use std::{
    hint::black_box,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::future::join_all;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use stellane_pool::{WorkerPool, WorkerPoolConfig};
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};

const CALLERS: usize = 64;
const JOBS: usize = 100;

/// The calling thread, and what it starts from now on, has one CPU; one test at a time.
fn on_one_cpu() -> MutexGuard<'static, ()> {
    static CPU: Mutex<()> = Mutex::new(());
    let guard = CPU.lock().unwrap_or_else(PoisonError::into_inner);
    let allowed = sched_getaffinity(None).expect("Linux tells");
    let first = (0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu));
    let mut one = CpuSet::new();
    one.set(first.expect("a CPU"));
    sched_setaffinity(None, &one).expect("it is allowed");
    guard
}

fn pool() -> WorkerPool {
    let mut config = WorkerPoolConfig::default();
    config.queue_size = 10_000;
    let builder = WorkerPool::builder().config(config);
    builder.build().expect("valid")
}

/// A runtime, and how often its thread has gone to sleep.
fn runtime() -> (Runtime, Arc<AtomicUsize>) {
    let sleeps = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sleeps);
    let runtime = Builder::new_current_thread()
        .enable_all()
        .on_thread_park(move || {
            counted.fetch_add(1, SeqCst);
        })
        .build();
    (runtime.expect("a runtime"), sleeps)
}

fn short() -> u64 {
    (0..200).fold(0, |sum: u64, i| black_box(sum.wrapping_mul(31) + i))
}

#[test]
fn results_of_short_jobs_wake_the_reactor_together() {
    let _cpu = on_one_cpu();
    let (pool, (runtime, sleeps)) = (pool(), runtime());
    runtime.block_on(async {
        let callers = (0..CALLERS).map(|_| async {
            for _ in 0..JOBS {
                pool.spawn_blocking(short).await.expect("it runs");
            }
        });
        join_all(callers).await;
    });
    let (sleeps, jobs) = (sleeps.load(SeqCst), CALLERS * JOBS);
    assert!(sleeps < jobs / 2, "{sleeps} sleeps for {jobs} jobs");
}

#[test]
fn callers_that_leave_keep_no_result_from_others() {
    let _cpu = on_one_cpu();
    let (pool, (runtime, _)) = (pool(), runtime());
    let told = runtime.block_on(async {
        let callers = (0..CALLERS).map(|caller| {
            let pool = pool.clone();
            async move {
                let mut told = 0;
                for i in 0..JOBS {
                    let inner = pool.clone();
                    let mut job = pool.spawn(async move { inner.spawn_blocking(short).await });
                    // Polled once, so that it is to be woken.
                    if timeout(Duration::ZERO, &mut job).await.is_ok() {
                        told += 1;
                    } else if (caller + i) % 3 > 0 {
                        told += usize::from(job.await.is_ok());
                    }
                }
                told
            }
        });
        join_all(callers).await.into_iter().sum::<usize>()
    });
    assert!(told >= CALLERS * JOBS / 2, "{told}");
    while pool.stats().outstanding > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let stats = pool.stats();
    let all = (CALLERS * JOBS) as u64;
    assert!((all..=2 * all).contains(&stats.submitted), "{stats:?}");
    assert_eq!(stats.queue_depth, 0);
}
