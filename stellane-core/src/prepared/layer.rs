use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::Prepared;
use crate::{BoxError, engine_selector::SelectedBody};

/// Answers with what is [`Prepared`], and lets the service within answer the rest.
///
/// The shortest way: what is in memory can't fail, so nothing is kept for a second try. Put it outside of a
/// [`Selected`](crate::engine_selector::Selected) service, or use it alone.
///
/// ```
/// use std::convert::Infallible;
///
/// use http::{Request, Response};
/// use stellane_core::prepared::{Prepared, PreparedLayer, PreparedResponse};
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let prepared = Prepared::new();
/// prepared.insert("/hello", PreparedResponse::new("text/plain", "hello"));
/// let native = service_fn(|_: Request<String>| async {
///     Ok::<_, Infallible>(Response::new("native".to_owned()))
/// });
/// let service = PreparedLayer::new(&prepared).layer(native);
/// let response = service.oneshot(Request::get("/hello").body(String::new())?).await?;
/// assert!(response.headers().contains_key("etag"));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct PreparedLayer {
    prepared: Prepared,
}

impl PreparedLayer {
    /// A layer that serves what is prepared.
    #[must_use]
    pub fn new(prepared: &Prepared) -> Self {
        Self {
            prepared: prepared.clone(),
        }
    }
}

impl<N> Layer<N> for PreparedLayer {
    type Service = PreparedOr<N>;

    fn layer(&self, native: N) -> PreparedOr<N> {
        PreparedOr {
            prepared: self.prepared.clone(),
            native,
        }
    }
}

/// What a [`PreparedLayer`] makes.
#[derive(Debug, Clone)]
pub struct PreparedOr<N> {
    prepared: Prepared,
    native: N,
}

impl<N, B, NB> Service<Request<B>> for PreparedOr<N>
where
    N: Service<Request<B>, Response = Response<NB>>,
    NB: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Response = Response<SelectedBody<Full<Bytes>, NB>>;
    type Error = N::Error;
    type Future = ResponseFuture<N::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), N::Error>> {
        self.native.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let kind = match self.prepared.answer(request) {
            Ok(response) => Kind::Prepared {
                response: Some(response),
            },
            Err(request) => Kind::Native {
                future: self.native.call(request),
            },
        };
        ResponseFuture { kind }
    }
}

pin_project! {
    /// The response of a [`PreparedOr`].
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        kind: Kind<F>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = Projected]
    enum Kind<F> {
        Prepared { response: Option<Response<Full<Bytes>>> },
        Native { #[pin] future: F },
    }
}

impl<F, E, NB> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<NB>, E>>,
{
    type Output = Result<Response<SelectedBody<Full<Bytes>, NB>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            Projected::Prepared { response } => match response.take() {
                Some(response) => Poll::Ready(Ok(response.map(SelectedBody::accelerated))),
                None => Poll::Pending,
            },
            Projected::Native { future } => {
                let response = ready!(future.poll(cx))?;
                Poll::Ready(Ok(response.map(SelectedBody::native)))
            }
        }
    }
}
