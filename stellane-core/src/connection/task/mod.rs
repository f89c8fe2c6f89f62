//! What drives a connection from its first byte to its end.

mod http1;
#[cfg(feature = "http2")]
mod http2;
mod simple;

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
};

use bytes::Bytes;
#[cfg(feature = "http2")]
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};

#[cfg(feature = "http2")]
use self::http2::ActiveHttp2;
use self::{http1::Active, simple::Simple};

#[cfg(feature = "http2")]
use super::http2::{Meter, blame};

use super::{
    CloseReason, ConnectInfo, ConnectionState,
    entry::{Command, Entry, Holder},
    framing::Guard,
    io::{Io, Socket, Watch},
    lot::Lot,
    service::{Adapter, HttpService},
    services::Services,
    shared::Shared,
    simple::refusal::Early,
};

/// How much of a first read fits on the stack.
pub(super) const FIRST_READ: usize = 2048;

/// What the connections of one call of `serve` share.
pub(super) struct Served<S> {
    pub(super) shared: Arc<Shared>,
    pub(super) services: Services<S>,
    pub(super) lot: Lot,
    pub(super) early: Early,
}

/// A connection that somebody serves, or that was just accepted. A parked one has no task: see
/// [`lot`](super::lot).
pub(super) struct Task<S: HttpService> {
    served: Arc<Served<S>>,
    entry: Arc<Entry>,
    stage: Stage<S>,
    /// Whether commands reach it.
    registered: bool,
    /// Why it ends, once that is known.
    pub(super) reason: Option<CloseReason>,
    /// Why it ends after its next answer, which it was not closed before since it was in use.
    spared_from: Option<CloseReason>,
}

#[cfg(feature = "tls")]
/// What comes before a socket can be read: a TLS handshake.
type Opening = Pin<Box<dyn Future<Output = Result<Socket, CloseReason>> + Send>>;

enum Stage<S: HttpService> {
    #[cfg(feature = "tls")]
    Opening(Opening),
    /// Only the socket: new, or idle and taken apart.
    Waiting(Socket),
    /// The socket, and the bytes that ended its wait.
    Resumed(Socket, Bytes),
    /// The socket of a new connection, and so few bytes that they can be the beginning of either protocol.
    #[cfg(feature = "http2")]
    Sniffing(Socket, Vec<u8>),
    /// HTTP/1 without hyper.
    Simple(Box<Simple<S>>),
    Http1(Box<Active<S>>),
    #[cfg(feature = "http2")]
    Http2(Box<ActiveHttp2<S>>),
    /// The socket went to the lot.
    Left,
    Ended,
}

impl<S: HttpService> Unpin for Task<S> {}

impl<S: HttpService> Task<S> {
    /// A connection of which nothing was read yet.
    pub(super) fn new(served: Arc<Served<S>>, entry: Arc<Entry>, socket: Socket) -> Self {
        Self::with(served, entry, Stage::Waiting(socket))
    }

    /// A connection whose socket is not ready to be read yet.
    #[cfg(feature = "tls")]
    pub(super) fn opening(served: Arc<Served<S>>, entry: Arc<Entry>, opening: Opening) -> Self {
        Self::with(served, entry, Stage::Opening(opening))
    }

    /// A connection that was parked until these bytes came.
    pub(super) fn resume(
        served: Arc<Served<S>>,
        entry: Arc<Entry>,
        socket: Socket,
        bytes: Bytes,
    ) -> Self {
        Self::with(served, entry, Stage::Resumed(socket, bytes))
    }

    fn with(served: Arc<Served<S>>, entry: Arc<Entry>, stage: Stage<S>) -> Self {
        Self {
            served,
            entry,
            stage,
            registered: false,
            reason: None,
            spared_from: None,
        }
    }
}

