use std::{
    cell::RefCell,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderName, HeaderValue, Request, header::CONTENT_TYPE};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{Deadline, OverloadConfig, deadline::GRPC_TIMEOUT};

thread_local! {
    static CURRENT: RefCell<Option<Deadline>> = const { RefCell::new(None) };
}

impl Deadline {
    /// That of the request in whose future this is called, if a [`DeadlineScopeLayer`] stands around the handler, or a
    /// [`scope`](Self::scope) around the future.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// The future, in which this is the [`current`](Self::current) one: for what is spawned.
    pub fn scope<F>(self, future: F) -> DeadlineScopeFuture<F> {
        DeadlineScopeFuture {
            inner: future,
            deadline: Some(self),
        }
    }
}

/// Has the calls that a handler makes know the deadline of its request: put it around the handler, inside of
/// [`OverloadLayer`](super::OverloadLayer), and [`HandOnDeadlineLayer`] around each client.
///
/// What the handler spawns is another task, which does not know it: take [`Deadline::scope`].
///
/// ```
/// use std::{convert::Infallible, time::Duration};
/// use http::{Request, Response};
/// use stellane_autotune::overload::{DeadlineScopeLayer, HandOnDeadlineLayer, OverloadLayer};
/// use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # type Body = http_body_util::Full<bytes::Bytes>;
/// // Whatever sends requests; here it says what it was asked to send.
/// let client = HandOnDeadlineLayer::new().layer(service_fn(async |request: Request<Body>| {
///     let left = request.headers()["x-request-timeout-ms"].to_str().unwrap_or_default().to_owned();
///     Ok::<_, Infallible>(Response::new(Body::from(left)))
/// }));
/// let service = ServiceBuilder::new()
///     .layer(OverloadLayer::builder().build()?)
///     .layer(DeadlineScopeLayer::new())
///     .service_fn(move |_: Request<Body>| client.clone().oneshot(Request::new(Body::default())));
/// let request = Request::builder().header("x-request-timeout-ms", "800").body(Body::default())?;
/// # use http_body_util::BodyExt;
/// let answer = service.oneshot(request).await?.into_body().collect().await?.to_bytes();
/// let left: u64 = std::str::from_utf8(&answer)?.parse()?;
/// assert!((1..=800).contains(&left));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct DeadlineScopeLayer {}

impl DeadlineScopeLayer {
    /// The layer.
    #[must_use]
    pub fn new() -> Self {
        Self {}
    }
}

impl<S> Layer<S> for DeadlineScopeLayer {
    type Service = DeadlineScopeService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        DeadlineScopeService { inner }
    }
}

/// A service whose calls know the deadline; made by [`DeadlineScopeLayer`].
#[derive(Debug, Clone)]
pub struct DeadlineScopeService<S> {
    inner: S,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for DeadlineScopeService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = DeadlineScopeFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let deadline = request.extensions().get::<Deadline>().cloned();
        // A call may begin before the future is polled.
        let guard = Within::enter(deadline.clone());
        let inner = self.inner.call(request);
        drop(guard);
        DeadlineScopeFuture { inner, deadline }
    }
}

pin_project! {
    /// A future in which there is a [`Deadline::current`].
    pub struct DeadlineScopeFuture<F> {
        #[pin]
        inner: F,
        deadline: Option<Deadline>,
    }
}

impl<F> fmt::Debug for DeadlineScopeFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadlineScopeFuture")
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl<F: Future> Future for DeadlineScopeFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _guard = Within::enter(this.deadline.clone());
        this.inner.poll(cx)
    }
}

/// Puts back what was current before, also when the future panics.
struct Within(Option<Deadline>);

