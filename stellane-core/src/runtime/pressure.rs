//! What the process does when memory or open files become scarce, faster than the tuner turns its knobs.

use std::time::Duration;

use stellane_autotune::overload::Pressure;

use crate::connection::ConnectionManager;

/// How often it is measured.
const INTERVAL: Duration = Duration::from_millis(500);

/// Measures for ever, and under pressure has less patience with slow clients, and closes idle connections: a fraction
/// of them each time, at full pressure a quarter.
pub(super) async fn relieve(pressure: Pressure, connections: ConnectionManager) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let reads = pressure.clone();
        // It reads files.
        let measured = tokio::task::spawn_blocking(move || {
            let level = reads.refresh();
            let felt = if level > 0.0 {
                felt_by_the_slow(&reads.sources())
            } else {
                0.0
            };
            (level, felt)
        });
        let Ok((level, felt)) = measured.await else {
            continue;
        };
        connections.set_pressure(felt);
        if level == 0.0 {
            continue;
        }
        let stats = connections.stats();
        let idle = stats.idle + stats.parked;
        let closed = connections.close_idle((idle as f64 * level / 4.0).ceil() as usize);
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

/// Stalls may be the fault of other processes: by them alone the timeouts of slow clients shrink half way at most.
fn felt_by_the_slow(sources: &[(&str, Option<f64>)]) -> f64 {
    let felt = |(name, level): &(&str, Option<f64>)| match *name {
        "memory_stall" => level.unwrap_or(0.0) / 2.0,
        _ => level.unwrap_or(0.0),
    };
    sources.iter().map(felt).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalls_alone_shorten_the_patience_with_slow_clients_half_way() {
        for (memory, stall, files, expected) in [
            (None, None, None, 0.0),
            (Some(0.0), Some(1.0), None, 0.5),
            (Some(0.75), Some(1.0), Some(0.25), 0.75),
            (None, Some(0.5), Some(1.0), 1.0),
        ] {
            let sources = [
                ("memory", memory),
                ("memory_stall", stall),
                ("open_files", files),
            ];
            assert_eq!(felt_by_the_slow(&sources), expected, "{sources:?}");
        }
    }
}
