//! What can be served.

use std::future::Future;

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::{BoxError, connection::incoming::Incoming};

/// A tower service that a [`ConnectionManager`](crate::connection::ConnectionManager) serves: short for the bounds
/// below, and implemented for every service that meets them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be served by a `ConnectionManager`",
    label = "not a service of `Request<stellane_core::connection::Incoming>` that is `Clone + Send + 'static`",
    note = "a function for `hyper::body::Incoming` takes our `Incoming`, or any body: `async fn f<B>(_: Request<B>)`",
    note = "an axum router whose state is missing needs `.with_state(…)`"
)]
pub trait HttpService:
    Service<
        Request<Incoming>,
        Response = Response<Self::ResBody>,
        Error = Self::ServiceError,
        Future = Self::ResFuture,
    > + Clone
    + Send
    + 'static
{
    /// The body of its responses.
    type ResBody: Body<Data: Send, Error: Into<BoxError>> + Send + 'static;
    /// Its error.
    type ServiceError: Into<BoxError> + Send;
    /// Its future.
    type ResFuture: Future<Output = Result<Response<Self::ResBody>, Self::ServiceError>> + Send;
}

#[diagnostic::do_not_recommend]
impl<S, B> HttpService for S
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError> + Send,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type ResBody = B;
    type ServiceError = S::Error;
    type ResFuture = S::Future;
}
