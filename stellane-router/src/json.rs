//! `Json`, as extractor and as reply.

use std::cell::RefCell;

use axum_core::{
    extract::{FromRequest, Request},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{
    StatusCode,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    reply::{IntoReply, Native, typed},
    types::Body,
};

/// JSON in a request or a response.
///
/// As reply it costs one allocation, the body: it is written to a buffer the thread keeps and copied
/// from there once. A value that cannot be serialised is answered with 500. In axum, use axum's own.
///
/// As extractor it wants a JSON content type (415), a body within axum-core's `DefaultBodyLimit`
/// (413, 2 MB by default) and text that fits the type (400, or 422 if it is JSON of another shape).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Json<T>(pub T);

/// The most a thread keeps of its buffer.
const KEPT: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl<T: Serialize> IntoReply<Native> for Json<T> {
    fn into_reply(self, headers: HeaderMap) -> http::Response<Body> {
        // Taken out, not borrowed: `serialize` is code of the user and may come here again.
        let mut buffer = BUFFER.try_with(RefCell::take).unwrap_or_default();
        let written = serde_json::to_writer(&mut buffer, &self.0);
        let response = match written {
            Ok(()) => {
                let body = Bytes::copy_from_slice(&buffer);
                typed(
                    headers,
                    HeaderValue::from_static("application/json"),
                    body.into(),
                )
            }
            Err(_) => crate::reply::status(StatusCode::INTERNAL_SERVER_ERROR),
        };
        if buffer.capacity() <= KEPT {
            buffer.clear();
            // Without the thread's storage, when the thread ends, the buffer just goes.
            let _ = BUFFER.try_with(|kept| kept.replace(buffer));
        }
        response
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        if !is_json(request.headers()) {
            let message = "expected `content-type: application/json`";
            return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, message).into_response());
        }
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(IntoResponse::into_response)?;
        serde_json::from_slice(&bytes).map(Json).map_err(|error| {
            let status = match error.classify() {
                serde_json::error::Category::Data => StatusCode::UNPROCESSABLE_ENTITY,
                _ => StatusCode::BAD_REQUEST,
            };
            (status, format!("body: {error}")).into_response()
        })
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(kind) = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
    else {
        return false;
    };
    let kind = kind
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}
