//! Counts what a client does that makes work and asks for nothing, frame by frame, before hyper reads them.

use crate::connection::config::http2::Http2Config;

/// Follows the frames that a client sends: their heads only, nothing of what they hold.
#[derive(Debug)]
pub(crate) struct AbuseMeter {
    /// Bytes until the next head of a frame; the preface, at first.
    skip: usize,
    head: [u8; HEAD],
    filled: usize,
    /// What the client may still cost, in quarters.
    balance: u64,
    full: u64,
    per_second: u64,
    /// When time last paid something off, in milliseconds.
    paid: u64,
    served: u64,
    answered_ping: bool,
}

/// How a client behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Abuse {
    None,
    /// It should go.
    Soft,
    /// It has to.
    Hard,
}

const HEAD: usize = 9;
const PREFACE: usize = 24;
/// What a frame costs that makes work and asks for nothing.
const ONE: u64 = 4;
/// So many bytes of a body pay one such frame off.
const BODY: u64 = 4096;

impl AbuseMeter {
    pub(crate) fn new(config: &Http2Config, now: u64) -> Self {
        let full = u64::from(config.abuse_burst) * ONE;
        Self {
            skip: PREFACE,
            head: [0; HEAD],
            filled: 0,
            balance: full,
            full,
            per_second: u64::from(config.abuse_per_second) * ONE,
            paid: now,
            served: 0,
            answered_ping: false,
        }
    }

    /// Whether the client has answered a PING since the last time.
    pub(crate) fn has_answered_ping(&mut self) -> bool {
        std::mem::take(&mut self.answered_ping)
    }

    /// Looks at the bytes of one read, with the count of requests begun so far.
    pub(crate) fn look(&mut self, mut bytes: &[u8], requests: u64, now: u64) -> Abuse {
        self.pay(requests, now);
        while !bytes.is_empty() {
            if self.skip > 0 {
                let n = self.skip.min(bytes.len());
                self.skip -= n;
                bytes = &bytes[n..];
                continue;
            }
            let n = (HEAD - self.filled).min(bytes.len());
            self.head[self.filled..self.filled + n].copy_from_slice(&bytes[..n]);
            self.filled += n;
            bytes = &bytes[n..];
            if self.filled == HEAD {
                self.filled = 0;
                self.frame();
            }
        }
        match self.balance {
            _ if self.full == 0 => Abuse::None,
            0 => Abuse::Hard,
            left if left <= self.full / 4 => Abuse::Soft,
            _ => Abuse::None,
        }
    }

    /// Time and served requests pay off what was spent.
    fn pay(&mut self, requests: u64, now: u64) {
        let elapsed = now.saturating_sub(self.paid);
        let by_time = elapsed * self.per_second / 1000;
        if by_time > 0 {
            self.paid = now;
        }
        // A reset takes back what its request paid.
        let by_requests = (requests - self.served.min(requests)) * ONE;
        self.served = requests;
        self.balance = (self.balance + by_time + by_requests).min(self.full);
    }

    fn frame(&mut self) {
        const DATA: u8 = 0;
        const HEADERS: u8 = 1;
        const PRIORITY: u8 = 2;
        const RST_STREAM: u8 = 3;
        const PING: u8 = 6;
        const WINDOW_UPDATE: u8 = 8;
        let [a, b, c, kind, flags, ..] = self.head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.skip = length;
        let end_of_stream = flags & 1 != 0;
        self.answered_ping |= kind == PING && flags & 1 != 0;
        let cost = match kind {
            DATA if length == 0 && !end_of_stream => ONE,
            DATA => {
                self.balance = (self.balance + length as u64 * ONE / BODY).min(self.full);
                0
            }
            HEADERS => 0,
            // What its request has paid, and one.
            RST_STREAM => 2 * ONE,
            // Browsers send some for every page, downloads one for every few frames.
            PRIORITY | WINDOW_UPDATE => 1,
            // PING, SETTINGS, CONTINUATION, and what nobody knows.
            _ => ONE,
        };
        self.balance = self.balance.saturating_sub(cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![
            0,
            (length >> 8) as u8,
            length as u8,
            kind,
            flags,
            0,
            0,
            0,
            1,
        ];
        frame.resize(HEAD + length, 0xAA);
        frame
    }

    fn meter() -> AbuseMeter {
        let mut meter = AbuseMeter::new(&Http2Config::default(), 0);
        assert_eq!(meter.look(&[0; PREFACE], 0, 0), Abuse::None);
        meter
    }

    #[test]
    fn a_flood_is_asked_to_go_and_then_closed_however_it_is_cut() {
        for piece in [1, 7, 1000] {
            let mut meter = meter();
            let pings = frame(6, 0, 8).repeat(2000);
            let verdicts: Vec<_> = pings.chunks(piece).map(|p| meter.look(p, 0, 0)).collect();
            assert!(verdicts.is_sorted(), "never better than before");
            let soft = verdicts
                .iter()
                .position(|v| *v == Abuse::Soft)
                .expect("soft");
            let hard = verdicts
                .iter()
                .position(|v| *v == Abuse::Hard)
                .expect("hard");
            // Within one piece of where it belongs.
            assert!(
                (soft * piece).abs_diff(750 * 17) <= piece.max(17),
                "{piece}: {soft}"
            );
            assert!(
                (hard * piece).abs_diff(1000 * 17) <= piece.max(17),
                "{piece}: {hard}"
            );
        }
    }

    #[test]
    fn work_pays_for_what_makes_work() {
        let mut meter = meter();
        // A client that cancels every second request.
        for request in 0..100_000 {
            let mut frames = frame(1, 5, 20);
            if request % 2 == 1 {
                frames.extend(frame(3, 0, 4));
            }
            assert_eq!(
                meter.look(&frames, request + 1, 0),
                Abuse::None,
                "{request}"
            );
        }
        // An upload with a ping for each frame.
        let upload = [frame(0, 0, 16_384), frame(6, 0, 8)].concat();
        for _ in 0..5000 {
            assert_eq!(meter.look(&upload, 100_000, 0), Abuse::None);
        }
        // One that cancels everything.
        let reset = [frame(1, 5, 20), frame(3, 0, 4)].concat();
        let verdicts: Vec<_> = (0..3000)
            .map(|i| meter.look(&reset, 100_001 + i, 0))
            .collect();
        assert_eq!(verdicts.last(), Some(&Abuse::Hard));
    }

    #[test]
    fn time_pays_too() {
        let mut meter = meter();
        for second in 0..1000 {
            let pings = frame(6, 0, 8).repeat(50);
            assert_eq!(meter.look(&pings, 0, second * 1000), Abuse::None);
        }
    }
}
