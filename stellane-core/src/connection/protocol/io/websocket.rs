//! Where the frames of a WebSocket end, so that one of ours can come between two of them.

use http::{Response, header};

/// A close frame with the code 1012: the service restarts, come again.
pub(crate) const SERVICE_RESTART: [u8; 4] = [0x88, 2, 0x03, 0xf4];

/// How the head begins behind which there are frames.
const HEAD: &[u8] = b"HTTP/1.1 101";
const HEAD_END: &[u8] = b"\r\n\r\n";
const OPCODE: u8 = 0x0f;
const CLOSE: u8 = 8;
const MASKED: u8 = 0x80;

/// Whether a response is the agreement to speak WebSocket.
pub(crate) fn is_agreed<B>(response: &Response<B>) -> bool {
    let upgrade = response.headers().get(header::UPGRADE);
    upgrade.is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Follows what is sent from the head of the upgrade on.
#[derive(Debug, Default)]
pub(crate) enum Frames {
    #[default]
    None,
    /// So many bytes of the beginning of the head.
    Head(usize),
    /// So many bytes of its end.
    HeadEnd(usize),
    /// Between two frames, or within the first bytes of one.
    Begin { header: [u8; 14], have: usize },
    /// So many bytes of a frame are still to come.
    Payload(u64),
    /// A close frame was sent: there are no more after it.
    Closed,
    /// As `Closed`, and ours.
    ClosedByUs,
    /// These are not what was expected.
    Lost,
}

impl Frames {
    /// Behind the head, before the first frame.
    pub(crate) const BEGIN: Self = Self::Begin {
        header: [0; 14],
        have: 0,
    };

    /// Whether a frame of ours may be sent now.
    pub(crate) fn may_close(&self) -> bool {
        matches!(self, Self::Begin { have: 0, .. })
    }

    /// It was sent.
    pub(crate) fn close(&mut self) {
        *self = Self::ClosedByUs;
    }

    /// Whether nothing may be sent any more.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self, Self::ClosedByUs)
    }

    /// These bytes were sent.
    pub(crate) fn sent(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if let Self::Payload(left) = self {
                let skipped = usize::try_from(*left).map_or(bytes.len(), |n| n.min(bytes.len()));
                *left -= skipped as u64;
                bytes = &bytes[skipped..];
                if *left == 0 {
                    *self = Self::BEGIN;
                }
                continue;
            }
            *self = std::mem::take(self).after(*first);
            bytes = rest;
            if matches!(self, Self::Closed | Self::ClosedByUs | Self::Lost) {
                return;
            }
        }
    }

    fn after(self, byte: u8) -> Self {
        match self {
            Self::None | Self::Head(_) => {
                let have = if let Self::Head(have) = self { have } else { 0 };
                match (byte == HEAD[have], have + 1 == HEAD.len()) {
                    (true, true) => Self::HeadEnd(0),
                    (true, false) => Self::Head(have + 1),
                    // Answers to requests before it are on their way still.
                    (false, _) => Self::Lost,
                }
            }
            Self::HeadEnd(have) if byte == HEAD_END[have] => match have + 1 == HEAD_END.len() {
                true => Self::BEGIN,
                false => Self::HeadEnd(have + 1),
            },
            Self::HeadEnd(_) => Self::HeadEnd(usize::from(byte == HEAD_END[0])),
            Self::Begin { mut header, have } => {
                header[have] = byte;
                begun(header, have + 1)
            }
            ended => ended,
        }
    }
}

/// What follows so many bytes of a frame's header.
fn begun(header: [u8; 14], have: usize) -> Frames {
    let more = Frames::Begin { header, have };
    if have < 2 {
        return more;
    }
    let long = match header[1] & !MASKED {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask = if header[1] & MASKED == 0 { 0 } else { 4 };
    if have < 2 + long + mask {
        return more;
    }
    if header[0] & OPCODE == CLOSE {
        return Frames::Closed;
    }
    let length = match long {
        0 => u64::from(header[1] & !MASKED),
        _ => header[2..2 + long]
            .iter()
            .fold(0, |length, byte| length << 8 | u64::from(*byte)),
    };
    match length {
        0 => Frames::BEGIN,
        length => Frames::Payload(length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGREED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n";

    /// After each of these bytes, whether a frame of ours may be sent.
    fn gaps(bytes: &[u8]) -> Vec<bool> {
        let mut frames = Frames::default();
        let gap = |byte: &u8| {
            frames.sent(&[*byte]);
            frames.may_close()
        };
        bytes.iter().map(gap).collect()
    }

    #[test]
    fn a_frame_of_ours_comes_behind_the_head_and_between_whole_frames() {
        let long = [&[0x82, 126, 0x01, 0x00][..], &[0; 256]].concat();
        let longest = [&[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0][..], &[0; 65_536]].concat();
        for frame in [
            &[0x81, 0][..],                        // empty
            &[0x81, 2, b'h', b'i'],                // short
            &[0x01, 1, b'h'],                      // the first of several
            &[0x8a, 0],                            // pong
            &[0x81, 0x82, 1, 2, 3, 4, b'h', b'i'], // masked
            &long,
            &longest,
        ] {
            let gaps = gaps(&[AGREED, frame, frame].concat());
            let at: Vec<_> = (0..gaps.len())
                .filter(|n| gaps[*n])
                .map(|n| n + 1)
                .collect();
            let ends = [0, 1, 2].map(|n| AGREED.len() + n * frame.len());
            assert_eq!(at, ends, "{:?}", &frame[..2]);
        }
    }

    #[test]
    fn nothing_follows_a_close_frame_or_what_is_not_understood() {
        let closed = gaps(&[AGREED, &[0x88, 2, 3, 0xe8], &[0x81, 0]].concat());
        assert_eq!(
            closed.iter().filter(|gap| **gap).count(),
            1,
            "behind the head"
        );
        let others = [&b"HTTP/1.1 200 OK\r\n\r\nhello"[..], AGREED, &[0x81, 0]].concat();
        assert!(!gaps(&others).contains(&true));
    }

    #[test]
    fn bytes_are_followed_however_they_are_cut() {
        let mut frames = Frames::default();
        let frame = [0x81, 3, 1, 2, 3];
        frames.sent(&[AGREED, &frame, &frame[..2]].concat());
        assert!(!frames.may_close());
        frames.sent(&frame[2..]);
        assert!(frames.may_close());
        frames.close();
        assert!(frames.is_closed() && !frames.may_close());
    }
}
