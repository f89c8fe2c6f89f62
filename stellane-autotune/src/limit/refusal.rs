use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use http_body::Frame;

use super::{
    RequestHead, Shed,
    grpc::{Dialect, GRPC_MESSAGE, GRPC_PUSHBACK, GRPC_STATUS},
};
use crate::clock::mix;

/// Everything a refusal needs, made once: a refusal allocates nothing.
#[derive(Debug)]
pub(crate) struct Refusals {
    /// `Retry-After` in seconds, from half to one and a half of what is configured.
    retry_after: Box<[HeaderValue]>,
    /// The same for gRPC, in milliseconds.
    pushback: Box<[HeaderValue]>,
    drawn: AtomicU64,
}

impl Refusals {
    pub(crate) fn new(retry_after: Duration) -> Self {
        let mean = retry_after.as_secs().max(1);
        Self {
            retry_after: spread((mean / 2).max(1), mean + mean / 2),
            pushback: spread(mean * 500, mean * 1500),
            drawn: AtomicU64::new(0),
        }
    }

    /// The refusal as a response.
    pub(crate) fn response(&self, shed: Shed, headers: HeaderMap) -> Response<Bytes> {
        let retry_after = || self.draw_retry_after().clone();
        let pushback = || self.draw(&self.pushback).clone();
        Text::of(shed).response(headers, retry_after, pushback)
    }

    pub(super) fn draw_retry_after(&self) -> &HeaderValue {
        self.draw(&self.retry_after)
    }

    fn draw<'a>(&self, values: &'a [HeaderValue]) -> &'a HeaderValue {
        let draw = mix(self.drawn.fetch_add(1, Ordering::Relaxed)) as usize;
        &values[draw % values.len()]
    }
}

