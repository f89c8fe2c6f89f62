use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::{AutoTuneBody, traffic::Passage};
use crate::ResponseHead;

pin_project! {
    /// The future of [`AutoTuneService`](super::AutoTuneService).
    #[derive(Debug)]
    pub struct AutoTuneFuture<F> {
        #[pin]
        future: F,
        // Moves into the body.
        passage: Option<Passage>,
    }
}

impl<F> AutoTuneFuture<F> {
    pub(super) fn new(future: F, passage: Passage) -> Self {
        Self {
            future,
            passage: Some(passage),
        }
    }
}

impl<F, B, E> Future for AutoTuneFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<AutoTuneBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.future.poll(cx));
        let passage = this.passage.take();
        if let Some(passage) = &passage {
            match &result {
                Ok(response) => passage.answer(ResponseHead::from(response)),
                Err(_) => passage.fail(),
            }
        }
        Poll::Ready(result.map(|response| response.map(|body| AutoTuneBody::new(body, passage))))
    }
}
