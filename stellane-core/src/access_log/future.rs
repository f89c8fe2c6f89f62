use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::{
    body::AccessLogBody,
    entry::{End, Entry},
};

pin_project! {
    /// The future of [`AccessLogService`](super::AccessLogService).
    pub struct AccessLogFuture<F> {
        #[pin]
        inner: Option<F>,
        // Gone once the answer was handed over.
        entry: Option<Box<Entry>>,
    }

    impl<F> PinnedDrop for AccessLogFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if let Some(mut entry) = this.entry.take() {
                entry.watch(|| this.inner.set(None));
                entry.end(End::dropped());
            }
        }
    }
}

impl<F> AccessLogFuture<F> {
    pub(super) fn new(inner: F, entry: Box<Entry>) -> Self {
        Self {
            inner: Some(inner),
            entry: Some(entry),
        }
    }
}

impl<F, T, E> Future for AccessLogFuture<F>
where
    F: Future<Output = Result<Response<T>, E>>,
    T: Body,
{
    type Output = Result<Response<AccessLogBody<T>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let (Some(inner), Some(entry)) = (this.inner.as_pin_mut(), this.entry.as_mut()) else {
            return Poll::Pending;
        };
        let answered = ready!(entry.watch(|| inner.poll(cx)));
        let Some(mut entry) = this.entry.take() else {
            return Poll::Pending;
        };
        match answered {
            Ok(response) => {
                entry.head(&response);
                Poll::Ready(Ok(response.map(|body| AccessLogBody::new(body, entry))))
            }
            Err(error) => {
                entry.end(End::ServiceError);
                Poll::Ready(Err(error))
            }
        }
    }
}

impl<F> fmt::Debug for AccessLogFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLogFuture").finish_non_exhaustive()
    }
}
