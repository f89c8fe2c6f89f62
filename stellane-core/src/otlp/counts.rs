//! What the handles and the thread share.

use std::sync::{Arc, atomic::AtomicU64};

use stellane_metrics::embed::Sink;
use tokio::sync::oneshot;

use super::settings::Signal;

/// Shows all metrics.
pub(super) type Walk = Box<dyn Fn(&mut dyn Sink) + Send + Sync>;
pub(super) type Flush = oneshot::Sender<bool>;

/// What has become of what was to be sent.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) metrics: Sent,
    pub(super) traces: Sent,
    /// Spans that found no room, or were given up.
    pub(super) spans_lost: Arc<AtomicU64>,
    /// Of what the collector has taken in part.
    pub(super) rejected: AtomicU64,
}

#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) well: AtomicU64,
    pub(super) failed: AtomicU64,
}

impl Counts {
    pub(super) fn of(&self, signal: Signal) -> &Sent {
        match signal {
            Signal::Metrics => &self.metrics,
            Signal::Traces => &self.traces,
        }
    }
}
