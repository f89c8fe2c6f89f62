//! What has begun and ended so far. Live connections count for themselves, in their records.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::connection::{
    reason::CloseReason,
    state::ConnectionState,
    stats::ConnectionStats,
    table::{Table, record::Record, throughput::Throughput},
};

/// How many connections ended, by `CloseReason as usize`.
pub(crate) type Closed = [u64; CloseReason::ALL.len()];

/// The counts of a manager. Those of accepts and ends are to be changed where nobody sees the table, so that what was
/// accepted is open or has ended at all times.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    open: AtomicUsize,
    accepted: AtomicU64,
    accept_errors: AtomicU64,
    closed: [AtomicU64; CloseReason::ALL.len()],
    /// Of connections that have ended; the live ones are added when asked.
    requests: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
    cancelled: AtomicU64,
    unparked: AtomicU64,
    tls: AtomicU64,
    http2: AtomicU64,
    throughput: Mutex<Throughput>,
}

impl Totals {
    /// A connection that has a record.
    pub(crate) fn count_accepted(&self) {
        self.accepted.fetch_add(1, Relaxed);
        self.open.fetch_add(1, Relaxed);
    }

    /// A connection that was accepted and ended before it had a record.
    pub(crate) fn count_refused(&self, reason: CloseReason) {
        self.accepted.fetch_add(1, Relaxed);
        self.closed[reason as usize].fetch_add(1, Relaxed);
    }

    /// A connection that has a record ended.
    pub(crate) fn count_end(&self, record: &Record, reason: CloseReason) {
        let (read, written) = record.bytes();
        self.requests.fetch_add(record.requests(), Relaxed);
        self.read.fetch_add(read, Relaxed);
        self.written.fetch_add(written, Relaxed);
        self.closed[reason as usize].fetch_add(1, Relaxed);
        self.open.fetch_sub(1, Relaxed);
    }

    pub(crate) fn count_accept_error(&self) {
        self.accept_errors.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_cancelled(&self) {
        self.cancelled.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_unparked(&self) {
        self.unparked.fetch_add(1, Relaxed);
    }

    /// A TLS handshake is done.
    #[cfg(feature = "tls")]
    pub(crate) fn count_tls(&self) {
        self.tls.fetch_add(1, Relaxed);
    }

    /// A connection speaks HTTP/2.
    #[cfg(feature = "http2")]
    pub(crate) fn count_http2(&self) {
        self.http2.fetch_add(1, Relaxed);
    }

    pub(crate) fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    pub(crate) fn closed(&self) -> Closed {
        std::array::from_fn(|i| self.closed[i].load(Relaxed))
    }

    /// These, and what the live connections add.
    pub(crate) fn stats(&self, table: &Table, park_after: Duration) -> ConnectionStats {
        let mut live = ConnectionStats::default();
        let ended = || ConnectionStats {
            accepted_total: self.accepted.load(Relaxed),
            accept_errors_total: self.accept_errors.load(Relaxed),
            closed_total: self.closed(),
            requests_total: self.requests.load(Relaxed),
            requests_cancelled_total: self.cancelled.load(Relaxed),
            unparked_total: self.unparked.load(Relaxed),
            tls_total: self.tls.load(Relaxed),
            http2_total: self.http2.load(Relaxed),
            bytes_read_total: self.read.load(Relaxed),
            bytes_written_total: self.written.load(Relaxed),
            ..ConnectionStats::default()
        };
        let ended = table.for_each_after(ended, |record| add(&mut live, record));
        let stats = ConnectionStats {
            accepted_total: ended.accepted_total,
            accept_errors_total: ended.accept_errors_total,
            closed_total: ended.closed_total,
            requests_total: ended.requests_total + live.requests_total,
            requests_cancelled_total: ended.requests_cancelled_total,
            unparked_total: ended.unparked_total,
            tls_total: ended.tls_total,
            http2_total: ended.http2_total,
            park_after,
            bytes_read_total: ended.bytes_read_total + live.bytes_read_total,
            bytes_written_total: ended.bytes_written_total + live.bytes_written_total,
            ..live
        };
        self.throughput().tell(stats)
    }

    /// Measures how fast it goes, if a second has passed since the last time.
    pub(crate) fn measure(&self, table: &Table, now: u64) {
        if self.throughput().is_due(now) {
            let stats = self.stats(table, Duration::ZERO);
            self.throughput().measure(now, &stats);
        }
    }

    fn throughput(&self) -> MutexGuard<'_, Throughput> {
        self.throughput
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds a live connection.
fn add(live: &mut ConnectionStats, record: &Record) {
    live.open += 1;
    match record.state() {
        ConnectionState::New => live.new += 1,
        ConnectionState::Idle => live.idle += 1,
        ConnectionState::Parked => live.parked += 1,
        ConnectionState::Handshake
        | ConnectionState::Queued
        | ConnectionState::Head
        | ConnectionState::Active
        | ConnectionState::HalfClosed
        | ConnectionState::Closing => live.active += 1,
        ConnectionState::Upgraded => live.upgraded += 1,
    }
    live.requests_in_flight += u64::from(record.answers().in_flight());
    live.requests_total += record.requests();
    let (read, written) = record.bytes();
    live.bytes_read_total += read;
    live.bytes_written_total += written;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::table::Most;

    #[test]
    fn what_was_accepted_is_open_or_has_ended_and_nothing_is_counted_twice() {
        let (table, totals) = (Table::default(), Totals::default());
        let open = |group| {
            let most = Most {
                all: 9,
                per_peer: 0,
            };
            let record = table.insert(None, group, 0, most, || totals.count_accepted());
            record.expect("no limit")
        };
        let (one, other) = (open(0), open(0));
        for record in [&one, &other] {
            record.begin_request(false, 0);
            record.add_read(10);
        }
        table.unseen(|| totals.count_refused(CloseReason::Refused));
        let before = totals.stats(&table, Duration::ZERO);
        table.remove(&one, || totals.count_end(&one, CloseReason::Finished));
        let after = totals.stats(&table, Duration::ZERO);
        for stats in [before, after] {
            assert_eq!(stats.accepted_total, stats.open + stats.closed_total());
            assert_eq!((stats.requests_total, stats.bytes_read_total), (2, 20));
        }
        assert_eq!((after.open, after.active, totals.open()), (1, 1, 1));
        assert_eq!(after.closed(CloseReason::Finished), 1);
    }
}
