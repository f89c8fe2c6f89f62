//! What handlers return.

use std::{borrow::Cow, mem};

use axum_core::response::IntoResponse;
use bytes::Bytes;
use http::{
    Response, StatusCode,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue},
};

use crate::{body::cast, types::Body};

/// Marks the return types that are [`IntoResponse`].
#[derive(Debug)]
pub enum ViaAxum {}
/// Marks the return types of this crate, which need no allocation of their own.
#[derive(Debug)]
pub enum Native {}

/// What an async fn may return to be a handler: anything that is [`IntoResponse`], and
/// [`Json`](crate::Json), alone or in a `Result`, or with a status.
///
/// `&'static str`, `String`, `Bytes`, `Vec<u8>`, `Cow<'static, str>`, `StatusCode` and
/// `Response<`[`Body`]`>` cost no allocation: the headers reuse the map of the request.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no reply",
    note = "a handler returns something that is `IntoResponse`, or `Json`"
)]
pub trait IntoReply<M> {
    /// Makes the response; `headers` is empty and may have room.
    fn into_reply(self, headers: HeaderMap) -> Response<Body>;
}

impl<T: IntoResponse + 'static> IntoReply<ViaAxum> for T {
    #[inline]
    fn into_reply(self, headers: HeaderMap) -> Response<Body> {
        // Each `cast` is settled when compiled. The answers are those of axum-core.
        let value = match cast::<T, Response<Body>>(self) {
            Ok(response) => return response,
            Err(value) => value,
        };
        let value = match cast::<T, &'static str>(value) {
            Ok(text) => return typed(headers, TEXT, text.into()),
            Err(value) => value,
        };
        let value = match cast::<T, String>(value) {
            Ok(text) => return typed(headers, TEXT, text.into()),
            Err(value) => value,
        };
        let value = match cast::<T, Cow<'static, str>>(value) {
            Ok(text) => return typed(headers, TEXT, text.into()),
            Err(value) => value,
        };
        let value = match cast::<T, Bytes>(value) {
            Ok(bytes) => return typed(headers, BYTES, bytes.into()),
            Err(value) => value,
        };
        let value = match cast::<T, Vec<u8>>(value) {
            Ok(bytes) => return typed(headers, BYTES, bytes.into()),
            Err(value) => value,
        };
        match cast::<T, StatusCode>(value) {
            Ok(code) => with_headers(headers, code, Body::empty()),
            Err(value) => from_axum(value, headers),
        }
    }
}

impl<T: IntoReply<Native>, E: IntoResponse + 'static> IntoReply<Native> for Result<T, E> {
    fn into_reply(self, headers: HeaderMap) -> Response<Body> {
        match self {
            Ok(value) => value.into_reply(headers),
            Err(error) => error.into_reply(headers),
        }
    }
}

impl<T: IntoReply<Native>> IntoReply<Native> for (StatusCode, T) {
    fn into_reply(self, headers: HeaderMap) -> Response<Body> {
        let mut response = self.1.into_reply(headers);
        *response.status_mut() = self.0;
        response
    }
}

pub(crate) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
pub(crate) const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");

#[inline]
pub(crate) fn typed(mut headers: HeaderMap, kind: HeaderValue, body: Body) -> Response<Body> {
    headers.insert(CONTENT_TYPE, kind);
    with_headers(headers, StatusCode::OK, body)
}

#[inline]
fn with_headers(headers: HeaderMap, code: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    // A map that never held anything owns nothing, so there is nothing to drop.
    mem::forget(mem::replace(response.headers_mut(), headers));
    response
}

/// A response of axum-core; a map without headers gives way to the one with room.
pub(crate) fn from_axum(value: impl IntoResponse, headers: HeaderMap) -> Response<Body> {
    let mut response = value.into_response().map(Body::new);
    if response.headers().is_empty() {
        *response.headers_mut() = headers;
    }
    response
}

/// A response that is only a status.
pub(crate) fn status(code: StatusCode) -> Response<Body> {
    with_headers(HeaderMap::new(), code, Body::empty())
}
