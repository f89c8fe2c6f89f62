//! The end of a connection of HTTP/1, so that its client can read what it was told.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use crate::connection::{
    protocol::{
        io::linger::{Linger, MAX_LINGER},
        task::connection::{Connection, Step},
    },
    reason::CloseReason,
    table::command::Command,
    transport::socket::Socket,
};

/// A connection that says its last: this is sent, then its side is ended, then what the client still sends is read and
/// dropped.
pub(crate) struct Closing {
    socket: Socket,
    unsent: Bytes,
    linger: Linger,
    is_shut: bool,
    reason: CloseReason,
}

impl Closing {
    pub(crate) fn new(socket: Socket, unsent: Vec<u8>, reason: CloseReason) -> Self {
        use CloseReason::{HeadTimeout, ProtocolError, SlowBody};
        // Its client was interrupted.
        let sends = matches!(reason, HeadTimeout | ProtocolError | SlowBody);
        Self {
            socket,
            unsent: unsent.into(),
            linger: Linger::new(MAX_LINGER, sends),
            is_shut: false,
            reason,
        }
    }

    pub(crate) fn poll<S>(
        &mut self,
        connection: &Connection<S>,
        cx: &mut Context<'_>,
    ) -> Step<Infallible> {
        let Connection { record, .. } = connection;
        if !self.is_shut {
            match self.poll_shut(connection, cx) {
                Poll::Ready(Ok(())) => self.is_shut = true,
                Poll::Ready(Err(_)) => return Step::End(self.reason),
                Poll::Pending => {
                    record
                        .answers()
                        .stall_write(connection.shared().clock.now());
                    return match record.commands().take() {
                        Command::Close(reason) if !reason.yields_to_a_request() => {
                            if reason == CloseReason::SlowRead {
                                // The client is to see that it has not got all.
                                self.socket.reset_when_closed();
                            }
                            Step::End(reason)
                        }
                        Command::Close(_) | Command::Park | Command::None => Step::Wait,
                    };
                }
            }
        }
        let clock = &connection.shared().clock;
        if !record.flags().is_half_closed()
            && self
                .linger
                .poll(&mut self.socket, cx, record, clock)
                .is_pending()
            && !matches!(record.commands().take(), Command::Close(_))
        {
            return Step::Wait;
        }
        Step::End(self.reason)
    }

    /// Sends what is left, and ends this side.
    fn poll_shut<S>(
        &mut self,
        connection: &Connection<S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_write(cx, &self.unsent))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => {
                    connection.record.add_written(n);
                    self.unsent.advance(n);
                }
            }
        }
        ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
