//! The least rates at which a client has to send a body and to take a response, from what the sweep sees anyway.

use std::collections::HashMap;

use crate::connection::{
    config::ConnectionConfig,
    reason::CloseReason,
    state::ConnectionState,
    table::{
        clock::{SWEEP_INTERVAL, millis},
        record::Record,
    },
};

/// How long clients have kept the server waiting, less what the bytes that came since are worth. Of a
/// connection that keeps nobody waiting nothing is remembered.
#[derive(Debug)]
pub(crate) struct MinRates {
    /// Bytes in a second; `0` is off.
    body: u64,
    response: u64,
    arrears: HashMap<(u64, Side), Arrears>,
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
        Self {
            body: config.min_body_rate_bytes,
            response: config.min_response_rate_bytes,
            arrears: HashMap::new(),
            old: HashMap::new(),
            began: 0,
            elapsed: 0,
        }
    }

    /// Begins a sweep. Arrears that are not looked at in it are forgotten.
    pub(crate) fn begin_round(&mut self, now: u64) {
        // A sweep that is late was held up by this process: no client pays for that.
        self.elapsed = now
            .saturating_sub(self.began)
            .min(2 * millis(SWEEP_INTERVAL));
        self.began = now;
        self.old = std::mem::take(&mut self.arrears);
    }

    pub(crate) fn end_round(&mut self) {
        self.old = HashMap::new();
    }

    /// Whether this connection owes more than `grace`.
    pub(crate) fn judge(
        &mut self,
        record: &Record,
        state: ConnectionState,
        grace: u64,
    ) -> Option<CloseReason> {
        let starved = record.turn().is_starved() && state != ConnectionState::Upgraded;
        let stalled = record.answers().are_unread();
        let off = grace == u64::MAX;
        if off || (!starved && !stalled && self.old.is_empty()) {
            return None;
        }
        let (read, written) = record.bytes();
        let (body, response) = (self.body, self.response);
        // Both are looked at, since both have to be remembered.
        let id = record.id();
        let slow_body = self.owes((id, Side::Body), body, starved, read, grace);
        let slow_read = self.owes((id, Side::Response), response, stalled, written, grace);
        match (slow_body, slow_read) {
            (_, true) => Some(CloseReason::SlowRead),
            (true, _) => Some(CloseReason::SlowBody),
            _ => None,
        }
    }

    fn owes(&mut self, key: (u64, Side), rate: u64, waits: bool, bytes: u64, grace: u64) -> bool {
        if rate == 0 {
            return false;
        }
        let mut owed = match self.old.get(&key) {
            Some(owed) => *owed,
            // Since when is not known: from now on it counts.
            None if waits => {
                self.arrears.insert(key, Arrears { millis: 0, bytes });
                return false;
            }
            None => return false,
        };
        let paid = bytes.wrapping_sub(owed.bytes).saturating_mul(1000) / rate;
        let waited = if waits { self.elapsed } else { 0 };
        owed = Arrears {
            millis: (owed.millis + waited).saturating_sub(paid),
            bytes,
        };
        let too_much = waits && owed.millis >= grace;
        // Whoever is found out, and spared by the connection's task, owes nothing.
        if !too_much && (waits || owed.millis > 0) {
            self.arrears.insert(key, owed);
        }
        too_much
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::connection::policy::pressure::Patience;

    /// Sweeps every 100 ms, and after how many milliseconds the client is too slow, if it is within a minute.
    fn too_slow_after(config: &ConnectionConfig, each_second: usize, read: bool) -> Option<u64> {
        let grace = Patience::at(0.0, config).rate_grace;
        let mut rates = MinRates::new(config);
        let record = Record::new(1, 0, None, false, 0, 0);
        record.enter(ConnectionState::Active, 0);
        for now in (0..60_000).step_by(100) {
            if now % 1000 == 0 {
                record.add_read(if read { each_second } else { 0 });
                record.add_written(if read { 0 } else { each_second });
            }
            record.turn().starve();
            if !read {
                record.turn().begin();
                record.answers().stall_write(now);
            }
            rates.begin_round(now);
            let slow = rates.judge(&record, ConnectionState::Active, grace);
            rates.end_round();
            if let Some(reason) = slow {
                let expected = match read {
                    true => CloseReason::SlowBody,
                    false => CloseReason::SlowRead,
                };
                assert_eq!(reason, expected);
                return Some(now);
            }
        }
        None
    }

    #[test]
    fn a_client_is_too_slow_after_the_grace_and_later_the_more_it_does() {
        let mut config = ConnectionConfig {
            rate_grace: Duration::from_secs(10),
            ..ConnectionConfig::default()
        };
        for read in [true, false] {
            for (each_second, after) in [(0, Some(10_000)), (120, Some(20_000)), (240, None)] {
                let got = too_slow_after(&config, each_second, read);
                let close = match (got, after) {
                    (Some(got), Some(after)) => got.abs_diff(after) <= 1000,
                    (got, after) => got == after,
                };
                assert!(close, "{each_second} bytes, read {read}: {got:?}");
            }
        }
        config.rate_grace = Duration::ZERO;
        assert_eq!(too_slow_after(&config, 0, true), None);
    }

    #[test]
    fn a_sweep_that_is_late_is_no_fault_of_the_client() {
        let mut rates = MinRates::new(&ConnectionConfig::default());
        let record = Record::new(1, 0, None, false, 0, 0);
        record.turn().starve();
        for now in [0, 100, 60_000, 120_000] {
            rates.begin_round(now);
            let slow = rates.judge(&record, ConnectionState::Active, 30_000);
            assert_eq!(slow, None, "{now}");
            rates.end_round();
        }
    }

    #[test]
    fn whoever_is_found_out_and_spared_owes_nothing() {
        let mut rates = MinRates::new(&ConnectionConfig::default());
        let record = Record::new(1, 0, None, false, 0, 0);
        record.turn().starve();
        let found_out: Vec<_> = (0..1000_u64)
            .step_by(100)
            .filter(|now| {
                rates.begin_round(*now);
                let slow = rates.judge(&record, ConnectionState::Active, 300);
                rates.end_round();
                slow.is_some()
            })
            .collect();
        assert_eq!(found_out, [300, 700]);
    }
}
