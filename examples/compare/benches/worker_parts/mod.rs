use std::{future::Future, pin::Pin, time::Duration};

use stellane_pool::{Scale, WorkerPool, WorkerPoolConfig};

pub(crate) mod dispatch;
pub(crate) mod isolation;
pub(crate) mod one_cpu;
pub(crate) mod overload;

/// Where a closure runs.
pub(crate) enum Offload {
    Inline,
    SpawnBlocking,
    Rayon(rayon::ThreadPool),
    Affinity(affinitypool::Threadpool),
    Pool(WorkerPool),
}

impl Offload {
    pub(crate) const NAMES: [&str; 5] = [
        "inline",
        "spawn_blocking",
        "rayon + oneshot",
        "affinitypool",
        "stellane",
    ];

    /// With so many threads; `spawn_blocking` has as many as the runtime allows it.
    pub(crate) fn new(name: &str, threads: usize, nice: u8) -> Self {
        match name {
            "inline" => Self::Inline,
            "spawn_blocking" => Self::SpawnBlocking,
            "rayon + oneshot" => {
                let builder = rayon::ThreadPoolBuilder::new().num_threads(threads);
                Self::Rayon(builder.build().expect("threads"))
            }
            "affinitypool" => Self::Affinity(affinitypool::Threadpool::new(threads)),
            _ => {
                let mut config = WorkerPoolConfig::default();
                config.min_workers = threads;
                config.max_workers = threads;
                config.scale = Scale::Queue;
                config.queue_size = 1_000_000;
                // The others run at the usual priority: on a busy machine it would decide.
                config.nice = nice;
                Self::Pool(WorkerPool::builder().config(config).build().expect("valid"))
            }
        }
    }

    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Pin<Box<dyn Future<Output = T> + Send + '_>> {
        match self {
            Self::Inline => Box::pin(async move { work() }),
            Self::SpawnBlocking => {
                let job = tokio::task::spawn_blocking(work);
                Box::pin(async move { job.await.expect("it does not panic") })
            }
            Self::Rayon(pool) => {
                let (send, receive) = tokio::sync::oneshot::channel();
                pool.spawn(move || drop(send.send(work())));
                Box::pin(async move { receive.await.expect("it does not panic") })
            }
            Self::Affinity(pool) => Box::pin(pool.spawn(work)),
            Self::Pool(pool) => {
                let job = pool.spawn_blocking(work);
                Box::pin(async move { job.await.expect("it runs") })
            }
        }
    }
}

/// How often the threads there are gave up a CPU, so far.
pub(crate) fn switches() -> u64 {
    sum_of_threads("status", |status| {
        let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
        let counts = lines.filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok());
        Some(counts.sum())
    })
}

/// CPU time of the threads there are, so far.
pub(crate) fn cpu() -> Duration {
    Duration::from_nanos(sum_of_threads("schedstat", |stat| {
        stat.split(' ').next()?.parse().ok()
    }))
}

/// What `read` finds in that file of each thread there is, in all.
fn sum_of_threads(file: &str, read: impl Fn(&str) -> Option<u64>) -> u64 {
    let threads = std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    threads
        .filter_map(|thread| read(&std::fs::read_to_string(thread.path().join(file)).ok()?))
        .sum()
}

/// Burns a CPU for about so long, by work and not by the clock: a preempted burner does not finish sooner.
pub(crate) fn burn(time: Duration) {
    use std::{hint::black_box, sync::OnceLock, time::Instant};
    static PER_MILLI: OnceLock<u64> = OnceLock::new();
    fn spin(rounds: u64) -> u64 {
        (0..rounds).fold(1, |x: u64, i| black_box(x.wrapping_mul(31) ^ i))
    }
    let per_milli = *PER_MILLI.get_or_init(|| {
        (0..20)
            .map(|_| {
                let began = Instant::now();
                black_box(spin(1_000_000));
                1_000_000_000_000 / began.elapsed().as_nanos().max(1) as u64
            })
            .max()
            .unwrap_or(1)
    });
    black_box(spin(per_milli * time.as_micros() as u64 / 1000));
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
