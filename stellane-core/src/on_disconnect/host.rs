//! How what is inside of a connection tells it what is to become of the request that it polls: by the thread, since nothing
//! else goes outward from a future that waits.

use std::cell::Cell;

use super::After;

thread_local! {
    static IS_HOSTED: Cell<bool> = const { Cell::new(false) };
    static ASKED: Cell<Option<After>> = const { Cell::new(None) };
}

/// Until it is dropped, a connection calls and polls a request on this thread, and takes what [is asked](Asking).
#[cfg(feature = "connection")]
pub(crate) struct Hosted(bool);

#[cfg(feature = "connection")]
impl Hosted {
    #[inline]
    pub(crate) fn begin() -> Self {
        Self(IS_HOSTED.replace(true))
    }

    /// What was asked for the request, which was just polled and waits.
    #[inline]
    pub(crate) fn asked(&self) -> Option<After> {
        ASKED.take()
    }
}

#[cfg(feature = "connection")]
impl Drop for Hosted {
    #[inline]
    fn drop(&mut self) {
        IS_HOSTED.set(self.0);
    }
}

/// Asks the connection that polls it to let a request go on without its client: once, when the request has begun and waits.
#[derive(Debug)]
pub(crate) struct Asking(Option<After>);

impl Asking {
    /// # Errors
    /// No connection polls this.
    #[inline]
    pub(crate) fn new(after: After) -> Result<Self, After> {
        if IS_HOSTED.get() {
            Ok(Self(Some(after)))
        } else {
            Err(after)
        }
    }

    /// It waits.
    #[inline]
    pub(crate) fn ask(&mut self) {
        if let Some(after) = self.0.take() {
            ASKED.set(Some(after));
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        // It is over, perhaps before anybody has heard. A thread that is ending has forgotten it.
        if self.0.is_none() {
            let _ = ASKED.try_with(Cell::take);
        }
    }
}
