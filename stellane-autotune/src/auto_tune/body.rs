use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::traffic::Passage;

pin_project! {
    /// The body of an answer that [`AutoTuneLayer`](super::AutoTuneLayer) has seen: in flight until it ends.
    #[derive(Debug)]
    pub struct AutoTuneBody<B> {
        #[pin]
        body: B,
        passage: Option<Passage>,
    }
}

impl<B: Body> AutoTuneBody<B> {
    pub(super) fn new(body: B, passage: Option<Passage>) -> Self {
        let passage = passage.filter(|_| !body.is_end_stream());
        Self { body, passage }
    }
}

impl<B: Default> Default for AutoTuneBody<B> {
    fn default() -> Self {
        Self {
            body: B::default(),
            passage: None,
        }
    }
}

impl<B: Body> Body for AutoTuneBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let polled = this.body.as_mut().poll_frame(cx);
        let has_ended = match &polled {
            Poll::Ready(frame) => !matches!(frame, Some(Ok(_))) || this.body.is_end_stream(),
            Poll::Pending => false,
        };
        if has_ended {
            *this.passage = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
