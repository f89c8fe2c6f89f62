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

/// How much a client may still send to a connection that is closing: clients that write all of an upload before they read
/// its answer send the rest of it.
pub(crate) const MAX_LINGER: u64 = 64 << 20;
/// The same for HTTP/2, where a client can be told to send no more.
pub(crate) const MAX_LINGER_HTTP2: u64 = 1 << 20;
/// For how long it may, in milliseconds. Silence is the sweep's business.
const LONGEST: u64 = 30_000;

/// Closing a socket with unread bytes resets it, and the client may never see the answer: what it still sends is read
/// and dropped first, up to a bound here and for as long as the sweep allows.
#[derive(Debug)]
pub(crate) struct Linger {
    /// Whether it waits also for a client of which nothing is to come.
    always: bool,
    most: u64,
    dropped: u64,
    began: Option<u64>,
}

impl Linger {
    /// Up to so many bytes. `always` is for a client that was interrupted.
    pub(crate) fn new(most: u64, always: bool) -> Self {
        Self {
            always,
            most,
            dropped: 0,
            began: None,
        }
    }

    /// Ready when the socket can be closed.
    pub(crate) fn poll(
        &mut self,
        socket: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
        record: &Record,
        clock: &Clock,
    ) -> Poll<()> {
        let now = clock.now();
        let began = *self.began.get_or_insert(now);
        let mut scratch = [0; 16 << 10];
        // Others have their turn.
        for _ in 0..16 {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut *socket).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.dropped += buffer.filled().len() as u64;
                    record.enter(ConnectionState::Closing, now);
                    record.begin_anew(now);
                    if self.dropped > self.most || now.saturating_sub(began) > LONGEST {
                        return Poll::Ready(());
                    }
                }
                // The end, or an error: nobody is left to be told.
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    let expects_more = self.always || self.dropped > 0 || record.had_body();
                    if !expects_more {
                        return Poll::Ready(());
                    }
                    record.enter(ConnectionState::Closing, now);
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::{io, task::Waker};

    use super::*;

    /// A client that sends so many bytes, and then ends or waits.
    struct Client {
        left: u64,
        ends: bool,
    }

    impl AsyncRead for Client {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let n = usize::try_from(self.left).unwrap_or(usize::MAX);
            let n = n.min(buffer.remaining());
            if n == 0 && !self.ends {
                return Poll::Pending;
            }
            self.left -= n as u64;
            buffer.advance(n);
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn it_waits_for_a_client_that_is_still_sending_and_for_no_other() {
        let mut cx = Context::from_waker(Waker::noop());
        for (left, ends, had_body, always, waits) in [
            (0, true, false, false, false),
            (0, true, true, true, false),
            (0, false, false, false, false),
            (0, false, false, true, true),
            (0, false, true, false, true),
            (10, false, false, false, true),
            (10, true, true, true, false),
            (MAX_LINGER + 4096, false, true, true, false),
        ] {
            let record = Record::new(1, 0, None, false, 0, 0);
            record.begin_request(had_body, 0);
            let (mut linger, mut client) = (Linger::new(MAX_LINGER, always), Client { left, ends });
            let polled = loop {
                let before = client.left;
                let polled = linger.poll(&mut client, &mut cx, &record, &Clock::new());
                if polled.is_ready() || client.left == before {
                    break polled;
                }
            };
            assert_eq!(polled.is_pending(), waits, "{left} bytes, ends: {ends}");
            let closing = record.state() == ConnectionState::Closing;
            assert_eq!(closing, waits || left > 0);
        }
    }
}
