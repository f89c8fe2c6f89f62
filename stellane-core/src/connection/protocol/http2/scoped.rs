//! Streams that find their manager in tasks of their own.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use crate::connection::{
    lifecycle::Shared,
    protocol::scope::{enter, with},
};

pin_project! {
    /// A future that goes on with the manager of the thread that made it, in a task of its own.
    pub(crate) struct Scoped<F> {
        shared: Option<Arc<Shared>>,
        #[pin]
        future: F,
    }
}

pub(crate) fn scoped<F>(future: F) -> Scoped<F> {
    let shared = with(Arc::clone);
    Scoped { shared, future }
}

impl<F: Future> Future for Scoped<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let entered = enter(this.shared.take());
        let polled = this.future.poll(cx);
        *this.shared = entered.leave();
        polled
    }
}
