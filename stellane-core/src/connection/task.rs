use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};

#[cfg(feature = "http2")]
use super::http2::{self, Meter};
use super::{
    CloseReason, ConnectInfo, ConnectionState, body,
    entry::{Command, Entry, Holder},
    framing::Guard,
    io::{Io, Socket, Watch},
    lot::Lot,
    service::{Adapter, HttpService},
    services::Services,
    shared::Shared,
};

/// How much of a first read fits on the stack.
pub(super) const FIRST_READ: usize = 2048;

type Http1<S> = http1::UpgradeableConnection<TokioIo<Io>, Adapter<S>>;
#[cfg(feature = "http2")]
type Http2<S> =
    hyper::server::conn::http2::Connection<TokioIo<Io>, Adapter<S>, hyper_util::rt::TokioExecutor>;

/// What the connections of one call of `serve` share.
pub(super) struct Served<S> {
    pub(super) shared: Arc<Shared>,
    pub(super) services: Services<S>,
    pub(super) lot: Lot,
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
    Http1(Box<Active<S>>),
    #[cfg(feature = "http2")]
    Http2(Box<ActiveHttp2<S>>),
    /// The socket went to the lot.
    Left,
    Ended,
}

struct Active<S: HttpService> {
    connection: Http1<S>,
    /// Response bodies that are not sent to their end.
    open_bodies: i32,
    /// The count of requests and of bytes when the wait for a head began.
    idle_since: (u64, u64),
    /// The count of requests when hyper was put together.
    requests_before: u64,
}

