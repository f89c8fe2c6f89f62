//! Trailers may not have pseudo-headers (RFC 9113 section 8.1), which h2 drops from them and says nothing. It does refuse
//! one behind another field: so trailers get a field in front, before h2 reads them, and lose it again before a service
//! sees them. The field is one of HPACK's static table: it is one byte long and changes nothing of HPACK's state.

use bytes::BytesMut;

use crate::connection::{
    config::ConnectionConfig,
    protocol::http2::frames::{DATA, END_STREAM, Frames, HEAD, HEADERS, Head, PREFACE, RST_STREAM},
};

/// [`TRAILER_MARK`](crate::connection::incoming::TRAILER_MARK) without a value: entry 61, indexed (RFC 7541, 6.1 and
/// appendix A).
const MARK: u8 = 0x80 | 61;

const CONTINUATION: u8 = 9;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 0x20;
const END_HEADERS: u8 = 4;
/// So much of a frame is kept back for changes to HPACK's table, of which there are two at most (RFC 7541, 4.2). Those
/// behind it come after a field then, which is an error.
const MAX_BEFORE: usize = 64;
/// So many streams are told apart by whether their requests go on; with more, all that may are taken for such.
const MAX_OPEN: usize = 1024;

/// Marks the trailers among what a client sends.
#[derive(Debug)]
pub(crate) struct TrailerMarks {
    frames: Frames,
    /// h2 takes no longer frames, and so none is made longer than that.
    max_frame: usize,
    last_stream: u32,
    /// The streams whose requests go on, ascending. What comes on another one is no trailers, but an error of its state,
    /// which h2 has to see as it is: a mark would make another error of it.
    open: Vec<u32>,
    /// Not all of them are there.
    more_open: bool,
    /// A head that is not whole, or trailers of which it is not known yet where their fields begin.
    held: Vec<u8>,
    /// The fields of the trailers begin in the next frame.
    sought: bool,
    /// What h2 gets in place of what it did not get.
    marked: BytesMut,
}

/// Where the fields of a frame begin.
#[derive(Debug, PartialEq, Eq)]
enum Fields {
    At(usize),
    /// In the frame that continues this one.
    Later,
    /// More of the frame has to come.
    Unknown,
    /// There are none, or h2 does not take the frame.
    Nowhere,
}

impl TrailerMarks {
    /// Of a connection whose first byte was not read yet, if its bytes are looked at.
    pub(crate) fn of(config: &ConnectionConfig) -> Option<Box<Self>> {
        let marks = || Box::new(Self::after(PREFACE, config.http2.max_frame_bytes));
        config.strict_http1.then(marks)
    }

    /// Of a connection whose frames begin after so many bytes, and are no longer than that.
    pub(crate) fn after(preface: usize, max_frame: u32) -> Self {
        Self {
            frames: Frames::after(preface),
            max_frame: usize::try_from(max_frame).unwrap_or(usize::MAX),
            last_stream: 0,
            open: Vec::new(),
            more_open: false,
            held: Vec::new(),
            sought: false,
            marked: BytesMut::new(),
        }
    }

    /// How many of these bytes are h2's as they are. In place of the others it gets what comes from [`take`](Self::take).
    #[inline]
    pub(crate) fn look(&mut self, bytes: &[u8]) -> usize {
        if !self.held.is_empty() {
            return self.hold(bytes, 0);
        }
        let mut rest = bytes;
        while let Some(head) = self.frames.next(&mut rest) {
            if self.begins_fields(head) {
                self.sought |= head.kind == CONTINUATION;
                return self.hold(bytes, bytes.len() - rest.len() - HEAD);
            }
            self.pass(head);
        }
        match self.frames.filled() {
            0 => bytes.len(),
            part => self.hold(bytes, bytes.len() - part),
        }
    }

    /// What h2 is to get now, into a buffer with so much room.
    pub(crate) fn take(&mut self, room: usize) -> Option<BytesMut> {
        let n = self.marked.len().min(room);
        (n > 0).then(|| self.marked.split_to(n))
    }

    /// Whether these are the first fields of trailers.
    #[inline]
    fn begins_fields(&mut self, head: Head) -> bool {
        match head.kind {
            HEADERS if head.stream <= self.last_stream => {
                self.more_open || self.open.binary_search(&head.stream).is_ok()
            }
            CONTINUATION => std::mem::take(&mut self.sought),
            _ => false,
        }
    }

