//! Passwords hashed with Argon2 behind axum: tens of milliseconds of computing for each, on the worker pool by
//! one layer, while `/hello` is answered as if nothing happened.
//!
//! ```text
//! cargo run --release -p stellane-examples --bin password_hashing
//! curl -d 'correct horse battery staple' http://127.0.0.1:3000/hash
//! curl http://127.0.0.1:3000/workers
//! ```

use std::time::Duration;

use argon2::{Argon2, password_hash::PasswordHasher};
use axum::{
    Json, Router,
    http::StatusCode,
    routing::{get, post},
};
use stellane_core::pool::{WorkerPool, WorkerPoolConfig, WorkerPoolLayer, WorkerPoolStats};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = WorkerPoolConfig::default();
    // As many as can compute at once; each holds the 19 MiB that Argon2 needs.
    config.min_workers = std::thread::available_parallelism()?.get();
    // A login that waits longer than this is tried again anyway.
    config.queue_size = 100;
    let workers = WorkerPool::builder().config(config).build()?;

    let on_workers = WorkerPoolLayer::new(&workers)
        .class("/hash", 1)
        .timeout(Duration::from_secs(2));
    let app = Router::new()
        .route("/hash", post(hash).layer(on_workers))
        .route("/hello", get(|| async { "hello\n" }))
        .route("/workers", get(async move || stats(&workers)));

    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:3000".into());
    let listener = tokio::net::TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    println!("serving http://{address}/, try: curl -d 'my password' http://{address}/hash");
    axum::serve(listener, app).await?;
    Ok(())
}

/// Knows nothing of the pool it runs on.
async fn hash(password: String) -> Result<String, StatusCode> {
    let hash = Argon2::default().hash_password(password.as_bytes());
    hash.map(|hash| format!("{hash}\n"))
        .map_err(|_| StatusCode::BAD_REQUEST)
}

fn stats(workers: &WorkerPool) -> Json<WorkerPoolStats> {
    Json(workers.stats())
}
