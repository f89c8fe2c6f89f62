//! What a client does that makes work and asks for nothing, frame by frame, and what pays for it. Frames that it sends
//! are counted before hyper reads them, and frames that it is sent when they are written.
//!
//! | frame of the client's | costs |
//! |---|---|
//! | `RST_STREAM` | 2: what its request has paid, and one; nothing if that was in progress for some milliseconds |
//! | `PING`, `SETTINGS`, `CONTINUATION`, an empty `DATA`, and what nobody knows | 1 |
//! | `PRIORITY`, `PRIORITY_UPDATE` | ¼ |
//! | `WINDOW_UPDATE` | nothing, if 256 bytes of `DATA` were written for it, else ¼ |
//! | `HEADERS`, `DATA` | nothing |
//!
//! It pays 1 with each request, with the head of each answer, with each piece of an answer that the service makes, and
//! with 1024 bytes of `DATA` in either direction; time pays too. Pieces pay and not the frames that they are sent in:
//! who opens its window by a byte at a time is sent many frames of one piece.
//!
//! A request that is reset at once has made work and was never counted as one in progress. One that was in progress for a
//! while is as any other, and its client may have waited for as long as it could: a proxy whose calls all run into their
//! deadlines resets each of them.

use std::sync::Arc;

use crate::connection::{
    config::http2::Http2Config,
    protocol::http2::{
        frames::{
            ACK, DATA, END_STREAM, Frames, GOAWAY, HEADERS, Head, PING, PREFACE, PRIORITY,
            PRIORITY_UPDATE, RST_STREAM, SETTINGS, WINDOW_UPDATE, calm_down,
        },
        ledger::Ledger,
    },
};

/// Follows the frames of a connection in both directions.
#[derive(Debug)]
pub(crate) struct AbuseMeter {
    read: Frames,
    written: Frames,
    ledger: Arc<Ledger>,
    /// What the client may still cost, in quarters.
    balance: u64,
    full: u64,
    per_second: u64,
    /// When time last paid something off, in milliseconds.
    paid: u64,
    /// Requests and pieces that have paid.
    served: u64,
    pieces: u64,
    /// Bytes that have not paid a whole quarter.
    rest: u64,
    /// Bytes of answers for which no `WINDOW_UPDATE` came. Without an upper bound: a client may take in its whole window,
    /// however large, before it gives that back.
    not_given_back: u64,
    /// The last stream that was asked for, and when.
    newest_stream: u32,
    newest: u64,
    /// The last that was asked for by the time of `looked`, and the last that has been in progress for a while.
    recent_stream: u32,
    lived_stream: u32,
    looked: u64,
    /// How many were asked for since `recent_stream`, up to it since `lived_stream`, and up to that and not reset.
    young: u32,
    recent: u32,
    lived: u32,
    /// No more than so many can be in progress.
    most_streams: u32,
    /// The last until the client was told which is the last.
    last_stream: u32,
    goaways: u32,
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

/// What a frame costs that makes work and asks for nothing.
const ONE: u64 = 4;
/// So many bytes of a body pay a quarter of that, and a `WINDOW_UPDATE`.
const QUARTER: u64 = 256;
/// For how many milliseconds a request has to be in progress until a reset takes nothing back.
const LIVED: u64 = 10;

impl AbuseMeter {
    pub(crate) fn new(config: &Http2Config, ledger: Arc<Ledger>, now: u64) -> Self {
        let full = u64::from(config.abuse_burst) * ONE;
        Self {
            read: Frames::after(PREFACE),
            written: Frames::after(0),
            ledger,
            balance: full,
            full,
            per_second: u64::from(config.abuse_per_second) * ONE,
            paid: now,
            served: 0,
            pieces: 0,
            rest: 0,
            not_given_back: 0,
            newest_stream: 0,
            newest: now,
            recent_stream: 0,
            lived_stream: 0,
            looked: now,
            young: 0,
            recent: 0,
            lived: 0,
            most_streams: config.max_concurrent_streams,
            last_stream: 0,
            goaways: 0,
            answered_ping: false,
        }
    }

    /// Whether the client has answered a PING since the last time.
    pub(crate) fn has_answered_ping(&mut self) -> bool {
        std::mem::take(&mut self.answered_ping)
    }