    /// What a frame that h2 gets does to its stream. The number of a new one is higher than those before it.
    #[inline]
    fn pass(&mut self, head: Head) {
        let ends = head.flags & END_STREAM != 0;
        match head.kind {
            HEADERS if head.stream > self.last_stream => {
                self.last_stream = head.stream;
                if !ends && self.open.len() < MAX_OPEN {
                    self.open.push(head.stream);
                } else {
                    self.more_open |= !ends;
                }
            }
            HEADERS | DATA if !ends => {}
            HEADERS | DATA | RST_STREAM => {
                if let Ok(at) = self.open.binary_search(&head.stream) {
                    self.open.remove(at);
                }
            }
            _ => {}
        }
    }

    /// Keeps back what begins with a head there, until it is known what h2 is to get.
    #[cold]
    fn hold(&mut self, bytes: &[u8], start: usize) -> usize {
        self.held.extend_from_slice(&bytes[start..]);
        let mut held = std::mem::take(&mut self.held);
        let mut rest = &held[..];
        self.frames = Frames::after(0);
        while let Some((head, after)) = rest.split_first_chunk::<HEAD>() {
            let parsed = Head::of(head);
            let (frame, next) = after.split_at(parsed.length.min(after.len()));
            let fields = match self.begins_fields(parsed) {
                true => fields(parsed, frame),
                false => Fields::Nowhere,
            };
            match fields {
                Fields::Unknown => {
                    self.sought |= parsed.kind == CONTINUATION;
                    break;
                }
                Fields::At(fields) if parsed.length < self.max_frame => {
                    self.begin(head, parsed.length + 1, parsed.flags);
                    self.marked.extend_from_slice(&frame[..fields]);
                    self.marked.extend_from_slice(&[MARK]);
                    self.marked.extend_from_slice(&frame[fields..]);
                }
                // There is no room for the mark, but in place of padding, or in a frame of its own.
                Fields::At(fields) if parsed.length == self.max_frame => {
                    match padding(parsed, frame) {
                        0 => {
                            self.begin(head, fields + 1, parsed.flags & !END_HEADERS);
                            self.marked.extend_from_slice(&frame[..fields]);
                            self.marked.extend_from_slice(&[MARK]);
                            let next = [&head[..3], &[CONTINUATION], &head[4..]].concat();
                            let flags = parsed.flags & END_HEADERS;
                            self.begin(&next, parsed.length - fields, flags);
                            self.marked.extend_from_slice(&frame[fields..]);
                        }
                        _ if frame.len() < parsed.length => {
                            self.sought |= parsed.kind == CONTINUATION;
                            break;
                        }
                        padding => {
                            self.begin(head, parsed.length, parsed.flags);
                            self.marked.extend_from_slice(&[padding - 1]);
                            self.marked.extend_from_slice(&frame[1..fields]);
                            self.marked.extend_from_slice(&[MARK]);
                            self.marked
                                .extend_from_slice(&frame[fields..parsed.length - 1]);
                        }
                    }
                }
                _ => {
                    self.sought |= fields == Fields::Later;
                    self.marked.extend_from_slice(head);
                    self.marked.extend_from_slice(frame);
                }
            }
            self.pass(parsed);
            rest = next;
            if frame.len() < parsed.length {
                self.frames = Frames::after(parsed.length - frame.len());
                return start;
            }
        }
        let done = held.len() - rest.len();
        held.drain(..done);
        self.held = held;
        start
    }

    /// The head of a frame that h2 gets in place of one with this head.
    fn begin(&mut self, head: &[u8], length: usize, flags: u8) {
        let [.., a, b, c] = length.to_be_bytes();
        self.marked.extend_from_slice(&[a, b, c, head[3], flags]);
        self.marked.extend_from_slice(&head[5..]);
    }
}

fn has(head: Head, flag: u8) -> bool {
    head.kind == HEADERS && head.flags & flag != 0
}

/// How much of it a frame says it has.
fn padding(head: Head, frame: &[u8]) -> u8 {
    match frame.first() {
        Some(padding) if has(head, PADDED) => *padding,
        _ => 0,
    }
}

