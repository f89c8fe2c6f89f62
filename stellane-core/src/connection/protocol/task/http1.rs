use std::{
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
        io::Io,
        open_body,
        task::{Stage, Step, Task},
    },
    reason::CloseReason,
    state::ConnectionState,
    table::command::Command,
    transport::socket::Socket,
};

type Http1<S> = http1::UpgradeableConnection<TokioIo<Io>, Adapter<S>>;
/// An HTTP/1 connection while hyper has it.
pub(super) struct Active<S: HttpService> {
    connection: Http1<S>,
    /// Response bodies that are not sent to their end.
    open_bodies: i32,
    /// The count of requests and of bytes when the wait for a head began.
    idle_since: (u64, u64),
    /// The count of requests when hyper was put together, if it was around the beginning of a head.
    head_after: Option<u64>,
}

impl<S: HttpService> Active<S> {
    pub(super) fn new(connection: Http1<S>, head_after: Option<u64>, open_bodies: i32) -> Self {
        Self {
            connection,
            open_bodies,
            // Never equal to what is counted, so that the next wait for a head begins anew.
            idle_since: (u64::MAX, 0),
            head_after,
        }
    }
}

impl<S: HttpService> Task<S> {
    pub(super) fn poll_http1(&mut self, cx: &mut Context<'_>) -> Step {
        let Stage::Http1(active) = &mut self.stage else {
            return Step::Again;
        };
        let read_before = self.record.bytes().0;
        let connection = Pin::new(&mut active.connection);
        let (polled, open_bodies) = open_body::observe(active.open_bodies, || connection.poll(cx));
        active.open_bodies = open_bodies;
        if let Poll::Ready(result) = polled {
            if result.is_err() {
                // For the answers to the requests before the one that failed.
                self.dismantle();
            }
            return Step::End(self.finished(result));
        }

        if self.record.state() == ConnectionState::Closing {
            return match self.record.commands().take() {
                Command::Close(reason) => Step::End(reason),
                Command::Park | Command::None => Step::Wait,
            };
        }
        // What hyper holds of an answer that the client takes slowly is not sent yet.
        let waiting = active.open_bodies == 0
            && self.record.answers().in_flight() == 0
            && self.record.answers().write_stalled() == 0;
        let (requests, read) = (self.record.requests(), self.record.bytes().0);
        if !waiting {
            self.record
                .enter(ConnectionState::Active, self.served.shared.clock.now());
        } else if active.idle_since.0 != requests {
            // The bytes that it was built around were not a whole head.
            let fresh = active.head_after == Some(requests);
            active.idle_since = (requests, read);
            let state = if fresh {
                ConnectionState::Head
            } else {
                ConnectionState::Idle
            };
            self.record.enter(state, self.served.shared.clock.now());
        } else if read > active.idle_since.1 {
            self.record
                .enter(ConnectionState::Head, self.served.shared.clock.now());
        }

        match self.record.commands().take() {
            Command::None => Step::Wait,
            Command::Park => self.park(cx, None),
            Command::Close(reason) if reason.yields_to_a_request() => {
                if self.record.state() == ConnectionState::Idle {
                    // Parked first, it is closed only if no byte is there.
                    return self.park(cx, Some(reason));
                }
                self.spare(reason);
                Step::Wait
            }
            // Of several polls that are due, this one may have come before the client's bytes were seen.
            Command::Close(CloseReason::SlowBody) if self.record.bytes().0 > read_before => {
                self.record.commands().forget();
                Step::Wait
            }
            Command::Close(reason @ (CloseReason::HeadTimeout | CloseReason::SlowBody)) => {
                self.request_timeout(reason)
            }
            Command::Close(reason) => Step::End(reason),
        }
    }

    /// A connection in use is closed after its next answer.
    pub(super) fn spare(&mut self, reason: CloseReason) {
        self.spared_from = Some(reason);
        self.record.flags().close_after_response();
        self.record.commands().forget();
    }

    /// Takes an idle connection apart, to park it or to close it for a reason.
    fn park(&mut self, cx: &mut Context<'_>, close: Option<CloseReason>) -> Step {
        if self.record.state() != ConnectionState::Idle
            || self.record.answers().write_stalled() != 0
        {
            return Step::Wait;
        }
        let Stage::Http1(active) = &mut self.stage else {
            return Step::Again;
        };
        self.record.flags().begin_parking();
        let mut connection = Pin::new(&mut active.connection);
        connection.as_mut().graceful_shutdown();
        let polled = connection.poll(cx);
        self.record.flags().end_parking();
        match (polled, close) {
            (Poll::Ready(Ok(())), _) => {}
            (Poll::Ready(Err(_)), _) => return Step::End(CloseReason::IoError),
            // A client that has its answer and still sends the body of its request; hyper ends the
            // connection after it.
            (Poll::Pending, None) => return Step::Wait,
            (Poll::Pending, Some(reason)) => return Step::End(reason),
        }
        let Some((socket, unread, service)) = self.dismantle() else {
            // hyper gives nothing back after a request for an upgrade, also of one that was declined.
            return Step::End(CloseReason::Finished);
        };
        if !unread.is_empty() {
            self.served.services.keep(&self.record, service);
            // A pipelined part of a head, which hyper had read already.
            self.activate(socket, unread, false);
            return Step::Again;
        }
        self.park_or_close(socket, service, close)
    }

    /// Parks what is left of an idle connection, or closes it for a reason.
    pub(super) fn park_or_close(
        &mut self,
        socket: Socket,
        service: S,
        close: Option<CloseReason>,
    ) -> Step {
        self.served.services.keep(&self.record, service);
        self.record
            .enter(ConnectionState::Parked, self.served.shared.clock.now());
        self.served.shared.memory.count_parked();
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
        let answered = reason == CloseReason::SlowBody && self.record.answers().in_flight() == 0;
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
}
