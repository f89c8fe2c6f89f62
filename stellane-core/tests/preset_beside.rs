//! What handlers compute beside the runtime, by tokio's `spawn_blocking`. Alone in its process, whose CPUs it takes.
#![cfg(all(feature = "full", target_os = "linux"))]

#[path = "support/ask.rs"]
mod ask;
#[path = "support/process_ran.rs"]
mod process_ran;

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use axum::routing::get as on_get;
use serde_json::Value;
use stellane_core::{Runtime, config::Loader};
use tokio::{task::JoinSet, time::sleep};

use ask::get;
use process_ran::process_ran;

const MS: Duration = Duration::from_millis(1);

async fn computes() -> &'static str {
    let job = || {
        let begun = Instant::now();
        while begun.elapsed() < 300 * MS {
            black_box(begun);
        }
    };
    tokio::task::spawn_blocking(job).await.expect("ends");
    "done"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn is_limited_when_it_has_all_cpus() {
    let config = Loader::new()
        .text("app.toml", "server.admin_address = \"127.0.0.1:0\"")
        .load()
        .expect("valid");
    let server = Runtime::builder()
        .config(config)
        .service(axum::Router::new().route("/", on_get(computes)))
        .build()
        .expect("valid")
        .bind("127.0.0.1:0")
        .await
        .expect("binds");
    let (service, admin) = (server.local_addr(), server.admin_addr().expect("is on"));
    tokio::spawn(server.serve());
    // Enough for a queue, and so few that the runtime has its turn.
    let cpus = std::thread::available_parallelism().expect("is known");
    let mut clients = JoinSet::new();
    for _ in 0..10 * cpus.get() {
        clients.spawn(async move {
            loop {
                get(service, "/").await;
                sleep(100 * MS).await;
            }
        });
    }
    let (begun, ran_before) = (Instant::now(), process_ran());
    let mut state = Value::Null;
    for _ in 0..300 {
        let answer = get(admin, "/runtime.json").await;
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        state = serde_json::from_str::<Value>(body).expect("JSON")["limit_state"].take();
        let words = state.as_str().expect("words");
        if words.starts_with("limiting") && words.contains("tasks ready for each core") {
            return;
        }
        sleep(100 * MS).await;
    }
    // Where neighbours have them, nothing is concluded.
    let had = (process_ran() - ran_before).div_duration_f64(begun.elapsed() * cpus.get() as u32);
    assert!(had < 0.75, "{state}, with {had:.2} of the CPUs");
}
