use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Origin, Problem};

/// A span of `tracing` for each request, under the names of OpenTelemetry, and a log of those that are slow (section
/// `[trace]`). A span begins before the limit and ends with the body of the answer: refused requests have theirs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TraceConfig {
    /// Whether requests get spans, and handlers a `traceparent` to pass on. Default `false`.
    pub enabled: bool,
    /// Of the requests that no caller has decided for, this share gets a span: 0 to 1. Too low and what one looks for was
    /// not recorded; too high costs time: a span takes longer than a small handler. Default 1.
    pub sample: f64,
    /// Whether the `traceparent` that a request brings is gone on with, and decides whether the request gets a span. Where
    /// clients are not trusted, they can have each of their requests recorded. Default `true`.
    pub accept: bool,
    /// Requests that take longer, to the end of their answer, are logged as a warning that says where their time went: ten
    /// in a second at most, the others are counted. With spans or without. Too low, and long polls and streams fill the
    /// log. Default `"0s"`, which is off.
    #[serde(with = "humantime_serde")]
    pub slow: Duration,
}

impl Default for TraceConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            sample: 1.0,
            accept: true,
            slow: Duration::ZERO,
        }
    }
}

impl TraceConfig {
    /// Changed by a closure: it can't be written as a literal.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(super) fn problems(&self, problems: &mut Vec<Problem>) {
        if !(0.0..=1.0).contains(&self.sample) {
            let message = format!("{} is out of range: expected 0 to 1", self.sample);
            problems.push(Problem::new(Origin::Program, "trace.sample", message));
        }
    }
}
