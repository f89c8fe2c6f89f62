use super::{Algorithm, Latencies, LimitState, aside::Aside, histogram::BUCKETS};

/// What only the thread that closes a window touches.
#[derive(Debug)]
pub(super) struct WindowControl {
    pub(super) algorithm: Box<dyn Algorithm>,
    pub(super) min: u32,
    pub(super) max: u32,
    pub(super) phase: Phase,
    pub(super) at_start: Box<[u32; BUCKETS]>,
    pub(super) latest: Box<[u32; BUCKETS]>,
    /// Answers that were timed.
    pub(super) timed: u64,
    pub(super) untimed_at_start: u64,
    pub(super) refused_at_start: u64,
    pub(super) overloads_at_start: u64,
    /// See `Shared::uncounted`.
    pub(super) uncounted_at_start: u32,
    pub(super) departures_at_start: (u64, u64),
    pub(super) window: Latencies,
    pub(super) windows: u64,
    pub(super) aside: Aside,
    pub(super) state: LimitState,
    /// How often that has changed, and when it last did, in nanoseconds.
    pub(super) changes: u64,
    pub(super) changed_at: u64,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// Until too many are no longer in flight, at most until then; and how long it settles then.
    Draining {
        until: u64,
        settle: u64,
    },
    Settling,
    Measuring {
        start: u64,
    },
}

impl WindowControl {
    pub(super) fn new(algorithm: Box<dyn Algorithm>, (min, max): (u32, u32)) -> Self {
        Self {
            state: algorithm.state(),
            algorithm,
            min,
            max,
            phase: Phase::Settling,
            at_start: Box::new([0; BUCKETS]),
            latest: Box::new([0; BUCKETS]),
            timed: 0,
            untimed_at_start: 0,
            refused_at_start: 0,
            overloads_at_start: 0,
            uncounted_at_start: 0,
            departures_at_start: (0, 0),
            window: Latencies::default(),
            windows: 0,
            aside: Aside::default(),
            changes: 0,
            changed_at: 0,
        }
    }
}
