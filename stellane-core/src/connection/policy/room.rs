//! Who makes room for others when there may be no more connections.

use crate::connection::{
    config::ConnectionConfig,
    reason::CloseReason,
    state::ConnectionState,
    table::{
        clock::{SWEEP_INTERVAL, millis},
        record::Record,
    },
};

/// How long a head or a handshake may take before its connection makes room, in milliseconds.
const UNFINISHED: u64 = 1000;
/// How long the request may take of one that was asked to go, before others are asked in its place.
const LEAVING: u64 = 1000;

/// What a connection can do for others; the least is asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Offer {
    /// It is idle, since this moment: closed.
    Idle(u64),
    /// It has begun a head or a handshake at this moment, and not finished it: closed.
    Unfinished(u64, CloseReason),
    /// It pauses between two requests, since this moment: its next response is its last.
    Pausing(u64),
    /// Its request has taken so long: its response is its last. Of one that takes long the end is not near.
    Busy(u64),
}

/// What a connection does about a lack of room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// It was asked already.
    Leaves,
    Offers(Offer),
    None,
}

/// When a connection became idle, if that is long enough ago for it to be closed without a word: no client whose pauses
/// are shorter than `drain_idle` loses a request.
pub(crate) fn idle_since(record: &Record, config: &ConnectionConfig, now: u64) -> Option<u64> {
    use ConnectionState::{Idle, New, Parked};
    // States begin as of the sweep before.
    let long = millis(config.drain_idle) + millis(SWEEP_INTERVAL);
    let since = record.since();
    let is_idle = matches!(record.state(), Idle | New | Parked);
    (is_idle && now.saturating_sub(since) >= long).then_some(since)
}

/// What this connection does about a lack of room.
pub(crate) fn part_in_making_room(record: &Record, config: &ConnectionConfig, now: u64) -> Part {
    use ConnectionState::{Active, Closing, Handshake, Head, Idle, Parked};
    let (state, since) = (record.state(), record.since());
    let waited = now.saturating_sub(since);
    let asked = record.flags().closes_after_response();
    if record.commands().is_close() || state == Closing || (asked && waited < LEAVING) {
        return Part::Leaves;
    }
    if let Some(since) = idle_since(record, config, now) {
        return Part::Offers(Offer::Idle(since));
    }
    let unfinished = |reason| match waited >= UNFINISHED {
        true => Part::Offers(Offer::Unfinished(since, reason)),
        false => Part::None,
    };
    match state {
        Head => unfinished(CloseReason::HeadTimeout),
        Handshake => unfinished(CloseReason::HandshakeTimeout),
        Idle | Parked if !asked => Part::Offers(Offer::Pausing(since)),
        Active if !asked => Part::Offers(Offer::Busy(waited)),
        _ => Part::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_idle_go_first_then_the_unfinished_and_others_are_asked_to() {
        use ConnectionState::{
            Active, Closing, Handshake, Head, Idle, New, Parked, Queued, Upgraded,
        };
        use Offer::{Busy, Pausing, Unfinished};
        use Part::{Leaves, None, Offers};
        let config = ConnectionConfig::default();
        let now = 20_000;
        for (state, waited, expected) in [
            (Idle, 1100, Offers(Offer::Idle(18_900))),
            (Parked, 1100, Offers(Offer::Idle(18_900))),
            (New, 1100, Offers(Offer::Idle(18_900))),
            (Idle, 1090, Offers(Pausing(18_910))),
            (Parked, 1090, Offers(Pausing(18_910))),
            (New, 1090, None),
            (Head, 990, None),
            (
                Head,
                1000,
                Offers(Unfinished(19_000, CloseReason::HeadTimeout)),
            ),
            (
                Handshake,
                1000,
                Offers(Unfinished(19_000, CloseReason::HandshakeTimeout)),
            ),
            (Active, 10_000, Offers(Busy(10_000))),
            (Upgraded, 10_000, None),
            (Queued, 10_000, None),
            (Closing, 0, Leaves),
        ] {
            let record = Record::new(1, 0, Option::None, false, 0, now - waited);
            if state == Parked {
                record.enter(Idle, now - waited);
            }
            record.enter(state, now - waited);
            let got = part_in_making_room(&record, &config, now);
            assert_eq!(got, expected, "{state:?} for {waited} ms");
        }
        let parts = [
            Busy(1),
            Pausing(5),
            Unfinished(7, CloseReason::HeadTimeout),
            Offer::Idle(9),
        ];
        assert!(parts.is_sorted_by(|later, first| later > first));
    }

    #[test]
    fn one_that_was_asked_is_not_asked_again_and_not_waited_for_for_long() {
        let config = ConnectionConfig::default();
        let record = Record::new(1, 0, None, false, 0, 0);
        record.enter(ConnectionState::Active, 5000);
        record.flags().close_after_response();
        for (now, expected) in [(5990, Part::Leaves), (6000, Part::None)] {
            assert_eq!(part_in_making_room(&record, &config, now), expected);
        }
    }
}
