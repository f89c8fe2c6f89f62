use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use pin_project_lite::pin_project;

use super::layer::Shared;
use crate::{
    LimitBody, Shed,
    limit::{Dialect, OnRefusal},
};

pin_project! {
    /// The future of an [`OverloadService`](super::OverloadService).
    pub struct OverloadFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F> {
        Open { #[pin] future: F },
        Timed { #[pin] future: F, timed: Option<Box<Timed>> },
        Refused { response: Option<Response<Bytes>> },
    }
}

#[cfg(feature = "tokio")]
pub(crate) type Timer = tokio::time::Sleep;
#[cfg(not(feature = "tokio"))]
pub(crate) type Timer = std::future::Pending<()>;

pub(crate) fn timer(timeout: Duration) -> Timer {
    #[cfg(feature = "tokio")]
    return tokio::time::sleep(timeout);
    #[cfg(not(feature = "tokio"))]
    {
        let _ = timeout;
        std::future::pending()
    }
}

/// When a request is answered with 504, or a call of gRPC ends.
#[derive(Debug)]
pub(crate) struct Timed {
    pub(crate) timer: Pin<Box<Timer>>,
    pub(crate) end: TimeOut,
    /// Until the head of the answer.
    timeout: Duration,
    /// Of the answer, whose body has begun.
    dialect: Option<Dialect>,
}

impl Timed {
    pub(crate) fn new(timeout: Duration, end: TimeOut) -> Self {
        Self {
            timer: Box::pin(timer(timeout)),
            end,
            timeout,
            dialect: None,
        }
    }

    /// From now on for the rest of a call, of which the client has said how long it may take: what the server allows is
    /// for the head alone, or it would end streams that are meant to last.
    fn for_body(mut self: Box<Self>, dialect: Dialect) -> Option<Box<Self>> {
        let asked = self.end.asked?;
        self.dialect = Some(dialect);
        #[cfg(feature = "tokio")]
        {
            let begun = self.timer.deadline().checked_sub(self.timeout)?;
            self.timer.as_mut().reset(begun.checked_add(asked)?);
        }
        #[cfg(not(feature = "tokio"))]
        let _ = (asked, self.timeout);
        Some(self)
    }

    /// The last frame of an answer that takes too long.
    pub(crate) fn end_of_body<D: From<Bytes>>(&self) -> Frame<D> {
        self.end.shared.count_timed_out();
        Shed::TimedOut.end(self.dialect.unwrap_or(Dialect::Grpc))
    }
}

/// The answer to a request with a deadline, which covers a call of gRPC to its end: there trailers can say why it ends.
/// An answer of plain HTTP could only be cut.
pub(crate) fn timed_body<RB: Body>(
    response: Response<LimitBody<RB>>,
    timed: Option<Box<Timed>>,
) -> Response<LimitBody<RB>> {
    let Some(dialect) = Dialect::of_headers(response.headers()) else {
        return response;
    };
    let timed = timed.and_then(|timed| timed.for_body(dialect));
    response.map(|body| body.timed(timed))
}

/// The answer to a request whose deadline passes.
#[derive(Debug)]
pub(crate) struct TimeOut {
    /// See [`OnRefusal::remember`].
    request: Option<Box<Request<()>>>,
    /// What the client said, however long.
    asked: Option<Duration>,
    on_refusal: OnRefusal,
    shared: Arc<Shared>,
}

impl TimeOut {
    pub(crate) fn new<B>(request: &Request<B>, on_refusal: OnRefusal, shared: Arc<Shared>) -> Self {
        Self {
            request: on_refusal.remember(request),
            asked: shared.asked(request.headers()),
            on_refusal,
            shared,
        }
    }

    pub(crate) fn response(&mut self) -> Response<Bytes> {
        let request = self.request.take().unwrap_or_default();
        self.shared.time_out(*request, &self.on_refusal)
    }
}

impl<F> OverloadFuture<F> {
    pub(super) fn open(future: F) -> Self {
        Self {
            state: State::Open { future },
        }
    }

    pub(super) fn timed(future: F, timeout: Duration, end: TimeOut) -> Self {
        Self {
            state: State::Timed {
                future,
                timed: Some(Box::new(Timed::new(timeout, end))),
            },
        }
    }

    pub(super) fn refused(response: Response<Bytes>) -> Self {
        Self {
            state: State::Refused {
                response: Some(response),
            },
        }
    }
}

impl<F, RB, E> Future for OverloadFuture<F>
where
    F: Future<Output = Result<Response<RB>, E>>,
    RB: Body,
    RB::Data: From<Bytes>,
{
    type Output = Result<Response<LimitBody<RB>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let future = match self.project().state.project() {
            StateProjection::Open { future } => future,
            StateProjection::Timed { future, timed } => {
                if let Poll::Ready(result) = future.poll(cx) {
                    let timed = timed.take();
                    return Poll::Ready(
                        result.map(|response| timed_body(admitted(response), timed)),
                    );
                }
                let Some(timed) = timed else {
                    return Poll::Pending;
                };
                ready!(timed.timer.as_mut().poll(cx));
                return Poll::Ready(Ok(timed.end.response().map(LimitBody::refusal)));
            }
            StateProjection::Refused { response } => {
                return response.take().map_or(Poll::Pending, |response| {
                    Poll::Ready(Ok(response.map(LimitBody::refusal)))
                });
            }
        };
        Poll::Ready(ready!(future.poll(cx)).map(admitted))
    }
}

fn admitted<RB: Body>(response: Response<RB>) -> Response<LimitBody<RB>> {
    response.map(|body| LimitBody::new(body, None))
}

impl<F> fmt::Debug for OverloadFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.state {
            State::Open { .. } => "OverloadFuture::Open",
            State::Timed { .. } => "OverloadFuture::Timed",
            State::Refused { .. } => "OverloadFuture::Refused",
        })
    }
}