impl<S: HttpService> Drop for Task<S> {
    fn drop(&mut self) {
        match &mut self.stage {
            Stage::Left => return,
            Stage::Simple(simple) => simple.send_deferred(),
            _ => {}
        }
        if self.reason == Some(CloseReason::Upgraded) {
            if self.entry.leave_upgraded() {
                self.served.shared.end_upgraded(&self.entry);
            }
            return;
        }
        // Dropped unfinished: the runtime shuts down, or a handler's panic came through.
        let unfinished = if std::thread::panicking() {
            CloseReason::ServiceError
        } else {
            CloseReason::Aborted
        };
        self.served
            .shared
            .end(&self.entry, self.reason.unwrap_or(unfinished));
    }
}

impl<S: HttpService> Future for Task<S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if !this.registered {
            this.registered = true;
            *this.entry.holder() = Holder::Task(cx.waker().clone());
        }
        this.entry.begin_turn();
        loop {
            let step = match &mut this.stage {
                #[cfg(feature = "tls")]
                Stage::Opening(opening) => match opening.as_mut().poll(cx) {
                    Poll::Ready(Ok(socket)) => {
                        this.stage = Stage::Waiting(socket);
                        Step::Again
                    }
                    Poll::Ready(Err(reason)) => Step::End(reason),
                    Poll::Pending => match this.entry.take_command() {
                        Command::Close(reason) => Step::End(reason),
                        Command::Park => this.refuse_to_park(),
                        Command::None => Step::Wait,
                    },
                },
                Stage::Waiting(_) => this.poll_waiting(cx),
                Stage::Resumed(..) => this.resume_serving(),
                #[cfg(feature = "http2")]
                Stage::Sniffing(..) => this.poll_sniffing(cx),
                Stage::Simple(_) => this.poll_simple(cx),
                Stage::Http1(_) => this.poll_http1(cx),
                #[cfg(feature = "http2")]
                Stage::Http2(_) => this.poll_http2(cx),
                Stage::Left | Stage::Ended => return Poll::Ready(()),
            };
            match step {
                Step::Again => {}
                Step::Wait => return Poll::Pending,
                Step::End(reason) => {
                    this.reason.get_or_insert(reason);
                    this.stage = Stage::Ended;
                }
            }
        }
    }
}

enum Step {
    /// The stage has changed.
    Again,
    Wait,
    End(CloseReason),
}

impl<S: HttpService> Task<S> {
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Step {
        let Stage::Waiting(socket) = &mut self.stage else {
            return Step::Again;
        };
        // Read on the stack: a connection that only wants to close never costs a buffer. Through TLS this
        // also finds what rustls has decrypted already, before it waits for more.
        let mut buffer = [0; FIRST_READ];
        let mut unread = ReadBuf::new(&mut buffer);
        let read = match Pin::new(&mut *socket).poll_read(cx, &mut unread) {
            Poll::Pending => {
                return match self.entry.take_command() {
                    Command::Close(reason) => Step::End(reason),
                    Command::Park if socket.stays_with_task() => self.refuse_to_park(),
                    Command::Park => self.leave(),
                    Command::None => Step::Wait,
                };
            }
            Poll::Ready(Ok(())) => unread.filled().len(),
            // TLS without its goodbye.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            Poll::Ready(Err(_)) => return Step::End(CloseReason::IoError),
        };
        if read == 0 {
            return Step::End(CloseReason::ClientClosed);
        }
        match self.entry.take_command() {
            Command::Close(reason) if !reason.spares_use() => return Step::End(reason),
            // The client was faster than the close.
            _ => self.entry.forget_command(),
        }
        self.entry.add_read(read);
        if let Stage::Waiting(socket) = std::mem::replace(&mut self.stage, Stage::Ended) {
            self.stage = Stage::Resumed(socket, Bytes::copy_from_slice(&buffer[..read]));
        }
        Step::Again
    }

    /// Leaves the command standing, so that the sweep does not wake the task for it again and again.
    fn refuse_to_park(&self) -> Step {
        self.entry.set_command(Command::Park);
        Step::Wait
    }

