use std::{
    pin::Pin,
    task::{Context, Poll},
};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};

use crate::connection::{
    http_service::HttpService,
    protocol::{
        adapter::Adapter,
        http2::streams::{BegunStreams, StreamExecutor},
        io::Io,
        task::{Stage, Step, Task},
    },
    reason::CloseReason,
    state::ConnectionState,
    table::command::Command,
};

/// No method of HTTP/1 begins like this.
const PREFACE: &[u8] = b"PRI";

/// Whether the first bytes of a connection are those of HTTP/2.
pub(super) fn is_preface(bytes: &[u8]) -> bool {
    bytes.starts_with(PREFACE)
}

/// Whether more bytes have to tell.
pub(super) fn may_become_preface(bytes: &[u8]) -> bool {
    bytes.len() < PREFACE.len() && PREFACE.starts_with(bytes)
}

type Http2<S> = hyper::server::conn::http2::Connection<TokioIo<Io>, Adapter<S>, StreamExecutor>;

/// An HTTP/2 connection.
pub(super) struct ActiveHttp2<S: HttpService> {
    connection: Http2<S>,
    goaway: bool,
    begun: BegunStreams,
}

impl<S: HttpService> ActiveHttp2<S> {
    pub(super) fn new(connection: Http2<S>) -> Self {
        Self {
            connection,
            goaway: false,
            begun: BegunStreams::new(),
        }
    }

    /// Polls the connection, answers the streams that it begins, and has it write all their answers together.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        let connection = &mut self.connection;
        let polled = self.begun.gather(|| Pin::new(&mut *connection).poll(cx));
        if polled.is_ready() || self.begun.is_empty() {
            return polled;
        }
        self.begun.run(cx);
        let polled = self.begun.gather(|| Pin::new(connection).poll(cx));
        if !self.begun.is_empty() {
            // They have begun since: others have their turn before them.
            cx.waker().wake_by_ref();
        }
        polled
    }
}

impl<S: HttpService> Task<S> {
    pub(super) fn poll_sniffing(&mut self, cx: &mut Context<'_>) -> Step {
        let Stage::Sniffing(socket, bytes) = &mut self.stage else {
            return Step::Again;
        };
        let mut buffer = [0; PREFACE.len()];
        let mut unread = ReadBuf::new(&mut buffer);
        match Pin::new(&mut *socket).poll_read(cx, &mut unread) {
            Poll::Pending => {
                return match self.record.commands().take() {
                    Command::Close(reason) => Step::End(reason),
                    Command::Park | Command::None => Step::Wait,
                };
            }
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Step::End(CloseReason::IoError),
        }
        let read = unread.filled();
        self.record.add_read(read.len());
        bytes.extend_from_slice(read);
        // At the end of all bytes it is hyper's to say what is wrong with them.
        if (read.is_empty() || !may_become_preface(bytes))
            && let Stage::Sniffing(socket, bytes) = std::mem::replace(&mut self.stage, Stage::Ended)
        {
            self.activate(socket, bytes.into(), true);
        }
        Step::Again
    }

    pub(super) fn poll_http2(&mut self, cx: &mut Context<'_>) -> Step {
        let Stage::Http2(active) = &mut self.stage else {
            return Step::Again;
        };
        if let Poll::Ready(result) = active.poll(cx) {
            return Step::End(self.finished(result));
        }
        // What h2 holds of an answer that the client takes slowly is not sent yet.
        let idle =
            self.record.answers().in_flight() == 0 && self.record.answers().write_stalled() == 0;
        let state = if idle {
            ConnectionState::Idle
        } else {
            ConnectionState::Active
        };
        self.record.enter(state, self.served.shared.clock.now());
        let last = self.record.requests() > 0 && self.served.shared.is_last(self.record.requests());
        let goaway = match self.record.commands().take() {
            Command::Close(reason) if !reason.yields_to_a_request() => {
                // Also of one that was asked to go before.
                self.reason = Some(reason);
                return Step::End(reason);
            }
            Command::Close(reason) => {
                self.reason.get_or_insert(reason);
                true
            }
            // HTTP/2 has state that can't be rebuilt: it is not parked.
            Command::Park | Command::None => {
                let retired =
                    self.record.flags().closes_after_response() || self.record.flags().is_abusive();
                last || retired || self.served.shared.drains(&self.record)
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
}
