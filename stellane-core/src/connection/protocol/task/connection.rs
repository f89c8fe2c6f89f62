//! What every stage of a connection works with, and what it says of its turn.

use std::{mem, sync::Arc};

#[cfg(feature = "http2")]
use crate::connection::protocol::http2::blame;
use crate::connection::{
    early::Early,
    lifecycle::Shared,
    policy::deadlines::older_by,
    protocol::{builders::HyperBuilders, lots::Lots, service_source::ServiceSource},
    reason::CloseReason,
    state::ConnectionState,
    table::{clock::millis, command::Command, record::Record},
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
    pub(crate) early: Early,
    pub(crate) lots: Lots,
}

impl<S> Served<S> {
    /// Whether a connection of which a request was refused is to be parked for that.
    #[cold]
    pub(crate) fn reads_in_lots(&self, socket: &Socket) -> bool {
        self.lots.takes(self.shared.clock.elapsed()) && self.parked.takes(socket)
    }
}

/// A connection, whatever drives it at the moment.
pub(crate) struct Connection<S> {
    pub(crate) served: Arc<Served<S>>,
    pub(crate) record: Arc<Record>,
    /// Why it ends, once that is known.
    pub(crate) reason: Option<CloseReason>,
    /// Its task is to be polled again, for nothing that is new.
    pub(crate) again: bool,
    /// Why it ends after its next answer, which it was not closed before since it was in use.
    spared_from: Option<CloseReason>,
}

/// What comes after a turn of a stage.
pub(crate) enum Step<N> {
    Wait,
    End(CloseReason),
    /// Another stage.
    Next(N),
}

impl<N> Step<N> {
    pub(crate) fn map<M>(self, next: impl FnOnce(N) -> M) -> Step<M> {
        match self {
            Self::Wait => Step::Wait,
            Self::End(reason) => Step::End(reason),
            Self::Next(stage) => Step::Next(next(stage)),
        }
    }
}

impl<S> Connection<S> {
    pub(crate) fn new(served: Arc<Served<S>>, record: Arc<Record>) -> Self {
        Self {
            served,
            record,
            reason: None,
            again: false,
            spared_from: None,
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.served.shared
    }

    pub(crate) fn enter(&self, state: ConnectionState) {
        self.record.enter(state, self.shared().clock.now());
    }

    /// A request is being served. The time of a client that has ended its side begins anew with all that is sent; so much
    /// was when somebody looked.
    pub(crate) fn enter_active(&self, written: &mut u64) {
        if !self.record.flags().is_half_closed() {
            return self.enter(ConnectionState::Active);
        }
        self.enter(ConnectionState::HalfClosed);
        let now = self.record.bytes().1;
        if mem::replace(written, now) != now {
            self.record.begin_anew(self.shared().clock.now());
        }
    }

    /// Whether something was sent within the time that a client has which has ended its side.
    pub(crate) fn goes_on(&self) -> bool {
        let shared = self.shared();
        let quiet = shared.clock.now().saturating_sub(self.record.since());
        quiet < millis(shared.config.half_close_grace)
    }

    /// A connection in use is closed after its next answer.
    pub(crate) fn spare(&mut self, reason: CloseReason) {
        self.spared_from = Some(reason);
        self.record.flags().close_after_response();
        self.record.commands().forget();
    }

    /// What it is to be closed for want of has come in that moment.
    pub(crate) fn has_come(&self, wanted: CloseReason) {
        let commands = self.record.commands();
        if commands.asked() == Command::Close(wanted) {
            commands.forget();
        }
    }

    /// Whether the client has ended its side between two requests.
    fn is_left(&self) -> bool {
        self.record.flags().is_half_closed() && self.record.state() == ConnectionState::Idle
    }

    /// Why its latest answer was its last, when nobody has told the task.
    fn asked_to_go(&self) -> CloseReason {
        let shared = self.shared();
        let max_age = millis(shared.config.max_age);
        match older_by(max_age, &self.record, shared.clock.now()) {
            Some(_) => CloseReason::MaxAge,
            None => CloseReason::Reclaimed,
        }
    }

    /// Why a connection ended that hyper, or the fast path in its way, is done with.
    pub(crate) fn finished(&self, result: hyper::Result<()>) -> CloseReason {
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
                self.enter(ConnectionState::Upgraded);
                CloseReason::Upgraded
            }
            Ok(()) if self.shared().drain.has_begun() => CloseReason::Drained,
            Ok(()) if self.shared().is_last(self.record.requests()) => CloseReason::MaxRequests,
            Ok(()) if self.record.flags().closes_after_response() => {
                let behind_upgrade = self.record.flags().has_bytes_behind_upgrade();
                let reason = behind_upgrade.then_some(CloseReason::BytesBehindUpgrade);
                reason
                    .or(self.spared_from)
                    .unwrap_or_else(|| self.asked_to_go())
            }
            Ok(()) if self.is_left() => CloseReason::ClientClosed,
            Ok(()) => CloseReason::Finished,
            Err(error) if error.is_parse() => CloseReason::ProtocolError,
            Err(error) if error.is_user() => CloseReason::ServiceError,
            #[cfg(feature = "http2")]
            Err(error) if error.is_timeout() => CloseReason::PingTimeout,
            Err(_) => CloseReason::IoError,
        }
    }
}
