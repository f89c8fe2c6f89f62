use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::{RateLeft, RateLimit, RateLimitHeaders, RateLimited};
use crate::limit::Text;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

const TOO_OFTEN: Text = Text {
    status: StatusCode::TOO_MANY_REQUESTS,
    problem: r#"{"type":"about:blank","title":"Too Many Requests","status":429,"reason":"rate","detail":"You ask too often. Retry later."}"#,
    grpc_status: "8",
    detail: "You ask too often. Retry later.",
};

#[cfg(feature = "redis")]
const WITHOUT_STORE: Text = Text {
    status: StatusCode::SERVICE_UNAVAILABLE,
    problem: r#"{"type":"about:blank","title":"Service Unavailable","status":503,"reason":"rate_store","detail":"How often you ask can not be checked. Retry later."}"#,
    grpc_status: "14",
    detail: "How often you ask can not be checked. Retry later.",
};

/// The refusal as a response, or one's own, which tells how often one may ask if that is wanted.
pub(super) fn answer(
    limit: &RateLimit,
    limited: RateLimited,
    own: Option<Response<Bytes>>,
    headers: HeaderMap,
) -> Response<Bytes> {
    let usual = || write(TOO_OFTEN, limited.retry_after, headers);
    let mut response = own.unwrap_or_else(usual);
    if limit.headers() != RateLimitHeaders::Off {
        tell(limit, limited.left(), response.headers_mut());
    }
    response
}

/// Of the limits that have let a request in, the one that leaves least: the answer tells of it, if that is wanted.
#[derive(Default)]
pub(super) struct Tells(Option<(RateLimit, RateLeft)>);

impl Tells {
    pub(super) fn let_in(&mut self, limit: &RateLimit, left: RateLeft) {
        let is_least = self
            .0
            .as_ref()
            .is_none_or(|(_, least)| left.left < least.left);
        if is_least && limit.headers() == RateLimitHeaders::All {
            self.0 = Some((limit.clone(), left));
        }
    }

    /// Once.
    pub(super) fn tell(&mut self, headers: &mut HeaderMap) {
        if let Some((limit, left)) = self.0.take() {
            tell(&limit, left, headers);
        }
    }
}

/// The answer where nobody is let in without the store.
#[cfg(feature = "redis")]
pub(super) fn without_store(after: Duration, headers: HeaderMap) -> Response<Bytes> {
    write(WITHOUT_STORE, after, headers)
}

fn write(text: Text, after: Duration, headers: HeaderMap) -> Response<Bytes> {
    let pushback = || {
        let milliseconds = after.as_nanos().div_ceil(1_000_000);
        i32::try_from(milliseconds).unwrap_or(i32::MAX).into()
    };
    text.response(headers, || seconds(after).into(), pushback)
}

/// `RateLimit` and `RateLimit-Policy`, as draft-ietf-httpapi-ratelimit-headers has them: of the rule that matters.
fn tell(limit: &RateLimit, left: RateLeft, headers: &mut HeaderMap) {
    let Some(rule) = limit.rule(left.rule) else {
        return;
    };
    let (most, window) = (rule.limit(), rule.window().as_secs().max(1));
    let policy = format!("\"{rule}\";q={most};w={window}");
    let state = format!("\"{rule}\";r={};t={}", left.left, seconds(left.full_in));
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
