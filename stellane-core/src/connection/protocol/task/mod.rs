//! The state machine of one connection.

pub(crate) mod closing;
pub(crate) mod connection;
pub(crate) mod fast_path;
pub(crate) mod http1;
#[cfg(feature = "http2")]
pub(crate) mod http2;
pub(crate) mod read_ahead;
mod waiting;
pub(crate) mod waits;

use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
#[cfg(feature = "http2")]
use hyper_util::rt::TokioIo;

#[cfg(feature = "http2")]
use crate::connection::protocol::{
    http2::{abuse::AbuseMeter, ledger::Ledger, service::StreamService, trailers::TrailerMarks},
    task::http2::{ActiveHttp2, Sniffing, is_preface, may_become_preface},
};
#[cfg(feature = "tls")]
use crate::connection::table::command::Command;
use crate::connection::{
    http_service::HttpService,
    lifecycle::Shared,
    protocol::{
        adapter::Adapter,
        connect_info::ConnectInfo,
        http1::{fast_path::refusal::Judged, guard::FramingGuard},
        io::{Io, inspect::Watch},
        scope,
        task::{
            closing::Closing,
            connection::{Connection, Served, Step},
            fast_path::{FastPath, Next},
            http1::{ActiveHttp1, TakenApart},
        },
    },
    reason::CloseReason,
    state::ConnectionState,
    table::{owner::SocketOwner, record::Record},
    transport::socket::Socket,
    woken::Stamped,
};

/// A connection that somebody serves, or that was just accepted. A parked one has no task: see
/// [`parked`](crate::connection::transport::parked).
pub(crate) struct Task<S: HttpService> {
    connection: Connection<S>,
    stage: Stage<S>,
    /// Whether commands reach it.
    registered: bool,
    /// What handlers find of their manager while it is polled.
    scope: Option<Arc<Shared>>,
    /// If somebody wants to know when it was woken: from its first poll on.
    stamped: Option<Stamped>,
    spawned: Option<u64>,
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
    Resumed(Socket, Bytes, Judged),
    #[cfg(feature = "http2")]
    Sniffing(Sniffing),
    /// HTTP/1 without hyper.
    FastPath(Box<FastPath<S>>),
    Http1(Box<ActiveHttp1<S>>),
    #[cfg(feature = "http2")]
    Http2(Box<ActiveHttp2<S>>),
    Closing(Box<Closing>),
    /// The socket is parked, and needs no task.
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
        judged: Judged,
    ) -> Self {
        Self::with(served, record, Stage::Resumed(socket, bytes, judged))
    }

    fn with(served: Arc<Served<S>>, record: Arc<Record>, stage: Stage<S>) -> Self {
        Self {
            scope: Some(Arc::clone(&served.shared)),
            stamped: None,
            spawned: served.shared.wakes.now(),
            connection: Connection::new(served, record),
            stage,
            registered: false,
        }
    }

    /// Why it ended, once it has.
    pub(crate) fn reason(&self) -> Option<CloseReason> {
        self.connection.reason
    }
}

impl<S: HttpService> Drop for Task<S> {
    fn drop(&mut self) {
        match mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Left => return,
            Stage::FastPath(mut fast_path) => fast_path.send_what_it_takes(),
            Stage::Http1(active) => active.send_what_it_takes(),
            _ => {}
        }
        let Connection { record, reason, .. } = &self.connection;
        let shared = self.connection.shared();
        if *reason == Some(CloseReason::Upgraded) {
            if record.flags().leave_upgraded() {
                shared.end_upgraded(record);
            }
            return;
        }
        // Dropped unfinished: the runtime shuts down, or a handler's panic came through.
        let unfinished = if std::thread::panicking() {
            CloseReason::ServiceError
        } else {
            CloseReason::Aborted
        };
        shared.end(record, reason.unwrap_or(unfinished));
    }
}

impl<S: HttpService> Future for Task<S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if !this.registered {
            this.registered = true;
            *this.connection.record.owner().lock() = SocketOwner::Task(cx.waker().clone());
            let wakes = &this.connection.shared().wakes;
            this.stamped = wakes.stamped(this.spawned, cx.waker());
        }
        this.connection.record.turn().begin();
        let entered = scope::enter(this.scope.take());
        let mut stamped = this.stamped.take();
        let turn = stamped.as_mut().map(|stamped| stamped.begin(cx.waker()));
        let waker = stamped.as_ref().map_or(cx.waker(), Stamped::waker);
        let polled = this.run(&mut Context::from_waker(waker));
        drop(turn);
        this.stamped = stamped;
        if mem::take(&mut this.connection.again) {
            cx.waker().wake_by_ref();
        }
        this.scope = entered.leave();
        polled
    }
}

