//! What a connection on the fast path is asked while it waits.

use std::convert::Infallible;

use crate::connection::{
    protocol::task::connection::{Connection, Step},
    reason::CloseReason,
    state::ConnectionState,
    table::command::Command,
};

/// Every request is answered, and no byte of another is there. What is next is to be idle, or to be closed for a reason.
pub(crate) fn wait_for_request<S>(connection: &Connection<S>) -> Step<Option<CloseReason>> {
    connection.enter(ConnectionState::Idle);
    match connection.record.commands().take() {
        Command::None => Step::Wait,
        Command::Park => Step::Next(None),
        // Parked first, it is closed only if no byte is there.
        Command::Close(reason) if reason.yields_to_a_request() => Step::Next(Some(reason)),
        Command::Close(reason) => close(connection, reason),
    }
}

/// A handler is at work.
pub(crate) fn wait_for_answer<S>(connection: &mut Connection<S>) -> Step<Infallible> {
    match connection.record.commands().take() {
        Command::None | Command::Park => Step::Wait,
        Command::Close(reason) if reason.yields_to_a_request() => {
            connection.spare(reason);
            Step::Wait
        }
        Command::Close(reason) => close(connection, reason),
    }
}

fn close<S, N>(connection: &Connection<S>, reason: CloseReason) -> Step<N> {
    match reason {
        // The whole request came in that moment.
        CloseReason::HeadTimeout | CloseReason::SlowBody => {
            connection.record.commands().forget();
            Step::Wait
        }
        reason => Step::End(reason),
    }
}
