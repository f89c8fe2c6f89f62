//! What the machine allows this process, at its start.

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

/// Says what the process may use.
pub(super) fn say(connections: &ConnectionManager) {
    let machine = Machine::read();
    tracing::info!(
        "this process may use {} CPUs, {} MiB of memory and {} open files, of them {} for connections",
        machine.cpus,
        machine.memory >> 20,
        machine.max_files,
        connections.most_connections()
    );
    if !connections.gives_memory_back() {
        tracing::info!(
            "no purge hook: an idle connection keeps the memory that it needed when most were busy, 2 to 30 KB each, \
             instead of 0.2 to 0.4 (`purge_hook`)"
        );
    }
}
