//! What drives a connection from its first byte to its end.

mod fast_path;
mod http1;
#[cfg(feature = "http2")]
mod http2;

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
#[cfg(feature = "http2")]
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};

#[cfg(feature = "http2")]
use crate::connection::protocol::{
    http2::{abuse::AbuseMeter, blame},
    task::http2::ActiveHttp2,
};
use crate::connection::{
    http_service::HttpService,
    lifecycle::Shared,
    protocol::{
        adapter::Adapter,
        builders::HyperBuilders,
        connect_info::ConnectInfo,
        http1::guard::FramingGuard,
        io::{Io, Watch},
        service_source::ServiceSource,
        task::{fast_path::FastPath, http1::Active},
    },
    reason::CloseReason,
    state::ConnectionState,
    table::{command::Command, owner::SocketOwner, record::Record},
    transport::{parked::ParkedPoller, socket::Socket},
};

/// How much of a first read fits on the stack.
pub(crate) const FIRST_READ: usize = 2048;

/// What the connections of one call of `serve` share.
pub(crate) struct Served<S> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) builders: Arc<HyperBuilders>,
    pub(crate) services: ServiceSource<S>,
    pub(crate) parked: ParkedPoller,
}

/// A connection that somebody serves, or that was just accepted. A parked one has no task: see
/// [`lot`](crate::connection::transport::parked).
pub(crate) struct Task<S: HttpService> {
    served: Arc<Served<S>>,
    record: Arc<Record>,
    stage: Stage<S>,
    /// Whether commands reach it.
    registered: bool,
    /// Why it ends, once that is known.
    pub(crate) reason: Option<CloseReason>,
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
    FastPath(Box<FastPath<S>>),
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
    pub(crate) fn new(served: Arc<Served<S>>, record: Arc<Record>, socket: Socket) -> Self {
        Self::with(served, record, Stage::Waiting(socket))
    }

    /// A connection whose socket is not ready to be read yet.
    #[cfg(feature = "tls")]
    pub(crate) fn opening(served: Arc<Served<S>>, record: Arc<Record>, opening: Opening) -> Self {
        Self::with(served, record, Stage::Opening(opening))
    }

    /// A connection that was parked until these bytes came.
    pub(crate) fn resume(
        served: Arc<Served<S>>,
        record: Arc<Record>,
        socket: Socket,
        bytes: Bytes,
    ) -> Self {
        Self::with(served, record, Stage::Resumed(socket, bytes))
    }

