//! How much is asked of this process in terms of what it can do: one number, for autoscalers and balancers.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use stellane_autotune::{AdaptiveLimit, LimitState, LimitStats};
use stellane_metrics::{Machine, RuntimeMetrics};

/// How much is asked of this process in terms of what it can do, over the last five seconds: 0.5 is half of it, 1 is all, 3 is three
/// times as much. The metric `stellane_saturation`.
///
/// It is `full × asked / let in`: `full` is the highest of
///
/// - the CPU that the process uses, of what it may use;
/// - the time that tokio's threads are busy or blocked (where their runtime is known), and the worker threads that work;
/// - what is in flight under the limit, of the limit, while that limits: of whatever else the service waits for;
///
/// and `asked / let in` is how many requests came for each that got a place, at most ten. So it grows with the load where
/// CPU stays at 1, and so many replicas are wanted as there are times what each has of the target: with two replicas at 1.4 and a
/// target of 0.7, four. CPU lags, says nothing of what was refused, and nothing of a service that waits.
///
/// ```
/// # async fn doc() -> Result<(), Box<dyn std::error::Error>> {
/// use stellane_core::{Components, RuntimeConfig, metrics::LoadReports};
///
/// let components = Components::new(&RuntimeConfig::default())?;
/// let saturation = components.saturation.clone();
/// // gRPC's and Envoy's balancers are told the same.
/// let reports = LoadReports::builder(&components.metrics)
///     .application_utilization(move || Some(saturation.now()))
///     .build()?;
/// # let _ = reports;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Saturation(Arc<AtomicU64>);

/// So often it is measured.
const TICK: Duration = Duration::from_secs(1);
/// Over so many ticks.
const TICKS: usize = 5;
/// Somebody who lets in next to nothing does not know how much is asked of him.
const MOST_ASKED: f64 = 10.0;

impl Saturation {
    /// The number. Zero before the first measurement, and of components that do not [run](super::Components::run).
    #[must_use]
    pub fn now(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }

    /// For the metrics.
    pub(super) fn stats(&self) -> f64 {
        self.now()
    }

    /// Measures, for ever.
    pub(super) async fn watch(
        self,
        limit: AdaptiveLimit,
        metrics: RuntimeMetrics,
        workers: impl Fn() -> f64 + Send,
    ) {
        let cpus = Machine::read().cpus;
        let mut window = Window::default();
        loop {
            let (limit, snapshot) = (limit.stats(), metrics.snapshot());
            let saturation = window.next(Reading {
                at: snapshot.uptime,
                cpu: snapshot.cpu_time.div_f64(cpus),
                refused: limit.shed,
                let_in: limit.admitted,
                full: full(&limit).max(snapshot.tokio_busy_ratio).max(workers()),
            });
            self.0.store(saturation.to_bits(), Relaxed);
            tokio::time::sleep(TICK).await;
        }
    }
}

/// Of the limit, while it limits: else it says nothing of what the service can do.
fn full(limit: &LimitStats) -> f64 {
    match limit.state {
        LimitState::Open => 0.0,
        _ => (limit.in_flight as f64 / limit.limit.max(1) as f64).min(1.0),
    }
}

/// What is known at one time.
#[derive(Debug, Clone, Copy, Default)]
struct Reading {
    at: Duration,
    /// Time of all CPUs that the process may use.
    cpu: Duration,
    refused: u64,
    let_in: u64,
    /// How full the rest is, at this moment.
    full: f64,
}

#[derive(Debug, Default)]
struct Window(VecDeque<Reading>);

