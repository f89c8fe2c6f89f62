//! What is known of a connection as a bit each.

use std::sync::atomic::{
    AtomicU8,
    Ordering::{AcqRel, Relaxed},
};

/// What has been found out about it, or decided.
#[derive(Debug, Default)]
pub(crate) struct Flags(AtomicU8);

const UPGRADED: u8 = 1;
const PARKING: u8 = 1 << 1;
const CLOSE_AFTER_RESPONSE: u8 = 1 << 2;
const CLOSE_AFTER_UPGRADE_RESPONSE: u8 = 1 << 3;
const HALF_LEFT: u8 = 1 << 4;
#[cfg(feature = "http2")]
const ABUSIVE: u8 = 1 << 5;
const WEBSOCKET: u8 = 1 << 6;
#[cfg(feature = "http2")]
const ANSWERED_PING: u8 = 1 << 7;

impl Flags {
    fn has(&self, flag: u8) -> bool {
        self.0.load(Relaxed) & flag != 0
    }

    /// Whether it was not set before. Whoever finds it set sees what was done before that.
    fn set(&self, flag: u8) -> bool {
        self.0.fetch_or(flag, AcqRel) & flag == 0
    }

    pub(crate) fn is_upgraded(&self) -> bool {
        self.has(UPGRADED)
    }

    pub(crate) fn set_upgraded(&self) {
        self.set(UPGRADED);
    }

    /// Whether it is upgraded to a protocol in whose words we can say goodbye.
    pub(crate) fn is_websocket(&self) -> bool {
        self.has(WEBSOCKET)
    }

    pub(crate) fn set_websocket(&self) {
        self.set(WEBSOCKET);
    }

    /// Of the task and the socket of an upgraded connection one is done with it; true for the second.
    pub(crate) fn leave_upgraded(&self) -> bool {
        !self.set(HALF_LEFT)
    }

    /// Whether it is being taken apart: hyper's end is not the socket's.
    pub(crate) fn is_parking(&self) -> bool {
        self.has(PARKING)
    }

    pub(crate) fn begin_parking(&self) {
        self.set(PARKING);
    }

    pub(crate) fn end_parking(&self) {
        self.0.fetch_and(!PARKING, Relaxed);
    }

    /// Whether its next response is its last.
    pub(crate) fn closes_after_response(&self) -> bool {
        self.has(CLOSE_AFTER_RESPONSE)
    }

    /// Makes its next response the last; whether it was not to be before.
    pub(crate) fn close_after_response(&self) -> bool {
        self.set(CLOSE_AFTER_RESPONSE)
    }

    /// Whether the response to a request for an upgrade is its last, since bytes behind the request are waiting.
    pub(crate) fn closes_after_upgrade_response(&self) -> bool {
        self.has(CLOSE_AFTER_UPGRADE_RESPONSE)
    }

    pub(crate) fn close_after_upgrade_response(&self) {
        self.set(CLOSE_AFTER_UPGRADE_RESPONSE);
    }

    /// Whether its client makes work without asking for anything.
    #[cfg(feature = "http2")]
    pub(crate) fn is_abusive(&self) -> bool {
        self.has(ABUSIVE)
    }

    #[cfg(feature = "http2")]
    pub(crate) fn set_abusive(&self) {
        self.set(ABUSIVE);
    }

    /// Whether its client has answered a PING of HTTP/2, since [`await_ping`](Self::await_ping).
    #[cfg(feature = "http2")]
    pub(crate) fn has_answered_ping(&self) -> bool {
        self.has(ANSWERED_PING)
    }

    #[cfg(feature = "http2")]
    pub(crate) fn answer_ping(&self) {
        self.set(ANSWERED_PING);
    }

    #[cfg(feature = "http2")]
    pub(crate) fn await_ping(&self) {
        self.0.fetch_and(!ANSWERED_PING, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_stands_alone() {
        let flags = Flags::default();
        assert!(flags.close_after_response() && !flags.close_after_response());
        flags.begin_parking();
        assert!(!flags.leave_upgraded() && flags.leave_upgraded());
        flags.end_parking();
        assert!(flags.closes_after_response() && !flags.is_parking());
        assert!(!flags.is_upgraded() && !flags.closes_after_upgrade_response());
    }
}
