use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Limited;
use pin_project_lite::pin_project;
use stellane_autotune::LimitRequestBody;

use crate::{BoxError, connection::Incoming};

pin_project! {
    /// The body of a request in the [`Runtime`](super::Runtime): an [`Incoming`], measured and limited.
    ///
    /// Reading past `server.max_body_bytes` is an error with `http_body_util::LengthLimitError` in its
    /// chain; axum's extractors and the runtime itself answer it with 413.
    pub struct RequestBody {
        #[pin]
        inner: Limited<stellane_metrics::RequestBody<LimitRequestBody<Incoming>>>,
    }
}

impl RequestBody {
    pub(super) fn new(body: LimitRequestBody<Incoming>, max_bytes: usize) -> Self {
        Self {
            inner: Limited::new(stellane_metrics::RequestBody::counted(body), max_bytes),
        }
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody")
            .field("size_hint", &self.inner.size_hint())
            .finish()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