    /// Leaves the socket to the lot, and ends without ending the connection.
    fn leave(&mut self) -> Step {
        let Stage::Waiting(socket) = std::mem::replace(&mut self.stage, Stage::Ended) else {
            return Step::Again;
        };
        // Held to the end, so that no command and no byte is missed.
        let mut holder = self.entry.holder();
        match self.served.lot.park(socket, self.entry.slot) {
            Ok(Ok(parked)) => {
                *holder = Holder::Lot(parked);
                self.stage = Stage::Left;
                Step::Again
            }
            Ok(Err(socket)) => {
                drop(holder);
                self.stage = Stage::Waiting(socket);
                Step::Again
            }
            Err(_) => {
                drop(holder);
                Step::End(CloseReason::IoError)
            }
        }
    }

    fn resume_serving(&mut self) -> Step {
        if let Stage::Resumed(socket, bytes) = std::mem::replace(&mut self.stage, Stage::Ended) {
            let first = self.entry.state() == ConnectionState::New;
            if !first {
                self.served.shared.count_unparked(&self.entry);
            }
            #[cfg(feature = "http2")]
            if first && http2::may_become_preface(&bytes) {
                let now = self.served.shared.clock.now();
                self.entry.enter(ConnectionState::Head, now);
                self.stage = Stage::Sniffing(socket, bytes.to_vec());
                return Step::Again;
            }
            self.activate(socket, bytes, first);
        }
        Step::Again
    }

    /// Begins to serve a socket from which these bytes were read.
    fn activate(&mut self, socket: Socket, rewind: Bytes, sniff: bool) {
        let shared = &self.served.shared;
        let info = || ConnectInfo::new(&socket, &self.entry, shared);
        let service = self.served.services.of(&self.entry, info);
        let info = shared.config.connect_info.then(info);
        let adapter = Adapter::new(service, Arc::clone(&self.entry), Arc::clone(shared), info);
        #[cfg(feature = "http2")]
        let http2 = sniff && http2::is_preface(&rewind);
        #[cfg(not(feature = "http2"))]
        let _ = sniff;
        let watch = match self.served.shared.config.strict_http1 {
            #[cfg(feature = "http2")]
            _ if http2 => {
                let shared = &self.served.shared;
                Watch::Http2(Meter::new(&shared.config.http2, shared.clock.now()))
            }
            true => Watch::Http1(Guard::new()),
            false => Watch::Nothing,
        };
        let io = Io::new(
            socket,
            rewind,
            watch,
            Arc::clone(&self.entry),
            Arc::clone(&self.served.shared),
            !sniff,
        );
        self.entry
            .enter(ConnectionState::Head, self.served.shared.clock.now());
        #[cfg(feature = "http2")]
        if http2 {
            let connection = self
                .served
                .shared
                .http2
                .serve_connection(TokioIo::new(io), adapter);
            self.stage = Stage::Http2(Box::new(ActiveHttp2::new(connection)));
            return;
        }
        self.stage = Stage::Simple(Box::new(Simple::new(
            io,
            adapter,
            self.served.early.clone(),
        )));
    }

    fn finished(&self, result: hyper::Result<()>) -> CloseReason {
        #[cfg(feature = "http2")]
        if self.entry.abusive.load(Relaxed) {
            return CloseReason::Abuse;
        }
        #[cfg(feature = "http2")]
        if let Some(reason) = result.as_ref().err().and_then(blame) {
            return reason;
        }
        match result {
            Ok(()) if self.entry.upgraded.load(Relaxed) => {
                let now = self.served.shared.clock.now();
                self.entry.enter(ConnectionState::Upgraded, now);
                CloseReason::Upgraded
            }
            Ok(()) if self.served.shared.draining() => CloseReason::Drained,
            Ok(()) if self.served.shared.is_last(self.entry.requests()) => CloseReason::MaxRequests,
            Ok(()) if self.entry.retire.load(Relaxed) => {
                self.spared_from.unwrap_or(CloseReason::MaxAge)
            }
            Ok(()) if self.entry.state() == ConnectionState::Idle => CloseReason::ClientClosed,
            Ok(()) => CloseReason::Finished,
            Err(error) if error.is_parse() => CloseReason::ProtocolError,
            Err(error) if error.is_user() => CloseReason::ServiceError,
            Err(_) => CloseReason::IoError,
        }
    }
}
