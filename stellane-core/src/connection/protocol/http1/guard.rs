//! What hyper repairs in silence, and a service can therefore not see, is refused here, in the bytes of an
//! HTTP/1 connection before hyper reads them: a bare line feed as the end of a line, a `Content-Length`
//! beside a `Transfer-Encoding` or beside another one, a `Transfer-Encoding` other than `chunked`.
//!
//! The guard follows the framing with hyper: heads are looked at, bodies are skipped. What it refuses it
//! spoils, by a NUL in place of the line's end, so that hyper answers 400 and closes in its own way.

/// Follows one connection's bytes.
#[derive(Debug)]
pub(crate) struct FramingGuard {
    part: Part,
    /// Of the head being read.
    framing: Option<Framing>,
    upgrade: bool,
    heads: u64,
    /// The line that an earlier read ended within.
    partial: PartialLine,
}

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    RequestLine,
    Field,
    ChunkSize,
    Trailer,
    /// This many bytes of a body, and what follows them.
    Skip(u64, Then),
    /// After a request for an upgrade: HTTP again, or what the handler makes of it.
    Held,
    /// Nothing more is looked at: hyper has got, or will get, a byte that ends the connection.
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    EndOfMessage,
    ChunkSize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
}

/// What a read turned out to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Fine,
    /// A byte was spoilt; hyper may be waiting for the end of that head still.
    Spoilt,
    /// Bytes behind a request for an upgrade, which were not looked at.
    Held,
}

/// As much of a line as a decision needs.
#[derive(Debug)]
struct PartialLine {
    bytes: [u8; Self::CAPACITY],
    len: usize,
    last: u8,
}

impl Default for PartialLine {
    fn default() -> Self {
        Self {
            bytes: [0; Self::CAPACITY],
            len: 0,
            last: 0,
        }
    }
}

impl PartialLine {
    /// `Transfer-Encoding: chunked` and `Content-Length: 18446744073709551615`, with some white space.
    const CAPACITY: usize = 64;

    fn push(&mut self, bytes: &[u8]) {
        let Some(last) = bytes.last() else { return };
        let start = self.len.min(Self::CAPACITY);
        let n = bytes.len().min(Self::CAPACITY - start);
        self.bytes[start..start + n].copy_from_slice(&bytes[..n]);
        self.len = self.len.saturating_add(bytes.len());
        self.last = *last;
    }
}

impl FramingGuard {
    /// Begins with a head.
    pub(crate) fn new() -> Self {
        Self {
            part: Part::RequestLine,
            framing: None,
            upgrade: false,
            heads: 0,
            partial: PartialLine::default(),
        }
    }

    /// Whole heads so far.
    pub(crate) fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether the next byte belongs to a body.
    pub(crate) fn in_body(&self) -> bool {
        matches!(self.part, Part::Skip(..) | Part::ChunkSize | Part::Trailer)
    }

    /// Whether the latest request asked for an upgrade, and [`decide`](Self::decide) was not called since.
    pub(crate) fn is_held(&self) -> bool {
        self.part == Part::Held
    }

    /// What came of the upgrade: without it, what follows is HTTP.
    pub(crate) fn decide(&mut self, upgraded: bool) {
        self.part = if upgraded {
            Part::Over
        } else {
            Part::RequestLine
        };
    }

    /// Looks at the bytes of one read, which hyper gets next.
    pub(crate) fn look(&mut self, bytes: &mut [u8]) -> Verdict {
        let mut at = 0;
        while at < bytes.len() {
            match self.part {
                Part::Over => return Verdict::Fine,
                Part::Held => return Verdict::Held,
                Part::Skip(left, then) => {
                    let here = (bytes.len() - at) as u64;
                    if here < left {
                        self.part = Part::Skip(left - here, then);
                        return Verdict::Fine;
                    }
                    // At most what is here, which is a usize.
                    at += left as usize;
                    match then {
                        Then::EndOfMessage => self.end_of_message(),
                        Then::ChunkSize => self.part = Part::ChunkSize,
                    }
                }
                Part::RequestLine | Part::Field if self.partial.len == 0 => {
                    match self.head(bytes, at) {
                        Ok(end) => at = end,
                        Err(refused) => {
                            bytes[refused] = 0;
                            self.part = Part::Over;
                            return Verdict::Spoilt;
                        }
                    }
                }
                Part::RequestLine | Part::Field | Part::ChunkSize | Part::Trailer => {
                    let Some(length) = bytes[at..].iter().position(|b| *b == b'\n') else {
                        self.partial.push(&bytes[at..]);
                        return Verdict::Fine;
                    };
                    let end = at + length;
                    if !self.line(&bytes[at..end]) {
                        bytes[end] = 0;
                        self.part = Part::Over;
                        return Verdict::Spoilt;
                    }
                    at = end + 1;
                }
            }
        }
        Verdict::Fine
    }

