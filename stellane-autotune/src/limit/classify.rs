use std::fmt;
use std::sync::Arc;

use http::header::CONTENT_TYPE;
use http::{Extensions, HeaderMap, Method, Request, Response, StatusCode, Uri};

use super::{Class, Outcome};

/// A request without its body, for those who classify.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// The target.
    pub uri: &'a Uri,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The extensions.
    pub extensions: &'a Extensions,
}

impl<'a, B> From<&'a Request<B>> for RequestHead<'a> {
    fn from(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }
}

/// A response without its body, for those who classify.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct ResponseHead<'a> {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The extensions.
    pub extensions: &'a Extensions,
}

impl<'a, B> From<&'a Response<B>> for ResponseHead<'a> {
    fn from(response: &'a Response<B>) -> Self {
        Self {
            status: response.status(),
            headers: response.headers(),
            extensions: response.extensions(),
        }
    }
}

impl ResponseHead<'_> {
    /// What the status says about the load: 429, 503, 504 and the gRPC codes 4, 8 and 14 are
    /// overload; other errors say nothing, and their latency would only mislead; the rest counts.
    #[must_use]
    pub fn default_outcome(self) -> Outcome {
        match self.status {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Outcome::Overload,
            status if status.is_client_error() || status.is_server_error() => Outcome::Ignore,
            StatusCode::SWITCHING_PROTOCOLS => Outcome::Ignore,
            _ => match self
                .headers
                .get("grpc-status")
                .map(http::HeaderValue::as_bytes)
            {
                None | Some(b"0") => Outcome::Success,
                Some(b"4" | b"8" | b"14") => Outcome::Overload,
                Some(_) => Outcome::Ignore,
            },
        }
    }

    /// Whether this begins something that lives on its own: an upgrade or an event stream.
    #[must_use]
    pub fn is_stream(self) -> bool {
        let is_event_stream = |value: &http::HeaderValue| {
            let value = value.as_bytes();
            value.len() >= 17 && value[..17].eq_ignore_ascii_case(b"text/event-stream")
        };
        self.status == StatusCode::SWITCHING_PROTOCOLS
            || self.headers.get(CONTENT_TYPE).is_some_and(is_event_stream)
    }
}

pub(super) type OutcomeFn = Arc<dyn Fn(ResponseHead<'_>) -> Outcome + Send + Sync>;
type RequestFn<T> = Arc<dyn Fn(RequestHead<'_>) -> T + Send + Sync>;

/// The closures a layer was given. `None` is the default, and free.
#[derive(Clone, Default)]
pub(super) struct Classifiers {
    pub(super) class: Option<RequestFn<Class>>,
    pub(super) exempt: Option<RequestFn<bool>>,
    pub(super) outcome: Option<OutcomeFn>,
}

impl Classifiers {
    pub(super) fn class(&self, head: RequestHead<'_>) -> Class {
        match &self.class {
            Some(class) => class(head),
            None => head.extensions.get::<Class>().copied().unwrap_or_default(),
        }
    }

    pub(super) fn is_exempt(&self, head: RequestHead<'_>) -> bool {
        self.exempt.as_ref().is_some_and(|exempt| exempt(head))
    }
}

impl fmt::Debug for Classifiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Classifiers")
            .field("class", &self.class.is_some())
            .field("exempt", &self.exempt.is_some())
            .field("outcome", &self.outcome.is_some())
            .finish()
    }
}
