//! The circuit breaker: who keeps failing is left alone for a while.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::SelectorConfig;

/// Whether the accelerated service is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum BreakerState {
    /// It is.
    #[default]
    Closed,
    /// It failed too often, and rests.
    Open,
    /// It has rested; a few requests try it.
    HalfOpen,
}

#[derive(Debug)]
pub(super) struct Breaker {
    /// The latest outcomes, a bit each, one is a failure; below the highest bit that stands for the beginning. Sixty-three
    /// are kept.
    outcomes: AtomicU64,
    /// The way of every request while all is well: no lock.
    closed: AtomicBool,
    trial: Mutex<Trial>,
    percent: u32,
    min_requests: u32,
    open: Duration,
    probes: u32,
    opened: AtomicU64,
}

/// While the breaker is not closed.
#[derive(Debug, Default)]
struct Trial {
    /// Tells the probes of this trial from those of an earlier one.
    number: u64,
    /// Rests until then.
    until: Option<Instant>,
    running: u32,
    succeeded: u32,
}

/// Leave to try; its outcome is told by [`Breaker::record`], or it counts for nothing.
#[derive(Debug)]
pub(super) struct Permit {
    /// The trial it belongs to, if the breaker was not closed.
    probe: Option<u64>,
}

impl Breaker {
    pub(super) fn new(config: &SelectorConfig) -> Self {
        Self {
            outcomes: AtomicU64::new(1),
            closed: AtomicBool::new(true),
            trial: Mutex::default(),
            percent: config.breaker_percent,
            min_requests: config.breaker_min_requests.min(63),
            open: config.breaker_open,
            probes: config.breaker_probes,
            opened: AtomicU64::new(0),
        }
    }

    pub(super) fn permit(&self) -> Option<Permit> {
        if self.closed.load(Relaxed) {
            return Some(Permit { probe: None });
        }
        let mut trial = self.lock();
        let resting = trial.until.is_some_and(|until| Instant::now() < until);
        if resting || trial.running + trial.succeeded >= self.probes {
            return None;
        }
        trial.running += 1;
        Some(Permit {
            probe: Some(trial.number),
        })
    }

    pub(super) fn record(&self, permit: &Permit, success: bool) {
        let Some(number) = permit.probe else {
            return self.record_closed(success);
        };
        let mut trial = self.lock();
        if trial.number != number {
            return;
        }
        if !success {
            return self.open(&mut trial);
        }
        trial.running -= 1;
        trial.succeeded += 1;
        if trial.succeeded >= self.probes {
            trial.number += 1;
            self.outcomes.store(1, Relaxed);
            self.closed.store(true, Relaxed);
        }
    }

    /// The request was given up by its client: that says nothing about who was to answer it.
    pub(super) fn forget(&self, permit: &Permit) {
        let Some(number) = permit.probe else { return };
        let mut trial = self.lock();
        if trial.number == number {
            trial.running -= 1;
        }
    }

    fn record_closed(&self, success: bool) {
        const FULL: u64 = 1 << 63;
        let push = |outcomes: u64| {
            let kept = if outcomes & FULL == 0 { 0 } else { FULL };
            (outcomes << 1) | kept | u64::from(!success)
        };
        let before = self
            .outcomes
            .fetch_update(Relaxed, Relaxed, |outcomes| {
                // After many successes one more changes nothing, and is not written to a line of all cores.
                let next = push(outcomes);
                (next != outcomes).then_some(next)
            })
            .unwrap_or_else(|outcomes| outcomes);
        if success {
            return;
        }
        let outcomes = push(before);
        let requests = 63 - outcomes.leading_zeros();
        let failures = outcomes.count_ones() - 1;
        if requests >= self.min_requests && failures * 100 >= requests * self.percent {
            let mut trial = self.lock();
            if self.closed.load(Relaxed) {
                self.open(&mut trial);
            }
        }
    }

    fn open(&self, trial: &mut Trial) {
        *trial = Trial {
            number: trial.number + 1,
            until: Some(Instant::now() + self.open),
            ..Trial::default()
        };
        self.closed.store(false, Relaxed);
        self.opened.fetch_add(1, Relaxed);
        tracing::warn!(
            "the accelerated service fails: its breaker is open for {:?}",
            self.open
        );
    }

    pub(super) fn state(&self) -> BreakerState {
        if self.closed.load(Relaxed) {
            return BreakerState::Closed;
        }
        match self.lock().until {
            Some(until) if Instant::now() < until => BreakerState::Open,
            _ => BreakerState::HalfOpen,
        }
    }

    pub(super) fn opened(&self) -> u64 {
        self.opened.load(Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Trial> {
        self.trial.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(breaker: &Breaker, outcomes: &[bool]) {
        for success in outcomes {
            let permit = breaker.permit().expect("not open");
            breaker.record(&permit, *success);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_at_its_share_of_failures_rests_and_closes_after_its_probes() {
        let breaker = Breaker::new(&SelectorConfig::default());
        // Half of them fail, but there are too few to tell.
        run(&breaker, &[false, true].repeat(7));
        assert_eq!(breaker.state(), BreakerState::Closed);
        run(&breaker, &[false, false]);
        assert_eq!(breaker.state(), BreakerState::Open);
        assert!(breaker.permit().is_none());

        tokio::time::advance(Duration::from_secs(5)).await;
        let probes: Vec<_> = (0..3).map(|_| breaker.permit().expect("a try")).collect();
        assert!(breaker.permit().is_none(), "three at a time");
        breaker.forget(&probes[0]);
        let again = breaker.permit().expect("the place of the one given up");
        breaker.record(&probes[1], true);
        breaker.record(&probes[2], true);
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        breaker.record(&again, true);
        assert_eq!(breaker.state(), BreakerState::Closed);
        // Its memory of the bad time is gone.
        run(&breaker, &[false; 15]);
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_fails_opens_it_again_and_late_outcomes_are_ignored() {
        let breaker = Breaker::new(&SelectorConfig::default());
        let late = breaker.permit().expect("closed");
        run(&breaker, &[false; 16]);
        breaker.record(&late, false);
        assert_eq!(breaker.opened(), 1);
        tokio::time::advance(Duration::from_secs(5)).await;
        let probes: Vec<_> = (0..2).map(|_| breaker.permit().expect("a try")).collect();
        breaker.record(&probes[0], false);
        assert_eq!((breaker.state(), breaker.opened()), (BreakerState::Open, 2));
        breaker.record(&probes[1], true);
        breaker.forget(&probes[1]);
        assert_eq!(breaker.state(), BreakerState::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn old_failures_are_forgotten() {
        let breaker = Breaker::new(&SelectorConfig::default());
        run(&breaker, &[false; 15]);
        run(&breaker, &[true; 100]);
        run(&breaker, &[false; 31]);
        assert_eq!(breaker.state(), BreakerState::Closed);
        run(&breaker, &[false]);
        assert_eq!(breaker.state(), BreakerState::Open);
    }
}
