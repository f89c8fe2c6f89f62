use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Either, Full};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{ProfileFuture, ProfileService};

/// Adds [`ProfileService`]'s paths to an admin service, which answers everything else.
///
/// ```
/// use stellane_core::profiling::{ProfileLayer, ProfileService};
///
/// let profiles = ProfileService::builder().cpu(true).build();
/// let profiles = profiles.listening_on("127.0.0.1:9090".parse()?);
/// let admin = axum::Router::<()>::new().layer(ProfileLayer::new(profiles));
/// # let _ = admin;
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct ProfileLayer {
    profiles: ProfileService,
}

impl ProfileLayer {
    /// Adds the paths of `profiles`.
    pub fn new(profiles: ProfileService) -> Self {
        Self { profiles }
    }
}

impl<S> Layer<S> for ProfileLayer {
    type Service = ProfileLayerService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ProfileLayerService {
            inner,
            profiles: self.profiles.clone(),
        }
    }
}

/// An admin service with profiles; made by [`ProfileLayer`].
#[derive(Debug, Clone)]
pub struct ProfileLayerService<S> {
    inner: S,
    profiles: ProfileService,
}

impl<S, B, ResBody> Service<Request<B>> for ProfileLayerService<S>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
{
    type Response = Response<Either<Full<Bytes>, ResBody>>;
    type Error = S::Error;
    type Future = ProfileLayerFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let kind = if ProfileService::serves(request.uri().path()) {
            Kind::Profile {
                future: self.profiles.call(request),
            }
        } else {
            Kind::Inner {
                future: self.inner.call(request),
            }
        };
        ProfileLayerFuture { kind }
    }
}

pin_project! {
    /// The response of [`ProfileLayerService`].
    #[derive(Debug)]
    pub struct ProfileLayerFuture<F> {
        #[pin]
        kind: Kind<F>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = KindProj]
    enum Kind<F> {
        Profile { #[pin] future: ProfileFuture },
        Inner { #[pin] future: F },
    }
}

impl<F, B, E> Future for ProfileLayerFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<Either<Full<Bytes>, B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project().kind.project() {
            KindProj::Profile { future } => {
                let Ok(response) = ready!(future.poll(cx));
                Ok(response.map(Either::Left))
            }
            KindProj::Inner { future } => ready!(future.poll(cx)).map(|r| r.map(Either::Right)),
        })
    }
}