impl<S: HttpService> Task<S> {
    #[inline]
    fn run(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.step(cx) {
                Step::Next(()) => {}
                Step::Wait => return Poll::Pending,
                Step::End(reason) => {
                    self.connection.reason.get_or_insert(reason);
                    self.stage = Stage::Ended;
                }
            }
            if matches!(self.stage, Stage::Left | Stage::Ended) {
                return Poll::Ready(());
            }
        }
    }

    fn step(&mut self, cx: &mut Context<'_>) -> Step<()> {
        let connection = &mut self.connection;
        match &mut self.stage {
            #[cfg(feature = "tls")]
            Stage::Opening(opening) => match opening.as_mut().poll(cx) {
                Poll::Ready(Ok(socket)) => {
                    connection.has_come(CloseReason::HandshakeTimeout);
                    self.stage = Stage::Waiting(socket);
                    Step::Next(())
                }
                Poll::Ready(Err(reason)) => Step::End(reason),
                Poll::Pending => match connection.record.commands().take() {
                    Command::Close(reason) => Step::End(reason),
                    Command::Park => self.refuse_to_park(),
                    Command::None => Step::Wait,
                },
            },
            Stage::Waiting(_) => self.poll_waiting(cx),
            Stage::Resumed(..) => self.resume_serving(),
            #[cfg(feature = "http2")]
            Stage::Sniffing(sniffing) => match sniffing.poll(connection, cx) {
                Step::Wait => Step::Wait,
                Step::End(reason) => Step::End(reason),
                Step::Next(()) => self.sniffed(),
            },
            Stage::FastPath(fast_path) => match fast_path.poll(connection, cx) {
                Step::Wait => Step::Wait,
                Step::End(reason) => Step::End(reason),
                Step::Next(next) => self.after_fast_path(next),
            },
            Stage::Http1(active) => match active.poll(connection, cx) {
                Step::Wait => Step::Wait,
                Step::End(reason) => Step::End(reason),
                Step::Next(why) => match mem::replace(&mut self.stage, Stage::Ended) {
                    Stage::Http1(active) => self.after_hyper(active.take_apart(why)),
                    _ => Step::Next(()),
                },
            },
            #[cfg(feature = "http2")]
            Stage::Http2(active) => active.poll(connection, cx).map(|never| match never {}),
            Stage::Closing(closing) => closing.poll(connection, cx).map(|never| match never {}),
            Stage::Left | Stage::Ended => Step::Wait,
        }
    }

    fn resume_serving(&mut self) -> Step<()> {
        if let Stage::Resumed(socket, bytes, judged) = mem::replace(&mut self.stage, Stage::Ended) {
            let record = &self.connection.record;
            let first = record.state() == ConnectionState::New;
            if !first {
                let by_time = !judged.was_refused;
                self.connection.shared().count_unparked(record, by_time);
            }
            #[cfg(feature = "http2")]
            if first && may_become_preface(&bytes) {
                self.connection.enter(ConnectionState::Head);
                self.stage = Stage::Sniffing(Sniffing::new(socket, &bytes));
                return Step::Next(());
            }
            self.activate(socket, bytes, first, judged);
        }
        Step::Next(())
    }

    #[cfg(feature = "http2")]
    fn sniffed(&mut self) -> Step<()> {
        if let Stage::Sniffing(sniffing) = mem::replace(&mut self.stage, Stage::Ended) {
            self.connection.has_come(CloseReason::HeadTimeout);
            let (socket, bytes) = sniffing.into_parts();
            self.activate(socket, bytes, true, Judged::default());
        }
        Step::Next(())
    }

    /// Begins to serve a socket from which these bytes were read.
    fn activate(&mut self, socket: Socket, rewind: Bytes, sniff: bool, judged: Judged) {
        let Connection { served, record, .. } = &self.connection;
        let shared = &served.shared;
        let info = || ConnectInfo::new(&socket, record, shared);
        let service = served.services.of(record, info);
        let info = shared.config.connect_info.then(info);
        let adapter = Adapter::new(service, Arc::clone(record), Arc::clone(shared), info);
        #[cfg(feature = "http2")]
        let ledger = (sniff && (is_preface(&rewind) || !shared.config.http1))
            .then(|| Arc::new(Ledger::new(Arc::clone(record))));
        let watch = match shared.config.strict_http1 {
            true => Watch::Http1(FramingGuard::new()),
            false => Watch::Nothing,
        };
        #[cfg(feature = "http2")]
        let watch = match &ledger {
            Some(ledger) => {
                let now = shared.clock.now();
                let meter = AbuseMeter::new(&shared.config.http2, Arc::clone(ledger), now);
                Watch::Http2(Box::new(meter), TrailerMarks::of(&shared.config))
            }
            None => watch,
        };
        let (record, shared) = (Arc::clone(record), Arc::clone(shared));
        let io = Io::new(socket, rewind, watch, record, shared, !sniff);
        self.connection.enter(ConnectionState::Head);
        #[cfg(feature = "http2")]
        if let Some(ledger) = ledger {
            let Connection { served, record, .. } = &self.connection;
            let strict = served.shared.config.strict_http1;
            let service = StreamService::new(adapter, record, Arc::clone(&ledger), strict);
            let http2 = served.builders.http2(&served.shared);
            let hyper = http2.serve_connection(TokioIo::new(io), service);
            let active = ActiveHttp2::new(hyper, ledger, &served.shared);
            self.stage = Stage::Http2(Box::new(active));
            return;
        }
        let early = self.connection.served.early.clone();
        self.stage = Stage::FastPath(Box::new(FastPath::new(io, adapter, early, judged)));
    }

    /// What comes after the fast path.
    fn after_fast_path(&mut self, next: Next<S>) -> Step<()> {
        let Stage::FastPath(fast_path) = mem::replace(&mut self.stage, Stage::Ended) else {
            return Step::Next(());
        };
        match next {
            Next::Idle(close) => {
                let (socket, service, _) = fast_path.into_parts();
                self.connection.shared().memory.count_freed();
                self.park_or_close(socket, service, close)
            }
            Next::ForLots => {
                let (socket, service, pressed) = fast_path.into_parts();
                let Connection { served, record, .. } = &self.connection;
                served.lots.park(record, pressed);
                self.park_or_close(socket, service, None)
            }
            Next::Hyper(for_hyper) => {
                match ActiveHttp1::new(fast_path.into_io(), for_hyper, &self.connection) {
                    Ok(active) => {
                        self.stage = Stage::Http1(Box::new(active));
                        Step::Next(())
                    }
                    Err(_) => Step::End(CloseReason::IoError),
                }
            }
        }
    }

    /// What comes after hyper.
    fn after_hyper(&mut self, taken_apart: TakenApart<S>) -> Step<()> {
        match taken_apart {
            TakenApart::Ended(reason) => Step::End(reason),
            TakenApart::Closing {
                socket,
                unsent,
                reason,
            } => {
                let closing = Closing::new(socket, unsent, reason);
                self.stage = Stage::Closing(Box::new(closing));
                Step::Next(())
            }
            TakenApart::Idle {
                socket,
                unread,
                service,
                close,
            } if unread.is_empty() => {
                self.connection.shared().memory.count_freed();
                self.park_or_close(socket, service, close)
            }
            TakenApart::Idle {
                socket,
                unread,
                service,
                ..
            } => {
                // A pipelined part of a head, which hyper had read already.
                let Connection { served, record, .. } = &self.connection;
                served.services.keep(record, service);
                self.activate(socket, unread, false, Judged::default());
                Step::Next(())
            }
        }
    }

    /// Parks what is left of an idle connection, or closes it for a reason.
    fn park_or_close(
        &mut self,
        socket: Socket,
        service: S,
        close: Option<CloseReason>,
    ) -> Step<()> {
        let Connection { served, record, .. } = &self.connection;
        served.services.keep(record, service);
        self.connection.enter(ConnectionState::Parked);
        self.stage = Stage::Waiting(socket);
        match close {
            None => self.leave(),
            Some(_) => Step::Next(()),
        }
    }
}
