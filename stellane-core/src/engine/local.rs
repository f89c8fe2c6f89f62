//! Services that are not `Send`, on a core of their own.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use send_wrapper::SendWrapper;
use tower_service::Service;

use crate::{BoxError, connection::Incoming};

/// A tower service that [`PerCoreEngine::serve_local`](super::PerCoreEngine::serve_local) serves: an
/// [`HttpService`](crate::connection::HttpService) of which nothing needs to be `Send` but the data and errors of its
/// response bodies. Implemented for every service that meets these bounds.
pub trait LocalHttpService:
    Service<
        Request<Incoming>,
        Response = Response<Self::ResBody>,
        Error = Self::ServiceError,
        Future = Self::ResFuture,
    > + Clone
    + 'static
{
    /// The body of its responses.
    type ResBody: Body<Data: Send, Error: Into<BoxError>> + 'static;
    /// Its error.
    type ServiceError: Into<BoxError> + Send;
    /// Its future.
    type ResFuture: Future<Output = Result<Response<Self::ResBody>, Self::ServiceError>>;
}

impl<S, B> LocalHttpService for S
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + 'static,
    S::Error: Into<BoxError> + Send,
    B: Body<Data: Send, Error: Into<BoxError>> + 'static,
{
    type ResBody = B;
    type ServiceError = S::Error;
    type ResFuture = S::Future;
}

/// Makes a service look `Send` to the connection manager. It never moves: the manager runs a connection on the runtime
/// on which it was accepted, and that of a core is bound to its thread. Should that ever change, the wrapper panics.
pub(super) struct OnCore<S>(SendWrapper<S>);

impl<S> OnCore<S> {
    pub(super) fn new(service: S) -> Self {
        Self(SendWrapper::new(service))
    }
}

impl<S: Clone> Clone for OnCore<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: LocalHttpService> Service<Request<Incoming>> for OnCore<S> {
    type Response = Response<OnCoreBody<S::ResBody>>;
    type Error = S::ServiceError;
    type Future = OnCoreFuture<S::ResFuture>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        OnCoreFuture(SendWrapper::new(Box::pin(self.0.call(request))))
    }
}

pub(super) struct OnCoreFuture<F>(SendWrapper<Pin<Box<F>>>);

impl<F, B, E> Future for OnCoreFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<OnCoreBody<B>>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let wrap = |body| OnCoreBody(SendWrapper::new(Box::pin(body)));
        self.0
            .as_mut()
            .poll(cx)
            .map_ok(|response| response.map(wrap))
    }
}

pub(super) struct OnCoreBody<B>(SendWrapper<Pin<Box<B>>>);

impl<B: Body> Body for OnCoreBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.0.as_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
