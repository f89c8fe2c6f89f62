use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::Shed;
use crate::clock::mix;

/// Everything a refusal needs, made once: a refusal allocates nothing.
#[derive(Debug)]
pub(crate) struct Refusals {
    /// `Retry-After`, from half to one and a half of what is configured.
    retry_after: Box<[HeaderValue]>,
    drawn: AtomicU64,
}

impl Refusals {
    pub(crate) fn new(retry_after: Duration) -> Self {
        let mean = retry_after.as_secs().max(1);
        let (low, high) = ((mean / 2).max(1), mean + mean / 2);
        // A few values are jitter enough; a day in seconds would not be a table.
        let step = ((high - low) / 64).max(1);
        let range = (low..=high).step_by(usize::try_from(step).unwrap_or(usize::MAX));
        let value = |seconds: u64| {
            let value = HeaderValue::from_maybe_shared(Bytes::from(seconds.to_string()))
                .unwrap_or_else(|_| HeaderValue::from_static("1"));
            // The first clone makes the bytes shared; all others then allocate nothing.
            drop(value.clone());
            value
        };
        Self {
            retry_after: range.map(value).collect(),
            drawn: AtomicU64::new(0),
        }
    }

    /// The refusal as a response. Reuses the header map of the request.
    pub(crate) fn response(&self, shed: Shed, mut headers: HeaderMap) -> Response<Bytes> {
        let draw = mix(self.drawn.fetch_add(1, Ordering::Relaxed)) as usize;
        let retry_after = self.retry_after[draw % self.retry_after.len()].clone();
        headers.clear();
        headers.insert(RETRY_AFTER, retry_after);
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        let mut response = Response::new(Bytes::from_static(problem(shed).as_bytes()));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        *response.headers_mut() = headers;
        response
    }
}

/// The RFC 9457 body. Its exact size hint becomes the `Content-Length`.
fn problem(shed: Shed) -> &'static str {
    macro_rules! body {
        ($reason:literal, $detail:literal) => {
            concat!(
                r#"{"type":"about:blank","title":"Service Unavailable","status":503,"reason":""#,
                $reason,
                r#"","detail":""#,
                $detail,
                r#""}"#
            )
        };
    }
    match shed {
        Shed::Limit => body!("limit", "The concurrency limit is reached. Retry later."),
        Shed::QueueFull => body!("queue_full", "The waiting queue is full. Retry later."),
        Shed::WaitTimeout => body!("wait_timeout", "No place became free in time. Retry later."),
        Shed::Deadline => body!("deadline", "The deadline of the request cannot be met."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_names_the_reason() {
        for shed in [
            Shed::Limit,
            Shed::QueueFull,
            Shed::WaitTimeout,
            Shed::Deadline,
        ] {
            assert!(problem(shed).contains(&format!(r#""reason":"{shed}""#)));
        }
    }

    #[test]
    fn retry_after_is_spread_around_its_mean() {
        for (seconds, low, high) in [
            (0, 1, 1),
            (1, 1, 1),
            (2, 1, 3),
            (10, 5, 15),
            (86_400, 43_200, 129_600),
        ] {
            let refusals = Refusals::new(Duration::from_secs(seconds));
            for _ in 0..200 {
                let response = refusals.response(Shed::Limit, HeaderMap::new());
                let value: u64 = response.headers()[RETRY_AFTER]
                    .to_str()
                    .unwrap()
                    .parse()
                    .unwrap();
                assert!((low..=high).contains(&value), "{seconds}: {value}");
            }
        }
    }
}
