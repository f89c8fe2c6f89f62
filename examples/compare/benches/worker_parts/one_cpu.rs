use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Offload, burn, cpu, median, switches};

const JOBS: usize = 4000;
const ROUNDS: usize = 15;

/// Short jobs of 64 callers on one CPU, which the runtime's thread and the pool's share: run it under `taskset -c 0`.
/// What counts is the CPU time beside the jobs' own, and how often the threads take turns.
pub(crate) fn run() {
    burn(Duration::from_millis(1));
    println!("\n| 64 callers, jobs of 15 µs, one CPU | CPU µs | µs | switches per job |");
    println!("|---|---|---|---|");
    let variants = [
        ("inline", 1, 0),
        ("spawn_blocking", 512, 0),
        ("affinitypool", 1, 0),
        ("stellane", 1, 0),
        ("stellane", 1, 19),
    ];
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let offloads =
        variants.map(|(name, threads, nice)| Arc::new(Offload::new(name, threads, nice)));
    let mut measured = variants.map(|_| [const { Vec::new() }; 3]);
    for round in 0..=ROUNDS {
        for (offload, [cpus, times, turns]) in offloads.iter().zip(&mut measured) {
            // In this order: reading the CPU time of all threads takes a while.
            let (switched, before, began) = (switches(), cpu(), Instant::now());
            runtime.block_on(callers(offload));
            let elapsed = began.elapsed();
            let used = cpu().saturating_sub(before);
            // The first warms up.
            if round > 0 {
                let per_job = |time: Duration| time.as_secs_f64() * 1e6 / JOBS as f64;
                cpus.push(per_job(used));
                times.push(per_job(elapsed));
                turns.push(switches().saturating_sub(switched) as f64 / JOBS as f64);
            }
        }
    }
    for ((name, _, nice), measured) in variants.iter().zip(measured) {
        let [cpu, time, turns] = measured.map(median);
        println!("| {name}, `nice` {nice} | {cpu:.1} | {time:.1} | {turns:.2} |");
    }
}

async fn callers(offload: &Arc<Offload>) {
    let callers = (0..64).map(|_| {
        let offload = Arc::clone(offload);
        tokio::spawn(async move {
            for i in 0..JOBS / 64 {
                let job = move || {
                    burn(Duration::from_micros(15));
                    i
                };
                black_box(offload.run(job).await);
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.expect("it does not panic");
    }
}
