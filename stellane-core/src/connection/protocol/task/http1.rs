//! HTTP/1 while hyper has it.

use std::{
    error::Error,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;

use crate::connection::{
    http_service::HttpService,
    protocol::{
        adapter::Adapter,
        io::{Io, inspect::UnknownCoding},
        open_body,
        task::connection::{Connection, Step},
    },
    reason::CloseReason,
    state::ConnectionState,
    table::command::Command,
    transport::socket::Socket,
};

type Http1<S> = http1::UpgradeableConnection<TokioIo<Io>, Adapter<S>>;

/// An HTTP/1 connection while hyper has it.
pub(crate) struct ActiveHttp1<S: HttpService> {
    hyper: Http1<S>,
    /// Response bodies that are not sent to their end.
    open_bodies: i32,
    /// The count of requests and of bytes when the wait for a head began.
    idle_since: (u64, u64),
    /// The count of requests when hyper was put together, if it was around the beginning of a head.
    head_after: Option<u64>,
}

/// Why hyper is to give back what it has.
pub(crate) enum TakeApart {
    /// The connection is idle: to be parked, or to be closed for a reason.
    Idle(Option<CloseReason>),
    /// It ends, with answers that are not sent yet to the requests before the one that failed.
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
    Ended(CloseReason),
}

impl<S: HttpService> ActiveHttp1<S> {
    pub(crate) fn new(hyper: Http1<S>, head_after: Option<u64>, open_bodies: i32) -> Self {
        Self {
            hyper,
            open_bodies,
            // Never equal to what is counted, so that the next wait for a head begins anew.
            idle_since: (u64::MAX, 0),
            head_after,
        }
    }

    pub(crate) fn poll(
        &mut self,
        connection: &mut Connection<S>,
        cx: &mut Context<'_>,
    ) -> Step<TakeApart> {
        let read_before = connection.record.bytes().0;
        let hyper = Pin::new(&mut self.hyper);
        let (polled, open_bodies) = open_body::observe(self.open_bodies, || hyper.poll(cx));
        self.open_bodies = open_bodies;
        if let Poll::Ready(result) = polled {
            if result.as_ref().err().is_some_and(is_not_for_hyper) {
                return Step::Next(TakeApart::NotImplemented);
            }
            let failed = result.is_err();
            let reason = connection.finished(result);
            return match failed {
                true => Step::Next(TakeApart::Ended(reason)),
                false => Step::End(reason),
            };
        }

        let record = &connection.record;
        if record.state() == ConnectionState::Closing {
            return match record.commands().take() {
                // Its client does not end: it does, for the reason for which it began to.
                Command::Close(CloseReason::Finished) => Step::End(connection.finished(Ok(()))),
                Command::Close(reason) => Step::End(reason),
                Command::Park | Command::None => Step::Wait,
            };
        }
        // What hyper holds of an answer that the client takes slowly is not sent yet.
        let waiting = self.open_bodies == 0
            && record.answers().in_flight() == 0
            && record.answers().write_stalled() == 0;
        let (requests, read) = (record.requests(), record.bytes().0);
        if !waiting {
            connection.enter(ConnectionState::Active);
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
            Command::Close(reason) => Step::End(reason),
        }
    }

    /// Has hyper end an idle connection without its socket, to park it or to close it for a reason.
    fn park(
        &mut self,
        connection: &Connection<S>,
        cx: &mut Context<'_>,
        close: Option<CloseReason>,
    ) -> Step<TakeApart> {
        let record = &connection.record;
        if record.state() != ConnectionState::Idle || record.answers().write_stalled() != 0 {
            return Step::Wait;
        }
        record.flags().begin_parking();
        let mut hyper = Pin::new(&mut self.hyper);
        hyper.as_mut().graceful_shutdown();
        let polled = hyper.poll(cx);
        record.flags().end_parking();
        match (polled, close) {
            (Poll::Ready(Ok(())), _) => Step::Next(TakeApart::Idle(close)),
            (Poll::Ready(Err(_)), _) => Step::End(CloseReason::IoError),
            // A client that has its answer and still sends the body of its request; hyper ends the
            // connection after it.
            (Poll::Pending, None) => Step::Wait,
            (Poll::Pending, Some(reason)) => Step::End(reason),
        }
    }

    pub(crate) fn take_apart(self, why: TakeApart) -> TakenApart<S> {
        let parts = self.dismantle();
        match (why, parts) {
            (TakeApart::Idle(close), Some((socket, unread, service))) => TakenApart::Idle {
                socket,
                unread,
                service,
                close,
            },
            // hyper gives nothing back after a request for an upgrade, also of one that was declined.
            (TakeApart::Idle(_), None) => TakenApart::Ended(CloseReason::Finished),
            (TakeApart::Ended(reason), _) => TakenApart::Ended(reason),
            (TakeApart::TimedOut(reason), parts) => {
                if let Some((mut socket, ..)) = parts {
                    socket.try_write(
                        b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
                    );
                }
                TakenApart::Ended(reason)
            }
            (TakeApart::NotImplemented, parts) => {
                if let Some((mut socket, ..)) = parts {
                    socket.try_write(
                        b"HTTP/1.1 501 Not Implemented\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
                    );
                }
                TakenApart::Ended(CloseReason::ProtocolError)
            }
        }
    }

    /// The socket, what was read from it but not used, and the service.
    fn dismantle(self) -> Option<(Socket, Bytes, S)> {
        // `None` after an upgrade, and then the connection's future has ended.
        let parts = self.hyper.into_parts()?;
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
}

/// Whether hyper was told of a request that it is not to have.
fn is_not_for_hyper(error: &hyper::Error) -> bool {
    let error = error.source().and_then(|e| e.downcast_ref::<io::Error>());
    error
        .and_then(io::Error::get_ref)
        .is_some_and(|e| e.is::<UnknownCoding>())
}
