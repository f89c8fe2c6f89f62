//! What stands between hyper and a socket.

pub(crate) mod inspect;
pub(crate) mod linger;
pub(crate) mod pipeline;
pub(crate) mod unread;
pub(crate) mod websocket;

use std::{
    io,
    mem::{self, MaybeUninit},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::connection::{
    lifecycle::Shared,
    protocol::{
        io::{
            inspect::{Found, Inspector, UnknownCoding, Watch},
            linger::Linger,
            pipeline::HeldAnswers,
            unread::Unread,
            websocket::Frames,
        },
        upgraded::Tracked,
    },
    reason::CloseReason,
    state::ConnectionState,
    table::{command::Command, record::Record, turn::NO_TURN},
    transport::socket::Socket,
};

/// Up to here a head and its body are copied into one buffer, since `send` costs less CPU time than `writev`:
/// 0.2 of 3.6 microseconds on Linux 6, over loopback.
const SMALL_WRITE: usize = 1024;

/// What hyper reads and writes: the socket, bytes that were read before hyper was there, and an eye on
/// the progress of both directions.
#[derive(Debug)]
pub(crate) struct Io {
    pub(crate) socket: Socket,
    /// Read before the socket.
    pub(crate) rewind: Bytes,
    inspector: Inspector,
    held: HeldAnswers,
    linger: Linger,
    unread: Unread,
    /// What was sent since the upgrade to WebSocket.
    frames: Frames,
    owner: Tracked,
    /// The socket was just unparked: tokio does not know yet that it takes bytes, and would have the first
    /// answer wait for a turn of its poller.
    unparked: bool,
    /// The turn of its task in which the socket had nothing to read: hyper asks up to three times in one,
    /// and the waker stays the same.
    blocked_in: u32,
    /// What its client sends is no longer read by hyper, and what hyper writes is not sent.
    condemned: bool,
    said_last_words: bool,
}

impl Io {
    pub(crate) fn new(
        socket: Socket,
        rewind: Bytes,
        watch: Watch,
        record: Arc<Record>,
        shared: Arc<Shared>,
        unparked: bool,
    ) -> Self {
        Self {
            socket,
            rewind,
            inspector: Inspector::new(watch, record.requests()),
            held: HeldAnswers::default(),
            linger: Linger::default(),
            unread: Unread::default(),
            frames: Frames::default(),
            owner: Tracked { record, shared },
            unparked,
            blocked_in: NO_TURN,
            condemned: false,
            said_last_words: false,
        }
    }

    fn now(&self) -> u64 {
        self.owner.shared.clock.now()
    }

    fn another_follows(&self) -> bool {
        self.inspector.another_follows(&self.owner.record)
    }

    /// Writes, or holds back what can be sent together with the next answer.
    #[inline]
    fn poll_write_or_hold(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let another = self.another_follows();
        if !another && self.held.is_empty() {
            return self.poll_write_now(cx, buffer);
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

    fn poll_send_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = mem::take(&mut self.held);
        let polled = held.poll_send(|bytes| self.poll_write_now(cx, bytes));
        self.held = held;
        polled
    }

    /// For an end that hyper does not announce.
    pub(crate) fn send_what_it_takes(&mut self) {
        self.held.send_what_it_takes(&mut self.socket);
    }

    fn poll_write_now(&mut self, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
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
    fn write_unparked(&mut self, buffers: &[io::IoSlice<'_>]) -> Option<usize> {
        if !mem::take(&mut self.unparked) {
            return None;
        }
        self.socket.write_now(buffers).ok().filter(|n| *n > 0)
    }

    /// Reads what came, which nobody has looked at yet.
    #[inline]
    pub(crate) fn poll_socket(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.socket).poll_read(cx, buffer);
        let record = &self.owner.record;
        match &polled {
            Poll::Ready(Ok(())) => record.add_read(buffer.filled().len() - before),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.blocked_in = record.turn().number(),
        }
        polled
    }

    /// Sends these bytes, and holds what the socket does not take. False if it did not take all.
    #[inline]
    pub(crate) fn send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<bool> {
        let sent = match self.poll_write_now(cx, bytes)? {
            Poll::Ready(n) => n,
            Poll::Pending => 0,
        };
        self.held.hold(&bytes[sent..]);
        Ok(self.held.is_empty() && Pin::new(self).poll_flush(cx)?.is_ready())
    }

    /// Goes over to hyper, at the beginning of a request: these bytes were read and not used.
    pub(crate) fn begin_anew(&mut self, unread: Bytes, requests_before: u64) {
        self.rewind = unread;
        self.inspector.begin_anew(requests_before);
        self.blocked_in = NO_TURN;
    }

    /// Tells hyper of the request that it is not to have, once it has answered the others.
    #[cold]
    fn refuse(&self) -> Poll<io::Result<()>> {
        match self.inspector.all_are_answered(&self.owner.record) {
            true => Poll::Ready(Err(io::Error::other(UnknownCoding))),
            // hyper asks again when it is done with them.
            false => Poll::Pending,
        }
    }

    /// Ends the connection of a client that abuses it, so that the client can read why.
    fn poll_condemned(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(self).poll_shutdown(cx))?;
        Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
    }

    /// Says why, unless a frame is half sent: then the end has to do.
    fn say_last_words(&mut self) {
        #[cfg(feature = "http2")]
        if !self.said_last_words
            && let Some(words) = self.inspector.last_words(&self.owner.record)
        {
            self.socket.try_write(&words);
        }
        self.said_last_words = true;
    }

    /// An upgraded connection that is told to end fails. A WebSocket is told goodbye before.
    fn obey(&mut self) -> io::Result<()> {
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
    fn stall(&mut self) {
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
    fn look_at(&mut self, buffers: &[io::IoSlice<'_>], n: usize) {
        let upgraded = self.owner.record.flags().is_upgraded();
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

    fn wrote(
        &mut self,
        polled: Poll<io::Result<usize>>,
        buffers: &[io::IoSlice<'_>],
        cx: &Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match &polled {
            Poll::Ready(Ok(n)) => {
                self.owner.record.add_written(*n);
                self.look_at(buffers, *n);
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.stall(),
        }
        if self.owner.record.flags().is_upgraded() {
            if polled.is_pending() {
                self.owner.record.owner().hear(cx.waker());
            }
            self.obey()?;
        }
        polled
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.inspector.refuses() {
            return this.refuse();
        }
        if this.condemned {
            return this.poll_condemned(cx);
        }
        let before = buffer.filled().len();
        if this.rewind.is_empty() {
            // Somebody else polls it, with another waker, once it is upgraded.
            if !this.held.is_empty() {
                let _: Poll<()> = this.poll_send_held(cx)?;
            }
            let upgraded = this.owner.record.flags().is_upgraded();
            if this.blocked_in == this.owner.record.turn().number() && !upgraded {
                return Poll::Pending;
            }
            if this.poll_socket(cx, buffer)?.is_pending() {
                // hyper reads when a service takes what it reads, and not before.
                if this.inspector.is_in_body() {
                    this.owner.record.turn().starve();
                }
                if upgraded {
                    // No task of the manager's hears a command any more.
                    this.owner.record.owner().hear(cx.waker());
                    this.obey()?;
                }
                return Poll::Pending;
            }
        } else {
            // No request is begun before the answers to those before it are sent.
            if !this.held.is_empty() {
                ready!(this.poll_send_held(cx))?;
            }
            let n = this.rewind.len().min(buffer.remaining());
            buffer.put_slice(&this.rewind.split_to(n));
        }
        let Tracked { record, shared } = &this.owner;
        let read = &mut buffer.filled_mut()[before..];
        match this.inspector.look(read, record, &shared.clock) {
            Ok(Found::Nothing) => {}
            Ok(Found::Spoilt) => this.rewind = Bytes::from_static(b"\r\n\r\n"),
            // Nothing would be the end.
            Ok(Found::Refused(0)) => return this.refuse(),
            Ok(Found::Refused(left)) => buffer.set_filled(before + left),
            Err(_) => {
                buffer.set_filled(before);
                this.condemned = true;
                return this.poll_condemned(cx);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.condemned {
            return Poll::Ready(Ok(buffer.len()));
        }
        this.poll_write_or_hold(cx, buffer)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.condemned {
            return Poll::Ready(Ok(()));
        }
        if !this.held.is_empty() && !this.another_follows() {
            ready!(this.poll_send_held(cx))?;
        }
        let polled = Pin::new(&mut this.socket).poll_flush(cx);
        // TLS holds back what the socket does not take; a plain socket is always flushed.
        if this.socket.stays_with_task() {
            match &polled {
                Poll::Pending => this.stall(),
                Poll::Ready(_) => this.owner.record.add_written(0),
            }
        }
        polled
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.owner.record.flags().is_parking() {
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_send_held(cx))?;
        if this.owner.record.state() != ConnectionState::Closing {
            this.say_last_words();
            ready!(Pin::new(&mut this.socket).poll_shutdown(cx))?;
        }
        let Tracked { record, shared } = &this.owner;
        #[cfg(feature = "http2")]
        if this.inspector.is_http2()
            && record.state() == ConnectionState::Closing
            && record.commands().is_close()
        {
            // Its client has had its time: hyper says what it ends for.
            return Poll::Ready(Ok(()));
        }
        this.linger
            .poll(&mut this.socket, cx, record, &shared.clock)
            .map(Ok)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let total: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        if this.condemned {
            return Poll::Ready(Ok(total));
        }
        if total <= SMALL_WRITE {
            let mut joined = [MaybeUninit::uninit(); SMALL_WRITE];
            let mut joined = ReadBuf::uninit(&mut joined);
            for buffer in buffers {
                joined.put_slice(buffer);
            }
            return this.poll_write_or_hold(cx, joined.filled());
        }
        ready!(this.poll_send_held(cx))?;
        if this.frames.is_closed() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let polled = match this.write_unparked(buffers) {
            Some(n) => Poll::Ready(Ok(n)),
            None => Pin::new(&mut this.socket).poll_write_vectored(cx, buffers),
        };
        this.wrote(polled, buffers, cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
