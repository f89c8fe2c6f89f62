//! Scaling and queue disciplines in virtual time: every run is the same.
#![cfg(all(feature = "sim", not(loom)))]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::FutureExt;
use stellane_pool::{
    Discipline, Job, JobError, Scale, WorkerPool, WorkerPoolConfig,
    worker::sim::{VirtualPool, take},
};

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn config(workers: usize, discipline: Discipline) -> WorkerPoolConfig {
    let mut config = WorkerPoolConfig::default();
    config.min_workers = workers;
    config.max_workers = workers.max(64);
    config.discipline = discipline;
    config
}

/// Now, if the job is done already.
fn result<T>(job: Job<T>) -> Option<Result<T, JobError>> {
    job.now_or_never()
}

/// Useful jobs (done within their deadline) at a multiple of what two workers can do, after a second to settle.
fn useful(discipline: Discipline, load: u64) -> u64 {
    let service = ms(10);
    let deadline = ms(100);
    let mut virt = VirtualPool::new(&config(2, discipline), 2).expect("valid");
    let pool = virt.pool().clone();
    let mut useful = 0;
    let mut jobs = Vec::new();
    for step in 0..5000 {
        // Each millisecond: capacity is one job in 5 ms.
        for _ in 0..(load * (step + 1) / 5 - load * step / 5) {
            let came = virt.now();
            let job = pool.job().timeout(deadline);
            jobs.push((came, job.spawn_blocking(move || take(service))));
        }
        virt.advance(ms(1));
        let now = virt.now();
        // A job that has begun ends `service` later: it counts if that is within the deadline.
        jobs.retain_mut(|(came, job)| {
            let result = job.now_or_never();
            let in_time = now + service - ms(1) <= *came + deadline;
            useful += u64::from(result == Some(Ok(())) && in_time && step >= 1000);
            result.is_none()
        });
    }
    useful
}

#[test]
fn under_ten_times_the_load_lifo_and_codel_keep_their_goodput_and_fifo_collapses() {
    let peak = 4000 / 5;
    for discipline in [Discipline::AdaptiveLifo, Discipline::CoDel] {
        let useful = useful(discipline, 10);
        println!("{discipline:?}: {useful} of {peak}");
        assert!(
            useful * 100 >= peak * 95,
            "{discipline:?}: {useful} of {peak}"
        );
    }
    let fifo = useful(Discipline::Fifo, 10);
    println!("fifo: {fifo} of {peak}");
    assert!(fifo * 2 < peak, "fifo: {fifo} of {peak}");
}

#[test]
fn a_burst_is_served_in_order_and_nothing_is_shed() {
    for discipline in [
        Discipline::Fifo,
        Discipline::AdaptiveLifo,
        Discipline::CoDel,
    ] {
        let mut virt = VirtualPool::new(&config(1, discipline), 1).expect("valid");
        let order = Arc::new(Mutex::new(Vec::new()));
        let jobs: Vec<_> = (0..9)
            .map(|i| {
                let order = Arc::clone(&order);
                virt.pool().spawn_blocking(move || {
                    take(ms(10));
                    order.lock().expect("not poisoned").push(i);
                })
            })
            .collect();
        virt.advance(ms(100));
        assert_eq!(
            *order.lock().expect("not poisoned"),
            (0..9).collect::<Vec<_>>()
        );
        assert!(jobs.into_iter().all(|job| result(job) == Some(Ok(()))));
        assert_eq!(virt.pool().stats().shed, 0);
    }
}

#[test]
fn expired_and_cancelled_jobs_never_run() {
    let mut virt = VirtualPool::new(&config(1, Discipline::Fifo), 1).expect("valid");
    let pool = virt.pool().clone();
    let ran = Arc::new(AtomicUsize::new(0));
    let first = pool.spawn_blocking(|| take(ms(50)));
    virt.advance(ms(1));
    let job = |builder: stellane_pool::worker::JobBuilder<'_>| {
        let ran = Arc::clone(&ran);
        builder.spawn_blocking(move || {
            ran.fetch_add(1, SeqCst);
        })
    };
    let expires = job(pool.job().timeout(ms(20)));
    drop(job(pool.job()));
    let kept = job(pool.job().timeout(ms(60)));
    assert_eq!(
        pool.stats().queue_depth,
        2,
        "the cancelled one is not counted"
    );
    virt.advance(ms(30));
    assert_eq!(
        result(expires),
        Some(Err(JobError::Expired)),
        "told before a worker is free"
    );
    virt.advance(ms(30));
    assert_eq!(result(kept), Some(Ok(())));
    assert_eq!(result(first), Some(Ok(())));
    let stats = pool.stats();
    assert_eq!(ran.load(SeqCst), 1);
    assert_eq!((stats.shed_expired, stats.cancelled_waiting), (1, 1));
    assert_eq!((stats.outstanding, stats.queue_depth), (0, 0));
}

