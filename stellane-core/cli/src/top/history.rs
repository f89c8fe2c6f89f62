use std::collections::VecDeque;

use super::snapshot::Snapshot;
use crate::admin::Admin;

/// As many points as a wide terminal can show.
const POINTS: usize = 300;

/// The latest snapshot, and the course of what is drawn as a line.
#[derive(Debug)]
pub(super) struct History {
    pub(super) address: String,
    pub(super) now: Snapshot,
    /// Why the last question was not answered.
    pub(super) gone: Option<String>,
    pub(super) requests: VecDeque<u64>,
    /// In microseconds.
    pub(super) p99: VecDeque<u64>,
}

impl History {
    /// With what the service knows of its last minutes.
    pub(super) fn new(admin: &Admin, first: Snapshot) -> Self {
        let mut history = Self::from_now_on(&admin.address, first);
        let past = admin.json("/history.json").unwrap_or_default();
        let course = |name: &str, factor: f64| -> VecDeque<u64> {
            let points = past["numbers"][name].as_array();
            let points = points
                .into_iter()
                .flatten()
                .filter_map(serde_json::Value::as_f64);
            let points: Vec<_> = points.map(|n| (n * factor) as u64).collect();
            points[points.len().saturating_sub(POINTS)..]
                .to_vec()
                .into()
        };
        history.requests = course("requests_per_second", 1.0);
        history.p99 = course("latency_p99", 1e6);
        history
    }

    pub(super) fn from_now_on(address: &str, first: Snapshot) -> Self {
        let mut history = Self {
            address: address.to_owned(),
            now: Snapshot::default(),
            gone: None,
            requests: VecDeque::new(),
            p99: VecDeque::new(),
        };
        history.push(Ok(first));
        history
    }

    pub(super) fn push(&mut self, answer: Result<Snapshot, String>) {
        let (requests, p99) = match answer {
            Ok(snapshot) => {
                self.now = snapshot;
                self.gone = None;
                let number = |path| self.now.number(path).unwrap_or(0.0);
                (number("requests_per_second"), number("latency_p99") * 1e6)
            }
            Err(error) => {
                self.gone = Some(error);
                (0.0, 0.0)
            }
        };
        for (line, value) in [(&mut self.requests, requests), (&mut self.p99, p99)] {
            line.push_back(value as u64);
            if line.len() > POINTS {
                line.pop_front();
            }
        }
    }
}
