//! What the process does when memory or open files become scarce, faster than the tuner turns its knobs.

use std::time::Duration;

use stellane_autotune::overload::Pressure;
use stellane_metrics::Machine;
use stellane_pool::Pools;
use tokio::time::Instant;

use super::refusing::PERIOD;
use crate::{
    connection::{ConnectionManager, ConnectionStats},
    memory::{MemoryBudget, MemoryStats},
};

/// How often it is measured.
const INTERVAL: Duration = Duration::from_millis(500);

/// The pressure on this process, from what the metrics tell too: memory from 85 to 95 % of the tightest limit, the time in
/// which a group near its limit waits for memory from 1 to 10 %, open files from 80 to 95 % of their limit.
pub(super) fn pressure() -> Pressure {
    Pressure::builder()
        .source("memory", 0.85, 0.95, Machine::memory_used)
        .source("memory_stall", 0.01, 0.10, Machine::memory_stall)
        .source("open_files", 0.80, 0.95, Machine::files_used)
        .build()
}

/// Measures for ever, and under pressure has less patience with slow clients, and closes connections that have been idle
/// for longer than `drain_idle`: a fraction of them each time, at full pressure a quarter. Where there are few it is worth
/// none.
pub(super) async fn relieve(
    pressure: Pressure,
    connections: ConnectionManager,
    memory: MemoryBudget,
    pools: Pools,
) {
    let mut lent = memory.hold(0);
    let (mut untold, mut told) = (0, None::<Instant>);
    let mut ended = Ended::default();
    loop {
        tokio::time::sleep(INTERVAL).await;
        let reads = pressure.clone();
        // It reads files, and once.
        let measured = tokio::task::spawn_blocking(move || {
            let sources = reads.sources();
            (sources, Machine::socket_memory().unwrap_or(0))
        });
        let Ok((sources, sockets)) = measured.await else {
            continue;
        };
        let levels = sources.iter().filter_map(|(_, level)| *level);
        let level = levels.fold(0.0, f64::max);
        pressure.set_level(level);
        connections.set_pressure(felt_by_the_slow(&sources));
        memory.set_squeezed(sources.iter().any(is_memory));
        memory.set_sockets(sockets);
        lent.set(if memory.bytes() > 0 {
            on_loan(&pools)
        } else {
            0
        });
        memory.look();
        connections.set_buffers_little(memory.is_near());
        ended.tell(memory.stats());
        let closed = connections.close_idle(relief(&connections.stats(), level));
        untold += closed;
        if untold > 0 && told.is_none_or(|at| at.elapsed() >= PERIOD) {
            tracing::warn!(
                "under pressure ({}): {untold} idle connections were closed",
                in_words(&sources)
            );
            (untold, told) = (0, Some(Instant::now()));
        }
    }
}

/// What is in buffers that are being written or read. Those that were frozen are pieces of bodies.
fn on_loan(pools: &Pools) -> u64 {
    let classes = pools.buf().class_stats();
    let bytes = classes.map(|(size, stats)| (size * stats.outstanding) as u64);
    bytes.sum()
}

fn is_memory((name, level): &(&str, Option<f64>)) -> bool {
    *name == "memory" && level.is_some_and(|level| level > 0.0)
}

/// Requests that were ended for lack of memory: a line for the first, and then one for all of a while.
#[derive(Debug, Default)]
struct Ended {
    told_of: u64,
    told: Option<Instant>,
}

impl Ended {
    fn tell(&mut self, stats: MemoryStats) {
        let untold = stats.ended_total - self.told_of;
        if untold == 0 || self.told.is_some_and(|at| at.elapsed() < PERIOD) {
            return;
        }
        tracing::warn!(
            "memory budget: {untold} requests were ended to make room for others; {} of {} bytes are held, and {} uploads \
             wait",
            stats.held_bytes,
            stats.budget_bytes,
            stats.waiting
        );
        (self.told_of, self.told) = (stats.ended_total, Some(Instant::now()));
    }
}

/// Such as `memory 0.9, open_files 0.0 of 1.0`.
fn in_words(sources: &[(&str, Option<f64>)]) -> String {
    let one = |(name, level): &(&str, Option<f64>)| Some(format!("{name} {:.1}", (*level)?));
    let all: Vec<_> = sources.iter().filter_map(one).collect();
    all.join(", ") + " of 1.0"
}

