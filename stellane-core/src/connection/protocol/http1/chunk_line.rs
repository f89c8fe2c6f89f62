//! The line before a chunk, RFC 9112 section 7.1: its size, and extensions that nobody here wants to know. hyper takes
//! anything for an extension.

use crate::transfer_coding::is_token;

/// Follows such a line, byte by byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChunkLine {
    at: At,
    size: u64,
}

/// What was read last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Start,
    Size,
    /// Blanks behind the size or an extension: another one has to follow.
    Blank,
    Semicolon,
    Name,
    /// Blanks behind a name: its value, or another extension, has to follow.
    NameBlank,
    Equals,
    Value,
    Quoted,
    /// A backslash within quotes.
    Escape,
    /// The quotes are closed.
    Unquoted,
    Return,
}

/// Where a line turned out to be over.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Nowhere yet.
    Beyond,
    /// Here, with the size of its chunk.
    Line { length: usize, size: u64 },
    /// At a byte that may not be there; and another, which hyper does not take there either.
    Invalid { at: usize, spoilt: u8 },
}

impl ChunkLine {
    pub(crate) const START: Self = Self {
        at: At::Start,
        size: 0,
    };

    /// Goes on with the next bytes.
    pub(crate) fn look(&mut self, bytes: &[u8]) -> End {
        for (i, byte) in bytes.iter().enumerate() {
            if (self.at, *byte) == (At::Return, b'\n') {
                let (length, size) = (i + 1, self.size);
                return End::Line { length, size };
            }
            match self.next(*byte) {
                Some(at) => self.at = at,
                None => {
                    // A line feed is the one byte that hyper takes nowhere but at the end.
                    let spoilt = if self.at == At::Return { 0 } else { b'\n' };
                    return End::Invalid { at: i, spoilt };
                }
            }
        }
        End::Beyond
    }

    fn next(&mut self, byte: u8) -> Option<At> {
        Some(match (self.at, byte) {
            (At::Start | At::Size, digit) if digit.is_ascii_hexdigit() => {
                let digit = (digit as char).to_digit(16)?;
                self.size = self.size.checked_mul(16)?.checked_add(digit.into())?;
                At::Size
            }
            (At::Size | At::Name | At::Value | At::Unquoted, b'\r') => At::Return,
            (At::Size | At::Blank | At::Name | At::NameBlank | At::Value | At::Unquoted, b';') => {
                At::Semicolon
            }
            (At::Size | At::Blank | At::Value | At::Unquoted, b' ' | b'\t') => At::Blank,
            (At::Name | At::NameBlank, b' ' | b'\t') => At::NameBlank,
            (At::Name | At::NameBlank, b'=') => At::Equals,
            (stays @ (At::Semicolon | At::Equals), b' ' | b'\t') => stays,
            (At::Equals, b'"') => At::Quoted,
            (At::Semicolon | At::Name, byte) if is_token(&byte) => At::Name,
            (At::Equals | At::Value, byte) if is_token(&byte) => At::Value,
            (At::Quoted, b'"') => At::Unquoted,
            (At::Quoted, b'\\') => At::Escape,
            (At::Quoted | At::Escape, b'\t' | b' '..=b'~' | 0x80..) => At::Quoted,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_what_the_grammar_says_however_they_are_cut() {
        for (line, size) in [
            ("0", 0),
            ("5", 5),
            ("aF", 0xAF),
            ("00000000000000000000000000000000000000005", 5),
            ("ffffffffffffffff", u64::MAX),
            ("5;a", 5),
            ("5;a=b", 5),
            ("5 ;\ta = b ; c", 5),
            ("5;a=\"x;\\\" \u{e9}=\t\"", 5),
            ("5;a=\"\";b", 5),
        ] {
            let bytes = format!("{line}\r\nx");
            let length = line.len() + 2;
            for cut in 0..bytes.len() - 1 {
                let mut chunk = ChunkLine::START;
                let (first, second) = bytes.as_bytes().split_at(cut);
                assert_eq!(chunk.look(first), End::Beyond, "{line:?}");
                let length = length - cut;
                assert_eq!(chunk.look(second), End::Line { length, size }, "{line:?}");
            }
        }
    }

    #[test]
    fn nothing_else_is_one() {
        for (line, at) in [
            ("\r\n", 0),
            (" 5\r\n", 0),
            ("-5\r\n", 0),
            ("+5\r\n", 0),
            ("0x5\r\n", 1),
            ("5_0\r\n", 1),
            ("g\r\n", 0),
            ("10000000000000000\r\n", 16),
            ("5 \r\n", 2),
            ("5 0\r\n", 2),
            ("5;\r\n", 2),
            ("5;;a\r\n", 2),
            ("5;a;\r\n", 4),
            ("5;a \r\n", 4),
            ("5;a=\r\n", 4),
            ("5;a=b c\r\n", 6),
            ("5;a\u{1}b\r\n", 3),
            ("5;a=\"\0\"\r\n", 5),
            ("5;a=\"b\r\n", 6),
            ("5;a=\"b\"c\r\n", 7),
            ("5;a/b\r\n", 3),
            ("5;\u{e9}\r\n", 2),
            ("5\n", 1),
            ("5;a\n", 3),
        ] {
            let mut chunk = ChunkLine::START;
            let end = chunk.look(line.as_bytes());
            assert_eq!(end, End::Invalid { at, spoilt: b'\n' }, "{line:?}");
        }
        // What hyper would take, were it spoilt in the same way.
        let mut chunk = ChunkLine::START;
        let end = chunk.look(b"5\rx");
        assert_eq!(end, End::Invalid { at: 2, spoilt: 0 });
    }
}
