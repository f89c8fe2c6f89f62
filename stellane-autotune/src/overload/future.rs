use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;

use super::layer::Shared;
use crate::LimitBody;
use crate::limit::OnRefusal;

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
        Timed { #[pin] future: F, #[pin] timer: Timer, end: TimeOut },
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

/// The answer to a request whose deadline passes.
#[derive(Debug)]
pub(crate) struct TimeOut {
    /// See [`OnRefusal::remember`].
    request: Option<Box<Request<()>>>,
    on_refusal: OnRefusal,
    shared: Arc<Shared>,
}

impl TimeOut {
    pub(crate) fn new<B>(request: &Request<B>, on_refusal: OnRefusal, shared: Arc<Shared>) -> Self {
        Self {
            request: on_refusal.remember(request),
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
                timer: timer(timeout),
                end,
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
            StateProjection::Timed { future, timer, end } => {
                if let Poll::Ready(result) = future.poll(cx) {
                    return Poll::Ready(result.map(admitted));
                }
                ready!(timer.poll(cx));
                return Poll::Ready(Ok(end.response().map(LimitBody::refusal)));
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
