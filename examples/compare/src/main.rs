//! Stellane measured against what you would use instead. `README.md` beside this crate says how.

mod allocator;
mod cli;
mod contestants;
mod databases;
mod go;
mod load;
mod machine;
mod measure;
mod nginx;
mod peers;
mod report;
mod server;
mod tls;
mod workloads;

use std::process::ExitCode;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[global_allocator]
static ALLOCATOR: allocator::Counting = allocator::Counting;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match &arguments[..] {
        // The harness starts itself for each server in Rust.
        [command, name] if command == "serve" => allocator::count_if_asked()
            .map_err(Into::into)
            .and_then(|()| peers::serve(name)),
        _ => cli::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Hands memory that is free back to the system; the connection manager calls it when a wave of
/// connections has parked.
fn purge() {
    // SAFETY: it may be called from any thread at any time; it frees only what nobody uses.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
