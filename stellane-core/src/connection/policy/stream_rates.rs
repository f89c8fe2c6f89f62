//! The least rates at which a client has to send the body of a stream of HTTP/2 and to take its answer, and how much
//! the answers of a connection may hold that it does not take.

use crate::connection::{
    config::ConnectionConfig,
    table::clock::{SWEEP_INTERVAL, millis},
};

/// The largest piece of an answer that hyper gets at once: as much as h2 holds back by default.
pub(crate) const PIECE: usize = 64 << 10;
/// What a client may have taken of an answer that is not seen yet: the piece that waits and the one before.
const UNSEEN: u64 = 2 * PIECE as u64;
/// So long a client may take nothing before what it holds counts as not read, in milliseconds.
const PATIENCE: u64 = 10_000;

/// What is asked of the clients of a manager.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamRates {
    /// Bytes in a second; `0` is off.
    body: u64,
    response: u64,
    max_unread: u64,
}

/// What a stream and its client owe each other.
#[derive(Debug, Default)]
pub(crate) struct StreamDebts {
    body: Debt,
    response: Debt,
    /// Bytes of the answer that are made and not taken.
    held: u64,
    /// The piece that waits for the client.
    given: u64,
    /// Bytes written to the connection since that was given, up to a bound: they may be this stream's.
    unseen: u64,
}

/// For how long a client has kept one side waiting, less what the bytes are worth that have come since.
#[derive(Debug, Default)]
struct Debt {
    /// Whether it keeps the other side waiting, and whether it did when it was looked at last.
    waits: bool,
    waited: bool,
    millis: u64,
    /// Since it was looked at last.
    bytes: u64,
}

/// How a stream ends whose client is too slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slow {
    Body,
    Read,
}

/// How often debts are looked at of those who may owe so much, in milliseconds.
pub(crate) fn interval(grace: u64) -> u64 {
    (grace / 8).clamp(millis(SWEEP_INTERVAL), 1000)
}

impl StreamRates {
    pub(crate) fn new(config: &ConnectionConfig) -> Self {
        Self {
            body: config.min_body_rate_bytes,
            response: config.min_response_rate_bytes,
            max_unread: match config.http2.max_unread_bytes {
                0 => u64::MAX,
                max => max,
            },
        }
    }

    /// Looks at a stream after so many milliseconds, in which so many bytes of answers were written to its connection;
    /// it may owe `grace`.
    pub(crate) fn judge(
        &self,
        debts: &mut StreamDebts,
        elapsed: u64,
        written: u64,
        grace: u64,
    ) -> Option<Slow> {
        // A turn that is late was held up by this process: no client pays for that.
        let elapsed = elapsed.min(2 * interval(grace));
        // At first h2 writes what it was given before.
        if debts.response.waited {
            debts.unseen = (debts.unseen + written).min(UNSEEN);
        }
        let slow_body = debts.body.owes(self.body, grace, elapsed);
        let grace = grace.saturating_add(worth(debts.unseen, self.response));
        let slow_read = debts.response.owes(self.response, grace, elapsed);
        match (slow_body, slow_read) {
            (_, true) => Some(Slow::Read),
            (true, _) => Some(Slow::Body),
            _ => None,
        }
    }

    /// Of the streams of a connection that hold too much together, those that end: who has waited longest first.
    pub(crate) fn surplus<'a, K: Copy>(
        &self,
        streams: impl Iterator<Item = (K, &'a StreamDebts)>,
        grace: u64,
    ) -> Vec<K> {
        let patience = PATIENCE.min(grace / 2);
        let unread = |(_, debts): &(K, &StreamDebts)| {
            debts.response.waits && debts.response.millis > patience
        };
        let mut unread: Vec<_> = streams
            .filter(unread)
            .map(|(key, debts)| (debts.response.millis, debts.held, key))
            .collect();
        let mut held: u64 = unread.iter().map(|(_, held, _)| held).sum();
        unread.sort_unstable_by_key(|(millis, ..)| std::cmp::Reverse(*millis));
        let ends = unread.into_iter().take_while(|(_, bytes, _)| {
            let too_much = held > self.max_unread;
            held -= bytes;
            too_much
        });
        ends.map(|(.., key)| key).collect()
    }
}

impl StreamDebts {
    /// The service waits for bytes of the body, or does not; so many have come.
    pub(crate) fn body(&mut self, waits: bool, bytes: u64) {
        self.body.waits = waits;
        self.body.bytes += bytes;
    }

    /// A piece of the answer waits for the client, which has taken the one before; so much is held altogether.
    pub(crate) fn gave(&mut self, piece: u64, held: u64) {
        self.took();
        self.response.waits = true;
        self.given = piece;
        self.held = held;
    }

