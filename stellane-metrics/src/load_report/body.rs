use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::HeaderName;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::LoadReports;

pub(super) const BINARY: HeaderName = HeaderName::from_static("endpoint-load-metrics-bin");

pin_project! {
    /// The body of an answer whose trailers tell the load, if it is gRPC's.
    #[derive(Debug)]
    pub struct LoadReportBody<B> {
        #[pin]
        inner: B,
        reports: Option<LoadReports>,
    }
}

impl<B> LoadReportBody<B> {
    pub(super) fn new(inner: B, reports: Option<LoadReports>) -> Self {
        Self { inner, reports }
    }
}

impl<B: Body> Body for LoadReportBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let mut frame = ready!(this.inner.poll_frame(cx));
        if let Some(reports) = this.reports
            && let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
            && let Some(report) = reports.binary()
        {
            trailers.insert(BINARY, report);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