#[test]
fn classes_share_worker_time_by_weight_not_by_number_of_jobs() {
    let mut virt = VirtualPool::new(&config(2, Discipline::Fifo), 2).expect("valid");
    let pool = virt.pool().clone();
    let (heavy, light) = (pool.class("heavy", 1), pool.class("light", 3));
    let mut jobs = Vec::new();
    let counts = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
    for _ in 0..2000 {
        for (class, time, count) in [(heavy, 20, &counts[0]), (light, 1, &counts[1])] {
            let count = Arc::clone(count);
            jobs.push(pool.job().class(class).spawn_blocking(move || {
                take(ms(time));
                count.fetch_add(time, SeqCst);
            }));
        }
    }
    virt.advance(ms(1200));
    let [heavy, light] = counts.map(|count| count.load(SeqCst));
    let share = light as f64 / (heavy + light) as f64;
    assert!((0.70..0.80).contains(&share), "light had {share}");
}

#[test]
fn a_class_that_fills_the_queue_makes_room_for_others() {
    let mut config = config(1, Discipline::Fifo);
    config.queue_size = 10;
    let mut virt = VirtualPool::new(&config, 1).expect("valid");
    let pool = virt.pool().clone();
    let (heavy, light) = (pool.class("heavy", 1), pool.class("light", 1));
    let spawn = |class| pool.job().class(class).spawn_blocking(|| take(ms(20)));
    let heavy_jobs: Vec<_> = (0..20).map(|_| spawn(heavy)).collect();
    let light_jobs: Vec<_> = (0..4).map(|_| spawn(light)).collect();
    assert_eq!(pool.stats().queue_depth, 10);
    virt.advance(ms(200));
    assert!(
        light_jobs
            .into_iter()
            .all(|job| result(job) == Some(Ok(())))
    );
    let refused = heavy_jobs.into_iter().filter_map(result);
    assert_eq!(
        refused.filter(|r| *r == Err(JobError::Overloaded)).count(),
        14
    );
    assert_eq!(pool.stats().shed_full, 14);
}

#[test]
fn a_full_queue_may_be_waited_for_but_not_for_ever() {
    let mut config = config(1, Discipline::Fifo);
    config.queue_size = 1;
    config.full_wait = ms(30);
    let mut virt = VirtualPool::new(&config, 1).expect("valid");
    let pool = virt.pool().clone();
    let running = pool.spawn_blocking(|| take(ms(100)));
    virt.advance(ms(1));
    let waiting = pool.spawn_blocking(|| ());
    let bounded = pool.spawn_blocking(|| ());
    assert_eq!(
        result(pool.spawn_blocking(|| ())),
        Some(Err(JobError::Overloaded)),
        "twice the bound"
    );
    virt.advance(ms(50));
    assert_eq!(result(bounded), Some(Err(JobError::Overloaded)));
    virt.advance(ms(60));
    assert_eq!(
        (result(running), result(waiting)),
        (Some(Ok(())), Some(Ok(())))
    );
}

/// Offers `load` jobs of 10 ms each second for so long; returns the number of workers each 100 ms.
fn scale(virt: &mut VirtualPool, load: u64, seconds: u64) -> Vec<usize> {
    let pool = virt.pool().clone();
    let mut jobs = Vec::new();
    let mut workers = Vec::new();
    for step in 0..seconds * 1000 {
        for _ in 0..(load * (step + 1) / 1000 - load * step / 1000) {
            jobs.push(pool.spawn_blocking(|| take(ms(10))));
        }
        virt.advance(ms(1));
        if step % 100 == 99 {
            workers.push(virt.workers());
            jobs.retain_mut(|job| job.now_or_never().is_none());
        }
    }
    workers
}

#[test]
fn the_load_rule_follows_the_load_and_stops_at_the_cpus() {
    let mut virt = VirtualPool::new(&config(1, Discipline::Fifo), 8).expect("valid");
    // Four Erlang: 4 + sqrt(4) = 6 workers.
    let four = scale(&mut virt, 400, 5);
    assert!(four[20..].iter().all(|n| (5..=7).contains(n)), "{four:?}");
    let changes = four[20..]
        .windows(2)
        .filter(|pair| pair[0] != pair[1])
        .count();
    assert!(changes <= 1, "{four:?}");
    let forty = scale(&mut virt, 4000, 1);
    assert_eq!(forty.last(), Some(&8), "no more than CPUs");
    virt.pool().set_queue_size(1);
    let none = scale(&mut virt, 0, 200);
    assert_eq!(
        none.last(),
        Some(&1),
        "one fewer each 10 s, and idle ones leave"
    );
    assert!(none.windows(2).all(|pair| pair[0] - pair[1] <= 1));
}

