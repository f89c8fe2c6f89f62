//! Whether a drain has begun, and whether it has come to a connection.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::connection::{
    config::ConnectionConfig,
    policy::spread::part_of,
    table::{
        budget::Budget,
        clock::{SWEEP_INTERVAL, millis},
        record::Record,
    },
};

/// The drain of a manager: first it is announced, and when the listeners are closed it begins.
#[derive(Debug)]
pub(crate) struct Drain {
    announced: CancellationToken,
    /// A flag, since every response asks.
    begun: AtomicBool,
    /// When it began, on the coarse clock.
    began: AtomicU64,
    /// Over how many milliseconds it spreads its closing.
    spread: AtomicU64,
    /// How long it may take for what has no budget of its own, in milliseconds.
    deadline: AtomicU64,
    /// The longest own budget of a request that goes on without its client, in milliseconds.
    abandoned: AtomicU64,
    /// How long it had gone on when it last looked whose time is over, in milliseconds.
    looked: watch::Sender<u64>,
    /// Streams that were told goodbye in the words of their protocol.
    farewells: AtomicU64,
}

impl Drain {
    pub(crate) fn new() -> Self {
        Self {
            announced: CancellationToken::new(),
            begun: AtomicBool::new(false),
            began: AtomicU64::new(0),
            spread: AtomicU64::new(0),
            deadline: AtomicU64::new(0),
            abandoned: AtomicU64::new(0),
            looked: watch::Sender::new(0),
            farewells: AtomicU64::new(0),
        }
    }

    pub(crate) fn announce(&self) {
        self.announced.cancel();
    }

    /// A token that is cancelled when it is announced. Whoever cancels it cancels nobody else's.
    pub(crate) fn token(&self) -> CancellationToken {
        self.announced.child_token()
    }

    /// Resolves when it is announced.
    pub(crate) fn announced(&self) -> impl Future<Output = ()> + Send + Sync + use<> {
        self.announced.clone().cancelled_owned()
    }

    /// It is to take so many milliseconds at most, for what has no budget of its own.
    pub(crate) fn limit(&self, deadline: u64) {
        self.deadline.store(deadline, Relaxed);
    }

    pub(crate) fn begin(&self, now: u64, spread: u64) {
        self.spread.store(spread, Relaxed);
        self.began.store(now, Relaxed);
        self.begun.store(true, Relaxed);
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.begun.load(Relaxed)
    }

    /// Whether it has come to a connection: its next response is its last.
    pub(crate) fn has_come_to(&self, id: u64, now: impl FnOnce() -> u64) -> bool {
        self.has_begun() && self.has_reached(id, now())
    }

    #[cold]
    fn has_reached(&self, id: u64, now: u64) -> bool {
        now.saturating_sub(self.began.load(Relaxed)) >= part_of(self.spread(), id)
    }

    /// How long it has been going on, in milliseconds.
    pub(crate) fn elapsed(&self, now: u64) -> Option<u64> {
        self.has_begun()
            .then(|| now.saturating_sub(self.began.load(Relaxed)))
    }

    pub(crate) fn spread(&self) -> u64 {
        self.spread.load(Relaxed)
    }

    /// When the time of a connection is over, on the coarse clock. A request that began in the drain has as much of a
    /// short budget as one that was under way, but never more than the longer of that and the drain's deadline.
    pub(crate) fn end_of(&self, record: &Record) -> u64 {
        let (began, deadline) = (self.began.load(Relaxed), self.deadline.load(Relaxed));
        let longest = record.budget().longest(deadline);
        let from = began.max(record.since());
        let latest = began.saturating_add(longest.max(deadline));
        if longest >= deadline {
            latest
        } else {
            from.saturating_add(longest).min(latest)
        }
    }

    /// Tells streams whose time is over to say goodbye; whether any has ears for that.
    pub(crate) fn look(&self, now: u64) -> bool {
        let elapsed = self.elapsed(now).unwrap_or_default();
        self.looked.send_replace(elapsed);
        self.looked.receiver_count() > 0
    }

    /// A request with this budget goes on without its client.
    pub(crate) fn abandon(&self, budget: Budget) {
        self.abandoned.fetch_max(budget.longest(0), Relaxed);
    }

    /// Until when those that go on without their clients may go on, on the coarse clock.
    pub(crate) fn end_of_abandoned(&self) -> u64 {
        let longest = self
            .abandoned
            .load(Relaxed)
            .max(self.deadline.load(Relaxed));
        self.began.load(Relaxed).saturating_add(longest)
    }

    /// Whether a stream with this budget is to say goodbye.
    pub(crate) fn is_over(&self, budget: Budget) -> bool {
        self.has_begun() && *self.looked.borrow() >= budget.longest(self.deadline.load(Relaxed))
    }

    /// Hears when [`is_over`](Self::is_over) may have changed.
    pub(crate) fn looks(&self) -> watch::Receiver<u64> {
        self.looked.subscribe()
    }

    pub(crate) fn count_farewell(&self) {
        self.farewells.fetch_add(1, Relaxed);
    }

    pub(crate) fn farewells(&self) -> u64 {
        self.farewells.load(Relaxed)
    }
}

/// For how many milliseconds a drain of so many connections, which has to end within `deadline`, may go on closing.
pub(crate) fn spread_of(config: &ConnectionConfig, open: usize, deadline: Duration) -> u64 {
    /// So many reconnect at once without doing harm.
    const MANY: u64 = 1000;
    let open = (open as u64).min(MANY);
    let room = deadline.saturating_sub(config.drain_idle) / 2;
    let spread = millis(config.drain_spread) * open / MANY;
    match spread.min(millis(room)) {
        // The sweep is no more exact than that.
        short if short < millis(SWEEP_INTERVAL) => 0,
        spread => spread,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_to_every_connection_within_its_spread() {
        let drain = Drain::new();
        assert!(!drain.has_come_to(1, || u64::MAX) && drain.elapsed(500).is_none());
        drain.begin(1000, 2000);
        let come_to = |now| {
            (0..1000)
                .filter(|id| drain.has_come_to(*id, || now))
                .count()
        };
        for (now, about) in [
            (1000, 0),
            (1500, 250),
            (2000, 500),
            (2999, 1000),
            (3000, 1000),
        ] {
            assert!(
                come_to(now).abs_diff(about) <= 10,
                "{} at {now}",
                come_to(now)
            );
        }
        assert_eq!(drain.elapsed(1500), Some(500));
    }

    #[test]
    fn few_connections_or_a_near_deadline_make_its_spread_short() {
        let config = ConnectionConfig::default();
        for (open, deadline, spread) in [
            (1000, 30_000, 2000),
            (5000, 30_000, 2000),
            (500, 30_000, 1000),
            (49, 30_000, 0),
            (1000, 3000, 1000),
            (1000, 500, 0),
        ] {
            let got = spread_of(&config, open, Duration::from_millis(deadline));
            assert_eq!(got, spread, "{open} in {deadline} ms");
        }
    }
}