    /// Looks at the bytes of one read, with the count of requests begun so far.
    pub(crate) fn look(&mut self, mut bytes: &[u8], requests: u64, now: u64) -> Abuse {
        // A reset takes back what its request paid.
        let served = requests - self.served.min(requests);
        self.served = requests;
        let pieces = self.ledger.pieces() - self.pieces;
        self.pieces += pieces;
        self.not_given_back += pieces * 2 * QUARTER;
        self.age(now);
        let newest = self.newest_stream;
        let due = self.due(now);
        self.pay((served + pieces) * ONE + due);
        while let Some(head) = self.read.next(&mut bytes) {
            match head.kind {
                SETTINGS if head.flags & ACK == 0 => self.read_settings(bytes.get(..head.length)),
                WINDOW_UPDATE if head.stream == 0 => self.read_update(bytes),
                _ => {}
            }
            self.was_sent(head);
        }
        if newest != self.newest_stream {
            self.newest = now;
        }
        match self.balance {
            _ if self.full == 0 => Abuse::None,
            0 => Abuse::Hard,
            left if left <= self.full / 4 => Abuse::Soft,
            _ => Abuse::None,
        }
    }

    /// How much room the client has for an answer when a stream begins; not known if its settings came in parts.
    fn read_settings(&self, settings: Option<&[u8]>) {
        const INITIAL_WINDOW: u8 = 4;
        let Some(settings) = settings else {
            return self.ledger.set_stream_window(0);
        };
        for setting in settings.chunks_exact(6) {
            if let [0, INITIAL_WINDOW, a, b, c, d] = *setting {
                let window = u32::from_be_bytes([a, b, c, d]);
                self.ledger.set_stream_window(window.into());
            }
        }
    }

    /// Room for all answers; one that came in parts is lost, which only has them wait in pieces.
    fn read_update(&self, update: &[u8]) {
        if let Some(bytes) = update.first_chunk() {
            self.ledger.widen(u32::from_be_bytes(*bytes).into());
        }
    }

    /// Looks at bytes that were written.
    pub(crate) fn wrote(&mut self, mut bytes: &[u8]) {
        let (mut heads, mut data) = (0, 0);
        while let Some(head) = self.written.next(&mut bytes) {
            match head.kind {
                DATA => data += head.length,
                HEADERS => heads += 1,
                GOAWAY => self.goaways += 1,
                _ => {}
            }
        }
        self.pay(heads * ONE);
        if data > 0 {
            self.not_given_back += data as u64;
            self.ledger.wrote(data as u64);
            self.pay_bytes(data);
        }
    }

    /// What ends the connection of a client that abuses it, if the last frame that was written is whole.
    pub(crate) fn last_words(&self) -> Option<[u8; 17]> {
        self.written
            .are_whole()
            .then(|| calm_down(self.last_stream))
    }

    /// Which streams have been in progress for a while.
    fn age(&mut self, now: u64) {
        if now.saturating_sub(self.looked) < LIVED {
            return;
        }
        // Twice, if nothing was asked for since.
        let turns = if now.saturating_sub(self.newest) < LIVED {
            1
        } else {
            2
        };
        for _ in 0..turns {
            self.lived = (self.lived + self.recent).min(self.most_streams);
            self.lived_stream = self.recent_stream;
            (self.recent, self.young) = (self.young, 0);
            self.recent_stream = self.newest_stream;
        }
        self.looked = now;
    }

    /// What time pays.
    fn due(&mut self, now: u64) -> u64 {
        if now == self.paid {
            return 0;
        }
        let due = now.saturating_sub(self.paid) * self.per_second / 1000;
        if due > 0 {
            self.paid = now;
        }
        due
    }

    fn pay_bytes(&mut self, bytes: usize) {
        self.rest += bytes as u64;
        self.pay(self.rest / QUARTER);
        self.rest %= QUARTER;
    }

    fn pay(&mut self, quarters: u64) {
        self.balance = (self.balance + quarters).min(self.full);
    }