#[test]
fn more_workers_than_cpus_only_when_asked_at_run_time() {
    let virt = VirtualPool::new(&config(8, Discipline::Fifo), 2).expect("valid");
    assert_eq!((virt.workers(), virt.pool().stats().min_workers), (2, 2));
    virt.pool().set_min_workers(3);
    let mut virt = virt;
    virt.advance(ms(20));
    assert_eq!(virt.workers(), 3);
    let mut config = config(8, Discipline::Fifo);
    config.scale = Scale::Queue;
    let virt = VirtualPool::new(&config, 2).expect("valid");
    assert_eq!(virt.workers(), 8);
}

#[test]
fn the_queue_rule_adds_workers_without_regard_to_cpus() {
    let mut config = config(1, Discipline::Fifo);
    config.scale = Scale::Queue;
    let mut virt = VirtualPool::new(&config, 2).expect("valid");
    let forty = scale(&mut virt, 4000, 1);
    assert!(forty.last() > Some(&16), "{forty:?}");
    let none = scale(&mut virt, 0, 12);
    assert_eq!(none.last(), Some(&1), "after the idle timeout");
}

/// Jobs of 10 ms that are useful within 100 ms, for 5 s of virtual time on 2 CPUs. Computing ones share the CPUs:
/// with more workers than CPUs at it, each takes longer. Blocking ones only wait.
fn in_time(scale: Scale, computes: bool, per_second: u64) -> (u64, usize) {
    const CPUS: usize = 2;
    let mut config = config(1, Discipline::AdaptiveLifo);
    config.scale = scale;
    let mut virt = VirtualPool::new(&config, CPUS).expect("valid");
    let pool = virt.pool().clone();
    let useful = Arc::new(AtomicU64::new(0));
    let (mut jobs, mut most) = (Vec::new(), 0);
    let now = Arc::new(AtomicU64::new(0));
    for step in 0..5000 {
        now.store(step, SeqCst);
        for _ in 0..(per_second * (step + 1) / 1000 - per_second * step / 1000) {
            let (pool, useful, now) = (pool.clone(), Arc::clone(&useful), Arc::clone(&now));
            jobs.push(pool.clone().job().timeout(ms(100)).spawn_blocking(move || {
                // Itself included; it counts as running already.
                let at_it = pool.stats().active.max(1) as u64;
                let slower = if computes {
                    at_it.div_ceil(CPUS as u64)
                } else {
                    1
                };
                take(ms(10 * slower));
                useful.fetch_add(
                    u64::from(now.load(SeqCst) + 10 * slower <= step + 100),
                    SeqCst,
                );
            }));
        }
        virt.advance(ms(1));
        most = most.max(virt.workers());
        if step % 100 == 0 {
            jobs.retain_mut(|job| job.now_or_never().is_none());
        }
    }
    (useful.load(SeqCst), most)
}

/// Why the default is what it is: for work that computes, the queue's rule is never better and collapses under
/// overload; for work that blocks, it is the one to choose.
#[test]
fn the_load_rule_wins_for_work_that_computes_and_the_queue_rule_for_work_that_blocks() {
    println!("| jobs | offered | load rule | queue rule |\n|---|---|---|---|");
    for (computes, per_second) in [
        (true, 100),
        (true, 180),
        (true, 400),
        (true, 2000),
        (false, 100),
        (false, 400),
        (false, 2000),
    ] {
        let load = in_time(Scale::Load, computes, per_second);
        let queue = in_time(Scale::Queue, computes, per_second);
        let kind = if computes { "compute" } else { "block" };
        println!("| {kind} | {per_second}/s | {load:?} | {queue:?} |");
        let (better, worse) = if computes {
            (load, queue)
        } else {
            (queue, load)
        };
        assert!(better.0 * 100 >= worse.0 * 99, "{kind} {per_second}/s");
        if per_second == 2000 {
            assert!(better.0 > 2 * worse.0, "{kind} {per_second}/s");
        }
    }
}

#[test]
fn a_blocked_worker_is_reported_once_and_replaced_while_jobs_wait() {
    let reports = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&reports);
    let config = config(1, Discipline::Fifo);
    let builder = WorkerPool::builder()
        .config(config.clone())
        .on_blocked(move |blocked| {
            log.lock()
                .expect("not poisoned")
                .push(blocked.class.clone())
        });
    let mut virt = VirtualPool::build(builder, &config, 1).expect("valid");
    let pool = virt.pool().clone();
    let report = pool.class("/report", 1);
    let stuck = pool.job().class(report).spawn_blocking(|| take(ms(60_000)));
    virt.advance(ms(1));
    let short = pool.spawn_blocking(|| take(ms(1)));
    virt.advance(ms(900));
    assert_eq!(virt.workers(), 1);
    virt.advance(ms(200));
    assert_eq!(virt.workers(), 2, "another one in its place");
    assert_eq!(result(short), Some(Ok(())));
    virt.advance(ms(61_000));
    assert_eq!(result(stuck), Some(Ok(())));
    assert_eq!(virt.workers(), 1);
    assert_eq!(*reports.lock().expect("not poisoned"), ["/report".into()]);
    assert_eq!(pool.class_stats()[1].blocked, 1);
}