    /// Reads lines of heads for as long as there are, from the beginning of one: where it stopped, or the line
    /// feed of the line that is refused. This is what every request goes through.
    #[inline]
    fn head(&mut self, bytes: &[u8], mut start: usize) -> Result<usize, usize> {
        let mut at = start;
        while at < bytes.len() {
            let mut feeds = in_block(bytes, at, |block| places(block, b'\n'));
            while feeds != 0 {
                let end = at + feeds.trailing_zeros() as usize;
                feeds &= feeds - 1;
                let [line @ .., b'\r'] = &bytes[start..end] else {
                    return Err(end);
                };
                start = end + 1;
                let decides = |first: &u8| DECIDES[usize::from(*first)];
                if self.part == Part::Field && line.first().is_some_and(|first| !decides(first)) {
                    continue;
                }
                if !self.whole_line(line) {
                    return Err(end);
                }
                if !matches!(self.part, Part::RequestLine | Part::Field) {
                    return Ok(start);
                }
            }
            at += BLOCK;
        }
        self.partial.push(&bytes[start..]);
        Ok(bytes.len())
    }

    /// Reads a line, its line feed left out; false if it is refused.
    #[inline]
    fn line(&mut self, line: &[u8]) -> bool {
        if self.partial.len == 0 {
            return match line {
                [line @ .., b'\r'] => self.whole_line(line),
                _ => self.bare_line_feed(),
            };
        }
        self.joined_line(line)
    }

    #[cold]
    fn joined_line(&mut self, rest: &[u8]) -> bool {
        self.partial.push(rest);
        let PartialLine { bytes, len, last } = std::mem::take(&mut self.partial);
        if last != b'\r' {
            return self.bare_line_feed();
        }
        self.whole_line(&bytes[..(len - 1).min(PartialLine::CAPACITY)])
    }

    #[cold]
    fn bare_line_feed(&mut self) -> bool {
        // hyper refuses it in the line of a chunk, and would take a NUL there.
        let hyper_refuses = self.part == Part::ChunkSize;
        if hyper_refuses {
            self.part = Part::Over;
        }
        hyper_refuses
    }

    /// Reads a line without its end; of a line in pieces, only the beginning.
    #[inline]
    fn whole_line(&mut self, line: &[u8]) -> bool {
        match self.part {
            Part::Field => self.field(line),
            Part::RequestLine => {
                // Empty lines may stand before a request.
                if !line.is_empty() {
                    self.framing = None;
                    self.upgrade = line.starts_with(b"CONNECT ");
                    self.part = Part::Field;
                }
                true
            }
            Part::ChunkSize => self.chunk_size(line),
            Part::Trailer => {
                if line.is_empty() {
                    self.end_of_message();
                }
                true
            }
            Part::Skip(..) | Part::Held | Part::Over => true,
        }
    }

    #[inline]
    fn field(&mut self, line: &[u8]) -> bool {
        let Some(first) = line.first() else {
            self.end_of_head();
            return true;
        };
        match first | 0x20 {
            b'c' => match value_of(line, b"content-length") {
                Some(value) if line.len() < PartialLine::CAPACITY => self.length(value),
                // Of a line in pieces, the end is not known.
                Some(_) => false,
                None => true,
            },
            b't' => match value_of(line, b"transfer-encoding") {
                Some(value) if line.len() < PartialLine::CAPACITY => self.encoding(value),
                Some(_) => false,
                None => true,
            },
            b'u' => {
                self.upgrade |= value_of(line, b"upgrade").is_some();
                true
            }
            // A line that goes on with the one before; hyper refuses it too.
            b' ' | b')' => *first != b' ' && *first != b'\t',
            _ => true,
        }
    }

    #[cold]
    fn length(&mut self, value: &[u8]) -> bool {
        match (self.framing, decimal(value)) {
            (None, Some(length)) => {
                self.framing = Some(Framing::Length(length));
                true
            }
            _ => false,
        }
    }

    #[cold]
    fn encoding(&mut self, value: &[u8]) -> bool {
        let good = self.framing.is_none() && value.eq_ignore_ascii_case(b"chunked");
        self.framing = Some(Framing::Chunked);
        good
    }