/// How many idle connections are closed at a time.
fn relief(stats: &ConnectionStats, level: f64) -> usize {
    ((stats.idle + stats.parked) as f64 * level / 4.0) as usize
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
#[path = "../../tests/support/log.rs"]
mod log;

#[cfg(test)]
mod tests {
    use super::*;

    fn pools() -> Pools {
        Pools::builder().build().unwrap()
    }

    #[test]
    fn a_few_idle_connections_are_left_alone() {
        for (idle, parked, level, closed) in [
            (0, 0, 1.0, 0),
            (1, 0, 1.0, 0),
            (1, 2, 1.0, 0),
            (2, 2, 1.0, 1),
            (0, 1000, 1.0, 250),
            (10, 990, 0.1, 25),
            (0, 1000, 0.0, 0),
        ] {
            let stats = ConnectionStats {
                idle,
                parked,
                ..ConnectionStats::default()
            };
            assert_eq!(relief(&stats, level), closed, "{idle}, {parked}, {level}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_machine_is_asked_once_at_a_time_and_not_by_a_thread_that_serves() {
        use std::{sync::mpsc, thread};
        let (ask, asked) = mpsc::channel();
        let pressure = Pressure::builder()
            .source("test", 0.0, 1.0, move || {
                let _ = ask.send(thread::current().id());
                Some(0.5)
            })
            .build();
        let manager = ConnectionManager::builder().build().unwrap();
        let ten = tokio::time::sleep(INTERVAL * 10 + INTERVAL / 2);
        tokio::select! {
            () = ten => {}
            () = relieve(pressure.clone(), manager, MemoryBudget::new(0), pools()) => {}
        }
        let threads: Vec<_> = asked.try_iter().collect();
        assert_eq!(threads.len(), 10);
        assert!(!threads.contains(&thread::current().id()));
        assert_eq!(pressure.level(), 0.5);
    }

    #[tokio::test]
    async fn under_full_pressure_a_quarter_of_the_idle_connections_goes_at_a_time_and_is_told() {
        use std::sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::Relaxed},
        };

        use crate::connection::{CloseReason, ConnectionConfig, Incoming};
        let log = log::Log::default();
        let _logging = tracing::subscriber::set_default(log.subscriber());
        let manager = ConnectionManager::builder()
            .config(ConnectionConfig {
                drain_idle: Duration::ZERO,
                ..ConnectionConfig::default()
            })
            .build()
            .unwrap();
        let hello = tower::service_fn(async |_: http::Request<Incoming>| {
            Ok::<_, std::convert::Infallible>(http::Response::new("hello".to_owned()))
        });
        let measured = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&measured);
        let pressure = Pressure::builder()
            .source("test", 0.0, 1.0, move || {
                count.fetch_add(1, Relaxed);
                Some(1.0)
            })
            .build();
        let closed = || manager.stats().closed(CloseReason::Reclaimed);
        let until = async |is_so: &dyn Fn() -> bool| {
            let so = async {
                while !is_so() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::select! {
                () = so => {}
                () = relieve(pressure.clone(), manager.clone(), MemoryBudget::new(0), pools()) => {}
            }
        };

        until(&|| measured.load(Relaxed) >= 3).await;
        let told = || {
            let text = log.text();
            let lines = text.lines().filter(|line| line.contains("under pressure"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(told().len(), 0, "there is nothing to close");
        let mut clients = Vec::new();
        for _ in 0..40 {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let (mut client, server) = tokio::io::duplex(1024);
            tokio::spawn(manager.serve_connection(server, None, hello));
            client
                .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                .await
                .unwrap();
            assert!(client.read(&mut [0; 512]).await.unwrap() > 0);
            clients.push(client);
        }
        let resting = || manager.stats().idle + manager.stats().parked;
        while resting() != 40 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        until(&|| closed() > 0).await;
        while resting() + closed() != 40 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(closed(), 10);
        let line = "under pressure (test 1.0 of 1.0): 10 idle connections were closed";
        assert!(
            told().len() == 1 && told()[0].ends_with(line),
            "{:?}",
            told()
        );
        // Of those that follow soon, no line for each time.
        until(&|| closed() > 18).await;
        assert_eq!(told().len(), 2, "{:?}", told());
    }

    #[tokio::test]
    async fn under_full_pressure_a_client_that_does_not_finish_its_head_is_ended_soon() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        use crate::connection::{ConnectionConfig, Incoming};
        let manager = ConnectionManager::builder()
            .config(ConnectionConfig {
                head_timeout: Duration::from_secs(3600),
                ..ConnectionConfig::default()
            })
            .build()
            .unwrap();
        let hello = tower::service_fn(async |_: http::Request<Incoming>| {
            Ok::<_, std::convert::Infallible>(http::Response::new("hello".to_owned()))
        });
        let (mut client, server) = tokio::io::duplex(1024);
        tokio::spawn(manager.serve_connection(server, None, hello));
        client.write_all(b"GET / HTTP/1.1\r\nhost").await.unwrap();
        let pressure = Pressure::builder()
            .source("memory", 0.0, 1.0, || Some(1.0))
            .build();
        let mut answer = [0; 12];
        let ended = tokio::time::timeout(Duration::from_secs(60), client.read_exact(&mut answer));
        tokio::select! {
            read = ended => read.expect("soon").expect("an answer"),
            () = relieve(pressure, manager.clone(), MemoryBudget::new(0), pools()) => unreachable!("it never ends"),
        };
        assert_eq!(&answer, b"HTTP/1.1 408");
    }

    #[tokio::test]
    async fn uploads_go_one_by_one_while_the_process_has_little_memory_left_whoever_took_it() {
        use std::sync::{
            Arc,
            atomic::{AtomicBool, Ordering::Relaxed},
        };
        let manager = ConnectionManager::builder().build().unwrap();
        let budget = MemoryBudget::new(1 << 30);
        let scarce = Arc::<AtomicBool>::default();
        let reader = Arc::clone(&scarce);
        let pressure = Pressure::builder()
            .source("memory", 0.0, 1.0, move || {
                Some(f64::from(u8::from(reader.load(Relaxed))))
            })
            .build();
        let until = async |near: bool| {
            while budget.is_near() != near {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let turns = async {
            assert!(!budget.is_near());
            scarce.store(true, Relaxed);
            until(true).await;
            scarce.store(false, Relaxed);
            until(false).await;
        };
        tokio::select! {
            turned = tokio::time::timeout(Duration::from_secs(60), turns) => turned.expect("soon"),
            () = relieve(pressure, manager.clone(), budget.clone(), pools()) => unreachable!("it never ends"),
        }
    }

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
