//! The least rates at which a client has to send a body and to take a response, from what the sweep sees anyway.

use std::collections::HashMap;

use crate::connection::{
    config::ConnectionConfig,
    lifecycle::{millis, sweep::SWEEP},
    reason::CloseReason,
    state::ConnectionState,
    table::record::Record,
};

/// How long clients have kept the server waiting, less what the bytes that came since are worth. Of a
/// connection that keeps nobody waiting nothing is remembered.
#[derive(Debug)]
pub(crate) struct MinRates {
    /// Bytes in a second; `0` is off.
    body: u64,
    response: u64,
    /// The greatest debt.
    grace: u64,
    debts: HashMap<(u64, Side), Arrears>,
    /// Those of the last round, in this one.
    old: HashMap<(u64, Side), Arrears>,
    /// When this round began, and how long after the last one.
    began: u64,
    elapsed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Side {
    Body,
    Response,
}

#[derive(Debug, Clone, Copy)]
struct Arrears {
    millis: u64,
    /// Of the connection, when it was looked at last.
    bytes: u64,
}

impl MinRates {
    pub(crate) fn new(config: &ConnectionConfig) -> Self {
        let grace = millis(config.rate_grace);
        let rate = |bytes: u64| if grace == 0 { 0 } else { bytes };
        Self {
            body: rate(config.min_body_rate_bytes),
            response: rate(config.min_response_rate_bytes),
            grace,
            debts: HashMap::new(),
            old: HashMap::new(),
            began: 0,
            elapsed: 0,
        }
    }

    /// Begins a sweep. Debts that are not looked at in it are forgotten.
    pub(crate) fn begin_round(&mut self, now: u64) {
        // A sweep that is late was held up by this process: no client pays for that.
        self.elapsed = now.saturating_sub(self.began).min(2 * millis(SWEEP));
        self.began = now;
        self.old = std::mem::take(&mut self.debts);
    }

    pub(crate) fn end_round(&mut self) {
        self.old = HashMap::new();
    }

    /// Whether this connection owes too much.
    pub(crate) fn judge(&mut self, record: &Record, state: ConnectionState) -> Option<CloseReason> {
        let starved = record.starved() && state != ConnectionState::Upgraded;
        let stalled = record.unread();
        if !starved && !stalled && self.old.is_empty() {
            return None;
        }
        let (read, written) = record.bytes();
        let (body, response) = (self.body, self.response);
        // Both are looked at, since both have to be remembered.
        let slow_body = self.owes((record.id, Side::Body), body, starved, read);
        let slow_read = self.owes((record.id, Side::Response), response, stalled, written);
        match (slow_body, slow_read) {
            (_, true) => Some(CloseReason::SlowRead),
            (true, _) => Some(CloseReason::SlowBody),
            _ => None,
        }
    }

    fn owes(&mut self, key: (u64, Side), rate: u64, waits: bool, bytes: u64) -> bool {
        if rate == 0 {
            return false;
        }
        let mut debt = match self.old.get(&key) {
            Some(debt) => *debt,
            // Since when is not known: from now on it counts.
            None if waits => {
                self.debts.insert(key, Arrears { millis: 0, bytes });
                return false;
            }
            None => return false,
        };
        let paid = bytes.wrapping_sub(debt.bytes).saturating_mul(1000) / rate;
        let waited = if waits { self.elapsed } else { 0 };
        debt = Arrears {
            millis: (debt.millis + waited).saturating_sub(paid),
            bytes,
        };
        if waits || debt.millis > 0 {
            self.debts.insert(key, debt);
        }
        waits && debt.millis >= self.grace
    }
}
