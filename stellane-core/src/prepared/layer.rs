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
use crate::{BoxError, engine_selector::EngineSelectorBody};

/// Answers with what is [`Prepared`], and lets the service within answer the rest.
///
/// The shortest way: what is in memory can't fail, so nothing is kept for a second try. Put it outside of a
/// [`EngineSelectorService`](crate::engine_selector::EngineSelectorService), or use it alone.
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
    type Service = PreparedService<N>;

    fn layer(&self, native: N) -> PreparedService<N> {
        PreparedService {
            prepared: self.prepared.clone(),
            native,
        }
    }
}

/// What a [`PreparedLayer`] makes.
#[derive(Debug, Clone)]
pub struct PreparedService<N> {
    prepared: Prepared,
    native: N,
}

impl<N, B, NB> Service<Request<B>> for PreparedService<N>
where
    N: Service<Request<B>, Response = Response<NB>>,
    NB: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Response = Response<EngineSelectorBody<Full<Bytes>, NB>>;
    type Error = N::Error;
    type Future = PreparedFuture<N::Future>;

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
        PreparedFuture { kind }
    }
}

pin_project! {
    /// The response of a [`PreparedService`].
    #[derive(Debug)]
    pub struct PreparedFuture<F> {
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

impl<F, E, NB> Future for PreparedFuture<F>
where
    F: Future<Output = Result<Response<NB>, E>>,
{
    type Output = Result<Response<EngineSelectorBody<Full<Bytes>, NB>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            Projected::Prepared { response } => match response.take() {
                Some(response) => Poll::Ready(Ok(response.map(EngineSelectorBody::accelerated))),
                None => Poll::Pending,
            },
            Projected::Native { future } => {
                let response = ready!(future.poll(cx))?;
                Poll::Ready(Ok(response.map(EngineSelectorBody::native)))
            }
        }
    }
}
