//! A tower service as hyper calls it for a stream of HTTP/2.

use std::{
    any::Any,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use http::{Method, Request, Response, StatusCode, header};

use crate::{
    BoxError,
    connection::{
        http_service::HttpService,
        incoming::{Incoming, Multiplexed},
        protocol::{
            adapter::{Adapter, Answer, Waiting},
            farewell::Farewell,
            http2::{body::StreamBody, ledger::Ledger, streams::is_slow_body, tunnel},
        },
        spawn::are_held,
        table::record::Record,
    },
};

/// One for each connection.
pub(crate) struct StreamService<S: HttpService> {
    adapter: Adapter<S>,
    connection: Arc<Multiplexed>,
    ledger: Arc<Ledger>,
    strict: bool,
}

impl<S: HttpService> StreamService<S> {
    pub(crate) fn new(
        adapter: Adapter<S>,
        record: &Record,
        ledger: Arc<Ledger>,
        strict: bool,
    ) -> Self {
        Self {
            adapter,
            connection: Arc::new(Multiplexed {
                connection: record.id(),
                client: record.client(),
            }),
            ledger,
            strict,
        }
    }
}

impl<S: HttpService> hyper::service::Service<Request<hyper::body::Incoming>> for StreamService<S> {
    type Response = Response<StreamBody<S::ResBody>>;
    type Error = BoxError;
    type Future = StreamFuture<S>;

    fn call(&self, mut request: Request<hyper::body::Incoming>) -> StreamFuture<S> {
        if self.strict && !has_one_authority(&request) {
            return StreamFuture::Done(Some(malformed()));
        }
        let terms = self.adapter.terms(&request);
        // The messages of a call may come as seldom as they like.
        let paced = request.method() != Method::POST || !is_grpc(&request);
        tunnel::say_goodbye(&mut request, &self.ledger);
        let of = Arc::clone(&self.connection);
        let mut request = request.map(|body| Incoming::of_stream(body, of, paced));
        if are_held() {
            // In its own task, where it holds up no other stream.
            let waiting = self.adapter.put_off(request, terms);
            return StreamFuture::Pending(waiting, Arc::clone(&self.ledger));
        }
        // With a waker that wakes nobody: what is returned is polled by hyper at once, with the real one.
        let mut cx = Context::from_waker(Waker::noop());
        let mut waiting = None;
        // Not what the closure returns, which is moved.
        let mut polled = Poll::Pending;
        let answer = || {
            polled = self
                .adapter
                .answer(&mut request, terms, &mut cx, &mut waiting)
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(answer)) {
            // Goes on where hyper polls it: in the stream, and not in the connection of all of them.
            return StreamFuture::Panicked(Some(panic));
        }
        match polled {
            Poll::Ready(answer) => StreamFuture::Done(Some(open::<S>(answer, &self.ledger))),
            Poll::Pending => waiting.map_or(StreamFuture::Done(None), |waiting| {
                StreamFuture::Pending(waiting, Arc::clone(&self.ledger))
            }),
        }
    }
}

/// hyper resets the stream with that.
#[cold]
fn malformed<T>() -> Result<T, BoxError> {
    Err(h2::Error::from(h2::Reason::PROTOCOL_ERROR).into())
}

/// Whether a request says once, if at all, whom it is for, and not by whom: RFC 9113 section 8.3.1.
fn has_one_authority<B>(request: &Request<B>) -> bool {
    let uri = request.uri();
    let authority = uri
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    if authority.is_some_and(|authority| authority.contains(&b'@')) {
        return false;
    }
    // One walk: cheaper than a look-up, unless there are very many.
    let mut fields = request.headers().iter();
    let mut next_host = || fields.find(|(name, _)| **name == header::HOST);
    let Some((_, host)) = next_host() else {
        return true;
    };
    let usual = match uri.scheme_str() {
        Some("https") => &b":443"[..],
        _ => b":80",
    };
    let same = authority.is_none_or(|authority| {
        bare(authority, usual).eq_ignore_ascii_case(bare(host.as_bytes(), usual))
    });
    same && next_host().is_none() && !host.as_bytes().contains(&b'@')
}

/// An authority without the port that goes without saying.
fn bare<'a>(authority: &'a [u8], usual: &[u8]) -> &'a [u8] {
    let bare = authority.strip_suffix(usual);
    bare.or(authority.strip_suffix(b":")).unwrap_or(authority)
}

fn is_grpc<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

type Opened<B> = Result<Response<StreamBody<B>>, BoxError>;

fn open<S: HttpService>(answer: Answer<S>, ledger: &Arc<Ledger>) -> Opened<S::ResBody> {
    let response = answer.map_err(Into::into)?;
    let farewell = Farewell::of(&response, ledger.budget());
    Ok(response.map(|body| StreamBody::new(body, farewell, Arc::clone(ledger))))
}

/// The answer to a request.
pub(crate) enum StreamFuture<S: HttpService> {
    Done(Option<Opened<S::ResBody>>),
    Pending(Waiting<S>, Arc<Ledger>),
    Panicked(Option<Box<dyn Any + Send>>),
}

// Every future inside is boxed or not polled in place.
impl<S: HttpService> Unpin for StreamFuture<S> {}

impl<S: HttpService> Future for StreamFuture<S> {
    type Output = Opened<S::ResBody>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Done(answer) => match answer.take() {
                Some(answer) => Poll::Ready(answer),
                None => Poll::Pending,
            },
            Self::Pending(_, ledger) if is_slow_body() => {
                let body = StreamBody::empty(Arc::clone(ledger));
                // The handler is dropped, and with it the rest of the request: h2 resets the stream.
                *self = Self::Done(None);
                let mut response = Response::new(body);
                *response.status_mut() = StatusCode::REQUEST_TIMEOUT;
                Poll::Ready(Ok(response))
            }
            Self::Pending(waiting, ledger) => {
                let answer = ready!(Pin::new(waiting).poll(cx));
                Poll::Ready(open::<S>(answer, ledger))
            }
            Self::Panicked(panic) => match panic.take() {
                Some(panic) => resume_unwind(panic),
                None => Poll::Pending,
            },
        }
    }
}
