//! The manager whose connection or stream this thread polls: how a handler finds what it may know without anything in
//! its request.

use std::{cell::Cell, mem, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::connection::lifecycle::Shared;

thread_local! {
    static CURRENT: Cell<Option<Arc<Shared>>> = const { Cell::new(None) };
}

/// A token that is cancelled when the server that this request came to begins to drain, for handlers whose response has
/// no end of its own: server-sent events, WebSockets, streams of gRPC, long polls. They have the time until the end of
/// their budget to come to an end.
///
/// Found by the thread, within a handler, its future, and the body of its response: nothing has to be in the request,
/// and who does not ask pays nothing. In a task that the handler spawns there is no request, and the token is never
/// cancelled: take it before, and move it there. Cancelling it concerns nobody else.
///
/// ```
/// use stellane_core::connection::drain_token;
///
/// async fn wait_for_news() -> &'static str {
///     let drain = drain_token();
///     tokio::select! {
///         () = news() => "news",
///         () = drain.cancelled() => "none yet, ask again",
///     }
/// }
/// # async fn news() {}
/// ```
#[must_use]
pub fn drain_token() -> CancellationToken {
    with(|shared| shared.drain.token()).unwrap_or_else(|| {
        tracing::debug!("a drain token outside of a request: it is never cancelled");
        CancellationToken::new()
    })
}

/// Calls `f` with the manager whose connection this thread polls, if it does.
pub(crate) fn with<T>(f: impl FnOnce(&Arc<Shared>) -> T) -> Option<T> {
    let current = CURRENT.take()?;
    let result = f(&current);
    CURRENT.set(Some(current));
    Some(result)
}

/// Until it is [left](Self::leave) or dropped, this thread polls a connection of the manager that was given.
pub(crate) struct Entered {
    outer: Option<Arc<Shared>>,
}

/// Moves the reference to the thread, so that none is counted.
pub(crate) fn enter(shared: Option<Arc<Shared>>) -> Entered {
    Entered {
        outer: CURRENT.replace(shared),
    }
}

impl Entered {
    /// Gives back what was given.
    pub(crate) fn leave(mut self) -> Option<Arc<Shared>> {
        let entered = CURRENT.replace(self.outer.take());
        mem::forget(self); // it holds nothing any more
        entered
    }
}

/// After a panic.
impl Drop for Entered {
    fn drop(&mut self) {
        drop(CURRENT.replace(self.outer.take()));
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::connection::config::ConnectionConfig;

    fn shared() -> Arc<Shared> {
        Arc::new(Shared::new(ConnectionConfig::default(), None))
    }

    fn is_current(shared: &Arc<Shared>) -> bool {
        with(|current| Arc::ptr_eq(current, shared)).unwrap_or(false)
    }

    #[test]
    fn the_outer_manager_is_back_when_an_inner_one_was_polled_or_has_panicked() {
        let (outer, inner) = (shared(), shared());
        let entered = enter(Some(Arc::clone(&outer)));
        let within = enter(Some(Arc::clone(&inner)));
        assert!(is_current(&inner));
        let left = within.leave().expect("it was given");
        assert!(Arc::ptr_eq(&left, &inner) && is_current(&outer));
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _within = enter(Some(left));
            panic!("on purpose");
        }));
        assert!(panicked.is_err() && is_current(&outer));
        assert!(entered.leave().is_some() && with(|_| ()).is_none());
        assert_eq!(Arc::strong_count(&inner), 1);
    }

    #[test]
    fn cancelling_a_token_concerns_nobody_else() {
        let shared = shared();
        let entered = enter(Some(Arc::clone(&shared)));
        let (one, other) = (drain_token(), drain_token());
        one.cancel();
        assert!(!other.is_cancelled());
        shared.drain.announce();
        assert!(other.is_cancelled());
        drop(entered);
    }
}
