//! The pool with real threads and without tokio, so that Miri can run it:
//! `MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-tree-borrows -Zmiri-ignore-leaks" cargo +nightly miri test
//! -p stellane-pool --features worker --test worker_threads`
#![cfg(all(feature = "worker", not(loom)))]

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use stellane_pool::{Discipline, Job, JobError, OnDrop, Scale, WorkerPool, WorkerPoolConfig};

const JOBS: usize = if cfg!(miri) { 60 } else { 6000 };

fn config(workers: usize) -> WorkerPoolConfig {
    let mut config = WorkerPoolConfig::default();
    config.min_workers = workers;
    config.max_workers = workers;
    // So many, however few the CPUs.
    config.scale = Scale::Queue;
    config.queue_size = 100_000;
    config
}

fn pool(workers: usize) -> WorkerPool {
    let builder = WorkerPool::builder().config(config(workers));
    builder.build().expect("valid")
}

fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// Gives way once.
async fn again() {
    let mut first = true;
    poll_fn(|cx| {
        if std::mem::take(&mut first) {
            cx.waker().wake_by_ref();
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
}

fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if holds() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("never {what}");
}

#[test]
fn storms_of_panics_and_cancellations_leave_nothing_behind() {
    let pool = pool(3);
    let producers: Vec<_> = (0..3)
        .map(|_| {
            let pool = pool.clone();
            thread::spawn(move || {
                let mut done = 0;
                for i in 0..JOBS / 3 {
                    let job = pool.spawn(async move {
                        again().await;
                        if i % 5 == 0 {
                            // Without a message on stderr for each of them.
                            std::panic::resume_unwind(Box::new("as asked"));
                        }
                        again().await;
                    });
                    if i % 3 == 0 {
                        match block_on(job) {
                            Ok(()) => done += 1,
                            Err(error) => assert_eq!(error, JobError::Panicked("as asked".into())),
                        }
                    }
                }
                done
            })
        })
        .collect();
    let done: usize = producers
        .into_iter()
        .map(|producer| producer.join().expect("it does not panic"))
        .sum();
    assert!(done > 0);
    until("quiet", || pool.stats().outstanding == 0);
    let stats = pool.stats();
    assert_eq!(stats.queue_depth, 0);
    assert_eq!(stats.submitted, (JOBS / 3 * 3) as u64);
    assert_eq!(block_on(pool.spawn_blocking(|| 7)), Ok(7));
}

#[test]
fn a_destructor_that_panics_harms_nobody() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            std::panic::resume_unwind(Box::new("in a destructor"));
        }
    }
    let pool = pool(1);
    let bomb = Bomb;
    let job = pool.spawn(async move {
        let _bomb = &bomb;
        std::future::pending::<()>().await;
    });
    until("begun", || pool.stats().queue_depth == 0);
    drop(job);
    until("dropped", || pool.stats().outstanding == 0);
    assert_eq!(block_on(pool.spawn_blocking(|| 7)), Ok(7));
}

#[test]
fn jobs_of_jobs_are_never_refused_and_idle_workers_steal_them() {
    let mut config = config(2);
    config.queue_size = 1;
    let pool = WorkerPool::builder().config(config).build().expect("valid");
    let inner = pool.clone();
    let sum = block_on(pool.spawn(async move {
        let (first, second) = mpsc::channel();
        // Runs only on another worker: this one waits for it.
        let jobs: Vec<_> = (0..20)
            .map(|i| {
                let first = first.clone();
                inner.spawn_blocking(move || {
                    first.send(()).expect("somebody waits");
                    i
                })
            })
            .collect();
        second.recv().expect("another worker ran it");
        let mut sum = 0;
        for job in jobs {
            sum += job.await.expect("never refused");
        }
        sum
    }));
    assert_eq!(sum, Ok(190));
    assert!(pool.stats().stolen > 0);
}

/// A thread's jobs stay with one queue, but the queue with no worker.
#[test]
fn all_workers_run_the_jobs_of_one_thread() {
    const WORKERS: usize = 4;
    let pool = pool(WORKERS);
    let running = Arc::new(AtomicUsize::new(0));
    let held = Arc::new(Mutex::new(()));
    let jobs: Vec<_> = {
        let _hold = held.lock().expect("nobody panics");
        let jobs = (0..WORKERS).map(|_| {
            let (running, held) = (Arc::clone(&running), Arc::clone(&held));
            pool.spawn_blocking(move || {
                running.fetch_add(1, SeqCst);
                drop(held.lock());
            })
        });
        let jobs = jobs.collect();
        until("all run at once", || running.load(SeqCst) == WORKERS);
        jobs
    };
    for job in jobs {
        assert_eq!(block_on(job), Ok(()));
    }
}

