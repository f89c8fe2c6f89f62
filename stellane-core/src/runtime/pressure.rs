//! What the process does when memory or open files become scarce, faster than the tuner turns its knobs.

use std::time::Duration;

use stellane_autotune::overload::{Pressure, sources};

use crate::connection::ConnectionManager;

/// How often it is measured.
const INTERVAL: Duration = Duration::from_millis(500);
/// Of what there is, how much in use is no pressure, and how much is all of it.
const SCARCE: (f64, f64) = (0.85, 0.95);

pub(super) fn measured() -> Pressure {
    let (low, high) = SCARCE;
    Pressure::builder()
        .source("memory", low, high, sources::memory)
        .source("open files", low, high, sources::open_files)
        .build()
}

/// Measures for ever, and under pressure closes idle connections: a fraction of them each time, at full
/// pressure a quarter.
pub(super) async fn relieve(pressure: Pressure, connections: ConnectionManager) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let level = pressure.refresh();
        if level == 0.0 {
            continue;
        }
        let stats = connections.stats();
        let idle = stats.idle + stats.parked;
        let closed = connections.close_idle((idle as f64 * level / 4.0).ceil() as usize);
        if closed > 0 {
            let sources = pressure.sources();
            tracing::warn!(
                level,
                ?sources,
                closed,
                "under pressure, idle connections are closed"
            );
        }
    }
}
