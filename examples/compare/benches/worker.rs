//! What the worker pool costs and what it is worth, beside the alternatives, in one process.
//!
//! `cargo bench --bench worker -- [dispatch|round-trip|producers|growth|one-cpu|layer|isolation|overload]`

mod worker_parts;

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() {
    // Cargo adds `--bench`.
    let asked: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    let wanted = |name: &str| asked.is_empty() || asked.iter().any(|arg| arg == name);
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    if wanted("dispatch") || wanted("round-trip") {
        worker_parts::dispatch::round_trip();
    }
    if wanted("dispatch") || wanted("producers") {
        worker_parts::dispatch::producers();
    }
    if wanted("growth") {
        worker_parts::dispatch::growth();
    }
    if wanted("one-cpu") {
        worker_parts::one_cpu::run();
    }
    if wanted("layer") {
        worker_parts::dispatch::layer();
    }
    if wanted("isolation") {
        worker_parts::isolation::run();
    }
    if wanted("overload") {
        worker_parts::overload::run();
    }
}