    fn was_sent(&mut self, head: Head) {
        let end_of_stream = head.flags & END_STREAM != 0;
        self.answered_ping |= head.kind == PING && head.flags & ACK != 0;
        let cost = match head.kind {
            DATA if head.length == 0 && !end_of_stream => ONE,
            DATA => {
                self.pay_bytes(head.length);
                0
            }
            HEADERS => {
                if head.stream > self.newest_stream {
                    self.newest_stream = head.stream;
                    self.young += 1;
                    self.ledger.ask();
                }
                // The second GOAWAY of a connection that ends in peace names its last stream.
                if self.goaways < 2 {
                    self.last_stream = self.last_stream.max(head.stream);
                }
                0
            }
            RST_STREAM if head.stream <= self.lived_stream && self.lived > 0 => {
                self.lived -= 1;
                0
            }
            RST_STREAM => 2 * ONE,
            WINDOW_UPDATE if self.not_given_back >= QUARTER => {
                self.not_given_back -= QUARTER;
                0
            }
            PRIORITY | PRIORITY_UPDATE | WINDOW_UPDATE => 1,
            // PING, SETTINGS, CONTINUATION, and what nobody knows.
            _ => ONE,
        };
        self.balance = self.balance.saturating_sub(cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{protocol::http2::frames::HEAD, table::record::Record};

    const CONTINUATION: u8 = 9;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let [.., a, b, c] = length.to_be_bytes();
        let mut frame = vec![a, b, c, kind, flags, 0, 0, 0, 1];
        frame.resize(HEAD + length, 0xAA);
        frame
    }

    fn meter() -> AbuseMeter {
        let ledger = Ledger::new(Arc::new(Record::new(1, 0, None, false, 0, 0)));
        let mut meter = AbuseMeter::new(&Http2Config::default(), Arc::new(ledger), 0);
        assert_eq!(meter.look(&[0; PREFACE], 0, 0), Abuse::None);
        meter
    }

    /// A client that does that again and again, with no time in between; after how many it has to go, if it has.
    fn stopped_after(mut turn: impl FnMut(&mut AbuseMeter, u64) -> Vec<u8>) -> Option<u64> {
        let mut meter = meter();
        (1..=100_000).find(|n| {
            let sent = turn(&mut meter, *n);
            meter.look(&sent, meter.served, 0) == Abuse::Hard
        })
    }

    /// The service makes a piece of an answer, which is sent in frames of so many bytes.
    fn answers(meter: &mut AbuseMeter, frames: &[usize]) {
        meter.ledger.count_piece(0);
        for length in frames {
            meter.wrote(&frame(DATA, 0, *length));
        }
    }

    #[test]
    fn a_flood_is_asked_to_go_and_then_closed_however_it_is_cut() {
        for piece in [1, 7, 1000] {
            let mut meter = meter();
            let pings = frame(PING, 0, 8).repeat(2000);
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
    fn floods_that_nothing_pays_for_are_stopped() {
        for (kind, flags, length, after) in [
            (DATA, 0, 0, 1000),
            (PRIORITY, 0, 5, 4000),
            (SETTINGS, 0, 6, 1000),
            (PING, 0, 8, 1000),
            (PING, ACK, 8, 1000),
            (WINDOW_UPDATE, 0, 4, 4000),
            (CONTINUATION, 0, 300, 1000),
            (0xEE, 0, 1, 1000),
        ] {
            let stopped = stopped_after(|_, _| frame(kind, flags, length));
            assert_eq!(stopped, Some(after), "kind {kind}, {flags}, {length} bytes");
        }
        // Of one large piece it takes a byte at a time.
        let stopped = stopped_after(|meter, n| {
            if n == 1 {
                meter.ledger.count_piece(0);
            }
            meter.wrote(&frame(DATA, 0, 1));
            frame(WINDOW_UPDATE, 0, 4).repeat(2)
        });
        assert!(stopped.is_some_and(|n| n < 2500), "{stopped:?}");
        // It cancels whatever it asks for before there is an answer.
        let stopped = stopped_after(|meter, _| {
            meter.pay(ONE);
            [frame(HEADERS, 5, 20), frame(RST_STREAM, 0, 4)].concat()
        });
        assert_eq!(stopped, Some(999));
    }

    #[test]
    fn who_takes_what_was_made_is_never_stopped() {
        let updates = |n| frame(WINDOW_UPDATE, 0, 4).repeat(n);
        // Two updates for 512 bytes, or for each of many small messages.
        let by_halves = stopped_after(|meter, _| {
            meter.wrote(&frame(DATA, 0, 512));
            updates(2)
        });
        assert_eq!(by_halves, None);
        let messages = stopped_after(|meter, _| {
            answers(meter, &[10]);
            [updates(2), frame(PING, 0, 8)].concat()
        });
        assert_eq!(messages, None);
        // First the whole window, however large, and then all updates for it.
        let at_once = stopped_after(|meter, n| {
            if n == 1 {
                (0..6400).for_each(|_| meter.wrote(&frame(DATA, 0, 16_384)));
            }
            updates(4)
        });
        assert_eq!(at_once, None);
        // A probe of the bandwidth for each kilobyte.
        let probes = stopped_after(|meter, _| {
            meter.wrote(&frame(DATA, 0, 1024));
            frame(PING, 0, 8)
        });
        assert_eq!(probes, None);
        // It cancels each stream once it has seen the head of the answer.
        let cancels = stopped_after(|meter, _| {
            meter.pay(ONE);
            meter.wrote(&frame(HEADERS, 4, 20));
            [frame(HEADERS, 5, 20), frame(RST_STREAM, 0, 4)].concat()
        });
        assert_eq!(cancels, None);
        // Empty heads, heads in two parts, trailers.
        let heads = stopped_after(|meter, _| {
            meter.pay(ONE);
            [
                frame(HEADERS, 0, 0),
                frame(CONTINUATION, 4, 300),
                frame(DATA, 0, 10),
                frame(HEADERS, 5, 10),
            ]
            .concat()
        });
        assert_eq!(heads, None);
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
    fn who_has_waited_before_it_cancels_is_never_stopped() {
        // A proxy whose calls all run into their deadlines, a thousand in a second and more.
        for (in_flight, waits, pause) in
            [(1, 10, 0), (100, 20, 0), (1000, 100, 0), (100, 5000, 5000)]
        {
            let mut meter = meter();
            let (mut stream, mut now) = (1_u32, 0);
            let of = |kind: u8, flags, first: u32| -> Vec<u8> {
                let streams = (0..in_flight).map(|n| first + 2 * n);
                let frames = streams.flat_map(|stream| {
                    let mut frame = frame(kind, flags, 4);
                    frame[5..HEAD].copy_from_slice(&stream.to_be_bytes());
                    frame
                });
                frames.collect()
            };
            for turn in 1..=200 {
                let requests =
                    meter.look(&of(HEADERS, 5, stream), u64::from(in_flight * turn), now);
                assert_eq!(requests, Abuse::None, "{in_flight}, {waits} ms");
                now += waits;
                let resets =
                    meter.look(&of(RST_STREAM, 0, stream), u64::from(in_flight * turn), now);
                assert_eq!(resets, Abuse::None, "{in_flight}, {waits} ms");
                now += pause;
                stream += 2 * in_flight;
            }
        }
    }

    #[test]
    fn time_pays_too() {
        let mut meter = meter();
        for second in 0..1000 {
            let pings = frame(6, 0, 8).repeat(50);
            assert_eq!(meter.look(&pings, 0, second * 1000), Abuse::None);
        }
    }

    #[test]
    fn the_last_words_name_the_last_stream_and_come_between_two_frames() {
        let mut meter = meter();
        let mut head = frame(HEADERS, 5, 20);
        head[8] = 9;
        meter.look(&head, 1, 0);
        assert_eq!(meter.last_words(), Some(calm_down(9)));
        let answer = frame(DATA, 0, 100);
        meter.wrote(&answer[..50]);
        assert_eq!(meter.last_words(), None);
        meter.wrote(&answer[50..]);
        // Of two GOAWAY the second has named the last.
        meter.wrote(&calm_down(9).repeat(2));
        head[8] = 11;
        meter.look(&head, 1, 0);
        assert_eq!(meter.last_words(), Some(calm_down(9)));
    }

    #[test]
    fn a_window_is_narrow_that_is_less_than_usual() {
        for (settings, narrow) in [
            (&[][..], false),
            (&[0, 4, 0, 0, 0, 10], true),
            (&[0, 4, 0, 0, 0xFF, 0xFF], false),
            (&[0, 3, 0, 0, 0, 1, 0, 4, 0, 0, 0xFF, 0xFE], true),
        ] {
            let mut frame = frame(SETTINGS, 0, settings.len());
            frame.splice(HEAD.., settings.iter().copied());
            let mut meter = meter();
            meter.look(&frame, 0, 0);
            assert_eq!(meter.ledger.is_narrow(), narrow, "{settings:?}");
        }
    }

    #[test]
    fn room_that_the_client_makes_for_all_answers_is_seen() {
        for (stream, cut, fits) in [(0, 13, true), (1, 13, false), (0, 12, false)] {
            let mut update = frame(WINDOW_UPDATE, 0, 4);
            update[8] = stream;
            update[9..].copy_from_slice(&[0, 0, 0, 10]);
            let mut meter = meter();
            for part in [&update[..cut], &update[cut..]] {
                meter.look(part, 0, 0);
            }
            assert!(meter.ledger.count_piece(65_535));
            assert_eq!(meter.ledger.count_piece(10), fits, "{stream}, {cut}");
            assert!(!meter.ledger.count_piece(1));
        }
    }
}
