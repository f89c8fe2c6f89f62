use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, HeaderName, Request, Response, header::CONTENT_TYPE};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{LoadReportBody, LoadReports, body::BINARY};

const TEXT: HeaderName = HeaderName::from_static("endpoint-load-metrics");

/// Tells the load with each answer; see the [module](crate::load_report). Put it outside of what refuses, so that
/// refusals tell it too.
///
/// ```
/// use stellane_metrics::{HttpMetrics, LoadReportLayer, LoadReports};
///
/// let http = HttpMetrics::builder().build()?;
/// let reports = LoadReports::builder(&http).build()?;
/// let layer = LoadReportLayer::new(&reports);
/// # let _ = layer;
/// # Ok::<_, stellane_metrics::BuildError>(())
/// ```
#[derive(Debug, Clone)]
pub struct LoadReportLayer(LoadReports);

impl LoadReportLayer {
    /// A layer that tells what `reports` says.
    #[must_use]
    pub fn new(reports: &LoadReports) -> Self {
        Self(reports.clone())
    }
}

impl<S> Layer<S> for LoadReportLayer {
    type Service = LoadReportService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        LoadReportService {
            inner,
            reports: self.0.clone(),
        }
    }
}

/// A service whose answers tell the load; made by [`LoadReportLayer`].
#[derive(Debug, Clone)]
pub struct LoadReportService<S> {
    inner: S,
    reports: LoadReports,
}

impl<S, B, RB> Service<Request<B>> for LoadReportService<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
{
    type Response = Response<LoadReportBody<RB>>;
    type Error = S::Error;
    type Future = LoadReportFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.reports.look();
        LoadReportFuture {
            inner: self.inner.call(request),
            reports: self.reports.clone(),
        }
    }
}

pin_project! {
    /// The future of a [`LoadReportService`].
    pub struct LoadReportFuture<F> {
        #[pin]
        inner: F,
        reports: LoadReports,
    }
}

impl<F> fmt::Debug for LoadReportFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadReportFuture").finish_non_exhaustive()
    }
}

impl<F, RB, E> Future for LoadReportFuture<F>
where
    F: Future<Output = Result<Response<RB>, E>>,
{
    type Output = Result<Response<LoadReportBody<RB>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        let reports = this.reports;
        let headers = response.headers_mut();
        let is_grpc = is_grpc(headers);
        let (name, report) = match is_grpc {
            false => (TEXT, reports.text()),
            // An answer that is nothing but its head.
            true if headers.contains_key("grpc-status") => (BINARY, reports.binary()),
            true => (BINARY, None),
        };
        if let Some(report) = report {
            headers.insert(name, report);
        }
        let in_trailers = is_grpc.then(|| reports.clone());
        Poll::Ready(Ok(
            response.map(|body| LoadReportBody::new(body, in_trailers))
        ))
    }
}

/// `application/grpc` and `application/grpc+…`, not gRPC-Web.
fn is_grpc(headers: &HeaderMap) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return false;
    };
    let Some((start, rest)) = value.as_bytes().split_at_checked(GRPC.len()) else {
        return false;
    };
    start.eq_ignore_ascii_case(GRPC) && matches!(rest, [] | [b'+' | b';' | b' ', ..])
}