impl Text {
    /// As a response, in the language of the client: gRPC reads headers and nothing else. Reuses the header map of the
    /// request.
    pub(crate) fn response(
        self,
        mut headers: HeaderMap,
        retry_after: impl FnOnce() -> HeaderValue,
        pushback: impl FnOnce() -> HeaderValue,
    ) -> Response<Bytes> {
        let text = self;
        let grpc = headers.remove(CONTENT_TYPE).filter(is_grpc);
        headers.clear();
        let (status, body) = match grpc {
            Some(content_type) => {
                headers.insert(CONTENT_TYPE, content_type);
                headers.insert(GRPC_STATUS, HeaderValue::from_static(text.grpc_status));
                headers.insert(GRPC_MESSAGE, HeaderValue::from_static(text.detail));
                headers.insert(GRPC_PUSHBACK, pushback());
                (StatusCode::OK, "")
            }
            None => {
                let problem = HeaderValue::from_static("application/problem+json");
                headers.insert(RETRY_AFTER, retry_after());
                headers.insert(CONTENT_TYPE, problem);
                (text.status, text.problem)
            }
        };
        let mut response = Response::new(Bytes::from_static(body.as_bytes()));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

/// Values from `low` to `high`: a few are jitter enough, and a day in seconds would not be a table.
fn spread(low: u64, high: u64) -> Box<[HeaderValue]> {
    let step = ((high - low) / 64).max(1);
    let value = |number: u64| {
        let value = HeaderValue::from_maybe_shared(Bytes::from(number.to_string()))
            .unwrap_or_else(|_| HeaderValue::from_static("1"));
        // The first clone makes the bytes shared; all others then allocate nothing.
        drop(value.clone());
        value
    };
    let range = (low..=high).step_by(usize::try_from(step).unwrap_or(usize::MAX));
    range.map(value).collect()
}

fn is_grpc(content_type: &HeaderValue) -> bool {
    Dialect::of(content_type).is_some()
}

/// What a refusal says.
pub(crate) struct Text {
    pub(crate) status: StatusCode,
    /// The RFC 9457 body. Its exact size hint becomes the `Content-Length`.
    pub(crate) problem: &'static str,
    pub(crate) grpc_status: &'static str,
    /// Also the `grpc-message`: of characters that need no percent-encoding.
    pub(crate) detail: &'static str,
}

impl Text {
    pub(super) fn of(shed: Shed) -> Self {
        macro_rules! text {
            ($status:ident, $number:literal $title:literal, grpc $grpc:literal, $reason:literal, $detail:literal) => {
                Text {
                    status: StatusCode::$status,
                    problem: concat!(
                        r#"{"type":"about:blank","title":""#,
                        $title,
                        r#"","status":"#,
                        $number,
                        r#","reason":""#,
                        $reason,
                        r#"","detail":""#,
                        $detail,
                        r#""}"#
                    ),
                    grpc_status: $grpc,
                    detail: $detail,
                }
            };
            ($reason:literal, grpc $grpc:literal, $detail:literal) => {
                text!(SERVICE_UNAVAILABLE, 503 "Service Unavailable", grpc $grpc, $reason, $detail)
            };
        }
        match shed {
            Shed::Limit => text!(
                "limit",
                grpc "14",
                "The concurrency limit is reached. Retry later."
            ),
            Shed::QueueFull => text!(
                "queue_full",
                grpc "14",
                "The waiting queue is full. Retry later."
            ),
            Shed::WaitTimeout => text!(
                "wait_timeout",
                grpc "14",
                "No place became free in time. Retry later."
            ),
            Shed::Deadline => text!(
                "deadline",
                grpc "4",
                "The deadline of the request cannot be met."
            ),
            Shed::ClassFull => text!(
                "class_full",
                grpc "8",
                "All places for requests of this kind are taken. Retry later."
            ),
            Shed::TimedOut => text!(
                GATEWAY_TIMEOUT,
                504 "Gateway Timeout",
                grpc "4",
                "deadline",
                "The deadline of the request has passed."
            ),
        }
    }
}

impl Shed {
    /// The end of an answer to gRPC that had begun.
    pub(crate) fn end<D: From<Bytes>>(self, dialect: Dialect) -> Frame<D> {
        let text = Text::of(self);
        dialect.end(text.grpc_status, text.detail)
    }

    /// The status of the answer, unless it goes to gRPC: 503, or 504.
    #[must_use]
    pub fn status(self) -> StatusCode {
        Text::of(self).status
    }
}

/// An answer of one's own to a request that is refused.
type RefusalFn = dyn Fn(Shed, RequestHead<'_>) -> Option<Response<Bytes>> + Send + Sync;

/// Who is asked for the answer first, if anybody.
#[derive(Clone, Default)]
pub(crate) struct OnRefusal(Option<Arc<RefusalFn>>);

impl OnRefusal {
    pub(crate) fn new(
        answer: impl Fn(Shed, RequestHead<'_>) -> Option<Response<Bytes>> + Send + Sync + 'static,
    ) -> Self {
        Self(Some(Arc::new(answer)))
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.is_some()
    }

    /// Refuses a request.
    pub(crate) fn refuse<B>(
        &self,
        shed: Shed,
        request: Request<B>,
        refusals: &Refusals,
    ) -> Response<Bytes> {
        let own = self.0.as_ref();
        if let Some(response) = own.and_then(|own| own(shed, RequestHead::from(&request))) {
            return response;
        }
        refusals.response(shed, request.into_parts().0.headers)
    }

    /// What is needed to [refuse](Self::refuse) a request that has gone on; often that is nothing.
    pub(crate) fn remember<B>(&self, request: &Request<B>) -> Option<Box<Request<()>>> {
        let headers = request.headers();
        let grpc = headers.get(CONTENT_TYPE).filter(|value| is_grpc(value));
        if !self.is_set() && grpc.is_none() {
            return None;
        }
        let mut kept = Box::new(Request::new(()));
        if self.is_set() {
            *kept.method_mut() = request.method().clone();
            *kept.uri_mut() = request.uri().clone();
            *kept.version_mut() = request.version();
            *kept.headers_mut() = headers.clone();
            *kept.extensions_mut() = request.extensions().clone();
        } else if let Some(content_type) = grpc {
            kept.headers_mut()
                .insert(CONTENT_TYPE, content_type.clone());
        }
        Some(kept)
    }
}

impl fmt::Debug for OnRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnRefusal").field(&self.is_set()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Shed; Shed::COUNT] = [
        Shed::Limit,
        Shed::QueueFull,
        Shed::WaitTimeout,
        Shed::Deadline,
        Shed::ClassFull,
        Shed::TimedOut,
    ];

    #[test]
    fn the_body_names_the_reason() {
        for shed in ALL {
            let reason = match shed {
                Shed::TimedOut => "deadline",
                shed => shed.as_str(),
            };
            let Text { problem, .. } = Text::of(shed);
            assert!(
                problem.contains(&format!(r#""reason":"{reason}""#)),
                "{problem}"
            );
        }
    }

    #[test]
    fn a_grpc_message_needs_no_percent_encoding() {
        for shed in ALL {
            let plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'%';
            assert!(Text::of(shed).detail.bytes().all(plain), "{shed}");
        }
    }

    #[test]
    fn both_delays_are_spread_around_their_mean() {
        for (seconds, low, high) in [
            (0, 1, 1),
            (1, 1, 1),
            (2, 1, 3),
            (10, 5, 15),
            (86_400, 43_200, 129_600),
        ] {
            let refusals = Refusals::new(Duration::from_secs(seconds));
            let mean = 1000 * seconds.max(1);
            for _ in 0..200 {
                let drawn = |name, headers| {
                    let response = refusals.response(Shed::Limit, headers);
                    let value: &HeaderValue = &response.headers()[&name];
                    value.to_str().unwrap().parse::<u64>().unwrap()
                };
                let value = drawn(RETRY_AFTER, HeaderMap::new());
                assert!((low..=high).contains(&value), "{seconds}: {value}");
                let grpc = (CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                let value = drawn(GRPC_PUSHBACK, HeaderMap::from_iter([grpc]));
                assert!((mean / 2..=mean * 3 / 2).contains(&value), "{value}");
            }
        }
    }
}
