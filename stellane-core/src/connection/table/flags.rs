//! What is known of a connection as a bit each.

use std::sync::atomic::{
    AtomicU8,
    Ordering::{AcqRel, Relaxed},
};

/// What has been found out about it, or decided.
#[derive(Debug, Default)]
pub(crate) struct Flags(AtomicU8);

const UPGRADED: u8 = 1;
const HALF_CLOSED: u8 = 1 << 1;
const CLOSE_AFTER_RESPONSE: u8 = 1 << 2;
const BYTES_BEHIND_UPGRADE: u8 = 1 << 3;
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

    /// Whether the client has ended its side.
    pub(crate) fn is_half_closed(&self) -> bool {
        self.has(HALF_CLOSED)
    }

    pub(crate) fn set_half_closed(&self) {
        self.set(HALF_CLOSED);
    }

    /// Whether its next response is its last.
    pub(crate) fn closes_after_response(&self) -> bool {
        self.has(CLOSE_AFTER_RESPONSE)
    }

    /// Makes its next response the last; whether it was not to be before.
    pub(crate) fn close_after_response(&self) -> bool {
        self.set(CLOSE_AFTER_RESPONSE)
    }

    /// Whether bytes stand behind a CONNECT: if that is refused, its response is the last.
    pub(crate) fn has_bytes_behind_upgrade(&self) -> bool {
        self.has(BYTES_BEHIND_UPGRADE)
    }

    pub(crate) fn set_bytes_behind_upgrade(&self) {
        self.set(BYTES_BEHIND_UPGRADE);
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
        assert!(!flags.leave_upgraded() && flags.leave_upgraded());
        flags.set_half_closed();
        assert!(flags.closes_after_response() && flags.is_half_closed());
        assert!(!flags.is_upgraded() && !flags.is_websocket());
        assert!(!flags.has_bytes_behind_upgrade());
    }
}
