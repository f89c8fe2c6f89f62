//! HTTP/1 while hyper has it.
//!
//! Everything that was handed to the service is answered, whatever comes behind it and however the connection ends: hyper
//! never ends a socket, and what it has written goes out in [`Closing`](super::closing::Closing). What can come before an
//! answer is counted by its reason: the client's reset ([`IoError`](CloseReason::IoError)), its end, after a grace
//! ([`HalfClosed`](CloseReason::HalfClosed)), a deadline of ours, a service that fails, and a close by hand or at the end
//! of a drain. `tests/connection_simulation.rs` and `tests/connection/answers.rs` hold it to that.

use std::{
    error::Error,
    io, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::StatusCode;
use http_body::Body;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;

use crate::connection::{
    http_service::HttpService,
    incoming::UnreadBody,
    protocol::{
        adapter::Adapter,
        http1::refusal,
        io::{Io, inspect::UnknownCoding, linger::MAX_LINGER},
        open_body,
        task::{
            connection::{Connection, Step},
            fast_path::ForHyper,
        },
    },
    reason::CloseReason,
    state::ConnectionState,
    table::command::Command,
    transport::socket::Socket,
};

/// An HTTP/1 connection while hyper has it.
pub(crate) struct ActiveHttp1<S: HttpService> {
    hyper: Hyper<S>,
    unread: Arc<UnreadBody>,
    /// What is left of a request's body, and how much of it was read and dropped.
    drained: Option<(hyper::body::Incoming, u64)>,
    /// Response bodies that are not sent to their end.
    open_bodies: i32,
    /// The count of requests and of bytes when the wait for a head began.
    idle_since: (u64, u64),
    /// The count of requests when hyper was put together, if it was around the beginning of a head.
    head_after: Option<u64>,
    /// Bytes written when the client had ended its side, and somebody looked.
    written: u64,
    /// Why it ends, when hyper is done and only has to send what it holds.
    ending: Option<CloseReason>,
}

/// Only the upgradeable one gives its socket to whoever asked for an upgrade, and it does so also when the upgrade was
/// declined: so it is used once a service has agreed to one.
enum Hyper<S: HttpService> {
    Plain(http1::Connection<TokioIo<Io>, Adapter<S>>),
    Upgrading(http1::UpgradeableConnection<TokioIo<Io>, Adapter<S>>),
    Apart(Box<http1::Parts<TokioIo<Io>, Adapter<S>>>),
    Gone,
}

/// Why hyper is to give back what it has.
#[derive(Clone, Copy)]
pub(crate) enum TakeApart {
    /// The connection is idle: to be parked, or to be closed for a reason.
    Idle(Option<CloseReason>),
    /// It ends; there may be answers that are not sent yet.
    Ended(CloseReason),
    /// A request took too long, and no answer to it has begun: it is told 408.
    TimedOut(CloseReason),
    /// The next request is not for hyper: it is told 501.
    NotImplemented,
}

/// What hyper has given back.
pub(crate) enum TakenApart<S> {
    Idle {
        socket: Socket,
        /// What was read from it and not used.
        unread: Bytes,
        service: S,
        close: Option<CloseReason>,
    },
    Closing {
        socket: Socket,
        unsent: Vec<u8>,
        reason: CloseReason,
    },
    Ended(CloseReason),
}

impl<S: HttpService> Hyper<S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        match self {
            Self::Plain(hyper) => Pin::new(hyper).poll(cx),
            Self::Upgrading(hyper) => Pin::new(hyper).poll(cx),
            Self::Apart(_) | Self::Gone => Poll::Ready(Ok(())),
        }
    }

    fn into_parts(self) -> Option<http1::Parts<TokioIo<Io>, Adapter<S>>> {
        match self {
            Self::Plain(hyper) => Some(hyper.into_parts()),
            // `None` after an upgrade, and then the connection's future has ended.
            Self::Upgrading(hyper) => hyper.into_parts(),
            Self::Apart(parts) => Some(*parts),
            Self::Gone => None,
        }
    }
}

impl<S: HttpService> ActiveHttp1<S> {
    /// Goes on with what is not for the fast path.
    ///
    /// # Errors
    /// The system does not watch the socket for it.
    #[cold]
    pub(crate) fn new(
        (mut io, mut adapter): (Io, Adapter<S>),
        for_hyper: ForHyper<S>,
        connection: &Connection<S>,
    ) -> io::Result<Self> {
        let ForHyper {
            unread,
            answer,
            open_bodies,
        } = for_hyper;
        let Connection { served, record, .. } = connection;
        io.unwatch(&served.parked)?;
        // hyper comes to ask for the answer that is there as for another.
        let requests = record.requests() - u64::from(answer.is_some());
        let begins_a_head = answer.is_none() && !unread.is_empty();
        io.begin_anew(unread, requests);
        let most = served.shared.config.unread_body_bytes;
        let unread = Arc::new(UnreadBody::new(most, record.client()));
        adapter.serve_hyper(answer, Arc::clone(&unread));
        let hyper = served
            .builders
            .http1
            .serve_connection(TokioIo::new(io), adapter);
        Ok(Self {
            hyper: Hyper::Plain(hyper),
            unread,
            drained: None,
            open_bodies,
            // Never equal to what is counted, so that the next wait for a head begins anew.
            idle_since: (u64::MAX, 0),
            head_after: begins_a_head.then_some(requests),
            written: 0,
            ending: None,
        })
    }

