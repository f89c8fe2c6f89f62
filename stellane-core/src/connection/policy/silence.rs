//! For how long connections that are to go have asked for nothing.

use std::collections::HashMap;

use crate::connection::{state::ConnectionState, table::record::Record};

/// What the sweep has seen of connections that are to go and have no request under way. The clock of their states is only
/// exact to a sweep: what counts here is when it was seen that nothing comes.
#[derive(Debug, Default)]
pub(crate) struct Silence {
    seen: HashMap<u64, Seen>,
    /// What the last round has seen, in this one.
    old: HashMap<u64, Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    state: ConnectionState,
    progress: u64,
    since: u64,
}

impl Silence {
    /// Begins a sweep. What is not looked at in it is forgotten.
    pub(crate) fn begin_round(&mut self) {
        self.old = std::mem::take(&mut self.seen);
    }

    pub(crate) fn end_round(&mut self) {
        self.old = HashMap::new();
    }

    /// For how many milliseconds nothing of a request has come, as far as was seen.
    pub(crate) fn lasts(&mut self, record: &Record, state: ConnectionState, now: u64) -> u64 {
        let progress = match state {
            // A part of something has come already: every byte is progress.
            ConnectionState::Head | ConnectionState::Handshake => record.bytes().0,
            // Over HTTP/2 more comes than requests.
            _ => record.requests(),
        };
        let goes_on = |seen: &&Seen| seen.state == state && seen.progress == progress;
        let since = self.old.get(&record.id()).filter(goes_on);
        let since = since.map_or(now, |seen| seen.since);
        let seen = Seen {
            state,
            progress,
            since,
        };
        self.seen.insert(record.id(), seen);
        now.saturating_sub(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_of_a_head_or_a_request_ends_it_and_what_was_not_seen_is_not_counted() {
        use ConnectionState::{Handshake, Head, Idle};
        for (state, byte_ends_it) in [(Head, true), (Handshake, true), (Idle, false)] {
            let record = Record::new(1, 0, None, false, 0, 0);
            let mut silence = Silence::default();
            let mut lasts = |now| {
                silence.begin_round();
                let lasts = silence.lasts(&record, state, now);
                silence.end_round();
                lasts
            };
            assert_eq!((lasts(5000), lasts(5100), lasts(5900)), (0, 100, 900));
            record.add_read(1);
            let expected = if byte_ends_it { 0 } else { 1000 };
            assert_eq!(lasts(6000), expected, "{state:?}");
            record.begin_request(false, 6000);
            if state == Idle {
                assert_eq!(lasts(6100), 0);
            }
            silence.begin_round();
            silence.begin_round();
            assert_eq!(silence.lasts(&record, state, 9000), 0, "forgotten");
        }
    }
}
