//! gRPC reads headers of an answer with status 200, and nothing else.

#[cfg(feature = "tonic-014")]
use std::error::Error;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};

use super::CatchFaultsBody;
use crate::BoxError;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The kind of gRPC that a request speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grpc {
    Native,
    Web,
    WebText,
}

impl Grpc {
    /// Calls are POST: others are not looked into.
    #[inline]
    pub(crate) fn of<B>(request: &Request<B>) -> Option<Self> {
        match *request.method() {
            Method::POST => Self::of_headers(request.headers()),
            _ => None,
        }
    }

    pub(crate) fn of_headers(headers: &HeaderMap) -> Option<Self> {
        const GRPC: &[u8] = b"application/grpc";
        let content_type = headers.get(header::CONTENT_TYPE)?.as_bytes();
        let (start, rest) = content_type.split_at_checked(GRPC.len())?;
        let is = |text: &[u8], start: &[u8]| {
            let text = text.get(..start.len());
            text.is_some_and(|text| text.eq_ignore_ascii_case(start))
        };
        if !is(start, GRPC) {
            return None;
        }
        match rest {
            [] | [b'+' | b';' | b' ', ..] => Some(Self::Native),
            [b'-', ..] if is(rest, b"-web-text") => Some(Self::WebText),
            [b'-', ..] => Some(Self::Web),
            _ => None,
        }
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Native => "application/grpc",
            Self::Web => "application/grpc-web+proto",
            Self::WebText => "application/grpc-web-text+proto",
        })
    }

    /// The answer that an error is, if it is a status of tonic's or stands before one: as tonic's own server does.
    #[cfg(feature = "tonic-014")]
    pub(crate) fn answer_to<B>(self, error: &BoxError) -> Option<Response<CatchFaultsBody<B>>> {
        let status = status_in(&**error)?;
        let response = status.clone().into_http::<()>();
        let mut response = response.map(|()| CatchFaultsBody::default());
        let content_type = self.content_type();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, content_type);
        Some(response)
    }

    #[cfg(not(feature = "tonic-014"))]
    pub(crate) fn answer_to<B>(self, _: &BoxError) -> Option<Response<CatchFaultsBody<B>>> {
        None
    }

    /// The answer that says what this status says elsewhere, in headers alone.
    pub(crate) fn answer<B>(self, status: StatusCode) -> Response<CatchFaultsBody<B>> {
        let (number, message) = status_of(status);
        let mut response = Response::new(CatchFaultsBody::default());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, self.content_type());
        headers.insert(GRPC_STATUS, HeaderValue::from_static(number));
        headers.insert(GRPC_MESSAGE, HeaderValue::from_static(message));
        response
    }
}

#[cfg(feature = "tonic-014")]
fn status_in<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a tonic::Status> {
    let own = error.downcast_ref::<tonic::Status>();
    own.or_else(|| status_in(error.source()?))
}

/// What a server means by a status, with a message that needs no percent-encoding.
fn status_of(status: StatusCode) -> (&'static str, &'static str) {
    match status.as_u16() {
        400 => ("3", "The request is not valid."),
        401 => ("16", "Who calls is not known."),
        403 => ("7", "The call is not allowed."),
        404 | 405 | 501 => ("12", "There is no such method."),
        408 | 504 => ("4", "The deadline of the request has passed."),
        409 => ("10", "The call conflicts with another."),
        412 => ("9", "The state does not allow the call."),
        413 => ("8", "The request is too large."),
        414 | 431 => ("8", "The head of the request is too large."),
        429 => ("8", "There are too many calls."),
        507 => ("8", "There is no memory left for the call. Retry later."),
        502 | 503 => ("14", "The service is not available. Retry later."),
        status if status < 500 => ("9", "The call was refused."),
        _ => ("13", "The service failed."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_needs_no_percent_encoding_and_no_refusal_is_told_as_success() {
        for status in (300..600).filter_map(|status| StatusCode::from_u16(status).ok()) {
            let (number, message) = status_of(status);
            let plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'%';
            assert!(message.bytes().all(plain), "{message}");
            assert!((1..=16).contains(&number.parse::<u32>().expect("a number")));
        }
    }

    #[test]
    fn only_calls_are_spoken_to_in_grpc() {
        for (method, content_type, grpc) in [
            ("POST", "application/grpc", Some(Grpc::Native)),
            ("POST", "application/grpc+json", Some(Grpc::Native)),
            ("POST", "Application/GRPC;x=y", Some(Grpc::Native)),
            ("POST", "application/grpc-web", Some(Grpc::Web)),
            (
                "POST",
                "application/grpc-web-text+proto",
                Some(Grpc::WebText),
            ),
            ("POST", "application/grpcs", None),
            ("POST", "application/json", None),
            ("GET", "application/grpc", None),
        ] {
            let request = Request::builder().method(method);
            let request = request.header("content-type", content_type).body(());
            assert_eq!(Grpc::of(&request.expect("valid")), grpc, "{content_type}");
        }
    }
}
