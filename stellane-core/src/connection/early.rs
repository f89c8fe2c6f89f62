use std::{fmt, sync::Arc, time::Duration};

use http::Request;

use crate::connection::incoming::Incoming;

/// Who asks again within it does not do so by a clock of their own.
pub(crate) const MOMENT: Duration = Duration::from_millis(20);

/// Refuses requests before the service is called. Given to a [`Listener`](crate::connection::Listener): who knows no more
/// of a service than its trait can't ask it for that.
pub(crate) trait EarlyRefusals: Send + Sync + 'static {
    /// Whether a request that comes now may be refused: asked before each.
    fn may_refuse(&self) -> bool;

    /// Whether a request without a body is refused; the answer is written, in place of the service's. `again` tells whether
    /// the client has asked [a moment](MOMENT) ago too, the last time that somebody asked this.
    fn refuse(
        &self,
        request: &mut Request<Incoming>,
        again: &dyn Fn() -> bool,
        out: &mut Vec<u8>,
    ) -> bool;
}

/// Those of a listener, if it has any.
#[derive(Clone, Default)]
pub(crate) struct Early(Option<Arc<dyn EarlyRefusals>>);

impl Early {
    #[cfg(feature = "preset")]
    pub(crate) fn new(refusals: impl EarlyRefusals) -> Self {
        Self(Some(Arc::new(refusals)))
    }

    /// Who refuses a request that comes now, perhaps.
    #[inline]
    pub(crate) fn who_may(&self) -> Option<&dyn EarlyRefusals> {
        self.0.as_deref().filter(|refusals| refusals.may_refuse())
    }
}

impl fmt::Debug for Early {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Early").field(&self.0.is_some()).finish()
    }
}