#[cfg(feature = "http2")]
struct ActiveHttp2<S: HttpService> {
    connection: Http2<S>,
    goaway: bool,
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
        if matches!(self.stage, Stage::Left) {
            return;
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
                self.served.shared.count_unparked();
            }
            self.activate(socket, bytes, first);
        }
        Step::Again
    }

    /// Puts hyper's state together around a socket and the bytes already read from it.
    fn activate(&mut self, socket: Socket, rewind: Bytes, sniff: bool) {
        let shared = &self.served.shared;
        let info = || ConnectInfo::new(&socket, &self.entry, shared);
        let service = self.served.services.of(&self.entry, info);
        let info = shared.config.connect_info.then(info);
        let adapter = Adapter::new(service, Arc::clone(&self.entry), Arc::clone(shared), info);
        #[cfg(feature = "http2")]
        let http2 = sniff && rewind.starts_with(b"PRI");
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
            self.stage = Stage::Http2(Box::new(ActiveHttp2 {
                connection,
                goaway: false,
            }));
            return;
        }
        let connection = self
            .served
            .shared
            .http1
            .serve_connection(TokioIo::new(io), adapter)
            .with_upgrades();
        // Never equal to what is counted, so that the next wait for a head begins anew.
        let idle_since = (u64::MAX, 0);
        self.stage = Stage::Http1(Box::new(Active {
            connection,
            open_bodies: 0,
            idle_since,
            requests_before: self.entry.requests(),
        }));
    }

    fn poll_http1(&mut self, cx: &mut Context<'_>) -> Step {
        let Stage::Http1(active) = &mut self.stage else {
            return Step::Again;
        };
        let read_before = self.entry.bytes().0;
        let connection = Pin::new(&mut active.connection);
        let (polled, open_bodies) = body::observe(active.open_bodies, || connection.poll(cx));
        active.open_bodies = open_bodies;
        if let Poll::Ready(result) = polled {
            if result.is_err() {
                // For the answers to the requests before the one that failed.
                self.dismantle();
            }
            return Step::End(self.finished(result));
        }

        if self.entry.state() == ConnectionState::Closing {
            return match self.entry.take_command() {
                Command::Close(reason) => Step::End(reason),
                Command::Park | Command::None => Step::Wait,
            };
        }
        // What hyper holds of an answer that the client takes slowly is not sent yet.
        let waiting = active.open_bodies == 0
            && self.entry.in_flight() == 0
            && self.entry.write_stalled() == 0;
        let (requests, read) = (self.entry.requests(), self.entry.bytes().0);
        if !waiting {
            self.entry
                .enter(ConnectionState::Active, self.served.shared.clock.now());
        } else if active.idle_since.0 != requests {
            // Head before any request on this hyper connection: the bytes it was built around were
            // not a whole head.
            let fresh = active.requests_before == requests;
            active.idle_since = (requests, read);
            let state = if fresh {
                ConnectionState::Head
            } else {
                ConnectionState::Idle
            };
            self.entry.enter(state, self.served.shared.clock.now());
        } else if read > active.idle_since.1 {
            self.entry
                .enter(ConnectionState::Head, self.served.shared.clock.now());
        }

        match self.entry.take_command() {
            Command::None => Step::Wait,
            Command::Park => self.park(cx, None),
            Command::Close(reason) if reason.spares_use() => {
                if self.entry.state() == ConnectionState::Idle {
                    // Parked first, it is closed only if no byte is there.
                    return self.park(cx, Some(reason));
                }
                self.spared_from = Some(reason);
                self.entry.retire.store(true, Relaxed);
                self.entry.forget_command();
                Step::Wait
            }
            // Of several polls that are due, this one may have come before the client's bytes were seen.
            Command::Close(CloseReason::SlowBody) if self.entry.bytes().0 > read_before => {
                self.entry.forget_command();
                Step::Wait
            }
            Command::Close(reason @ (CloseReason::HeadTimeout | CloseReason::SlowBody)) => {
                self.request_timeout(reason)
            }
            Command::Close(reason) => Step::End(reason),
        }
    }

    /// Takes an idle connection apart, to park it or to close it for a reason.
    fn park(&mut self, cx: &mut Context<'_>, close: Option<CloseReason>) -> Step {
        if self.entry.state() != ConnectionState::Idle || self.entry.write_stalled() != 0 {
            return Step::Wait;
        }
        let Stage::Http1(active) = &mut self.stage else {
            return Step::Again;
        };
        self.entry.parking.store(true, Relaxed);
        let mut connection = Pin::new(&mut active.connection);
        connection.as_mut().graceful_shutdown();
        let polled = connection.poll(cx);
        self.entry.parking.store(false, Relaxed);
        match (polled, close) {
            (Poll::Ready(Ok(())), _) => {}
            (Poll::Ready(Err(_)), _) => return Step::End(CloseReason::IoError),
            // A client that has its answer and still sends the body of its request; hyper ends the
            // connection after it.
            (Poll::Pending, None) => return Step::Wait,
            (Poll::Pending, Some(reason)) => return Step::End(reason),
        }
        let Some((socket, unread, service)) = self.dismantle() else {
            return Step::Again;
        };
        self.served.services.keep(&self.entry, service);
        if !unread.is_empty() {
            // A pipelined part of a head, which hyper had read already.
            self.activate(socket, unread, false);
            return Step::Again;
        }
        self.entry
            .enter(ConnectionState::Parked, self.served.shared.clock.now());
        self.served.shared.purge.count_parked();
        self.stage = Stage::Waiting(socket);
        match close {
            None => self.leave(),
            Some(_) => Step::Again,
        }
    }

    /// The socket, what was read from it but not used, and the service.
    fn dismantle(&mut self) -> Option<(Socket, Bytes, S)> {
        let Stage::Http1(active) = std::mem::replace(&mut self.stage, Stage::Ended) else {
            return None;
        };
        // `None` after an upgrade, and then the connection's future has ended.
        let parts = active.connection.into_parts()?;
        let mut io = parts.io.into_inner();
        io.send_what_it_takes();
        // What hyper has read comes before what it has not asked for yet.
        let unread = if io.rewind.is_empty() {
            parts.read_buf
        } else {
            [&parts.read_buf[..], &io.rewind[..]].concat().into()
        };
        Some((io.socket, unread, parts.service.into_inner()))
    }

    /// Says 408, unless an answer has begun, and closes.
    fn request_timeout(&mut self, reason: CloseReason) -> Step {
        let answering = matches!(&self.stage, Stage::Http1(active) if active.open_bodies > 0);
        let answered = reason == CloseReason::SlowBody && self.entry.in_flight() == 0;
        if answering || answered {
            return Step::End(reason);
        }
        if let Some((mut socket, ..)) = self.dismantle() {
            socket.try_write(
                b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            );
        }
        Step::End(reason)
    }

    #[cfg(feature = "http2")]
    fn poll_http2(&mut self, cx: &mut Context<'_>) -> Step {
        let Stage::Http2(active) = &mut self.stage else {
            return Step::Again;
        };
        if let Poll::Ready(result) = Pin::new(&mut active.connection).poll(cx) {
            return Step::End(self.finished(result));
        }
        let idle = self.entry.in_flight() == 0;
        let state = if idle {
            ConnectionState::Idle
        } else {
            ConnectionState::Active
        };
        self.entry.enter(state, self.served.shared.clock.now());
        let last = self.entry.requests() > 0 && self.served.shared.is_last(self.entry.requests());
        let goaway = match self.entry.take_command() {
            Command::Close(reason) if !reason.spares_use() => return Step::End(reason),
            Command::Close(reason) => {
                self.reason.get_or_insert(reason);
                true
            }
            // HTTP/2 has state that can't be rebuilt: it is not parked.
            Command::Park | Command::None => {
                let retired = self.entry.retire.load(Relaxed) || self.entry.abusive.load(Relaxed);
                last || retired || self.served.shared.ends(&self.entry)
            }
        };
        if goaway && !active.goaway {
            // Two-phase: streams already begun are served to their end.
            active.goaway = true;
            Pin::new(&mut active.connection).graceful_shutdown();
            return Step::Again;
        }
        Step::Wait
    }

    fn finished(&self, result: hyper::Result<()>) -> CloseReason {
        #[cfg(feature = "http2")]
        if self.entry.abusive.load(Relaxed) {
            return CloseReason::Abuse;
        }
        #[cfg(feature = "http2")]
        if let Some(reason) = result.as_ref().err().and_then(http2::blame) {
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
