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
    /// When it was looked at last, and for how long it has lasted then.
    at: u64,
    lasts: u64,
}

/// A sweep that is later was held up by this process, and so was what came meanwhile.
const LONGEST_STEP: u64 = 200;

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
        let before = self.old.get(&record.id()).filter(goes_on);
        let lasts = before.map_or(0, |seen| {
            seen.lasts + now.saturating_sub(seen.at).min(LONGEST_STEP)
        });
        let seen = Seen {
            state,
            progress,
            at: now,
            lasts,
        };
        self.seen.insert(record.id(), seen);
        lasts
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
            assert_eq!((lasts(5000), lasts(5100), lasts(5200)), (0, 100, 200));
            assert_eq!(lasts(9000), 400, "a sweep that is late");
            record.add_read(1);
            let expected = if byte_ends_it { 0 } else { 500 };
            assert_eq!(lasts(9100), expected, "{state:?}");
            record.begin_request(false, 9100);
            if state == Idle {
                assert_eq!(lasts(9200), 0);
            }
            silence.begin_round();
            silence.begin_round();
            assert_eq!(silence.lasts(&record, state, 9000), 0, "forgotten");
        }
    }
}