    fn end_of_head(&mut self) {
        self.heads += 1;
        self.part = match self.framing {
            None | Some(Framing::Length(0)) => {
                self.end_of_message();
                return;
            }
            Some(Framing::Length(length)) => Part::Skip(length, Then::EndOfMessage),
            Some(Framing::Chunked) => Part::ChunkSize,
        };
    }

    fn end_of_message(&mut self) {
        self.part = if self.upgrade {
            Part::Held
        } else {
            Part::RequestLine
        };
    }

    /// hyper is strict about chunks; here only their sizes are followed.
    fn chunk_size(&mut self, line: &[u8]) -> bool {
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let size = line[..digits].iter().try_fold(0_u64, |size, digit| {
            let digit = (*digit as char).to_digit(16)?;
            size.checked_mul(16)?.checked_add(digit.into())
        });
        // More digits may not all be known.
        let known = (1..PartialLine::CAPACITY).contains(&digits);
        self.part = match size {
            Some(0) if known => Part::Trailer,
            // With the line end behind it.
            Some(size) if known => Part::Skip(size.saturating_add(2), Then::ChunkSize),
            _ => return false,
        };
        true
    }
}

/// Whether every line of a head ends with CR and LF.
#[inline]
pub(crate) fn ends_its_lines(head: &[u8]) -> bool {
    let mut at = 0;
    // What the block before ended with, as the lowest bit.
    let mut returned = 0;
    while at < head.len() {
        let (feeds, returns) = in_block(head, at, |block| {
            (places(block, b'\n'), places(block, b'\r'))
        });
        if feeds & !(returns << 1 | returned) != 0 {
            return false;
        }
        returned = returns >> (BLOCK - 1);
        at += BLOCK;
    }
    true
}

/// How many bytes are looked at together.
const BLOCK: usize = 64;

/// Looks at the block of `bytes` that begins at `at`, padded if fewer are left: so the end of a read costs no more
/// than the rest of it.
#[inline]
fn in_block<T>(bytes: &[u8], at: usize, look: impl Fn(&[u8; BLOCK]) -> T) -> T {
    match bytes[at..].first_chunk() {
        Some(block) => look(block),
        None => {
            let mut block = [0; BLOCK];
            block[..bytes.len() - at].copy_from_slice(&bytes[at..]);
            look(&block)
        }
    }
}

/// Where a byte is: one bit for each byte of a block.
#[inline]
fn places(block: &[u8; BLOCK], byte: u8) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{
            _mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8,
        };
        let start = block.as_ptr();
        // SAFETY: all quarters lie within the block; SSE2 belongs to every x86-64.
        let quarters = unsafe {
            let wanted = _mm_set1_epi8(byte as i8);
            [0, 16, 32, 48].map(|quarter| {
                let bytes = _mm_loadu_si128(start.add(quarter).cast());
                u64::from(_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, wanted)) as u16) << quarter
            })
        };
        quarters[0] | quarters[1] | quarters[2] | quarters[3]
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let bits = block.iter().enumerate();
        bits.fold(0, |found, (i, b)| found | u64::from(*b == byte) << i)
    }
}

/// First bytes of the fields that say how a message is framed, and of lines that go on with the one before.
const DECIDES: [bool; 256] = {
    let mut table = [false; 256];
    let bytes = b"cCtTuU \t";
    let mut i = 0;
    while i < bytes.len() {
        table[bytes[i] as usize] = true;
        i += 1;
    }
    table
};

