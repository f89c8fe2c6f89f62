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
pub struct PreparedService {
    prepared: Prepared,
}

impl PreparedService {
    pub(super) const fn new(prepared: Prepared) -> Self {
        Self { prepared }
    }

    fn answer<B>(&self, request: Request<B>) -> Result<Response<Full<Bytes>>, Declined> {
        let head = request.method() == Method::HEAD;
        if !(head || request.method() == Method::GET) || request.uri().query().is_some() {
            self.prepared.count_declined();
            return Err(Declined);
        }
        let (mut parts, _) = request.into_parts();
        // The request's own map is used again: it has the room already.
        let headers = std::mem::take(&mut parts.headers);
        self.prepared.with(parts.uri.path(), |prepared| {
            let Some(prepared) = prepared else {
                self.prepared.count_declined();
                return Err(Declined);
            };
            let (status, headers, body) = respond(prepared, headers, head);
            if status == StatusCode::NOT_MODIFIED {
                self.prepared.count_not_modified();
            } else {
                self.prepared.count_served();
            }
            let mut response = Response::new(Full::new(body));
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            Ok(response)
        })
    }
}

fn respond(
    prepared: &PreparedResponse,
    mut headers: HeaderMap,
    head: bool,
) -> (StatusCode, HeaderMap, Bytes) {
    let (coding, variant) = prepared.choose(&headers);
    let unmodified = encoding::none_match(&headers, &variant.etag);
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
        return (StatusCode::NOT_MODIFIED, headers, Bytes::new());
    }
    if let Some(coding) = coding {
        let coding = HeaderValue::from_static(coding.as_str());
        headers.insert(header::CONTENT_ENCODING, coding);
    }
    if head {
        headers.insert(header::CONTENT_LENGTH, variant.bytes.len().into());
        return (StatusCode::OK, headers, Bytes::new());
    }
    (StatusCode::OK, headers, variant.bytes.clone())
}

impl<B> Service<Request<B>> for PreparedService {
    type Response = Response<Full<Bytes>>;
    type Error = Declined;
    type Future = Ready<Result<Response<Full<Bytes>>, Declined>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Declined>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ready(self.answer(request))
    }
}
