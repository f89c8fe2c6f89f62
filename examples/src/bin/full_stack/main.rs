//! The whole pipeline on real traffic.
//!
//! Run with `cargo run --release -p stellane-examples --bin full_stack`. Settings come from the
//! environment and from the file that `STELLANE_CONFIG` names: `STELLANE__SERVER__ADDRESS=127.0.0.1:8080`.
//! With `--features profiling` the admin address gives CPU, heap and block profiles, as `STELLANE_PROFILE_CPU=1`,
//! `STELLANE_PROFILE_MEM=1` and `STELLANE_PROFILE_BLOCK=1` allow.

mod database;
mod routes;

use std::{
    io::{self, Write},
    net::SocketAddr,
    process::ExitCode,
};

#[cfg(feature = "profiling")]
use stellane_core::profiling::HeapProfiler;
use stellane_core::{BoxError, Runtime, RuntimeConfig, logging};

// Idle connections give their memory back only if the allocator does.
#[cfg(not(feature = "profiling"))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
#[cfg(feature = "profiling")]
#[global_allocator]
static ALLOCATOR: HeapProfiler<mimalloc::MiMalloc> = HeapProfiler::new(mimalloc::MiMalloc);

const USERS: u32 = 10_000;

#[tokio::main]
async fn main() -> ExitCode {
    stellane_examples::small_pages_only();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

async fn run() -> Result<(), BoxError> {
    let config = RuntimeConfig::from_env()?;
    let log = logging::init(&config.log)?;
    let database = database::Database::seeded(USERS)?;

    let builder = Runtime::builder();
    #[cfg(feature = "profiling")]
    let builder = builder.heap_profiler(&ALLOCATOR);
    let runtime = builder
        .config(config)
        .purge_hook(stellane_examples::purge)
        .log_handle(log)
        .try_service_with(|components| routes::router(components, &database))
        .build()?;
    let bound = runtime.bind_configured().await?;
    // Nobody may be reading; that is no reason not to serve.
    let _ = print_tour(bound.local_addr(), bound.admin_addr());
    bound.serve().await?;
    Ok(())
}

/// Where to go next.
fn print_tour(service: SocketAddr, admin: Option<SocketAddr>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "service  http://{service}")?;
    for (what, arguments) in [
        ("hello", format!("http://{service}/hello")),
        (
            "JSON with a path parameter",
            format!("http://{service}/hello/Ada"),
        ),
        ("a row of the database", format!("http://{service}/users/7")),
        (
            "CPU-heavy, on the worker pool",
            format!("http://{service}/primes/200000"),
        ),
        (
            "streaming upload",
            format!("--data-binary @Cargo.lock http://{service}/upload"),
        ),
        (
            "server-sent events (Ctrl-C ends them)",
            format!("-N http://{service}/events"),
        ),
    ] {
        writeln!(out, "  curl {arguments:<58} # {what}")?;
    }
    if let Some(admin) = admin {
        writeln!(out, "admin    http://{admin}/ shows it live; also:")?;
        for page in [
            "metrics",
            "healthz",
            "readyz",
            "runtime.json",
            "connections",
            "tuning",
            "config",
        ] {
            writeln!(out, "  curl http://{admin}/{page}")?;
        }
    }
    writeln!(out, "Ctrl-C or SIGTERM drains and ends.")
}
