use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use pin_project_lite::pin_project;

use super::{MemoryBody, MemoryBudget, upload::Upload};

pin_project! {
    /// The future of a [`MemoryBudgetService`](super::MemoryBudgetService).
    pub struct MemoryBudgetFuture<F> {
        // None once the request was ended.
        #[pin]
        inner: Option<F>,
        upload: Option<Upload>,
        form: Option<RefusalForm>,
        budget: Option<MemoryBudget>,
    }
}

impl<F> MemoryBudgetFuture<F> {
    pub(super) fn new(
        inner: F,
        upload: Option<Upload>,
        form: Option<RefusalForm>,
        budget: Option<MemoryBudget>,
    ) -> Self {
        Self {
            inner: Some(inner),
            upload,
            form,
            budget,
        }
    }
}

impl<F, B, E> Future for MemoryBudgetFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<MemoryBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Pending;
        };
        let polled = inner.poll(cx);
        if let Some(upload) = this.upload {
            if polled.is_pending() {
                upload.handler_waits(cx);
            }
            if upload.is_ended()
                && !matches!(&polled, Poll::Ready(Ok(response)) if response.status().is_success())
            {
                // All that it holds goes with it.
                this.inner.set(None);
                *this.upload = None;
                let form = this.form.take().unwrap_or_default();
                return Poll::Ready(Ok(form.response()));
            }
            if polled.is_ready() {
                *this.upload = None;
            }
        }
        let budget = this.budget;
        polled.map_ok(|response| response.map(|body| MemoryBody::new(body, budget.take())))
    }
}

impl<F> fmt::Debug for MemoryBudgetFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBudgetFuture").finish_non_exhaustive()
    }
}

/// How a request is refused: the content type of a call of gRPC.
#[derive(Debug, Default)]
pub(super) struct RefusalForm(Option<HeaderValue>);

impl RefusalForm {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let content_type = request.headers().get(header::CONTENT_TYPE);
        let is_grpc = |value: &&HeaderValue| value.as_bytes().starts_with(b"application/grpc");
        Self(content_type.filter(is_grpc).cloned())
    }

    fn response<B>(self) -> Response<MemoryBody<B>> {
        const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
        let mut response = Response::new(MemoryBody::empty());
        match self.0 {
            Some(content_type) => {
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_TYPE, content_type);
                // RESOURCE_EXHAUSTED
                headers.insert(GRPC_STATUS, HeaderValue::from_static("8"));
            }
            None => *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE,
        }
        response
    }
}
