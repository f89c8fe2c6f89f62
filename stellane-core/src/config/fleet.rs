use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Origin, Problem};

/// What a replica does for the others and for who chooses between them (section `[fleet]`), each off until its key says
/// otherwise. Needs the feature `fleet`. Rates that replicas share are in [`RateLimits`](super::RateLimits).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct FleetConfig {
    /// How balancers hear how loaded this replica is: `off`; `answers`, with each answer (to gRPC in its trailers, to others in the
    /// field `endpoint-load-metrics`); `streams`, by a stream for each balancer that asks for one, outside of limit, deadlines and
    /// metrics, until the drain; or `both`. Whoever reaches the listener hears it too: an edge before the public has to remove the
    /// field. Default `off`.
    pub load_reports: LoadReporting,
    /// No stream tells more often, whatever its balancer asks for. Too short costs CPU for each balancer; too long, and they hear late of
    /// a replica that became slow. At least `100ms`. Default `500ms`.
    #[serde(with = "humantime_serde")]
    pub min_report_interval: Duration,
    /// Whether a handler's calls to others know the deadline of its request, so that a `HandOnDeadlineLayer` around a client hands the
    /// rest of its time on. Costs two boxes for each request. Default `false`.
    pub hand_on_deadlines: bool,
}

/// How balancers hear of a replica's load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum LoadReporting {
    /// Not at all.
    #[default]
    Off,
    /// With each answer.
    Answers,
    /// By streams of their own.
    Streams,
    /// Both.
    Both,
}

impl Default for FleetConfig {
    fn default() -> Self {
        Self {
            load_reports: LoadReporting::Off,
            min_report_interval: Duration::from_millis(500),
            hand_on_deadlines: false,
        }
    }
}

impl FleetConfig {
    /// Changed by a closure: it can't be written as a literal.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Whether nothing is on.
    #[cfg(all(feature = "preset", not(feature = "fleet")))]
    pub(crate) fn is_off(&self) -> bool {
        self.load_reports == LoadReporting::Off && !self.hand_on_deadlines
    }

    pub(super) fn problems(&self, problems: &mut Vec<Problem>) {
        if self.min_report_interval < Duration::from_millis(100) {
            let found = humantime_serde::re::humantime::format_duration(self.min_report_interval);
            let message = format!("{found} is out of range: expected at least 100ms");
            problems.push(Problem::new(
                Origin::Program,
                "fleet.min_report_interval",
                message,
            ));
        }
    }
}