/// The value of a field with this name, white space around it left out.
#[inline]
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = line.split_at_checked(name.len())?;
    let value = rest.strip_prefix(b":")?;
    start.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |n, digit| {
        let digit = (*digit as char).to_digit(10)?;
        n.checked_mul(10)?.checked_add(digit.into())
    })
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::Mutex};

    use http::{Request, Response};
    use http_body_util::BodyExt;
    use hyper::{body::Incoming, service::service_fn};
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    struct Random(u64);

    impl Random {
        fn below(&mut self, n: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % n as u64) as usize
        }

        fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
            from[self.below(from.len())]
        }
    }

    /// A few requests, most of them good, with some bytes changed.
    fn requests(random: &mut Random) -> Vec<u8> {
        let mut text = String::new();
        for _ in 0..=random.below(3) {
            text += random.pick(&[
                "GET / HTTP/1.1\r\n",
                "POST /a HTTP/1.1\r\n",
                "\r\nPUT / HTTP/1.1\r\n",
            ]);
            for _ in 0..random.below(4) {
                text += random.pick(&[
                    "Host: x\r\n",
                    "A: b\r\n",
                    "Cookie: c\r\n",
                    "TE: trailers\r\n",
                    "Content-Type: t\r\n",
                ]);
            }
            text += random.pick(&[
                "\r\n",
                "Content-Length: 5\r\n\r\nhello",
                "Content-Length:   000000000000000000000000000000000000000000000000000000000005\r\n\r\nhello",
                "content-length: 0\r\n\r\n",
                "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
                "transfer-encoding: Chunked\r\n\r\n005;a=b\r\nh\nl\r\n\r\n0\r\nA: b\r\n\r\n",
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                "Transfer-Encoding: chunked\r\nContent-Length: 33\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
                "A: b\nContent-Length: 5\r\n\r\nhello",
            ]);
        }
        let mut bytes = text.into_bytes();
        for _ in 0..random.below(3) {
            let at = random.below(bytes.len());
            let odd = b"\r\n \t:05;ct"[random.below(10)];
            match random.below(3) {
                0 => bytes[at] = odd,
                1 => bytes.insert(at, odd),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    }

    /// Looks at the bytes in random pieces; what hyper gets, and how many heads were seen.
    fn guarded(bytes: &[u8], random: &mut Random) -> (Vec<u8>, u64) {
        let mut guard = FramingGuard::new();
        let mut bytes = bytes.to_vec();
        let whole = random.below(2) == 0;
        let mut rest = &mut bytes[..];
        while !rest.is_empty() {
            let n = if whole {
                rest.len()
            } else {
                1 + random.below(rest.len().min(40))
            };
            let (piece, after) = rest.split_at_mut(n);
            if guard.look(piece) == Verdict::Spoilt {
                break;
            }
            rest = after;
        }
        (bytes, guard.heads)
    }

    /// How many requests hyper makes of the bytes.
    async fn with_hyper(bytes: &[u8]) -> u64 {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        client.write_all(bytes).await.expect("fits");
        client.shutdown().await.expect("ends");
        let requests = Mutex::new(0);
        let service = service_fn(|request: Request<Incoming>| {
            *requests.lock().expect("not poisoned") += 1;
            async {
                let _ = request.into_body().collect().await;
                Ok::<_, Infallible>(Response::new(String::new()))
            }
        });
        // Not at the end of input, where hyper may drop requests it has read already.
        let connection = hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .serve_connection(TokioIo::new(server), service);
        let _ = connection.await;
        let mut answers = Vec::new();
        let _ = client.read_to_end(&mut answers).await;
        *requests.lock().expect("not poisoned")
    }

    /// Under Miri: `cargo +nightly miri test -p stellane-core --no-default-features --features connection
    /// line_feeds`.
    #[test]
    fn line_feeds_are_found_wherever_they_stand() {
        for first in 0..BLOCK {
            for second in 0..BLOCK {
                let mut block = [b'\r'; BLOCK];
                block[first] = b'\n';
                block[second] = b'\n';
                let expected = 1 << first | 1 << second;
                assert_eq!(places(&block, b'\n'), expected, "{first} and {second}");
            }
        }
        assert_eq!(places(&[b'\n'; BLOCK], b'\n'), u64::MAX);
        assert_eq!(places(&[0; BLOCK], b'\n'), 0);
    }

    #[tokio::test]
    async fn guard_and_hyper_agree_where_a_request_begins() {
        let seed = 0x5EED_u64;
        let mut random = Random(seed);
        let (mut heads, mut spoilt) = (0, 0);
        for case in 0..20_000 {
            let bytes = requests(&mut random);
            let (first, seen) = guarded(&bytes, &mut random);
            let (second, again) = guarded(&bytes, &mut random);
            let shown = String::from_utf8_lossy(&bytes).into_owned();
            assert_eq!(
                (&first, seen),
                (&second, again),
                "seed {seed}, case {case}: {shown:?}"
            );
            let served = with_hyper(&first).await;
            // hyper refuses more, such as names and values with odd bytes, but never sees other requests.
            assert!(
                served <= seen,
                "seed {seed}, case {case}: {served} of {seen}: {shown:?}"
            );
            heads += served;
            spoilt += usize::from(first != bytes);
        }
        assert!(heads > 10_000 && spoilt > 1000, "{heads} {spoilt}");
    }
}
