use std::{
    pin::Pin,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll},
};

use hyper_util::rt::TokioIo;

use super::{Stage, Step, Task};
use crate::connection::{
    ConnectionState,
    entry::Command,
    io::Io,
    service::{Adapter, HttpService},
};

type Http2<S> =
    hyper::server::conn::http2::Connection<TokioIo<Io>, Adapter<S>, hyper_util::rt::TokioExecutor>;

/// An HTTP/2 connection.
pub(super) struct ActiveHttp2<S: HttpService> {
    connection: Http2<S>,
    goaway: bool,
}

impl<S: HttpService> ActiveHttp2<S> {
    pub(super) fn new(connection: Http2<S>) -> Self {
        Self {
            connection,
            goaway: false,
        }
    }
}

impl<S: HttpService> Task<S> {
    pub(super) fn poll_http2(&mut self, cx: &mut Context<'_>) -> Step {
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
}
