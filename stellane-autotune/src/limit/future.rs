use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    Hold, LimitBody, LimitRequestBody, OnRefusal, Outcome, Permit, ResponseHead, Shed, admit::Turn,
    classify::OutcomeFn,
};
use crate::overload::{self, Deadline, TimeOut, Timed};

pin_project! {
    /// The future of an [`AdaptiveLimitService`](super::AdaptiveLimitService).
    pub struct LimitFuture<S, B>
    where
        S: Service<Request<LimitRequestBody<B>>>,
    {
        #[pin]
        state: State<S, B, S::Future>,
        // Of a request whose deadline is enforced.
        timed: Option<Box<Timed>>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, B, F> {
        Exempt { #[pin] future: F, permit: Option<Permit> },
        Admitted { #[pin] future: F, permit: Option<Permit>, finish: Finish },
        Refused { response: Option<Response<Bytes>> },
        Waiting { waiting: Option<Box<Waiting<S, B>>> },
    }
}

/// What to do with the response.
#[derive(Clone)]
pub(super) struct Finish {
    pub(super) hold: Hold,
    /// Whether a successful answer turns the connection into a tunnel.
    pub(super) tunnel: bool,
    pub(super) outcome: Option<OutcomeFn>,
}

struct Waiting<S, B> {
    service: S,
    request: Request<B>,
    turn: Turn,
    /// When nobody waits for the answer any more, if that is before the queue's own time is over.
    #[cfg(feature = "tokio")]
    deadline: Option<Pin<Box<tokio::time::Sleep>>>,
    finish: Finish,
    on_refusal: OnRefusal,
}

impl<S, B> LimitFuture<S, B>
where
    S: Service<Request<LimitRequestBody<B>>>,
{
    pub(super) fn exempt(future: S::Future, permit: Permit) -> Self {
        Self {
            state: State::Exempt {
                future,
                permit: Some(permit),
            },
            timed: None,
        }
    }

    pub(super) fn admitted(future: S::Future, permit: Permit, finish: Finish) -> Self {
        Self {
            state: State::Admitted {
                future,
                permit: Some(permit),
                finish,
            },
            timed: None,
        }
    }

    /// Whether the request waits for its place.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting { .. })
    }

    /// Whether the limit, or the deadline, has answered in the place of the service, or is about to.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self.state, State::Refused { .. })
    }

    /// Ends it with 504 after that time.
    pub(super) fn timed(mut self, timeout: Duration, end: TimeOut) -> Self {
        self.timed = Some(Box::new(Timed::new(timeout, end)));
        self
    }

    pub(super) fn refused(response: Response<Bytes>) -> Self {
        Self {
            state: State::Refused {
                response: Some(response),
            },
            timed: None,
        }
    }

    pub(super) fn waiting(
        service: S,
        request: Request<B>,
        turn: Turn,
        finish: Finish,
        on_refusal: OnRefusal,
    ) -> Self {
        let waiting = Waiting::new(service, request, turn, finish, on_refusal);
        Self {
            state: State::Waiting {
                waiting: Some(Box::new(waiting)),
            },
            timed: None,
        }
    }
}

impl<S, B, RB> Future for LimitFuture<S, B>
where
    S: Service<Request<LimitRequestBody<B>>, Response = Response<RB>>,
    B: Body,
    RB: Body,
    RB::Data: From<Bytes>,
{
    type Output = Result<Response<LimitBody<RB>>, S::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Most have no deadline: their answer is handed out without being moved once more.
        if self.timed.is_some() {
            return self.poll_timed(cx);
        }
        self.poll_limited(cx)
    }
}

