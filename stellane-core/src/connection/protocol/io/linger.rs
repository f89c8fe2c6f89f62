//! Closing so that the client can read the answer.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, ReadBuf};

use crate::connection::{
    state::ConnectionState,
    table::{clock::Clock, record::Record},
};

/// How much a client may still send to a connection that is closing.
const MAX_LINGER: usize = 1 << 20;

/// Closing a socket with unread bytes resets it, and the client may never see the answer: what it still sends is read
/// and dropped first, up to a bound here and for as long as the sweep allows.
#[derive(Debug, Default)]
pub(crate) struct Linger {
    dropped: usize,
}

impl Linger {
    /// Ready when the socket can be closed.
    pub(crate) fn poll(
        &mut self,
        socket: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
        record: &Record,
        clock: &Clock,
    ) -> Poll<()> {
        let mut scratch = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut *socket).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.dropped += buffer.filled().len();
                    record.enter(ConnectionState::Closing, clock.now());
                    if self.dropped > MAX_LINGER {
                        return Poll::Ready(());
                    }
                }
                // The end, or an error: nobody is left to be told.
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    let expects_more = self.dropped > 0 || record.had_body();
                    if !expects_more {
                        return Poll::Ready(());
                    }
                    record.enter(ConnectionState::Closing, clock.now());
                    return Poll::Pending;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io, task::Waker};

    use super::*;

    /// A client that sends so many bytes, and then ends or waits.
    struct Client {
        left: usize,
        ends: bool,
    }

    impl AsyncRead for Client {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let n = self.left.min(buffer.remaining());
            if n == 0 && !self.ends {
                return Poll::Pending;
            }
            self.left -= n;
            buffer.advance(n);
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn it_waits_for_a_client_that_is_still_sending_and_for_no_other() {
        let mut cx = Context::from_waker(Waker::noop());
        for (left, ends, had_body, waits) in [
            (0, true, false, false),
            (0, true, true, false),
            (0, false, false, false),
            (0, false, true, true),
            (10, false, false, true),
            (10, true, true, false),
            (MAX_LINGER + 4096, false, true, false),
        ] {
            let record = Record::new(1, 0, None, false, 0, 0);
            record.begin_request(had_body, 0);
            let polled =
                Linger::default().poll(&mut Client { left, ends }, &mut cx, &record, &Clock::new());
            assert_eq!(polled.is_pending(), waits, "{left} bytes, ends: {ends}");
            let closing = record.state() == ConnectionState::Closing;
            assert_eq!(closing, waits || left > 0);
        }
    }
}