    pub(crate) fn poll(
        &mut self,
        connection: &mut Connection<S>,
        cx: &mut Context<'_>,
    ) -> Step<TakeApart> {
        let read_before = connection.record.bytes().0;
        let polled = self.poll_hyper(connection, cx);
        if let Some(reason) = self.ending {
            return match (polled, connection.record.commands().take()) {
                (Poll::Pending, Command::Close(reason)) if !reason.yields_to_a_request() => {
                    Step::End(reason)
                }
                (Poll::Pending, _) => Step::Wait,
                (Poll::Ready(_), _) => Step::Next(TakeApart::Ended(reason)),
            };
        }
        if let Poll::Ready(result) = polled {
            if result.as_ref().err().is_some_and(is_not_for_hyper) {
                return Step::Next(TakeApart::NotImplemented);
            }
            let failed = result.is_err();
            let reason = connection.finished(result);
            if reason == CloseReason::Upgraded {
                return Step::End(reason);
            }
            if !failed {
                // After a request for an upgrade hyper is done before it has sent all.
                self.ending = Some(reason);
                return self.poll(connection, cx);
            }
            return Step::Next(TakeApart::Ended(reason));
        }

        let record = &connection.record;
        // What hyper holds of an answer that the client takes slowly is not sent yet.
        let waiting = self.open_bodies == 0
            && self.drained.is_none()
            && !self.unread.is_held(cx)
            && record.answers().in_flight() == 0
            && record.answers().write_stalled() == 0;
        let (requests, read) = (record.requests(), record.bytes().0);
        if !waiting {
            connection.enter_active(&mut self.written);
        } else if self.idle_since.0 != requests {
            // The bytes that it was built around were not a whole head.
            let fresh = self.head_after == Some(requests);
            self.idle_since = (requests, read);
            connection.enter(if fresh {
                ConnectionState::Head
            } else {
                ConnectionState::Idle
            });
        } else if read > self.idle_since.1 {
            connection.enter(ConnectionState::Head);
        }

        match record.commands().take() {
            Command::None => Step::Wait,
            Command::Park => self.park(connection, cx, None),
            Command::Close(reason) if reason.yields_to_a_request() => {
                if record.state() == ConnectionState::Idle {
                    // Parked first, it is closed only if no byte is there.
                    return self.park(connection, cx, Some(reason));
                }
                // A part of a head, and no more of it for as long as a drain leaves idle connections open.
                let has_come = record.bytes().0 > read_before;
                if record.state() == ConnectionState::Head
                    && reason == CloseReason::Drained
                    && !has_come
                {
                    return Step::End(reason);
                }
                connection.spare(reason);
                Step::Wait
            }
            // Of several polls that are due, this one may have come before the client's bytes were seen.
            Command::Close(CloseReason::SlowBody) if record.bytes().0 > read_before => {
                record.commands().forget();
                Step::Wait
            }
            // The rest of it has come.
            Command::Close(CloseReason::HeadTimeout) if record.state() != ConnectionState::Head => {
                connection.has_come(CloseReason::HeadTimeout);
                Step::Wait
            }
            // The client has made room in that moment.
            Command::Close(CloseReason::SlowRead) if record.answers().write_stalled() == 0 => {
                record.commands().forget();
                Step::Wait
            }
            Command::Close(reason @ (CloseReason::HeadTimeout | CloseReason::SlowBody)) => {
                let answered = reason == CloseReason::SlowBody && record.answers().in_flight() == 0;
                if self.open_bodies > 0 || answered {
                    return Step::End(reason);
                }
                Step::Next(TakeApart::TimedOut(reason))
            }
            // The answer has gone on since.
            Command::Close(CloseReason::HalfClosed) if waiting || connection.goes_on() => {
                record.commands().forget();
                Step::Wait
            }
            // The answers to those before it are sent.
            Command::Close(CloseReason::HalfClosed) => {
                Step::Next(TakeApart::Ended(CloseReason::HalfClosed))
            }
            Command::Close(reason) => Step::End(reason),
        }
    }