impl<S, B, RB> LimitFuture<S, B>
where
    S: Service<Request<LimitRequestBody<B>>, Response = Response<RB>>,
    B: Body,
    RB: Body,
    RB::Data: From<Bytes>,
{
    #[cold]
    fn poll_timed(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<<Self as Future>::Output> {
        if let Poll::Ready(result) = self.as_mut().poll_limited(cx) {
            let timed = self.project().timed.take();
            return Poll::Ready(result.map(|response| overload::timed_body(response, timed)));
        }
        let mut this = self.project();
        let Some(timed) = this.timed else {
            return Poll::Pending;
        };
        ready!(timed.timer.as_mut().poll(cx));
        // What takes too long ends now, not when the answer is dropped.
        this.state.set(State::Refused { response: None });
        Poll::Ready(Ok(timed.end.response().map(LimitBody::refusal)))
    }

    #[inline]
    fn poll_limited(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<<Self as Future>::Output> {
        loop {
            let mut state = self.as_mut().project().state;
            let (waiting, decided) = match state.as_mut().project() {
                StateProjection::Exempt { future, permit } => {
                    return future.poll(cx).map_ok(|response| {
                        response.map(|body| LimitBody::new(body, permit.take()))
                    });
                }
                StateProjection::Admitted {
                    future,
                    permit,
                    finish,
                } => {
                    // One match: each step of several would move the response once more.
                    if let Some((shared, admission)) = permit.as_mut().map(Permit::parts) {
                        admission.resume(shared);
                    }
                    return match future.poll(cx) {
                        Poll::Pending => {
                            if let Some((shared, admission)) = permit.as_mut().map(Permit::parts) {
                                admission.pause(shared);
                            }
                            Poll::Pending
                        }
                        Poll::Ready(Ok(response)) => {
                            let permit = finish.answered(&response, permit.take());
                            Poll::Ready(Ok(response.map(|body| LimitBody::new(body, permit))))
                        }
                        Poll::Ready(Err(error)) => {
                            // A service that fails instead of answering timed out or is broken:
                            // for the load both mean "less".
                            if let Some(permit) = permit.take() {
                                permit.finish(Outcome::Overload);
                            }
                            Poll::Ready(Err(error))
                        }
                    };
                }
                StateProjection::Refused { response } => {
                    return response.take().map_or(Poll::Pending, |response| {
                        Poll::Ready(Ok(response.map(LimitBody::refusal)))
                    });
                }
                StateProjection::Waiting { waiting } => {
                    let Some(waiter) = waiting.as_mut() else {
                        return Poll::Pending;
                    };
                    let decided = ready!(waiter.poll(cx));
                    (waiting.take(), decided)
                }
            };
            if let Some(waiting) = waiting {
                waiting.proceed(decided, state);
            }
        }
    }
}

impl<S, B> Waiting<S, B> {
    fn new(
        service: S,
        request: Request<B>,
        turn: Turn,
        finish: Finish,
        on_refusal: OnRefusal,
    ) -> Self {
        Self {
            service,
            #[cfg(feature = "tokio")]
            deadline: request
                .extensions()
                .get::<Deadline>()
                .map(Deadline::remaining)
                .filter(|left| *left < turn.queue().may_wait().unwrap_or_default())
                .map(|left| Box::pin(tokio::time::sleep(left))),
            request,
            turn,
            finish,
            on_refusal,
        }
    }

    /// Ready when its waiting is over, or its time.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Shed>> {
        let polled = self.turn.poll(cx);
        #[cfg(feature = "tokio")]
        if polled.is_pending() {
            self.turn.queue().keep();
            let deadline = self.deadline.as_mut();
            if deadline.is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready()) {
                return Poll::Ready(Err(self.turn.reason()));
            }
        }
        polled
    }

    /// What comes next, in the place of the waiting.
    #[inline(never)]
    #[expect(
        clippy::boxed_local,
        reason = "its parts are moved, and it is not as a whole"
    )]
    fn proceed(
        mut self: Box<Self>,
        decided: Result<(), Shed>,
        mut state: Pin<&mut State<S, B, S::Future>>,
    ) where
        S: Service<Request<LimitRequestBody<B>>>,
        B: Body,
    {
        let deadline = self.request.extensions().get::<Deadline>();
        let reason = match decided {
            _ if deadline.is_some_and(Deadline::is_expired) => Shed::Deadline,
            Err(reason) => reason,
            Ok(()) => match self.turn.permit() {
                Some(mut permit) => {
                    let request = self.finish.begun(self.request, &mut permit);
                    return state.set(State::Admitted {
                        future: self.service.call(request),
                        permit: Some(permit),
                        finish: self.finish,
                    });
                }
                None => self.turn.reason(),
            },
        };
        self.turn.note_refusal(reason);
        let refusals = &self.turn.limit().settings.refusals;
        let response = self.on_refusal.refuse(reason, self.request, refusals);
        state.set(State::Refused {
            response: Some(response),
        });
    }
}

impl Finish {
    pub(super) fn new(hold: Hold, method: &Method, outcome: Option<&OutcomeFn>) -> Self {
        Self {
            hold,
            tunnel: method == Method::CONNECT,
            outcome: outcome.cloned(),
        }
    }

    /// The request as the service gets it.
    #[inline]
    pub(super) fn begun<B: Body>(
        &self,
        request: Request<B>,
        permit: &mut Permit,
    ) -> Request<LimitRequestBody<B>> {
        let (shared, admission) = permit.parts();
        admission.note_head(&request, self.hold);
        request.map(|body| admission.wrap(body, shared))
    }

    /// Records the outcome; the permit, if the body is to hold it.
    fn answered<RB: Body>(
        &self,
        response: &Response<RB>,
        permit: Option<Permit>,
    ) -> Option<Permit> {
        let mut permit = permit?;
        let (outcome, holds) = answer_of(self.outcome.as_ref(), self.hold, self.tunnel, response);
        let (shared, admission) = permit.parts();
        if response.body().is_end_stream() {
            admission.record(shared, outcome);
            return None;
        }
        admission.answered(shared, outcome, holds);
        admission.is_inside().then_some(permit)
    }
}

/// What an answer says about the load, and whether its body holds the place: not if the place is held until the
/// headers only, nor if the answer begins something that lives on its own.
#[inline]
pub(super) fn answer_of<RB: Body>(
    outcome: Option<&OutcomeFn>,
    hold: Hold,
    tunnel: bool,
    response: &Response<RB>,
) -> (Outcome, bool) {
    let head = ResponseHead::from(response);
    let (outcome, is_stream) = match outcome {
        Some(outcome) => (outcome(head), head.is_stream()),
        None => head.default_outcome_and_is_stream(response.body().size_hint().exact()),
    };
    let released = hold == Hold::Headers || is_stream || tunnel && head.status.is_success();
    (outcome, !released)
}

impl<S, B> fmt::Debug for LimitFuture<S, B>
where
    S: Service<Request<LimitRequestBody<B>>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.state {
            State::Exempt { .. } => "LimitFuture::Exempt",
            State::Admitted { .. } => "LimitFuture::Admitted",
            State::Refused { .. } => "LimitFuture::Refused",
            State::Waiting { .. } => "LimitFuture::Waiting",
        })
    }
}