impl Window {
    fn next(&mut self, now: Reading) -> f64 {
        if self.0.len() > TICKS {
            self.0.pop_front();
        }
        self.0.push_back(now);
        let Some(first) = self.0.front() else {
            return 0.0;
        };
        let passed = now.at.saturating_sub(first.at).as_secs_f64();
        let cpu = match passed > 0.0 {
            true => now.cpu.saturating_sub(first.cpu).as_secs_f64() / passed,
            false => 0.0,
        };
        let full = self.0.iter().map(|reading| reading.full).sum::<f64>() / self.0.len() as f64;
        let let_in = now.let_in.saturating_sub(first.let_in) as f64;
        let refused = now.refused.saturating_sub(first.refused) as f64;
        let asked = match let_in + refused > 0.0 {
            true => ((let_in + refused) / let_in).min(MOST_ASKED),
            false => 1.0,
        };
        cpu.max(full).max(0.0) * asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replicas that do a hundred requests a second each, at full CPU, and refuse the rest.
    struct Fleet {
        windows: Vec<(Window, Reading)>,
    }

    impl Fleet {
        fn new(replicas: usize) -> Self {
            let windows = (0..replicas).map(|_| Default::default()).collect();
            Self { windows }
        }

        /// A second with this demand on all of them: the sum of what they say.
        fn second(&mut self, demand: f64) -> f64 {
            let each = demand / self.windows.len() as f64;
            let second = |(window, reading): &mut (Window, Reading)| {
                let let_in = each.min(100.0);
                reading.at += Duration::from_secs(1);
                reading.cpu += Duration::from_secs_f64(let_in / 100.0);
                reading.let_in += let_in as u64;
                reading.refused += (each - let_in) as u64;
                reading.full = (let_in / 100.0).min(1.0);
                window.next(*reading)
            };
            self.windows.iter_mut().map(second).sum()
        }

        fn grow(&mut self, replicas: usize) {
            self.windows.resize_with(replicas, Default::default);
        }
    }

    /// As the autoscaler of Kubernetes counts, by a value that is a sum over all.
    fn wanted(sum: f64, target: f64) -> usize {
        // It leaves a tenth of tolerance, of which a rounding error is to take nothing.
        (sum / target - 1e-6).ceil() as usize
    }

    #[test]
    fn a_step_is_known_within_one_scrape_wherever_between_two_it_falls() {
        const SCRAPE: usize = 15;
        const TARGET: f64 = 0.5;
        for (before, after) in [
            (150.0, 300.0),
            (150.0, 1200.0),
            (200.0, 1900.0),
            (900.0, 100.0),
        ] {
            for offset in 0..SCRAPE {
                let replicas = wanted(before / 100.0, TARGET);
                let mut fleet = Fleet::new(replicas);
                for _ in 0..60 {
                    fleet.second(before);
                }
                let mut scrapes = Vec::new();
                for second in 1..=2 * SCRAPE {
                    let sum = fleet.second(after);
                    if (second + offset).is_multiple_of(SCRAPE) {
                        scrapes.push(wanted(sum, TARGET));
                    }
                }
                // The scrape after the step may have seen a part of it, the next one all.
                let truth = wanted(after / 100.0, TARGET);
                assert_eq!(
                    scrapes[1], truth,
                    "{before} to {after}, {offset}: {scrapes:?}"
                );
                fleet.grow(truth);
                for _ in 0..SCRAPE {
                    fleet.second(after);
                }
                assert_eq!(wanted(fleet.second(after), TARGET), truth);
            }
        }
    }

    #[test]
    fn what_is_asked_of_a_service_that_waits_is_known_without_cpu() {
        let mut window = Window::default();
        let mut said = 0.0;
        for second in 1..=10 {
            said = window.next(Reading {
                at: Duration::from_secs(second),
                cpu: Duration::from_millis(10 * second),
                let_in: 100 * second,
                refused: 200 * second,
                full: 1.0,
            });
        }
        assert!((said - 3.0).abs() < 1e-9, "{said}");
    }

    #[test]
    fn nothing_at_all_is_no_load_and_nothing_let_in_is_ten_times_too_much() {
        let mut window = Window::default();
        assert_eq!(window.next(Reading::default()), 0.0);
        let at = Duration::from_secs(1);
        assert_eq!(
            window.next(Reading {
                at,
                ..Reading::default()
            }),
            0.0
        );
        let refused = Reading {
            at: 2 * at,
            refused: 5,
            full: 3.0,
            ..Reading::default()
        };
        assert_eq!(window.next(refused), 10.0);
    }

    #[test]
    fn a_limit_that_is_open_says_nothing() {
        let limit = AdaptiveLimit::builder().build().expect("valid");
        let _permits: Vec<_> = (0..1000).map(|_| limit.try_acquire()).collect();
        assert_eq!(full(&limit.stats()), 0.0);
    }
}
