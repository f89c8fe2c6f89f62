use std::{fmt, sync::Arc, time::Duration};

use http::{
    Extensions, HeaderMap, Method, Request, Response, StatusCode, Uri,
    header::{CONTENT_TYPE, RETRY_AFTER},
};

use super::{Class, Key, OnRefusal, Outcome, grpc::GRPC_PUSHBACK, keys::Keys, shared::Shared};

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

/// When to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryAfter {
    /// After this.
    Time(Duration),
    /// Not at all: it would be in vain.
    Never,
}

impl ResponseHead<'_> {
    /// What the status of the service behind a limit says about its load: 503, 504 and the gRPC codes 4 and 14 are
    /// overload; other errors say nothing, and their latency would only mislead; the rest counts.
    #[must_use]
    pub fn default_outcome(self) -> Outcome {
        self.outcome_of(self.kind())
    }

    /// The same where the far side is another's, and the limit stands at its client: 429 and the gRPC code 8 are overload
    /// as well. In front of a service of one's own they speak of one client's quota, which is no reason to refuse
    /// others.
    ///
    /// ```
    /// use stellane_autotune::{AdaptiveLimit, AdaptiveLimitLayer};
    ///
    /// let limit = AdaptiveLimit::builder().build()?;
    /// let layer = AdaptiveLimitLayer::new(&limit).classify_response(|head| head.client_outcome());
    /// # Ok::<_, stellane_autotune::BuildError>(())
    /// ```
    #[must_use]
    pub fn client_outcome(self) -> Outcome {
        let says_quota = self.status == StatusCode::TOO_MANY_REQUESTS
            || self.kind() == Kind::Grpc
                && self
                    .headers
                    .get("grpc-status")
                    .is_some_and(|code| code == "8");
        match says_quota {
            true => Outcome::Overload,
            false => self.default_outcome(),
        }
    }

    /// When the far side wants to be asked again: by `grpc-retry-pushback-ms`, which may say never, else by `Retry-After` in seconds.
    /// `None` where it says nothing, or a date.
    ///
    /// ```
    /// use std::time::Duration;
    /// use http::Response;
    /// use stellane_autotune::{ResponseHead, RetryAfter};
    ///
    /// let after = |name, value| {
    ///     let response = Response::builder().status(503).header(name, value).body(());
    ///     ResponseHead::from(&response.unwrap()).retry_after()
    /// };
    /// assert_eq!(after("retry-after", "3"), Some(RetryAfter::Time(Duration::from_secs(3))));
    /// assert_eq!(after("grpc-retry-pushback-ms", "250"), Some(RetryAfter::Time(Duration::from_millis(250))));
    /// assert_eq!(after("grpc-retry-pushback-ms", "-1"), Some(RetryAfter::Never));
    /// assert_eq!(after("retry-after", "soon"), None);
    /// ```
    #[must_use]
    pub fn retry_after(self) -> Option<RetryAfter> {
        if let Some(pushback) = self.headers.get(GRPC_PUSHBACK) {
            // What is no number is one that forbids it: proposal A6 of gRPC.
            let millis = pushback
                .to_str()
                .ok()
                .and_then(|text| text.parse::<u32>().ok());
            return Some(millis.map_or(RetryAfter::Never, |millis| {
                RetryAfter::Time(Duration::from_millis(millis.into()))
            }));
        }
        let seconds = self.headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        let seconds = seconds.parse::<u32>().ok()?;
        Some(RetryAfter::Time(Duration::from_secs(seconds.into())))
    }

    /// Whether this begins something that lives on its own: an upgrade or an event stream.
    #[must_use]
    pub fn is_stream(self) -> bool {
        self.is_stream_of(self.kind())
    }

    /// Both at once. Of a body of known length, only the status need be looked at: a stream has none, and a gRPC
    /// call that failed at once has no body.
    #[inline]
    pub(super) fn default_outcome_and_is_stream(self, length: Option<u64>) -> (Outcome, bool) {
        let kind = match length {
            None | Some(0) => self.kind(),
            Some(_) => Kind::Other,
        };
        (self.outcome_of(kind), self.is_stream_of(kind))
    }

    fn kind(self) -> Kind {
        let Some(value) = self.headers.get(CONTENT_TYPE) else {
            return Kind::Other;
        };
        let begins_with = |prefix: &[u8]| {
            let start = value.as_bytes().get(..prefix.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        };
        if begins_with(b"text/event-stream") {
            Kind::EventStream
        } else if begins_with(b"application/grpc") {
            Kind::Grpc
        } else {
            Kind::Other
        }
    }

    #[inline]
    fn outcome_of(self, kind: Kind) -> Outcome {
        match self.status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => Outcome::Overload,
            status if status.is_client_error() || status.is_server_error() => Outcome::Ignore,
            StatusCode::SWITCHING_PROTOCOLS => Outcome::Ignore,
            // Only gRPC knows the header.
            _ if kind != Kind::Grpc => Outcome::Success,
            _ => match self
                .headers
                .get("grpc-status")
                .map(http::HeaderValue::as_bytes)
            {
                None | Some(b"0") => Outcome::Success,
                Some(b"4" | b"14") => Outcome::Overload,
                Some(_) => Outcome::Ignore,
            },
        }
    }

    #[inline]
    fn is_stream_of(self, kind: Kind) -> bool {
        self.status == StatusCode::SWITCHING_PROTOCOLS || kind == Kind::EventStream
    }
}

/// What the content type says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    EventStream,
    Grpc,
    Other,
}

pub(super) type OutcomeFn = Arc<dyn Fn(ResponseHead<'_>) -> Outcome + Send + Sync>;
type RequestFn<T> = Arc<dyn Fn(RequestHead<'_>) -> T + Send + Sync>;

/// The closures a layer was given. `None` is the default, and free.
#[derive(Clone, Default)]
pub(super) struct Classifiers {
    pub(super) class: Option<RequestFn<Class>>,
    pub(super) exempt: Option<RequestFn<bool>>,
    pub(super) key: Option<RequestFn<Option<Key>>>,
    pub(super) outcome: Option<OutcomeFn>,
    pub(super) on_refusal: OnRefusal,
}

impl Classifiers {
    /// Without classes all are the default class; nobody need look into the extensions.
    #[inline]
    pub(super) fn class_for(&self, shared: &Shared, head: RequestHead<'_>) -> Class {
        if shared.has_classes() {
            self.class(head)
        } else {
            Class::DEFAULT
        }
    }

    fn class(&self, head: RequestHead<'_>) -> Class {
        match &self.class {
            Some(class) => class(head),
            None => head.extensions.get::<Class>().copied().unwrap_or_default(),
        }
    }

    #[inline]
    pub(super) fn keys_for(&self, head: RequestHead<'_>, connection: Option<Key>) -> Keys {
        Keys {
            connection,
            chosen: self.key.as_ref().and_then(|key| key(head)),
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
            .field("key", &self.key.is_some())
            .field("outcome", &self.outcome.is_some())
            .field("on_refusal", &self.on_refusal)
            .finish()
    }
}
