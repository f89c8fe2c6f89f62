//! What hyper repairs in silence, and a service can therefore not see, is refused here, in the bytes of an
//! HTTP/1 connection before hyper reads them: a bare line feed as the end of a line, a `Content-Length`
//! beside a `Transfer-Encoding` or beside another one, a `Transfer-Encoding` other than `chunked`.
//!
//! The guard follows the framing with hyper: heads are looked at, bodies are skipped. What it refuses it
//! spoils, by a NUL in place of the line's end, so that hyper answers 400 and closes in its own way.

use crate::connection::protocol::http1::lines::{BLOCK, in_block, places};
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
mod tests;
