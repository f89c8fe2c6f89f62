//! Writing to a socket, and what is known of the client by how it takes it.

use std::{
    io, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::AsyncWrite;

use crate::connection::{
    protocol::{
        io::{Io, websocket},
        upgraded::Tracked,
    },
    reason::CloseReason,
    table::command::Command,
    transport::{parked::ParkedPoller, socket::Socket},
};

/// Who is sent so much at once is sent more, and may not read it.
const LARGE: usize = 16 << 10;

impl Io {
    /// Writes, or holds back what can be sent together with the next answer.
    #[inline]
    pub(super) fn poll_write_or_hold(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let another = self.another_follows();
        if !another && self.held.is_empty() {
            let polled = self.poll_write_now(cx, buffer);
            if polled.is_ready() || !self.held.has_room_for(buffer) || self.inspector.is_http2() {
                return polled;
            }
            // So that it is not lost should hyper fail at what comes behind it.
            self.held.hold(buffer);
            return Poll::Ready(Ok(buffer.len()));
        }
        if !self.held.has_room_for(buffer) {
            ready!(self.poll_send_held(cx))?;
            return self.poll_write_now(cx, buffer);
        }
        self.held.hold(buffer);
        if !another && let Poll::Ready(Err(error)) = self.poll_send_held(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(buffer.len()))
    }

    pub(super) fn poll_send_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = mem::take(&mut self.held);
        let polled = held.poll_send(|bytes| self.poll_write_now(cx, bytes));
        self.held = held;
        polled
    }

    pub(super) fn poll_write_now(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.frames.is_closed() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let buffers = [io::IoSlice::new(buffer)];
        let polled = match self.write_unparked(&buffers) {
            Some(n) => Poll::Ready(Ok(n)),
            None => Pin::new(&mut self.socket).poll_write(cx, buffer),
        };
        self.wrote(polled, &buffers, cx)
    }

    /// Writes past tokio, once; what goes wrong is left to the usual way.
    pub(super) fn write_unparked(&mut self, buffers: &[io::IoSlice<'_>]) -> Option<usize> {
        if !mem::take(&mut self.unparked) {
            return None;
        }
        self.socket.write_now(buffers).ok().filter(|n| *n > 0)
    }

    /// Has tokio wake its task from now on, if the socket was [watched](crate::connection::transport::watched) elsewhere.
    pub(crate) fn unwatch(&mut self, parked: &ParkedPoller) -> io::Result<()> {
        if self.socket.is_watched() {
            let socket = mem::replace(&mut self.socket, Socket::none());
            self.socket = parked.unwatch(socket)?;
            self.unparked = true;
        }
        Ok(())
    }

    /// Sends these bytes, and holds what the socket does not take. False if it did not take all.
    #[inline]
    pub(crate) fn send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<bool> {
        let sent = match self.poll_write_now(cx, bytes)? {
            Poll::Ready(n) => n,
            Poll::Pending => 0,
        };
        self.held.hold(&bytes[sent..]);
        Ok(self.held.is_empty() && self.poll_flush_now(cx)?.is_ready())
    }

    pub(super) fn poll_flush_now(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.held.is_empty() && !self.another_follows() {
            ready!(self.poll_send_held(cx))?;
        }
        let polled = Pin::new(&mut self.socket).poll_flush(cx);
        // TLS holds back what the socket does not take; a plain socket is always flushed.
        if self.socket.stays_with_task() {
            match &polled {
                Poll::Pending => self.stall(),
                Poll::Ready(_) => self.owner.record.add_written(0),
            }
        }
        polled
    }

    /// Says why, unless a frame is half sent: then the end has to do.
    pub(super) fn say_last_words(&mut self) {
        #[cfg(feature = "http2")]
        if !self.said_last_words
            && let Some(words) = self.inspector.last_words(&self.owner.record)
        {
            self.socket.try_write(&words);
        }
        self.said_last_words = true;
    }

    /// An upgraded connection that is told to end fails. A WebSocket is told goodbye before.
    pub(super) fn obey(&mut self) -> io::Result<()> {
        let Tracked { record, shared } = &self.owner;
        if record.flags().is_websocket()
            && self.frames.may_close()
            && shared.drain.is_over(record.budget())
        {
            self.socket.try_write(&websocket::SERVICE_RESTART);
            self.frames.close();
            shared.drain.count_farewell();
        }
        match self.owner.record.commands().take() {
            Command::Close(_) => Err(io::ErrorKind::ConnectionAborted.into()),
            Command::Park | Command::None => Ok(()),
        }
    }

    /// The socket takes no more. Whoever is to go for that is spared if it takes what it was sent before, and sees
    /// that it has not got all if not.
    #[cold]
    pub(super) fn stall(&mut self) {
        let (now, Tracked { record, shared }) = (self.now(), &self.owner);
        let begins = record.answers().stall_write(now);
        if begins {
            self.unread.begin(&self.socket, now);
        }
        if record.commands().asked() != Command::Close(CloseReason::SlowRead) {
            return;
        }
        let rate = shared.config.min_response_rate_bytes;
        if begins || self.unread.shrinks(&self.socket, now, rate) {
            record.commands().forget();
            record.answers().stall_write_anew(now);
        } else {
            self.socket.reset_when_closed();
        }
    }

    /// The first `n` of these bytes were written.
    fn look_at(&mut self, buffers: &[io::IoSlice<'_>], n: usize, upgraded: bool) {
        let mut left = n;
        for buffer in buffers {
            let written = &buffer[..left.min(buffer.len())];
            self.inspector.wrote(written);
            if upgraded {
                self.frames.sent(written);
            }
            left -= written.len();
        }
    }

    pub(super) fn wrote(
        &mut self,
        polled: Poll<io::Result<usize>>,
        buffers: &[io::IoSlice<'_>],
        cx: &Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let upgraded = self.owner.record.flags().is_upgraded();
        match &polled {
            Poll::Ready(Ok(n)) => {
                self.owner.record.add_written(*n);
                if *n >= LARGE && self.owner.shared.pressure.buffers_little() {
                    self.socket.bound_unsent();
                }
                if upgraded || self.inspector.is_http2() {
                    self.look_at(buffers, *n, upgraded);
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.stall(),
        }
        if upgraded {
            if polled.is_pending() {
                self.owner.record.owner().hear(cx.waker());
            }
            self.obey()?;
        }
        polled
    }
}
