//! Frames on the wire: their heads only, nothing of what they hold.

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
/// RFC 9218.
pub(crate) const PRIORITY_UPDATE: u8 = 16;

pub(crate) const END_STREAM: u8 = 1;
/// Of SETTINGS.
pub(crate) const ACK: u8 = 1;

const ENHANCE_YOUR_CALM: u8 = 11;
pub(crate) const HEAD: usize = 9;
/// So many bytes of a client's come before its first frame.
pub(crate) const PREFACE: usize = 24;

/// What stands before each frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) length: usize,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

impl Head {
    pub(crate) fn of(bytes: &[u8; HEAD]) -> Self {
        let [a, b, c, kind, flags, id @ ..] = *bytes;
        Self {
            length: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
            kind,
            flags,
            stream: u32::from_be_bytes(id) & (u32::MAX >> 1),
        }
    }
}

/// Follows the frames of one direction, however they are cut.
#[derive(Debug)]
pub(crate) struct Frames {
    /// Bytes until the next head.
    left: usize,
    head: [u8; HEAD],
    filled: usize,
}

impl Frames {
    /// The first head comes after so many bytes.
    pub(crate) fn after(left: usize) -> Self {
        Self {
            left,
            head: [0; HEAD],
            filled: 0,
        }
    }

    /// Takes bytes up to the end of the next head.
    #[inline]
    pub(crate) fn next(&mut self, bytes: &mut &[u8]) -> Option<Head> {
        let skipped = self.left.min(bytes.len());
        self.left -= skipped;
        *bytes = &bytes[skipped..];
        if bytes.is_empty() {
            return None;
        }
        let head = match bytes.split_first_chunk::<HEAD>() {
            Some((head, rest)) if self.filled == 0 => {
                *bytes = rest;
                Head::of(head)
            }
            _ => {
                let n = (HEAD - self.filled).min(bytes.len());
                self.head[self.filled..self.filled + n].copy_from_slice(&bytes[..n]);
                self.filled += n;
                *bytes = &bytes[n..];
                if self.filled < HEAD {
                    return None;
                }
                self.filled = 0;
                Head::of(&self.head)
            }
        };
        self.left = head.length;
        Some(head)
    }

    /// How much there is of a head that is not whole.
    pub(crate) fn filled(&self) -> usize {
        self.filled
    }

    /// Whether the last frame is whole.
    pub(crate) fn are_whole(&self) -> bool {
        self.left == 0 && self.filled == 0
    }
}

/// The frame that ends a connection whose client is to behave otherwise, with the last stream that was begun.
pub(crate) fn calm_down(last_stream: u32) -> [u8; HEAD + 8] {
    let [a, b, c, d] = last_stream.to_be_bytes();
    [
        0,
        0,
        8,
        GOAWAY,
        0,
        0,
        0,
        0,
        0,
        a,
        b,
        c,
        d,
        0,
        0,
        0,
        ENHANCE_YOUR_CALM,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_found_however_the_bytes_are_cut() {
        let wire = [
            &[0; 24][..],
            &[0, 0, 3, DATA, END_STREAM, 0x80, 0, 0, 7, 1, 2, 3],
            &[0, 0, 0, HEADERS, 4, 0, 0, 1, 0],
            &calm_down(5),
        ]
        .concat();
        let head = |length, kind, flags, stream| Head {
            length,
            kind,
            flags,
            stream,
        };
        let heads = [
            head(3, DATA, END_STREAM, 7),
            head(0, HEADERS, 4, 256),
            head(8, GOAWAY, 0, 0),
        ];
        for piece in 1..=wire.len() {
            let (mut frames, mut found) = (Frames::after(24), Vec::new());
            assert!(!frames.are_whole());
            for mut bytes in wire.chunks(piece) {
                found.extend(std::iter::from_fn(|| frames.next(&mut bytes)));
                assert!(bytes.is_empty());
            }
            assert_eq!(found, heads, "in pieces of {piece}");
            assert!(frames.are_whole());
        }
    }
}
