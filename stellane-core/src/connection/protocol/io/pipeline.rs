//! Answers to pipelined requests, sent together with the one to the last of them.

use std::{io, task::Poll};

/// How much is held back.
pub(crate) const MAX_HELD: usize = 16 << 10;

/// What is written and not sent.
#[derive(Debug, Default)]
pub(crate) struct HeldAnswers(Vec<u8>);

impl HeldAnswers {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn has_room_for(&self, bytes: &[u8]) -> bool {
        self.0.len() + bytes.len() <= MAX_HELD
    }

    pub(crate) fn hold(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Sends them, as far as `write` takes them.
    pub(crate) fn poll_send(
        &mut self,
        mut write: impl FnMut(&[u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<()>> {
        let mut sent = 0;
        let polled = loop {
            if sent == self.0.len() {
                break Poll::Ready(Ok(()));
            }
            match write(&self.0[sent..]) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => sent += n,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        self.0.drain(..sent);
        polled
    }

    pub(crate) fn into_inner(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_taken_stays_for_the_next_time() {
        let mut held = HeldAnswers::default();
        held.hold(b"first");
        held.hold(b"second");
        let mut sent = Vec::new();
        let mut send = |held: &mut HeldAnswers, mut room: usize| {
            held.poll_send(|bytes| {
                let n = bytes.len().min(room).min(4);
                room -= n;
                sent.extend_from_slice(&bytes[..n]);
                if n == 0 {
                    Poll::Pending
                } else {
                    Poll::Ready(Ok(n))
                }
            })
        };
        assert!(send(&mut held, 7).is_pending());
        assert!(send(&mut held, 100).is_ready());
        assert!(held.is_empty());
        assert_eq!(sent, b"firstsecond");
    }

    #[test]
    fn a_socket_that_takes_nothing_or_fails_ends_it() {
        for (answer, expected) in [
            (Ok(0), io::ErrorKind::WriteZero),
            (Err(io::ErrorKind::BrokenPipe), io::ErrorKind::BrokenPipe),
        ] {
            let mut held = HeldAnswers::default();
            held.hold(b"answer");
            let polled = held.poll_send(|_| Poll::Ready(answer.map_err(Into::into)));
            let Poll::Ready(Err(error)) = polled else {
                panic!("{polled:?}");
            };
            assert_eq!(error.kind(), expected);
        }
    }

    #[test]
    fn there_is_room_up_to_a_bound() {
        let mut held = HeldAnswers::default();
        held.hold(&[0; MAX_HELD - 1]);
        assert!(held.has_room_for(b"1") && !held.has_room_for(b"12"));
    }
}
