//! wrk, as a second opinion: it checks statuses and lengths but not bodies.

use std::{fs, process::Command, time::Duration};

use serde::Deserialize;

use super::Answers;
use crate::{BoxError, contestants::home, server::Server};

/// Prints what wrk counted as JSON, in microseconds.
const SCRIPT: &str = r#"
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"duration":%d,"errors":%d,"statuses":%d,"p50":%d,"p99":%d,"p999":%d}\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.timeout, e.status,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"#;

#[derive(Debug, Deserialize)]
pub(crate) struct Counted {
    requests: u64,
    duration: u64,
    errors: u64,
    statuses: u64,
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
}

/// Runs wrk, on the cores of the calling thread.
pub(crate) fn run(
    server: &Server,
    path: &str,
    connections: usize,
    duration: Duration,
) -> Result<(Answers, Counted), BoxError> {
    let folder = home().join("target/compare");
    fs::create_dir_all(&folder)?;
    let script = folder.join("wrk.lua");
    fs::write(&script, SCRIPT)?;
    // It takes whole seconds only.
    let seconds = duration.as_secs().max(1);
    let output = Command::new("wrk")
        .arg(format!("-c{connections}"))
        .arg(format!("-d{seconds}s"))
        .args(["-t1", "-s"])
        .arg(&script)
        .arg(format!("http://{}{path}", server.address))
        .output()
        .map_err(|error| format!("wrk: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("RESULT "));
    let counted: Counted = serde_json::from_str(line.ok_or("wrk failed")?)?;
    let mut answers = Answers::new(&[], 0);
    answers.good = counted.requests.saturating_sub(counted.statuses);
    answers.elapsed = Duration::from_micros(counted.duration);
    for (what, count) in [("error", counted.errors), ("status", counted.statuses)] {
        if count > 0 {
            answers.failures.insert(what.to_owned(), count);
        }
    }
    Ok((answers, counted))
}
