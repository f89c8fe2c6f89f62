use std::{
    future::{Ready, ready},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use tower_service::Service;

use super::{Prepared, PreparedResponse, encoding};
use crate::engine_selector::Declined;

/// Answers with what is [`Prepared`], and declines the rest.
#[derive(Debug, Clone)]
pub struct PreparedOnlyService {
    prepared: Prepared,
}

impl PreparedOnlyService {
    pub(super) const fn new(prepared: Prepared) -> Self {
        Self { prepared }
    }
}

impl Prepared {
    /// The service, for an [`EngineSelectorLayer`](crate::engine_selector::EngineSelectorLayer).
    #[must_use]
    pub fn service(&self) -> PreparedOnlyService {
        PreparedOnlyService::new(self.clone())
    }

    /// The response, or the request as it was.
    #[expect(
        clippy::result_large_err,
        reason = "the request goes on to who answers it"
    )]
    pub(super) fn answer<B>(
        &self,
        mut request: Request<B>,
    ) -> Result<Response<Full<Bytes>>, Request<B>> {
        let head = request.method() == Method::HEAD;
        if !(head || request.method() == Method::GET) || request.uri().query().is_some() {
            self.count_declined();
            return Err(request);
        }
        // The request's own map is used again: it has the room already.
        let mut headers = std::mem::take(request.headers_mut());
        let found = self.with(request.uri().path(), |prepared| {
            prepared.map(|prepared| respond(prepared, &mut headers, head))
        });
        let Some((status, body)) = found else {
            *request.headers_mut() = headers;
            self.count_declined();
            return Err(request);
        };
        if status == StatusCode::NOT_MODIFIED {
            self.count_not_modified();
        } else {
            self.count_served();
        }
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

/// Turns the headers of the request into those of its response.
fn respond(
    prepared: &PreparedResponse,
    headers: &mut HeaderMap,
    head: bool,
) -> (StatusCode, Bytes) {
    let (coding, variant) = prepared.choose(headers);
    let unmodified = encoding::none_match(headers, &variant.etag);
    headers.clear();
    headers.insert(header::ETAG, variant.etag.clone());
    for (name, value) in prepared.headers() {
        // RFC 9110 §15.4.5: what describes a body that is not sent stays out.
        let describes = *name == header::CONTENT_TYPE || *name == header::CONTENT_ENCODING;
        if !(unmodified && describes) {
            headers.append(name, value.clone());
        }
    }
    if unmodified {
        return (StatusCode::NOT_MODIFIED, Bytes::new());
    }
    if let Some(coding) = coding {
        let coding = HeaderValue::from_static(coding.as_str());
        headers.insert(header::CONTENT_ENCODING, coding);
    }
    if head {
        headers.insert(header::CONTENT_LENGTH, variant.bytes.len().into());
        return (StatusCode::OK, Bytes::new());
    }
    (StatusCode::OK, variant.bytes.clone())
}

impl<B> Service<Request<B>> for PreparedOnlyService {
    type Response = Response<Full<Bytes>>;
    type Error = Declined;
    type Future = Ready<Result<Response<Full<Bytes>>, Declined>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Declined>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ready(self.prepared.answer(request).map_err(|_| Declined))
    }
}
