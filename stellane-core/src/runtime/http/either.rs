use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

/// A service with a layer around it, or without.
#[derive(Debug, Clone)]
pub enum Either<A, B> {
    On(A),
    Off(B),
}

/// The layer around the service, if there is one.
pub(super) fn optional<L: Layer<S>, S>(layer: Option<&L>, service: S) -> Either<L::Service, S> {
    match layer {
        Some(layer) => Either::On(layer.layer(service)),
        None => Either::Off(service),
    }
}

impl<A, B, Q, R> Service<Request<Q>> for Either<A, B>
where
    A: Service<Request<Q>, Response = Response<R>, Error = B::Error>,
    B: Service<Request<Q>, Response = Response<R>>,
{
    type Response = Response<R>;
    type Error = B::Error;
    type Future = EitherFuture<A::Future, B::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), B::Error>> {
        match self {
            Self::On(service) => service.poll_ready(cx),
            Self::Off(service) => service.poll_ready(cx),
        }
    }

    #[inline]
    fn call(&mut self, request: Request<Q>) -> Self::Future {
        match self {
            Self::On(service) => EitherFuture::On {
                future: service.call(request),
            },
            Self::Off(service) => EitherFuture::Off {
                future: service.call(request),
            },
        }
    }
}

pin_project! {
    #[project = EitherProjection]
    pub enum EitherFuture<A, B> {
        On { #[pin] future: A },
        Off { #[pin] future: B },
    }
}

impl<A: Future, B: Future<Output = A::Output>> Future for EitherFuture<A, B> {
    type Output = A::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<A::Output> {
        match self.project() {
            EitherProjection::On { future } => future.poll(cx),
            EitherProjection::Off { future } => future.poll(cx),
        }
    }
}
