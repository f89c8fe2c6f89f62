//! A runtime that is dropped leaves nothing behind. Alone in its file: it counts the process's threads.
#![cfg(all(feature = "full", target_os = "linux"))]

#[path = "support/looks.rs"]
mod looks;

use std::convert::Infallible;

use http::{Request, Response};
use looks::holds_soon;
use stellane_core::{RequestBody, Runtime, RuntimeConfig};

fn workers() -> usize {
    let threads = std::fs::read_dir("/proc/self/task").expect("readable");
    threads
        .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok())
        .filter(|name| name.starts_with("stellane-worker"))
        .count()
}

#[tokio::test]
async fn the_workers_start_with_the_first_job_and_end_with_the_runtime_that_was_never_served() {
    let mut config = RuntimeConfig::default();
    config.workers.min_workers = 3;
    config.workers.scale = stellane_core::pool::Scale::Queue;
    let service = tower::service_fn(|_: Request<RequestBody>| async {
        Ok::<_, Infallible>(Response::new(String::new()))
    });
    let runtime = Runtime::builder()
        .config(config)
        .service(service)
        .build()
        .expect("builds");
    assert_eq!(workers(), 0, "nobody has used them yet");
    let pool = runtime.components().workers.clone();
    pool.spawn_blocking(|| ()).await.expect("runs");
    drop(pool);
    assert!(holds_soon(async || workers() == 3).await, "three workers");
    drop(runtime);
    assert!(
        holds_soon(async || workers() == 0).await,
        "no worker is left"
    );
}