/// Where fields begin in a frame of which so much is there: behind changes to the size of HPACK's table.
fn fields(head: Head, frame: &[u8]) -> Fields {
    let (mut at, mut end) = (0, head.length);
    if has(head, PADDED) {
        at += 1;
        match frame.first() {
            Some(padding) => end = end.saturating_sub(usize::from(*padding)),
            None if end == 0 => return Fields::Nowhere,
            None => return Fields::Unknown,
        }
    }
    if has(head, WITH_PRIORITY) {
        at += 5;
    }
    let mut within_size = false;
    while at < end {
        if at >= MAX_BEFORE && !within_size {
            return Fields::At(at);
        }
        if at >= 2 * MAX_BEFORE {
            // A number that h2 does not take.
            return Fields::Nowhere;
        }
        let Some(byte) = frame.get(at) else {
            return Fields::Unknown;
        };
        within_size = match byte {
            _ if within_size => byte & 0x80 != 0,
            0x20..=0x3F => *byte == 0x3F,
            _ => return Fields::At(at),
        };
        at += 1;
    }
    match head.flags & END_HEADERS {
        0 if at == end && !within_size => Fields::Later,
        _ => Fields::Nowhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_FRAME: u32 = 16_384;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let [.., a, b, c] = payload.len().to_be_bytes();
        [&[a, b, c, kind, flags, 0, 0, 0, stream], payload].concat()
    }

    /// What h2 gets of bytes that come in pieces of a size, and whether any were kept back in the end.
    fn marked(wire: &[u8], size: usize) -> (Vec<u8>, bool) {
        let mut marks = TrailerMarks::after(3, MAX_FRAME);
        let mut got = Vec::new();
        for piece in wire.chunks(size) {
            let whole = marks.look(piece);
            got.extend_from_slice(&piece[..whole]);
            while let Some(bytes) = marks.take(7) {
                got.extend_from_slice(&bytes);
            }
        }
        (got, !marks.held.is_empty())
    }

    #[test]
    fn trailers_get_a_field_in_front_however_they_are_cut() {
        let begins = [&b"SM\n"[..], &frame(HEADERS, 4, 1, b"head")].concat();
        let data = frame(0, 0, 1, &[1; 100]);
        // In: flags and payload of the trailers. Out: what the payload becomes.
        let late = |mark: &[u8]| [&[0x20; 64][..], mark, &[0x20; 36], b"field"].concat();
        let long = |mark: &[u8]| [&[0x20; 63][..], b"\x3F\x81\x01", mark, b"\x20field"].concat();
        let endless = [&[0x3F][..], &[0x81; 200]].concat();
        for (flags, payload, expected) in [
            (5, &b"\x84field"[..], &b"\xBD\x84field"[..]),
            (5, b"", b""),
            // With padding, with a priority, with both.
            (13, b"\x02fieldPP", b"\x02\xBDfieldPP"),
            (0x25, b"12345field", b"12345\xBDfield"),
            (0x2D, b"\x0212345fieldPP", b"\x0212345\xBDfieldPP"),
            // Changes to the size of the table come first.
            (5, b"\x20\x3F\x81\x01field", b"\x20\x3F\x81\x01\xBDfield"),
            (5, b"\x20", b"\x20"),
            (5, b"\x3F\x81", b"\x3F\x81"),
            // Too much of it: what is behind the mark is an error then.
            (5, &late(b""), &late(b"\xBD")),
            (5, &long(b""), &long(b"\xBD")),
            // What h2 does not take.
            (5, &endless, &endless),
            (13, b"", b""),
            (13, b"\x09field", b"\x09field"),
            (0x25, b"123", b"123"),
        ] {
            let after = [frame(HEADERS, 4, 3, b"head"), frame(0, 1, 3, b"x")].concat();
            let wire = |payload| {
                let trailers = frame(HEADERS, flags, 1, payload);
                [&begins[..], &data, &trailers, &after].concat()
            };
            for size in 1..=wire(payload).len() {
                let (got, held) = marked(&wire(payload), size);
                assert_eq!(got, wire(expected), "{flags:x} {payload:x?} by {size}");
                assert!(!held);
            }
        }
    }

    #[test]
    fn fields_that_begin_in_a_later_frame_are_found() {
        let wire = |mark: &[u8]| {
            [
                &b"SM\n"[..],
                &frame(HEADERS, 0, 1, b""),
                &frame(CONTINUATION, 4, 1, b"head"),
                &frame(HEADERS, 1, 1, b"\x20"),
                &frame(CONTINUATION, 0, 1, b""),
                &frame(CONTINUATION, 0, 1, &[mark, b"field"].concat()),
                &frame(CONTINUATION, 4, 1, b"field"),
            ]
            .concat()
        };
        for size in 1..=wire(b"").len() {
            assert_eq!(marked(&wire(b""), size), (wire(b"\xBD"), false), "{size}");
        }
    }

    #[test]
    fn what_comes_on_a_stream_that_is_over_is_left_as_it_is() {
        let (more, last, cut) = (
            frame(HEADERS, 4, 3, b"head"),
            frame(HEADERS, 5, 3, b"head"),
            frame(RST_STREAM, 0, 3, b"code"),
        );
        let (data, end) = (frame(DATA, 0, 3, b"body"), frame(DATA, 1, 3, b"body"));
        let trailers = frame(HEADERS, 5, 3, b"fields");
        let marked_trailers = frame(HEADERS, 5, 3, b"\xBDfields");
        for (before, mark) in [
            (vec![&more], true),
            (vec![&more, &data], true),
            (vec![&last], false),
            (vec![&more, &end], false),
            (vec![&more, &cut], false),
            (vec![&more, &data, &cut], false),
        ] {
            let before = [
                b"SM\n",
                &before.into_iter().flatten().copied().collect::<Vec<_>>()[..],
            ];
            let before = before.concat();
            // Twice: the first ones end the stream. Then one that was skipped.
            let skipped = frame(HEADERS, 5, 1, b"head");
            let sent = [&before[..], &trailers, &trailers, &skipped].concat();
            let first = if mark { &marked_trailers } else { &trailers };
            let expected = [&before[..], first, &trailers, &skipped].concat();
            for size in 1..=sent.len() {
                assert_eq!(marked(&sent, size), (expected.clone(), false), "by {size}");
            }
        }
    }

    #[test]
    fn with_more_streams_than_are_told_apart_all_trailers_are_marked() {
        let stream = |n: u32| (n * 2 + 1).to_be_bytes();
        let frame = |flags, n, payload: &[u8]| {
            let mut frame = frame(HEADERS, flags, 0, payload);
            frame[5..HEAD].copy_from_slice(&stream(n));
            frame
        };
        let heads: Vec<u8> = (0..=1024).flat_map(|n| frame(4, n, b"head")).collect();
        let sent = |mark: &[u8]| {
            let fields = [mark, b"fields"].concat();
            [
                b"SM\n",
                &heads[..],
                &frame(5, 0, &fields),
                &frame(5, 1024, &fields),
            ]
            .concat()
        };
        assert_eq!(marked(&sent(b""), 1000), (sent(b"\xBD"), false));
    }

    #[test]
    fn a_frame_is_not_made_longer_than_h2_takes() {
        const MAX: usize = MAX_FRAME as usize;
        let fields = |before: &[u8], length: usize, after: &[u8]| {
            let fields = vec![b'f'; length - before.len() - after.len()];
            [before, &fields, after].concat()
        };
        let one = |flags, payload: &[u8]| frame(HEADERS, flags, 1, payload);
        let two = |flags, begin: &[u8], rest: &[u8]| {
            let rest = frame(CONTINUATION, flags & END_HEADERS, 1, rest);
            [frame(HEADERS, flags & !END_HEADERS, 1, begin), rest].concat()
        };
        let padded = [7; 7];
        for (sent, expected) in [
            (
                one(5, &fields(b"", MAX - 1, b"")),
                one(5, &fields(b"\xBD", MAX, b"")),
            ),
            (
                one(5, &fields(b"", MAX, b"")),
                two(5, b"\xBD", &fields(b"", MAX, b"")),
            ),
            (
                one(1, &fields(b"", MAX, b"")),
                two(1, b"\xBD", &fields(b"", MAX, b"")),
            ),
            (
                one(0x25, &fields(b"12345\x20", MAX, b"")),
                two(0x25, b"12345\x20\xBD", &fields(b"", MAX - 6, b"")),
            ),
            (
                one(13, &fields(b"\0", MAX, b"")),
                two(13, b"\0\xBD", &fields(b"", MAX - 1, b"")),
            ),
            (
                one(13, &fields(b"\x07", MAX, &padded)),
                one(13, &fields(b"\x06\xBD", MAX, &padded[1..])),
            ),
            // h2 does not take it.
            (
                one(5, &fields(b"", MAX + 1, b"")),
                one(5, &fields(b"", MAX + 1, b"")),
            ),
        ] {
            for size in [1, 7, 1000, 16_392, 16_393, 100_000] {
                let wire = |trailers: &[u8]| {
                    let after = frame(0, 1, 3, b"x");
                    [b"SM\n", &frame(HEADERS, 4, 1, b"")[..], trailers, &after].concat()
                };
                let (got, held) = marked(&wire(&sent), size);
                assert!(got == wire(&expected), "{:x?} by {size}", &sent[..20]);
                assert!(!held);
            }
        }
    }
}
