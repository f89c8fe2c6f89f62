//! What is known of a probe under way, and how often there is one.

use super::super::elasticity::Measured;

/// A probe under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probe {
    pub(super) steps: i32,
    /// One step before; none of a service that was met under load, whose first window tells nothing.
    pub(super) before: Option<Measured>,
    /// The bottom is reached: its latency is measured.
    pub(super) at_bottom: bool,
    /// The median before the first step.
    pub(super) median: f64,
    /// The first under this limit.
    pub(super) first: bool,
}

/// What a step leaves of the limit: two of them halve it, which is as far apart as two points must be to differ by more than
/// chance.
/// Half: 94 % (`deadline_storm`); twice: 0 % (`bimodal`).
pub(super) const PROBE_STEP: f64 = 0.7;
/// Seconds from one to the next,
/// Half: 92 % (`retry_storm`); twice: 95 % (`slow_dependency`).
pub(super) const PROBE_EVERY: f64 = 8.0;
/// after a deep one, or from a guess: on such a way down one step may be mistaken for the last,
/// Half: 97 % (`fifo`); twice: 96 % (`bimodal`).
pub(super) const PROBE_AGAIN: f64 = 1.0;
/// and while nothing changes.
/// Half: 95 % (`black_hole`); twice: nothing.
pub(super) const PROBE_SELDOM: f64 = 32.0;
/// Medians between two at least: it takes a dozen, which cost a slow service a third of its throughput.
/// Half: 96 % (`defers_at_rate`); twice: nothing.
pub(super) const RARE: f64 = 50.0;
/// The part of its pause that a probe keeps at least, unless the service has jumped.
/// Half: 95 % (`black_hole`); twice: nothing.
pub(super) const REST: f64 = 0.375;
