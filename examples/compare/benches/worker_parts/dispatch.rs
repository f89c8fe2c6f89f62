use std::{
    convert::Infallible,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use http::{Request, Response};
use stellane_pool::{WorkerPool, WorkerPoolConfig, WorkerPoolLayer};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::{Offload, cpu, median};

/// Short turns and many of them: on a machine with more to do, a long turn meets another machine than the next.
const ROUNDS: usize = 41;

fn runtime(threads: usize, blocking: usize) -> tokio::runtime::Runtime {
    let mut builder = if threads == 0 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    if threads > 0 {
        builder.worker_threads(threads);
    }
    builder
        .max_blocking_threads(blocking)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// One tiny job after the other, each awaited.
pub(crate) fn round_trip() {
    println!("\n| round trip, 1 job at a time | µs | CPU µs | stellane is faster by |");
    println!("|---|---|---|---|");
    let jobs = 1000;
    for threads in [1, 4] {
        compare(threads, 0, jobs, |offload| {
            Box::pin(async move {
                for i in 0..jobs {
                    black_box(offload.run(move || i).await);
                }
            })
        });
    }
}

/// Eight tasks with 1000 jobs each, submitted before the first is awaited: in order, as affinitypool's own benchmark
/// does, or by `join_all`, which has a task of its own for each.
pub(crate) fn producers() {
    for (how, join) in [("in order", false), ("by join_all", true)] {
        println!(
            "\n| 8 producers, 1000 jobs each, awaited {how} | µs per job | CPU µs | stellane is faster by |"
        );
        println!("|---|---|---|---|");
        for threads in [2, 4] {
            compare(threads, 2, 8000, move |offload| {
                Box::pin(produce(offload, join))
            });
        }
    }
}

async fn produce(offload: Arc<Offload>, join: bool) {
    let producers = (0..8).map(|_| {
        let offload = Arc::clone(&offload);
        tokio::spawn(async move {
            let jobs: Vec<_> = (0..1000).map(|i| offload.run(move || i)).collect();
            if join {
                black_box(join_all(jobs).await);
                return;
            }
            for job in jobs {
                black_box(job.await);
            }
        })
    });
    for producer in producers.collect::<Vec<_>>() {
        producer.await.expect("it does not panic");
    }
}

/// The same for more and more workers.
pub(crate) fn growth() {
    println!("\n| workers | 1 job at a time, µs | 8 producers, µs per job |");
    println!("|---|---|---|");
    for threads in [1, 2, 4, 8, 16, 32, 64] {
        let mut times = [Vec::new(), Vec::new()];
        let offload = Arc::new(Offload::new("stellane", threads, 0));
        let runtime = runtime(2, 1);
        for _ in 0..9 {
            let began = Instant::now();
            runtime.block_on(async {
                for i in 0..5000 {
                    black_box(offload.run(move || i).await);
                }
            });
            times[0].push(began.elapsed().as_secs_f64() * 1e6 / 5000.0);
            let began = Instant::now();
            runtime.block_on(produce(Arc::clone(&offload), true));
            times[1].push(began.elapsed().as_secs_f64() * 1e6 / 8000.0);
        }
        let [one, eight] = times.map(median);
        println!("| {threads} | {one:.2} | {eight:.3} |");
    }
}

/// What the layer adds to a handler that is ready at once.
pub(crate) fn layer() {
    println!("\n| the layer around a ready handler | ns per call |");
    println!("|---|---|");
    let mut config = WorkerPoolConfig::default();
    config.min_workers = 1;
    config.max_workers = 1;
    config.nice = 0;
    let pool = WorkerPool::builder().config(config).build().expect("valid");
    let hello = service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(http_body_util::Full::<bytes::Bytes>::from(
            "hello",
        )))
    });
    let time = async |service: &mut dyn FnMut() -> Batch| {
        let began = Instant::now();
        for _ in 0..20_000 {
            service().await;
        }
        began.elapsed().as_secs_f64() * 1e9 / 20_000.0
    };
    let mut bare = hello;
    let mut inline = WorkerPoolLayer::new(&pool)
        .threshold(Duration::from_millis(1))
        .layer(hello);
    let mut pooled = WorkerPoolLayer::new(&pool).layer(hello);
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    runtime(0, 1).block_on(async {
        for _ in 0..ROUNDS {
            times[0].push(time(&mut || call(&mut bare)).await);
            times[1].push(time(&mut || call(&mut inline)).await);
            times[2].push(time(&mut || call(&mut pooled)).await);
        }
    });
    let [bare, inline, pooled] = times.map(median);
    println!(
        "| without | {bare:.0} |\n| with a threshold, inline | {inline:.0} |\n| on the pool | {pooled:.0} |"
    );
}

fn call<S>(service: &mut S) -> Batch
where
    S: Service<Request<()>> + Clone + 'static,
{
    let service = service.clone();
    Box::pin(async move {
        drop(black_box(service.oneshot(Request::new(())).await));
    })
}

type Batch = std::pin::Pin<Box<dyn Future<Output = ()>>>;

/// Alternates between all, and prints medians: of each, and of its times in relation to ours in the same round.
/// `DISPATCH_ONLY` says which are there besides ours: those with this in their name; what a profile needs.
fn compare(threads: usize, producers: usize, jobs: usize, batch: impl Fn(Arc<Offload>) -> Batch) {
    let only = std::env::var("DISPATCH_ONLY").unwrap_or_default();
    let names: Vec<_> = Offload::NAMES[1..]
        .iter()
        .filter(|name| name.contains(&only) || **name == "stellane")
        .collect();
    let offloads: Vec<_> = names
        .iter()
        .map(|name| Arc::new(Offload::new(name, threads, 0)))
        .collect();
    let runtime = runtime(producers, threads);
    let mut times = vec![Vec::new(); names.len()];
    let mut cpus = vec![Duration::ZERO; names.len()];
    for round in 0..=ROUNDS {
        for (at, offload) in offloads.iter().enumerate() {
            // In this order: reading the CPU time of all threads takes a while.
            let (before, began) = (cpu(), Instant::now());
            runtime.block_on(batch(Arc::clone(offload)));
            // The first warms up.
            if round > 0 {
                times[at].push(began.elapsed().as_secs_f64() * 1e6 / jobs as f64);
                // Threads may have ended meanwhile.
                cpus[at] += cpu().saturating_sub(before);
            }
        }
    }
    let ours = times.last().cloned().unwrap_or_default();
    for ((name, times), cpu) in names.iter().zip(times).zip(cpus) {
        let cpu = cpu.as_secs_f64() * 1e6 / (jobs * ROUNDS) as f64;
        let ratio = median(times.iter().zip(&ours).map(|(t, o)| t / o).collect());
        println!(
            "| {name}, {threads} threads | {:.3} | {cpu:.2} | {ratio:.2} x |",
            median(times)
        );
    }
}