    /// The service has no piece of the answer: the client has taken all that there was.
    pub(crate) fn took(&mut self) {
        (self.response.waits, self.response.waited) = (false, false);
        self.response.bytes += self.given;
        (self.given, self.unseen, self.held) = (0, 0, 0);
    }

    /// Whether the client keeps either side waiting.
    pub(crate) fn waits(&self) -> bool {
        self.body.waits || self.response.waits
    }
}

/// How long it may take so many bytes, in milliseconds.
fn worth(bytes: u64, rate: u64) -> u64 {
    match (bytes, rate) {
        (0, _) => 0,
        (_, 0) => u64::MAX,
        (bytes, rate) => bytes.saturating_mul(1000) / rate,
    }
}

impl Debt {
    fn owes(&mut self, rate: u64, grace: u64, elapsed: u64) -> bool {
        // Since when within the time that has passed is not known: from now on it counts.
        let waited = match self.waits && self.waited {
            true => elapsed,
            false => 0,
        };
        let paid = worth(self.bytes, rate);
        self.millis = self.millis.saturating_add(waited).saturating_sub(paid);
        (self.waited, self.bytes) = (self.waits, 0);
        rate > 0 && self.waits && self.millis >= grace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: u64 = 30_000;

    fn rates() -> StreamRates {
        StreamRates::new(&ConnectionConfig::default())
    }

    /// Looks at a stream every second, of which `turn` says what becomes of it; when it has to end, within ten minutes.
    fn ends_after(
        grace: u64,
        mut turn: impl FnMut(&mut StreamDebts, u64) -> u64,
    ) -> Option<(u64, Slow)> {
        let mut debts = StreamDebts::default();
        (0..600).find_map(|second| {
            let written = turn(&mut debts, second);
            let slow = rates().judge(&mut debts, 1000, written, grace)?;
            Some((second, slow))
        })
    }

    #[test]
    fn a_body_has_to_come_at_the_rate_while_the_service_waits_for_it() {
        for (each_second, after) in [(0, Some(30)), (120, Some(60)), (240, None)] {
            let ends = ends_after(GRACE, |debts, _| {
                debts.body(true, each_second);
                0
            });
            let after = after.map(|after| (after, Slow::Body));
            assert_eq!(ends, after, "{each_second} bytes in a second");
        }
        let unread = ends_after(GRACE, |debts, _| {
            debts.body(false, 0);
            0
        });
        assert_eq!(unread, None);
        let off = ends_after(u64::MAX, |debts, _| {
            debts.body(true, 0);
            0
        });
        assert_eq!(off, None);
    }

    #[test]
    fn an_answer_has_to_be_taken_at_the_rate_while_there_is_one() {
        let piece = PIECE as u64;
        // Nothing is written at all.
        let stalled = ends_after(GRACE, |debts, second| {
            if second == 0 {
                debts.gave(piece, piece);
            }
            0
        });
        assert_eq!(stalled, Some((30, Slow::Read)));
        // What the connection writes may be of this stream, until it is more than the stream has.
        let others = ends_after(GRACE, |debts, second| {
            if second == 0 {
                debts.gave(piece, piece);
            }
            1 << 20
        });
        assert_eq!(others, Some((30 + UNSEEN / 240 + 1, Slow::Read)));
        // A piece every minute is enough, and every five minutes is not.
        for (every, enough) in [(60, true), (300, false)] {
            let ends = ends_after(GRACE, |debts, second| {
                if second % every == 0 {
                    debts.gave(piece, piece);
                }
                piece / every
            });
            assert_eq!(ends.is_none(), enough, "every {every} seconds");
        }
        // The service has nothing to send.
        let quiet = ends_after(GRACE, |debts, second| {
            if second == 0 {
                debts.gave(piece, piece);
                debts.took();
            }
            0
        });
        assert_eq!(quiet, None);
    }

    #[test]
    fn of_answers_that_hold_too_much_those_end_that_have_waited_longest() {
        let mut rates = rates();
        rates.max_unread = 1000;
        let mut streams: Vec<_> = [(400, 25), (500, 20), (300, 5), (700, 15)]
            .into_iter()
            .map(|(held, seconds)| {
                let mut debts = StreamDebts::default();
                debts.gave(1, held);
                for _ in 0..=seconds {
                    rates.judge(&mut debts, 1000, 0, GRACE);
                }
                debts
            })
            .collect();
        let surplus = |rates: &StreamRates, streams: &[StreamDebts]| {
            rates.surplus(streams.iter().enumerate(), GRACE)
        };
        // One has not waited for long, and does not count.
        assert_eq!(surplus(&rates, &streams), [0, 1]);
        rates.max_unread = 1600;
        assert!(surplus(&rates, &streams).is_empty());
        rates.max_unread = 1599;
        assert_eq!(surplus(&rates, &streams), [0]);
        streams[0].took();
        assert!(surplus(&rates, &streams).is_empty());
    }
}
