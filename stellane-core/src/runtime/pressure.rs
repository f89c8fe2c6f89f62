//! What the process does when memory or open files become scarce, faster than the tuner turns its knobs.

use std::time::Duration;

use stellane_autotune::overload::Pressure;

use crate::connection::ConnectionManager;

/// How often it is measured.
const INTERVAL: Duration = Duration::from_millis(500);

/// Measures for ever, and under pressure closes connections that have been idle for longer than `drain_idle`: a fraction
/// of them each time, at full pressure a quarter. Where there are few it is worth none.
pub(super) async fn relieve(pressure: Pressure, connections: ConnectionManager) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let reads = pressure.clone();
        // It reads files.
        let Ok(level) = tokio::task::spawn_blocking(move || reads.refresh()).await else {
            continue;
        };
        if level == 0.0 {
            continue;
        }
        let stats = connections.stats();
        let idle = stats.idle + stats.parked;
        let closed = connections.close_idle((idle as f64 * level / 4.0) as usize);
        if closed > 0 {
            tracing::warn!(
                level,
                sources = ?pressure.sources(),
                closed,
                "under pressure, idle connections are closed"
            );
        }
    }
}