    /// Polls hyper, drops what nobody reads of a request's body, and has hyper go on with what it can then.
    fn poll_hyper(
        &mut self,
        connection: &Connection<S>,
        cx: &mut Context<'_>,
    ) -> Poll<hyper::Result<()>> {
        loop {
            let hyper = &mut self.hyper;
            let (polled, open_bodies) = open_body::observe(self.open_bodies, || hyper.poll(cx));
            self.open_bodies = open_bodies;
            if polled.is_ready() {
                return polled;
            }
            if connection.record.flags().is_upgraded() && matches!(self.hyper, Hyper::Plain(_)) {
                // The response that agrees waits for this.
                connection.enter(ConnectionState::Upgraded);
                self.hyper = match mem::replace(&mut self.hyper, Hyper::Gone) {
                    Hyper::Plain(hyper) => Hyper::Upgrading(hyper.with_upgrades()),
                    other => other,
                };
            } else if !self.drain_unread(cx) {
                if self.drained.is_some() {
                    // It has to come at the least rate of bodies.
                    connection.record.turn().starve();
                }
                return Poll::Pending;
            }
        }
    }

    /// Reads and drops what is there of a body that nobody reads; whether there was anything, or there is no more to come.
    fn drain_unread(&mut self, cx: &mut Context<'_>) -> bool {
        if self.drained.is_none() {
            self.drained = self.unread.take().map(|body| (body, 0));
        }
        if self.drained.is_some() && self.unread.is_given_up() {
            // hyper is done without it.
            self.drained = None;
            return true;
        }
        let Some((body, length)) = &mut self.drained else {
            return false;
        };
        match Pin::new(body).poll_frame(cx) {
            Poll::Pending => return false,
            Poll::Ready(Some(Ok(frame))) => {
                *length += frame.data_ref().map_or(0, Bytes::len) as u64;
                if *length > MAX_LINGER {
                    self.drained = None;
                }
            }
            Poll::Ready(None | Some(Err(_))) => self.drained = None,
        }
        true
    }

    /// Takes an idle connection apart, to park it or to close it for a reason.
    fn park(
        &mut self,
        connection: &Connection<S>,
        cx: &mut Context<'_>,
        close: Option<CloseReason>,
    ) -> Step<TakeApart> {
        if connection.record.state() != ConnectionState::Idle {
            return Step::Wait;
        }
        let Some(parts) = mem::replace(&mut self.hyper, Hyper::Gone).into_parts() else {
            return Step::End(CloseReason::Finished);
        };
        if !parts.io.inner().holds_answers() {
            self.hyper = Hyper::Apart(Box::new(parts));
            return Step::Next(TakeApart::Idle(close));
        }
        // hyper only lets others have their turn before the next of its requests.
        let mut io = parts.io.into_inner();
        io.begin_again(parts.read_buf, connection.record.requests());
        let http1 = &connection.served.builders.http1;
        self.hyper = Hyper::Plain(http1.serve_connection(TokioIo::new(io), parts.service));
        cx.waker().wake_by_ref();
        Step::Wait
    }

    pub(crate) fn take_apart(self, why: TakeApart) -> TakenApart<S> {
        let Some(parts) = self.hyper.into_parts() else {
            let (TakeApart::Ended(reason) | TakeApart::TimedOut(reason)) = why else {
                return TakenApart::Ended(CloseReason::Finished);
            };
            return TakenApart::Ended(reason);
        };
        let (socket, unread, mut unsent) = parts.io.into_inner().into_parts(parts.read_buf);
        match why {
            TakeApart::Idle(close) => TakenApart::Idle {
                socket,
                unread,
                service: parts.service.into_inner(),
                close,
            },
            TakeApart::Ended(reason) => TakenApart::Closing {
                socket,
                unsent,
                reason,
            },
            TakeApart::TimedOut(reason) => {
                refusal::write(StatusCode::REQUEST_TIMEOUT, &mut unsent);
                TakenApart::Closing {
                    socket,
                    unsent,
                    reason,
                }
            }
            TakeApart::NotImplemented => {
                refusal::write(StatusCode::NOT_IMPLEMENTED, &mut unsent);
                TakenApart::Closing {
                    socket,
                    unsent,
                    reason: CloseReason::ProtocolError,
                }
            }
        }
    }

    /// Sends what was to be sent, as far as the socket takes it: for an end that comes from a panic.
    pub(crate) fn send_what_it_takes(self) {
        if let Some(parts) = self.hyper.into_parts() {
            let (mut socket, _, unsent) = parts.io.into_inner().into_parts(parts.read_buf);
            if !unsent.is_empty() {
                socket.try_write(&unsent);
            }
        }
    }
}

/// Whether hyper was told of a request that it is not to have.
fn is_not_for_hyper(error: &hyper::Error) -> bool {
    let error = error.source().and_then(|e| e.downcast_ref::<io::Error>());
    error
        .and_then(io::Error::get_ref)
        .is_some_and(|e| e.is::<UnknownCoding>())
}