    fn with(served: Arc<Served<S>>, record: Arc<Record>, stage: Stage<S>) -> Self {
        Self {
            served,
            record,
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
            Stage::FastPath(simple) => simple.send_delayed(),
            _ => {}
        }
        if self.reason == Some(CloseReason::Upgraded) {
            if self.record.flags().leave_upgraded() {
                self.served.shared.end_upgraded(&self.record);
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
            .end(&self.record, self.reason.unwrap_or(unfinished));
    }
}

impl<S: HttpService> Future for Task<S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if !this.registered {
            this.registered = true;
            *this.record.owner().lock() = SocketOwner::Task(cx.waker().clone());
        }
        this.record.turn().begin();
        loop {
            let step = match &mut this.stage {
                #[cfg(feature = "tls")]
                Stage::Opening(opening) => match opening.as_mut().poll(cx) {
                    Poll::Ready(Ok(socket)) => {
                        this.stage = Stage::Waiting(socket);
                        Step::Again
                    }
                    Poll::Ready(Err(reason)) => Step::End(reason),
                    Poll::Pending => match this.record.commands().take() {
                        Command::Close(reason) => Step::End(reason),
                        Command::Park => this.refuse_to_park(),
                        Command::None => Step::Wait,
                    },
                },
                Stage::Waiting(_) => this.poll_waiting(cx),
                Stage::Resumed(..) => this.resume_serving(),
                #[cfg(feature = "http2")]
                Stage::Sniffing(..) => this.poll_sniffing(cx),
                Stage::FastPath(_) => this.poll_fast_path(cx),
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
                return match self.record.commands().take() {
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
        match self.record.commands().take() {
            Command::Close(reason) if !reason.yields_to_a_request() => return Step::End(reason),
            // The client was faster than the close.
            _ => self.record.commands().forget(),
        }
        self.record.add_read(read);
        if let Stage::Waiting(socket) = std::mem::replace(&mut self.stage, Stage::Ended) {
            self.stage = Stage::Resumed(socket, Bytes::copy_from_slice(&buffer[..read]));
        }
        Step::Again
    }

    /// Leaves the command standing, so that the sweep does not wake the task for it again and again.
    fn refuse_to_park(&self) -> Step {
        self.record.commands().ask(Command::Park);
        Step::Wait
    }

    /// Leaves the socket to the lot, and ends without ending the connection.
    fn leave(&mut self) -> Step {
        let Stage::Waiting(socket) = std::mem::replace(&mut self.stage, Stage::Ended) else {
            return Step::Again;
        };
        // Held to the end, so that no command and no byte is missed.
        let mut owner = self.record.owner().lock();
        match self.served.parked.park(socket, self.record.slot()) {
            Ok(Ok(parked)) => {
                *owner = SocketOwner::Parked(parked);
                self.stage = Stage::Left;
                Step::Again
            }
            Ok(Err(socket)) => {
                drop(owner);
                self.stage = Stage::Waiting(socket);
                Step::Again
            }
            Err(_) => {
                drop(owner);
                Step::End(CloseReason::IoError)
            }
        }
    }

    fn resume_serving(&mut self) -> Step {
        if let Stage::Resumed(socket, bytes) = std::mem::replace(&mut self.stage, Stage::Ended) {
            let first = self.record.state() == ConnectionState::New;
            if !first {
                self.served.shared.count_unparked(&self.record);
            }
            #[cfg(feature = "http2")]
            if first && http2::may_become_preface(&bytes) {
                let now = self.served.shared.clock.now();
                self.record.enter(ConnectionState::Head, now);
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
        let info = || ConnectInfo::new(&socket, &self.record, shared);
        let service = self.served.services.of(&self.record, info);
        let info = shared.config.connect_info.then(info);
        let adapter = Adapter::new(service, Arc::clone(&self.record), Arc::clone(shared), info);
        #[cfg(feature = "http2")]
        let http2 = sniff && http2::is_preface(&rewind);
        #[cfg(not(feature = "http2"))]
        let _ = sniff;
        let watch = match self.served.shared.config.strict_http1 {
            #[cfg(feature = "http2")]
            _ if http2 => {
                let shared = &self.served.shared;
                Watch::Http2(AbuseMeter::new(&shared.config.http2, shared.clock.now()))
            }
            true => Watch::Http1(FramingGuard::new()),
            false => Watch::Nothing,
        };
        let io = Io::new(
            socket,
            rewind,
            watch,
            Arc::clone(&self.record),
            Arc::clone(&self.served.shared),
            !sniff,
        );
        self.record
            .enter(ConnectionState::Head, self.served.shared.clock.now());
        #[cfg(feature = "http2")]
        if http2 {
            let connection = self
                .served
                .builders
                .http2
                .serve_connection(TokioIo::new(io), adapter);
            self.stage = Stage::Http2(Box::new(ActiveHttp2::new(connection)));
            return;
        }
        self.stage = Stage::FastPath(Box::new(FastPath::new(io, adapter)));
    }

    fn finished(&self, result: hyper::Result<()>) -> CloseReason {
        #[cfg(feature = "http2")]
        if self.record.flags().is_abusive() {
            return CloseReason::Abuse;
        }
        #[cfg(feature = "http2")]
        if let Some(reason) = result.as_ref().err().and_then(blame) {
            return reason;
        }
        match result {
            Ok(()) if self.record.flags().is_upgraded() => {
                let now = self.served.shared.clock.now();
                self.record.enter(ConnectionState::Upgraded, now);
                CloseReason::Upgraded
            }
            Ok(()) if self.served.shared.drain.has_begun() => CloseReason::Drained,
            Ok(()) if self.served.shared.is_last(self.record.requests()) => {
                CloseReason::MaxRequests
            }
            Ok(()) if self.record.flags().closes_after_response() => {
                self.spared_from.unwrap_or(CloseReason::MaxAge)
            }
            Ok(()) if self.record.state() == ConnectionState::Idle => CloseReason::ClientClosed,
            Ok(()) => CloseReason::Finished,
            Err(error) if error.is_parse() => CloseReason::ProtocolError,
            Err(error) if error.is_user() => CloseReason::ServiceError,
            Err(_) => CloseReason::IoError,
        }
    }
}
