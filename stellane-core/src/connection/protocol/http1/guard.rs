//! What hyper repairs in silence, and a service can therefore not see, is refused here, in the bytes of an
//! HTTP/1 connection before hyper reads them: a bare line feed as the end of a line, a `Content-Length`
//! beside a `Transfer-Encoding` or beside another one, a `Transfer-Encoding` other than `chunked`, what is no extension
//! of a chunk, fields in a trailer that say how a message is framed or whom it is for.
//!
//! The guard follows the framing with hyper: heads are looked at, bodies are skipped. What it refuses it
//! spoils, by a NUL in place of the line's end, so that hyper answers 400 and closes in its own way. Of a coding that
//! nobody knows hyper is not told: there is another answer to that.

use crate::{
    connection::protocol::http1::{
        chunk_line::{ChunkLine, End},
        lines::{BLOCK, in_block, places},
    },
    transfer_coding::{TransferCoding, trim},
};

/// Follows one connection's bytes.
#[derive(Debug)]
pub(crate) struct FramingGuard {
    part: Part,
    /// Of the head being read.
    framing: Option<Framing>,
    /// Whether what follows it may be another protocol's.
    upgrade: bool,
    connect: bool,
    heads: u64,
    /// The line that an earlier read ended within.
    partial: PartialLine,
}

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    RequestLine,
    Field,
    ChunkLine(ChunkLine),
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
    ChunkLine,
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
    /// A coding that nobody knows, in a line that begins here: hyper is not to have it, nor what follows.
    Unknown(usize),
    /// From here on it is not known yet whether the bytes are HTTP: hyper is not to have them now.
    Held(usize),
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Refused,
    UnknownCoding,
}

/// A line that is wrong, by the places of its first byte and of its line feed.
#[derive(Debug, Clone, Copy)]
struct Wrong {
    start: usize,
    end: usize,
    fault: Fault,
}

/// As much of a line as a decision needs.
#[derive(Debug, Default)]
struct PartialLine {
    /// All of a line that says how its message is framed, no longer than hyper takes a head; the beginning of others.
    kept: Vec<u8>,
    len: usize,
    last: u8,
}

impl PartialLine {
    /// The longest name that matters, with its colon.
    const NAME: usize = "transfer-encoding:".len();

    fn push(&mut self, bytes: &[u8]) {
        let Some(last) = bytes.last() else { return };
        let name = Self::NAME.saturating_sub(self.kept.len()).min(bytes.len());
        let (name, rest) = bytes.split_at(name);
        self.kept.extend_from_slice(name);
        if frames(&self.kept) {
            self.kept.extend_from_slice(rest);
        }
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
            connect: false,
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
        matches!(
            self.part,
            Part::Skip(..) | Part::ChunkLine(_) | Part::Trailer
        )
    }

    /// Whether the latest request asked for an upgrade, and [`decide`](Self::decide) was not called since.
    pub(crate) fn is_held(&self) -> bool {
        self.part == Part::Held
    }

