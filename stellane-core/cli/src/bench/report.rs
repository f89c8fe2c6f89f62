use std::fmt;

use serde_json::json;

use super::load::{Outcome, Plan};

/// The percentiles that are told.
pub(super) const PERCENTILES: [f64; 7] = [50.0, 75.0, 90.0, 99.0, 99.9, 99.99, 100.0];

/// What is printed about a run.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) title: String,
    per_second: f64,
    responses: u64,
    bytes: u64,
    seconds: f64,
    statuses: Vec<(u16, u64)>,
    errors: Vec<(&'static str, u64)>,
    unsent: u64,
    mean: f64,
    /// Percentile and nanoseconds.
    latency: Vec<(f64, u64)>,
    /// How late requests were sent at the 99th percentile, in nanoseconds; `None` in a closed loop.
    lateness: Option<u64>,
    rate: Option<f64>,
}

impl Report {
    pub(super) fn new(plan: &Plan, outcome: &Outcome) -> Self {
        let seconds = outcome.elapsed.max(plan.duration).as_secs_f64();
        let responses = outcome.responses();
        let mode = match plan.rate {
            Some(rate) => format!("{rate} requests due per second"),
            None => "as fast as answered".to_owned(),
        };
        Self {
            title: format!(
                "{} {}, {} connections, {mode}, {}",
                plan.target.method,
                plan.target.url,
                plan.connections,
                humantime_serde::re::humantime::format_duration(plan.duration),
            ),
            per_second: responses as f64 / seconds,
            responses,
            bytes: outcome.bytes,
            seconds,
            statuses: outcome
                .statuses
                .iter()
                .map(|(&status, &count)| (status, count))
                .collect(),
            errors: outcome
                .errors
                .iter()
                .map(|(error, &count)| (*error, count))
                .collect(),
            unsent: outcome.unsent,
            mean: outcome.latency.mean(),
            latency: PERCENTILES
                .into_iter()
                .map(|p| (p, outcome.latency.value_at_quantile(p / 100.0)))
                .collect(),
            lateness: plan.rate.map(|_| outcome.lateness.value_at_quantile(0.99)),
            rate: plan.rate,
        }
    }

    pub(super) fn json(&self) -> serde_json::Value {
        let latency: serde_json::Map<_, _> = self
            .latency
            .iter()
            .map(|(p, nanos)| (name(*p), (*nanos as f64 / 1e9).into()))
            .collect();
        let statuses: serde_json::Map<_, _> = self
            .statuses
            .iter()
            .map(|(status, count)| (status.to_string(), (*count).into()))
            .collect();
        let errors: serde_json::Map<_, _> = self
            .errors
            .iter()
            .map(|(error, count)| ((*error).to_owned(), (*count).into()))
            .collect();
        json!({
            "run": self.title,
            "seconds": self.seconds,
            "responses": self.responses,
            "responses_per_second": self.per_second,
            "bytes": self.bytes,
            "statuses": statuses,
            "errors": errors,
            "unsent": self.unsent,
            "rate": self.rate,
            "latency_seconds": latency,
            "latency_mean_seconds": self.mean / 1e9,
            "latency_corrected": self.rate.is_some(),
            "lateness_p99_seconds": self.lateness.map(|nanos| nanos as f64 / 1e9),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.title)?;
        writeln!(
            f,
            "throughput  {:.1} responses/s, {}/s",
            self.per_second,
            bytes(self.bytes as f64 / self.seconds)
        )?;
        writeln!(f, "responses   {} in {:.2} s", self.responses, self.seconds)?;
        for (status, count) in &self.statuses {
            writeln!(f, "  {status}       {count}")?;
        }
        for (error, count) in &self.errors {
            writeln!(f, "failed      {count}: {error}")?;
        }
        if self.unsent > 0 {
            writeln!(
                f,
                "never sent  {}: no connection was free within the timeout",
                self.unsent
            )?;
        }
        match self.rate {
            Some(_) => writeln!(f, "\nlatency from the moment each request was due")?,
            None => writeln!(
                f,
                "\nlatency at saturation; for that of a service under a given load use --rate"
            )?,
        }
        for (percentile, nanos) in &self.latency {
            writeln!(f, "  {:<8}  {}", name(*percentile), time(*nanos as f64))?;
        }
        writeln!(f, "  {:<8}  {}", "mean", time(self.mean))?;
        if let Some(lateness) = self.lateness
            && lateness > 1_000_000
        {
            writeln!(
                f,
                "\n1 % of the requests were sent {} or more after they were due: all connections were busy \
                 (more --connections?) or the load generator itself",
                time(lateness as f64)
            )?;
        }
        Ok(())
    }
}

/// `p99.9`, `max`.
pub(super) fn name(percentile: f64) -> String {
    if percentile >= 100.0 {
        "max".to_owned()
    } else {
        format!("p{percentile}")
    }
}

/// Nanoseconds as people read them.
pub(crate) fn time(nanos: f64) -> String {
    match nanos {
        n if n < 1e6 => format!("{:.1} µs", n / 1e3),
        n if n < 1e9 => format!("{:.2} ms", n / 1e6),
        n => format!("{:.3} s", n / 1e9),
    }
}

fn bytes(bytes: f64) -> String {
    bytesize::ByteSize::b(bytes as u64).to_string()
}
