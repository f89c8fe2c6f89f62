use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;
use stellane_autotune::LimitBody;

use super::{
    body::PresetBody,
    in_flight::{InFlight, RequestState},
    label,
};
use crate::{
    BoxError,
    catch_faults::CatchFaultsBody,
    on_disconnect::Asking,
    runtime::{RefusalKind, body::BodyWatch, ledger},
};

pin_project! {
    /// The future of a [`PresetService`](super::PresetService): `F` is that of the service inside, `L` that of the
    /// layers.
    pub struct PresetFuture<F, L> {
        #[pin]
        pub(super) state: State<F, L>,
        // After it: the place is given back when the work has ended.
        pub(super) in_flight: InFlight,
    }
}

pin_project! {
    #[project = StateProjection]
    pub(super) enum State<F, L> {
        Running { #[pin] future: F, watch: BodyWatch, asking: Option<Asking>, routes_told: bool },
        Refused { kind: RefusalKind },
        Limited { future: Pin<Box<L>> },
    }
}

impl<F, L> PresetFuture<F, L> {
    #[inline]
    pub(super) fn new(state: State<F, L>, in_flight: InFlight) -> Self {
        Self { state, in_flight }
    }
}

impl<F, L> fmt::Debug for PresetFuture<F, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PresetFuture").finish_non_exhaustive()
    }
}

/// What the ledger asks of the future of the limit.
pub trait Limited {
    fn is_waiting(&self) -> bool;
    fn is_refused(&self) -> bool;
}

impl<F, L, B, E> Future for PresetFuture<F, L>
where
    F: Future<Output = Result<Response<B>, E>>,
    L: Future<Output = Result<Response<LimitBody<CatchFaultsBody<B>>>, E>> + Limited,
    B: Body<Error: Into<BoxError>> + 'static,
    E: Into<BoxError>,
{
    type Output = Result<Response<PresetBody<B>>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        // Nothing is held once it was ready.
        let Some(held) = this.in_flight.held() else {
            return Poll::Pending;
        };
        // hyper polls an answer whenever it has read a piece of a body, and once more when the piece was taken.
        if held.ledger.still_waits(cx) {
            return Poll::Pending;
        }
        if held.apart.is_some() && leaves(held, this.state.as_mut(), cx) {
            return Poll::Pending;
        }
        held.resume();
        let mut stamped = Context::from_waker(held.ledger.enter());
        let entered = held.recording.enter();
        let kind = match this.state.as_mut().project() {
            StateProjection::Running {
                future,
                watch,
                asking,
                routes_told,
            } => {
                let pools = held.pools.enter();
                // Not what the closure returns, which is moved.
                let mut polled = Poll::Pending;
                let poll = || polled = future.poll(&mut stamped);
                let panicked = held.parts.faults.counter().catch("future", poll).is_none();
                drop(pools);
                if let Some(apart) = &mut held.apart {
                    apart.polled();
                }
                if let Poll::Ready(Ok(response)) = &polled {
                    label::tell_late(response.body(), *routes_told);
                }
                entered.leave();
                let (faults, grpc) = (held.parts.faults.counter(), held.grpc);
                let refusal = match panicked {
                    true => Some(RefusalKind::Panic),
                    // Not with its task's own waker: it is polled when it is woken by this one.
                    false => watch.refusal(&polled, grpc, &stamped),
                };
                if polled.is_pending() {
                    held.pause(None, cx);
                    if let Some(asking) = asking {
                        asking.ask();
                    }
                }
                // Before the answer is taken out: what others look at must be moved to where they look.
                let in_flight = match &mut polled {
                    Poll::Ready(Ok(response)) if refusal.is_none() => {
                        held.tell_timing(response);
                        this.in_flight.answered(response)
                    }
                    _ => InFlight::default(),
                };
                if let Some(kind) = refusal {
                    kind
                } else {
                    match polled {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Ok(response)) => {
                            return Poll::Ready(Ok(response.map(|body| {
                                PresetBody::new(CatchFaultsBody::new(body, faults), in_flight)
                            })));
                        }
                        Poll::Ready(Err(error)) => {
                            let error = error.into();
                            if let Some(own) = grpc.and_then(|grpc| grpc.answer_to(&error)) {
                                let in_flight = this.in_flight.answered(&own);
                                return Poll::Ready(Ok(
                                    own.map(|body| PresetBody::new(body, in_flight))
                                ));
                            }
                            faults.answer_to(&error).into()
                        }
                    }
                }
            }
            StateProjection::Refused { kind } => {
                entered.leave();
                *kind
            }
            StateProjection::Limited { future } => {
                let polled = future.as_mut().poll(&mut stamped);
                entered.leave();
                if let Some(apart) = &mut held.apart {
                    apart.polled();
                }
                held.is_refused = future.is_refused();
                if polled.is_pending() {
                    held.pause(future.is_waiting().then_some(ledger::LIMIT), cx);
                }
                let mut response = ready!(polled)?;
                held.tell_timing(&mut response);
                let in_flight = this.in_flight.answered(&response);
                let limited = |body| PresetBody::limited(Box::pin(body), in_flight);
                return Poll::Ready(Ok(response.map(limited)));
            }
        };
        // Dropped now: a future that panicked must not be polled again.
        this.state.set(State::Refused { kind });
        let Some(held) = this.in_flight.held() else {
            return Poll::Pending;
        };
        let on_refusal = &held.parts.on_refusal;
        let response = on_refusal.answer(kind, held.head.as_deref(), held.grpc);
        let in_flight = this.in_flight.answered(&response);
        Poll::Ready(Ok(response.map(|body| PresetBody::new(body, in_flight))))
    }
}

/// Whether a request of a route whose handlers wait by their threads has asked for a thread of its own, and is not polled
/// here. It is refused where it still waits for a place, and too many hold a thread.
#[cold]
fn leaves<F, L: Limited>(
    held: &mut RequestState,
    mut state: Pin<&mut State<F, L>>,
    cx: &Context<'_>,
) -> bool {
    let Some(mut apart) = held.apart.take() else {
        return false;
    };
    let waits = match state.as_mut().project() {
        StateProjection::Limited { future } => future.is_waiting(),
        _ => false,
    };
    if waits && apart.is_too_much() {
        let kind = held.refuse_apart(&apart);
        state.set(State::Refused { kind });
        return false;
    }
    let leaves = apart.leaves(cx);
    held.apart = Some(apart);
    leaves
}