    /// Whether the latest request is a CONNECT.
    pub(crate) fn is_connect(&self) -> bool {
        self.connect
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
                Part::Held => return Verdict::Held(at),
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
                        Then::ChunkLine => self.part = Part::ChunkLine(ChunkLine::START),
                    }
                }
                Part::RequestLine | Part::Field if self.partial.len == 0 => {
                    match self.head(bytes, at) {
                        Ok(end) => at = end,
                        Err(wrong) => return self.refuse(bytes, wrong),
                    }
                }
                Part::ChunkLine(mut line) => match line.look(&bytes[at..]) {
                    End::Beyond => {
                        self.part = Part::ChunkLine(line);
                        return Verdict::Fine;
                    }
                    End::Line { length, size } => {
                        at += length;
                        self.part = match size {
                            0 => Part::Trailer,
                            // With the line end behind it.
                            _ => Part::Skip(size.saturating_add(2), Then::ChunkLine),
                        };
                    }
                    End::Invalid { at: wrong, spoilt } => {
                        bytes[at + wrong] = spoilt;
                        self.part = Part::Over;
                        return Verdict::Spoilt;
                    }
                },
                Part::RequestLine | Part::Field | Part::Trailer => {
                    let Some(length) = bytes[at..].iter().position(|b| *b == b'\n') else {
                        self.partial.push(&bytes[at..]);
                        return Verdict::Fine;
                    };
                    let (start, end) = (at, at + length);
                    if let Err(fault) = self.line(&bytes[start..end]) {
                        return self.refuse(bytes, Wrong { start, end, fault });
                    }
                    at = end + 1;
                }
            }
        }
        Verdict::Fine
    }

    #[cold]
    fn refuse(&mut self, bytes: &mut [u8], wrong: Wrong) -> Verdict {
        self.part = Part::Over;
        match wrong.fault {
            Fault::UnknownCoding => Verdict::Unknown(wrong.start),
            Fault::Refused => {
                bytes[wrong.end] = 0;
                Verdict::Spoilt
            }
        }
    }

    /// Reads lines of heads for as long as there are, from the beginning of one: where it stopped, or the line that is
    /// wrong. This is what every request goes through.
    #[inline]
    fn head(&mut self, bytes: &[u8], mut start: usize) -> Result<usize, Wrong> {
        let mut at = start;
        while at < bytes.len() {
            let mut feeds = in_block(bytes, at, |block| places(block, b'\n'));
            while feeds != 0 {
                let end = at + feeds.trailing_zeros() as usize;
                feeds &= feeds - 1;
                let wrong = |fault| Wrong { start, end, fault };
                let [line @ .., b'\r'] = &bytes[start..end] else {
                    return Err(wrong(Fault::Refused));
                };
                let decides = |first: &u8| DECIDES[usize::from(*first)];
                if self.part == Part::Field && line.first().is_some_and(|first| !decides(first)) {
                    start = end + 1;
                    continue;
                }
                self.whole_line(line).map_err(wrong)?;
                start = end + 1;
                if !matches!(self.part, Part::RequestLine | Part::Field) {
                    return Ok(start);
                }
            }
            at += BLOCK;
        }
        self.partial.push(&bytes[start..]);
        Ok(bytes.len())
    }

    /// Reads a line, its line feed left out.
    #[inline]
    fn line(&mut self, line: &[u8]) -> Result<(), Fault> {
        if self.partial.len == 0 {
            return match line {
                [line @ .., b'\r'] => self.whole_line(line),
                _ => Err(Fault::Refused),
            };
        }
        self.joined_line(line)
    }

    #[cold]
    fn joined_line(&mut self, rest: &[u8]) -> Result<(), Fault> {
        self.partial.push(rest);
        let PartialLine { kept, len, last } = std::mem::take(&mut self.partial);
        if last != b'\r' {
            return Err(Fault::Refused);
        }
        self.whole_line(&kept[..kept.len().min(len - 1)])
    }

    /// Reads a line without its end; of a line in pieces, as much as is kept.
    #[inline]
    fn whole_line(&mut self, line: &[u8]) -> Result<(), Fault> {
        let good = match self.part {
            Part::Field => return self.field(line),
            Part::RequestLine => {
                // Empty lines may stand before a request.
                if !line.is_empty() {
                    self.framing = None;
                    self.connect = line.starts_with(b"CONNECT ");
                    self.upgrade = self.connect;
                    self.part = Part::Field;
                }
                true
            }
            Part::Trailer => {
                if line.is_empty() {
                    self.end_of_message();
                }
                !frames(line) && value_of(line, b"host").is_none()
            }
            Part::ChunkLine(_) | Part::Skip(..) | Part::Held | Part::Over => true,
        };
        if good { Ok(()) } else { Err(Fault::Refused) }
    }

    #[inline]
    fn field(&mut self, line: &[u8]) -> Result<(), Fault> {
        let Some(first) = line.first() else {
            self.end_of_head();
            return Ok(());
        };
        match first | 0x20 {
            b'c' => match value_of(line, b"content-length") {
                Some(value) => self.length(value),
                None => Ok(()),
            },
            b't' => match value_of(line, b"transfer-encoding") {
                Some(value) => self.encoding(value),
                None => Ok(()),
            },
            b'u' => {
                self.upgrade |= value_of(line, b"upgrade").is_some();
                Ok(())
            }
            // A line that goes on with the one before; hyper refuses it too.
            b' ' | b')' if matches!(first, b' ' | b'\t') => Err(Fault::Refused),
            _ => Ok(()),
        }
    }

    #[cold]
    fn length(&mut self, value: &[u8]) -> Result<(), Fault> {
        match (self.framing, decimal(value)) {
            (None, Some(length)) => {
                self.framing = Some(Framing::Length(length));
                Ok(())
            }
            _ => Err(Fault::Refused),
        }
    }

    #[cold]
    fn encoding(&mut self, value: &[u8]) -> Result<(), Fault> {
        match (self.framing, TransferCoding::of(value)) {
            (None, TransferCoding::Chunked) => {
                self.framing = Some(Framing::Chunked);
                Ok(())
            }
            (None, TransferCoding::Unknown) => Err(Fault::UnknownCoding),
            _ => Err(Fault::Refused),
        }
    }

    fn end_of_head(&mut self) {
        self.heads += 1;
        self.part = match self.framing {
            None | Some(Framing::Length(0)) => {
                self.end_of_message();
                return;
            }
            Some(Framing::Length(length)) => Part::Skip(length, Then::EndOfMessage),
            Some(Framing::Chunked) => Part::ChunkLine(ChunkLine::START),
        };
    }

    fn end_of_message(&mut self) {
        self.part = if self.upgrade {
            Part::Held
        } else {
            Part::RequestLine
        };
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
    start.eq_ignore_ascii_case(name).then(|| trim(value))
}

/// Whether a line says where a body ends.
fn frames(line: &[u8]) -> bool {
    let is = |name| value_of(line, name).is_some();
    is(b"content-length") || is(b"transfer-encoding")
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