impl Within {
    fn enter(deadline: Option<Deadline>) -> Self {
        Self(CURRENT.replace(deadline))
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// Hands the deadline of a request on to the calls that are made for it: around a client, it writes the rest of the time into
/// `grpc-timeout` of gRPC calls, and into a header of all others.
///
/// The deadline is the one in the extensions of the outgoing request, else [`Deadline::current`]. A shorter one that the call names
/// already stays. Of one that has passed it says 0: a service that reads it refuses at once. Without a deadline nothing is written.
///
/// ```
/// use stellane_autotune::overload::HandOnDeadlineLayer;
/// use tower::ServiceBuilder;
///
/// let client = tower::service_fn(async |_: http::Request<()>| Ok::<_, std::io::Error>(http::Response::new(())));
/// let client = ServiceBuilder::new().layer(HandOnDeadlineLayer::new()).service(client);
/// # let _ = client;
/// ```
#[derive(Debug, Clone)]
pub struct HandOnDeadlineLayer {
    header: Option<HeaderName>,
}

impl HandOnDeadlineLayer {
    /// The layer, which writes the header that [`OverloadConfig::header`] reads by default: milliseconds.
    #[must_use]
    pub fn new() -> Self {
        Self {
            header: HeaderName::try_from(OverloadConfig::default().header).ok(),
        }
    }

    /// Another header for calls that are not gRPC's, whose value is milliseconds; `None` for none, where those who are called are
    /// strangers.
    #[must_use]
    pub fn header(mut self, header: Option<HeaderName>) -> Self {
        self.header = header;
        self
    }
}

impl Default for HandOnDeadlineLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for HandOnDeadlineLayer {
    type Service = HandOnDeadlineService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        HandOnDeadlineService {
            inner,
            header: self.header.clone(),
        }
    }
}

/// A client that hands deadlines on; made by [`HandOnDeadlineLayer`].
#[derive(Debug, Clone)]
pub struct HandOnDeadlineService<S> {
    inner: S,
    header: Option<HeaderName>,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for HandOnDeadlineService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let own = request.extensions().get::<Deadline>().cloned();
        if let Some(deadline) = own.or_else(Deadline::current) {
            hand_on(&deadline, request.headers_mut(), self.header.as_ref());
        }
        self.inner.call(request)
    }
}

fn hand_on(deadline: &Deadline, headers: &mut HeaderMap, header: Option<&HeaderName>) {
    const GRPC: &[u8] = b"application/grpc";
    let content = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let start = content.and_then(|content| content.get(..GRPC.len()));
    let is_grpc = start.is_some_and(|start| start.eq_ignore_ascii_case(GRPC));
    let asked = match is_grpc {
        true => super::deadline::asked(headers, Some(&GRPC_TIMEOUT), None),
        false => super::deadline::asked(headers, None, header),
    };
    if asked.is_some_and(|asked| asked <= deadline.remaining()) {
        return;
    }
    match (is_grpc, header) {
        (true, _) => deadline.set_grpc_timeout(headers),
        (false, Some(header)) => {
            let millis = deadline.remaining().as_millis().min(999_999_999_999);
            if let Ok(value) = HeaderValue::try_from(millis.to_string()) {
                headers.insert(header, value);
            }
        }
        (false, None) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ManualClock;

    #[test]
    fn the_rest_of_the_time_is_handed_on_unless_less_was_asked_for() {
        let grpc = "application/grpc+proto";
        let cases = [
            // content, what the call names already, what it says then
            (grpc, None, "grpc-timeout", "700m"),
            (grpc, Some("5S"), "grpc-timeout", "700m"),
            (grpc, Some("200m"), "grpc-timeout", "200m"),
            (grpc, Some("nonsense"), "grpc-timeout", "700m"),
            ("text/plain", None, "x-request-timeout-ms", "700"),
            ("text/plain", Some("5000"), "x-request-timeout-ms", "700"),
            ("text/plain", Some("200"), "x-request-timeout-ms", "200"),
        ];
        let time = ManualClock::default();
        let deadline = Deadline::new(&time.clock(), Duration::from_secs(1));
        time.advance(Duration::from_millis(300));
        let header = HeaderName::from_static("x-request-timeout-ms");
        for (content, named, name, wanted) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content));
            if let Some(named) = named {
                headers.insert(name, HeaderValue::from_static(named));
            }
            hand_on(&deadline, &mut headers, Some(&header));
            assert_eq!(headers[name], wanted);
            assert_eq!(headers.len(), 2);
        }
        let mut headers = HeaderMap::new();
        hand_on(&deadline, &mut headers, None);
        assert!(headers.is_empty());
        time.advance(Duration::from_secs(5));
        hand_on(&deadline, &mut headers, Some(&header));
        assert_eq!(headers[&header], "0");
    }

    #[test]
    fn what_was_current_before_is_current_again() {
        let time = ManualClock::default();
        let deadline = |seconds| Deadline::new(&time.clock(), Duration::from_secs(seconds));
        let left = || Deadline::current().map(|deadline| deadline.remaining().as_secs());
        let poll = |future: Pin<&mut dyn Future<Output = ()>>| {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            assert!(future.poll(&mut cx).is_ready());
        };
        let inner = deadline(1).scope(async move { assert_eq!(left(), Some(1)) });
        let outer = deadline(2).scope(async move {
            assert_eq!(left(), Some(2));
            inner.await;
            assert_eq!(left(), Some(2));
        });
        poll(std::pin::pin!(outer));
        assert!(Deadline::current().is_none());
        let panics = deadline(1).scope(async { panic!("on purpose") });
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            poll(std::pin::pin!(panics))
        }));
        assert!(caught.is_err() && Deadline::current().is_none());
    }
}
