//! A request that goes on when its client has left.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::Response;
use http_body::Body;

use crate::{
    connection::{
        lifecycle::Shared,
        protocol::{
            farewell::over,
            scope,
            slot::{Slot, poll_slot},
        },
        table::budget::Budget,
    },
    on_disconnect::{After, Hosted},
};

/// Lets it go on, unless its time in a drain is over.
#[cold]
pub(crate) fn go_on<F, B, E>(
    future: Option<Slot<F>>,
    after: &After,
    budget: Budget,
    shared: &Arc<Shared>,
) where
    F: Future<Output = Result<Response<B>, E>> + Send + 'static,
    B: Body,
{
    let Some(future) = future.filter(|_| !shared.drain.is_over(budget)) else {
        return;
    };
    shared.drain.abandon(budget);
    shared.abandoned.adopt(
        Unheard {
            scope: Some(Arc::clone(shared)),
            future,
        },
        after,
        over(Arc::clone(shared), budget),
    );
}

/// Nobody hears the answer.
struct Unheard<F> {
    scope: Option<Arc<Shared>>,
    future: Slot<F>,
}

impl<F, B, E> Future for Unheard<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let entered = scope::enter(self.scope.take());
        let polled = self.poll_answer(cx);
        self.scope = entered.leave();
        polled
    }
}

impl<F, B, E> Unheard<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let hosted = Hosted::begin();
        let polled = poll_slot(&mut self.future, cx);
        drop(hosted.asked()); // it goes on already
        if let Ok(response) = ready!(polled) {
            take_what_is_there(response.into_body(), cx);
        }
        self.future.set(None);
        Poll::Ready(())
    }
}

/// So that an answer that is whole counts as one. Of a stream nothing is waited for.
fn take_what_is_there(body: impl Body, cx: &mut Context<'_>) {
    /// Of a body without an end.
    const MOST: usize = 64;
    let mut body = pin!(body);
    for _ in 0..MOST {
        let Poll::Ready(Some(Ok(_))) = body.as_mut().poll_frame(cx) else {
            return;
        };
    }
}
