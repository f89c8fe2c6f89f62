use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};

use super::{RateLimit, RateLimited};
use crate::limit::{Dialect, GRPC_MESSAGE, GRPC_PUSHBACK, GRPC_STATUS};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The refusal as a response, in the language of the client. Reuses the header map of the request.
pub(super) fn response(limited: &RateLimited, mut headers: HeaderMap) -> Response<Bytes> {
    const PROBLEM: &str = r#"{"type":"about:blank","title":"Too Many Requests","status":429,"reason":"rate","detail":"You ask too often. Retry later."}"#;
    let grpc = headers
        .remove(CONTENT_TYPE)
        .filter(|value| Dialect::of(value).is_some());
    headers.clear();
    let (status, body) = match grpc {
        Some(content_type) => {
            headers.insert(CONTENT_TYPE, content_type);
            headers.insert(GRPC_STATUS, HeaderValue::from_static("8"));
            headers.insert(
                GRPC_MESSAGE,
                HeaderValue::from_static("You ask too often. Retry later."),
            );
            let milliseconds = limited.retry_after.as_nanos().div_ceil(1_000_000);
            let milliseconds = i32::try_from(milliseconds).unwrap_or(i32::MAX);
            headers.insert(GRPC_PUSHBACK, milliseconds.into());
            (StatusCode::OK, "")
        }
        None => {
            headers.insert(RETRY_AFTER, seconds(limited.retry_after).into());
            headers.insert(
                CONTENT_TYPE,
                HeaderValue::from_static("application/problem+json"),
            );
            (StatusCode::TOO_MANY_REQUESTS, PROBLEM)
        }
    };
    let mut response = Response::new(Bytes::from_static(body.as_bytes()));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// `RateLimit` and `RateLimit-Policy`, as draft-ietf-httpapi-ratelimit-headers has them: of the rule that matters.
pub(super) fn tell(
    limit: &RateLimit,
    rule: usize,
    left: u64,
    full_in: Duration,
    headers: &mut HeaderMap,
) {
    let rules = limit.rules();
    let Some(rule) = rules.get(rule) else { return };
    let name = rule.to_string();
    let policy = format!(
        "\"{name}\";q={};w={}",
        rule.limit(),
        rule.window().as_secs().max(1)
    );
    let state = format!("\"{name}\";r={left};t={}", seconds(full_in));
    for (name, value) in [(RATE_LIMIT_POLICY, policy), (RATE_LIMIT, state)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
}

/// Whole seconds, never too few.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}
