//! What computes beside the runtimes, which these do not see: jobs of the worker pool, `spawn_blocking`, a library's threads.

use std::time::{Duration, Instant};

use stellane_metrics::Machine;

use super::{Components, machine::cpu_time};
#[cfg(target_os = "linux")]
use crate::engine::thread_state::thread_state;

/// How often it is looked at. There may be hundreds of threads, each of which costs some microseconds.
const TICK: Duration = Duration::from_millis(250);
/// A process that has had less than this of its CPUs since the look before was idle for a while, or others have them; and with this
/// it has none left: jobs that wait for something else get more workers.
const SHARE: (f64, f64) = (0.5, 0.9);
/// Threads that are ready are those of requests if they came with these, and are this part of them. A batch in this process
/// may have as many.
const OF_REQUESTS: f64 = 0.25;
/// Of other threads that wait for each CPU no more are counted. That says that the CPUs are short, so that throughput which does
/// not follow concurrency is evidence; alone it is none.
const OTHERS: f64 = 2.0;

impl Components {
    /// Tells the limit of what waits for a CPU beside the runtimes, for ever: handlers that wait for it leave the runtimes
    /// idle.
    pub(super) async fn watch_beside(self) {
        let cpus = Machine::read().cpus.max(0.01);
        let (mut then, mut had) = (Instant::now(), cpu_time(cpus));
        let (mut threads, mut before) = (Threads::default(), 0.0);
        loop {
            tokio::time::sleep(TICK).await;
            let (since, so_far) = (then, had);
            (then, had) = (Instant::now(), cpu_time(cpus));
            let share = had.saturating_sub(so_far).div_duration_f64(then - since);
            let ready = (share >= SHARE.0).then(ready_threads);
            let waiting = threads.look(ready, self.limit.stats().in_flight, cpus);
            #[cfg(feature = "workers")]
            let waiting = match share >= SHARE.1 {
                true => waiting.max(self.workers.stats().queue_depth as f64 / cpus),
                false => waiting,
            };
            // A moment's burst is no queue.
            let lasting = waiting.min(std::mem::replace(&mut before, waiting));
            self.local_signal
                .report_queue(if lasting > 1.0 { lasting } else { f64::NAN });
        }
    }
}

/// What was seen at the latest look.
#[derive(Debug, Default)]
struct Threads {
    ready: f64,
    in_flight: f64,
    of_requests: f64,
}

impl Threads {
    /// How many wait for each CPU. `ready`: if the process was busy.
    fn look(&mut self, ready: Option<u32>, in_flight: u32, cpus: f64) -> f64 {
        let (ready, in_flight) = (ready.map_or(0.0, f64::from), f64::from(in_flight));
        // In doubt they are others: those that go were of requests, those that come are only if requests came too.
        let came = (in_flight - self.in_flight).max(0.0);
        let of_requests = (self.of_requests + came.min(ready - self.ready)).clamp(0.0, ready);
        *self = Self {
            ready,
            in_flight,
            of_requests,
        };
        let others = (ready / cpus - 1.0).min(OTHERS);
        match of_requests >= OF_REQUESTS * in_flight {
            true => others.max(of_requests / cpus),
            false => others,
        }
    }
}

/// How many threads of this process have a CPU or wait for one.
#[cfg(target_os = "linux")]
fn ready_threads() -> u32 {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let is_ready = |thread: &std::fs::DirEntry| {
        let id = thread.file_name();
        id.to_str().and_then(thread_state) == Some(b'R')
    };
    threads.flatten().filter(is_ready).count() as u32
}

#[cfg(not(target_os = "linux"))]
fn ready_threads() -> u32 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On two CPUs, after looks that saw so many threads ready and requests in flight.
    fn last(looks: &[(u32, u32)]) -> f64 {
        let mut threads = Threads::default();
        let look = |(ready, in_flight): &(u32, u32)| {
            threads.look((*ready > 0).then_some(*ready), *in_flight, 2.0)
        };
        looks.iter().map(look).last().unwrap_or_default()
    }

    #[test]
    fn threads_that_come_with_requests_are_a_queue() {
        for looks in [
            &[(8, 8)][..],
            // Half of what came computes.
            &[(0, 10), (60, 110)],
            // As many as a runtime has threads for, and clients that left while their jobs go on.
            &[(4, 4), (300, 400), (512, 900), (512, 300), (512, 100)],
        ] {
            assert!(last(looks) > 2.5, "{looks:?}: {}", last(looks));
        }
    }

    #[test]
    fn a_batch_beside_requests_says_only_that_the_cpus_are_short() {
        for looks in [
            // It begins while requests wait for something else, and more of these come then.
            &[(0, 60), (16, 62), (16, 90), (18, 200)][..],
            &[(0, 900), (16, 950), (16, 1000)],
            &[(16, 0), (16, 0), (17, 40), (16, 40)],
            // Others came with requests, and left with them.
            &[(16, 2), (46, 32), (16, 2)],
        ] {
            assert_eq!(last(looks), OTHERS, "{looks:?}");
        }
        assert!(last(&[(2, 60), (2, 60)]) < 1.0, "one for each CPU");
    }
}
