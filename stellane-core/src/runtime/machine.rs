//! What the machine allows this process, at its start, and how much of its CPUs that has had.

use std::time::Duration;

use stellane_metrics::Machine;

use crate::connection::{ConnectionConfig, ConnectionManager};

/// Raises the limit of open files as far as this process may, if it is too low for the connections that are configured.
/// It is 1024 on many systems, for the sake of programs that use `select`.
#[cfg(unix)]
pub(super) fn raise_open_files(config: &ConnectionConfig) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let needed = match config.max_connections {
        0 => u64::MAX,
        most => (most as u64).saturating_add(config.reserve_files as u64),
    };
    // Without a hard limit the system has one of its own.
    let allowed = limit.maximum.unwrap_or(1 << 20);
    let Some(current) = limit.current.filter(|n| *n < needed && *n < allowed) else {
        return;
    };
    let raised = Rlimit {
        current: Some(allowed),
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => tracing::info!("the limit of open files is raised from {current} to {allowed}"),
        Err(error) => {
            tracing::warn!("the limit of open files, {current}, can't be raised: {error}");
        }
    }
}

#[cfg(not(unix))]
pub(super) fn raise_open_files(_: &ConnectionConfig) {}

/// How long this process had its CPUs so far, on average of those that it may use; zero where that is not known.
pub(super) fn cpu_time(cpus: f64) -> Duration {
    #[cfg(unix)]
    let time = {
        use rustix::time::{ClockId, clock_gettime};
        Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
    };
    #[cfg(not(unix))]
    let time = Duration::ZERO;
    time.div_f64(cpus.max(0.01))
}

/// What the preset does on Linux and can't do here, in the words of `guide::platforms`.
const MISSING: &[&str] = &[
    #[cfg(not(target_os = "linux"))]
    "pressure of memory and open files",
    #[cfg(not(target_os = "linux"))]
    "metrics of the process",
    #[cfg(not(target_os = "linux"))]
    "pinned threads",
    #[cfg(not(target_os = "linux"))]
    "a look at threads that compute or wait",
    #[cfg(not(unix))]
    "parked connections",
    #[cfg(not(unix))]
    "Unix sockets",
    #[cfg(not(unix))]
    "signals but Ctrl-C",
    #[cfg(not(unix))]
    "restarts by SIGUSR2",
    #[cfg(not(unix))]
    "`reuse_port`",
];

/// Says what the process may use.
pub(super) fn say(connections: &ConnectionManager) {
    let machine = Machine::read();
    let cpus = machine.cpus;
    match MISSING {
        [] => tracing::info!(
            "this process may use {cpus} CPUs, {} MiB of memory and {} open files, of them {} for connections",
            machine.memory >> 20,
            machine.max_files,
            connections.most_connections()
        ),
        missing => tracing::info!(
            "this process may use {cpus} CPUs, and does without what this system does not have: {}",
            missing.join(", ")
        ),
    }
    if !connections.gives_memory_back() {
        tracing::info!(
            "no purge hook: an idle connection keeps the memory that it needed when most were busy, 2 to 30 KB each, \
             instead of 0.2 to 0.4 (`purge_hook`)"
        );
    }
}
