use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use stellane_pool::{Discipline, WorkerPool, WorkerPoolConfig};

use super::{burn, median};

const SERVICE: Duration = Duration::from_millis(5);
const DEADLINE: Duration = Duration::from_millis(100);
/// What is counted, and how long before: the first jobs meet an empty queue.
const TURN: Duration = Duration::from_millis(500);
const WARM_UP: Duration = Duration::from_millis(300);
const ROUNDS: usize = 5;

/// Jobs of 5 ms that are useful within 100 ms, offered at a multiple of what one worker can do: the other CPU is the
/// callers', or the cost of offering would be taken for collapse.
///
/// The peak is what the worker does when it always has a job and never more than a few; it is measured next to each
/// turn, and the median of the shares counts, since it changes with whatever else the machine is at.
pub(crate) fn run() {
    burn(Duration::from_millis(1));
    println!(
        "\n| discipline | offered | useful, of peak | too late, of peak | p99 of the useful |"
    );
    println!("|---|---|---|---|---|");
    let variants = [
        (Discipline::Fifo, 0.9),
        (Discipline::Fifo, 10.0),
        (Discipline::AdaptiveLifo, 10.0),
        (Discipline::CoDel, 10.0),
    ];
    let mut rounds = variants.map(|_| Vec::new());
    for _ in 0..ROUNDS {
        for ((discipline, load), measured) in variants.iter().zip(&mut rounds) {
            let before = measure(Discipline::Fifo, 1.0, 0.0).useful;
            let mut now = measure(*discipline, *load, before);
            let peak = (before + measure(Discipline::Fifo, 1.0, 0.0).useful) / 2.0;
            now.useful /= peak;
            now.late /= peak;
            measured.push(now);
        }
    }
    for ((discipline, load), rounds) in variants.iter().zip(rounds) {
        let of = |value: fn(&Measured) -> f64| median(rounds.iter().map(value).collect());
        let (useful, late) = (of(|m| m.useful * 100.0), of(|m| m.late * 100.0));
        let p99 = of(|m| m.p99.as_secs_f64() * 1000.0);
        println!("| {discipline:?} | {load} x | {useful:.0} % | {late:.0} % | {p99:.0} ms |");
    }
}

struct Measured {
    useful: f64,
    late: f64,
    p99: Duration,
}

/// Offers `load` times `capacity` jobs a second; without a capacity, keeps the workers just busy.
fn measure(discipline: Discipline, load: f64, capacity: f64) -> Measured {
    let mut config = WorkerPoolConfig::default();
    config.min_workers = 1;
    config.max_workers = 1;
    config.queue_size = 100_000;
    config.nice = 0;
    config.discipline = discipline;
    let pool = WorkerPool::builder().config(config).build().expect("valid");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let late = Arc::new(AtomicU64::new(0));
    let times = Arc::new(std::sync::Mutex::new(Vec::new()));
    let began = Instant::now();
    let one = |pool: &WorkerPool| {
        let (times, late) = (Arc::clone(&times), Arc::clone(&late));
        let came = Instant::now();
        let job = pool
            .job()
            .timeout(DEADLINE)
            .spawn_blocking(move || burn(SERVICE));
        async move {
            let done = job.await.is_ok();
            if !done || !(WARM_UP..WARM_UP + TURN).contains(&began.elapsed()) {
            } else if came.elapsed() <= DEADLINE {
                times.lock().expect("not poisoned").push(came.elapsed());
            } else {
                late.fetch_add(1, Relaxed);
            }
        }
    };
    let over = || began.elapsed() >= WARM_UP + TURN;
    runtime.block_on(async {
        if capacity == 0.0 {
            let clients = (0..4).map(|_| async {
                while !over() {
                    one(&pool).await;
                }
            });
            futures_util::future::join_all(clients).await;
            return;
        }
        let mut sent = 0.0;
        while !over() {
            let due = began.elapsed().as_secs_f64() * capacity * load;
            while sent < due {
                tokio::spawn(one(&pool));
                sent += 1.0;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let seconds = TURN.as_secs_f64();
    let mut times = times.lock().expect("not poisoned");
    times.sort();
    let p99 = times
        .get(times.len() * 99 / 100)
        .copied()
        .unwrap_or_default();
    Measured {
        useful: times.len() as f64 / seconds,
        late: late.load(Relaxed) as f64 / seconds,
        p99,
    }
}
