use std::fmt;

use http::{HeaderValue, Response, StatusCode, header};

use super::{CatchFaultsBody, grpc::Grpc};

/// An error with which a service refuses a request: [`CatchFaultsLayer`](super::CatchFaultsLayer) answers it with the
/// status it names, and counts no fault.
///
/// ```
/// use http::{Request, Response, StatusCode};
/// use stellane_core::catch_faults::{CatchFaultsLayer, Faults, Refusal};
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let faults = Faults::new();
/// let service = CatchFaultsLayer::new(&faults).layer(service_fn(|_: Request<()>| async {
///     Err::<Response<String>, _>(Refusal::new(StatusCode::BAD_REQUEST).closing())
/// }));
/// let response = service.oneshot(Request::new(())).await?;
/// assert_eq!(response.status(), StatusCode::BAD_REQUEST);
/// assert_eq!(response.headers()["connection"], "close");
/// assert_eq!(faults.stats().errors, 0);
/// # Ok::<_, Refusal>(())
/// # })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    status: StatusCode,
    close: bool,
}

impl Refusal {
    /// Refuses with this status.
    #[must_use]
    pub const fn new(status: StatusCode) -> Self {
        Self {
            status,
            close: false,
        }
    }

    /// Also closes the connection: the client is not to be trusted with another request.
    #[must_use]
    pub const fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// The status of the answer.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        self.status
    }

    /// The answer to a request that speaks gRPC, or does not.
    pub(crate) fn response<B>(self, grpc: Option<Grpc>) -> Response<CatchFaultsBody<B>> {
        self.closed_by(match grpc {
            Some(grpc) => grpc.answer(self.status),
            None => CatchFaultsBody::plain(self.status),
        })
    }

    /// The response, which closes the connection if this does.
    pub(crate) fn closed_by<B>(self, mut response: Response<B>) -> Response<B> {
        if self.close {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused with {}", self.status)
    }
}

impl std::error::Error for Refusal {}
