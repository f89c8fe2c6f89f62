use std::fmt;

/// Whether there is a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum LimitState {
    /// Nothing says that the service is full: nobody is refused.
    Open,
    /// It is, or was until lately.
    Limiting,
}

/// What says that a service is full.
///
/// ```
/// use stellane_autotune::LimitEvidence;
///
/// let evidence = LimitEvidence::Flat { throughput: 1590.0, from: 40.0, latency: 1.9 };
/// assert_eq!(evidence.to_string(), "throughput flat at 1590/s from 40 in flight on, latency 1.9 x");
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum LimitEvidence {
    /// More in flight is answered no more often, only later.
    Flat {
        /// The most answers per second.
        throughput: f64,
        /// Requests in flight that are enough for them.
        from: f64,
        /// The latency now, in terms of the shortest.
        latency: f64,
    },
    /// The machine has more to run than it can: see [`LocalSignal`](crate::LocalSignal).
    Machine {
        /// Tasks that are ready to run, for each that can run.
        tasks_per_core: f64,
    },
    /// The service says so itself, by [`Outcome::Overload`](crate::Outcome::Overload).
    Overloads {
        /// The part of the answers that do.
        share: f64,
    },
    /// The latency target is missed.
    Target {
        /// The 99th percentile, in seconds.
        p99: f64,
        /// What it may be at most, in seconds.
        most: f64,
    },
}

impl fmt::Display for LimitEvidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Flat {
                throughput,
                from,
                latency,
            } => write!(
                f,
                "throughput flat at {throughput:.0}/s from {from:.0} in flight on, latency {latency:.1} x"
            ),
            Self::Machine { tasks_per_core } => write!(
                f,
                "the machine has {tasks_per_core:.1} tasks ready for each core"
            ),
            Self::Overloads { share } => {
                write!(f, "{:.0} % of the answers say overloaded", 100.0 * share)
            }
            Self::Target { p99, most } => write!(
                f,
                "the 99th percentile is {:.0} ms, {:.0} ms is the target's most",
                1000.0 * p99,
                1000.0 * most
            ),
        }
    }
}