/// Workers tell of tiny jobs by the handful that they no longer wait: never of too few, and never too late to count.
#[test]
fn tiny_jobs_that_have_ended_take_no_room() {
    const WAIT: usize = if cfg!(miri) { 48 } else { 496 };
    for workers in [1, 2] {
        let mut config = config(workers);
        config.queue_size = WAIT + 16;
        let builder = WorkerPool::builder().config(config);
        let pool = builder.build().expect("valid");
        for _ in 0..JOBS / 60 {
            let jobs: Vec<_> = (0..WAIT).map(|i| pool.spawn_blocking(move || i)).collect();
            for (i, job) in jobs.into_iter().enumerate() {
                assert_eq!(block_on(job), Ok(i));
            }
            assert_eq!(pool.stats().queue_depth, 0);
        }
    }
}

/// Thousands may wait, and what holds them holds their handles.
#[test]
fn the_handle_of_a_job_is_two_words() {
    assert_eq!(size_of::<Job<[u64; 8]>>(), 2 * size_of::<usize>());
}

#[test]
fn the_oldest_jobs_have_their_turn_while_new_ones_keep_coming() {
    const WAITING: usize = 64;
    let mut config = config(1);
    config.discipline = Discipline::Fifo;
    let pool = WorkerPool::builder().config(config).build().expect("valid");
    let (done, ran) = mpsc::channel();
    let (release, go_on) = mpsc::channel::<()>();
    let go_on = Arc::new(Mutex::new(go_on));
    // Each ends when the next has been submitted, so that as many wait all the time.
    let submit = |id: usize| {
        let (done, go_on) = (done.clone(), Arc::clone(&go_on));
        pool.spawn_blocking(move || {
            done.send(id).expect("the test listens");
            go_on.lock().expect("not poisoned").recv().is_ok()
        })
    };
    let mut jobs: Vec<_> = (0..WAITING).map(submit).collect();
    let mut old = 0;
    while old < WAITING {
        old += usize::from(ran.recv().expect("a job") < WAITING);
        jobs.push(submit(jobs.len()));
        assert!(jobs.len() < 3 * WAITING, "{old} of {WAITING} have run");
        release.send(()).expect("it runs");
    }
    drop(release);
}

#[test]
fn callers_of_one_tiny_job_after_the_other_are_all_told() {
    let pool = pool(2);
    let callers: Vec<_> = (0..2)
        .map(|_| {
            let pool = pool.clone();
            thread::spawn(move || {
                for i in 0..JOBS / 6 {
                    assert_eq!(block_on(pool.spawn_blocking(move || i)), Ok(i));
                }
            })
        })
        .collect();
    for caller in callers {
        caller.join().expect("it does not panic");
    }
    until("quiet", || pool.stats().outstanding == 0);
}

#[test]
fn a_pool_that_drains_finishes_what_it_has_accepted() {
    let mut config = config(2);
    config.on_drop = OnDrop::Drain;
    let pool = WorkerPool::builder().config(config).build().expect("valid");
    let ran = Arc::new(AtomicUsize::new(0));
    let jobs: Vec<_> = (0..50)
        .map(|_| {
            let ran = Arc::clone(&ran);
            pool.spawn(async move {
                again().await;
                ran.fetch_add(1, SeqCst)
            })
        })
        .collect();
    drop(pool);
    for job in jobs {
        assert!(block_on(job).is_ok());
    }
    assert_eq!(ran.load(SeqCst), 50);
}

#[test]
fn a_pool_that_aborts_tells_everybody_who_waits() {
    let pool = pool(1);
    let (release, wait) = mpsc::channel::<()>();
    let running = pool.spawn_blocking(move || wait.recv().is_ok());
    until("begun", || pool.stats().queue_depth == 0);
    let waiting: Vec<_> = (0..20).map(|i| pool.spawn_blocking(move || i)).collect();
    drop(pool);
    for job in waiting {
        assert_eq!(block_on(job), Err(JobError::Closed));
    }
    release.send(()).expect("it runs");
    assert_eq!(block_on(running), Ok(true));
}

#[test]
fn callers_that_leave_while_workers_are_stuck_do_not_fill_the_queue() {
    const LEAVE: usize = if cfg!(miri) { 240 } else { 60_000 };
    let mut config = config(1);
    config.queue_size = 10;
    let pool = WorkerPool::builder().config(config).build().expect("valid");
    let (release, wait) = mpsc::channel::<()>();
    let running = pool.spawn_blocking(move || wait.recv().is_ok());
    until("begun", || pool.stats().queue_depth == 0);
    for _ in 0..LEAVE {
        drop(pool.spawn_blocking(|| unreachable!("its caller has left")));
    }
    assert_eq!(pool.stats().shed, 0);
    assert!(pool.stats().outstanding < 200, "their memory goes as well");
    release.send(()).expect("it runs");
    assert_eq!(block_on(running), Ok(true));
    until("quiet", || pool.stats().outstanding == 0);
    assert_eq!(pool.stats().cancelled_waiting, LEAVE as u64);
}
