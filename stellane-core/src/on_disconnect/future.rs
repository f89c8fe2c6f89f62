use std::{
    fmt,
    future::{Future, pending},
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use super::{Abandoned, After, host::Asking};

pin_project! {
    /// The future of an [`OnDisconnectService`](super::OnDisconnectService).
    pub struct OnDisconnectFuture<F>
    where
        F: Future,
        F: Send,
        F: 'static,
    {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F>
    where
        F: Future,
        F: Send,
        F: 'static,
    {
        /// It is dropped with this, unless the connection that polls it takes care of it.
        InPlace { #[pin] future: F, asking: Option<Asking> },
        /// Goes on when this is dropped.
        Own { own: Own<F> },
    }
}

impl<F: Future + Send + 'static> OnDisconnectFuture<F> {
    pub(super) fn new(future: F, after: Option<After>, abandoned: &Abandoned) -> Self {
        let state = match after.map(Asking::new).transpose() {
            Ok(asking) => State::InPlace { future, asking },
            Err(after) => State::Own {
                own: Own {
                    // It can't be moved once it was polled.
                    future: Some(Box::pin(future)),
                    is_waiting: false,
                    after,
                    abandoned: abandoned.clone(),
                },
            },
        };
        Self { state }
    }
}

impl<F: Future + Send + 'static> Future for OnDisconnectFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.project().state.project() {
            StateProjection::InPlace { future, asking } => {
                let polled = future.poll(cx);
                if let (Poll::Pending, Some(asking)) = (&polled, asking) {
                    asking.ask();
                }
                polled
            }
            StateProjection::Own { own } => own.poll(cx),
        }
    }
}

impl<F: Future + Send + 'static> fmt::Debug for OnDisconnectFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnDisconnectFuture").finish_non_exhaustive()
    }
}

struct Own<F: Future + Send + 'static> {
    future: Option<Pin<Box<F>>>,
    /// It was polled, and that has not panicked.
    is_waiting: bool,
    after: After,
    abandoned: Abandoned,
}

impl<F: Future + Send + 'static> Own<F> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Some(future) = &mut self.future else {
            return Poll::Pending;
        };
        self.is_waiting = false;
        let polled = future.as_mut().poll(cx);
        self.is_waiting = true;
        if polled.is_ready() {
            self.future = None;
        }
        polled
    }
}

impl<F: Future + Send + 'static> Drop for Own<F> {
    fn drop(&mut self) {
        let is_waiting = mem::take(&mut self.is_waiting);
        if let Some(future) = self.future.take()
            && is_waiting
        {
            let finished = async { drop(future.await) };
            self.abandoned.adopt(finished, &self.after, pending());
        }
    }
}
