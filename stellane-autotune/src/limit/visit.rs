use http::{Method, Request, Response};
use http_body::Body;

use super::future::answer_of;
use super::shared::Shared;
use super::{AdaptiveLimitLayer, Class, Outcome, RequestHead};

/// A request that an [`AdaptiveLimitLayer`] let in by [`enter`](AdaptiveLimitLayer::enter).
///
/// Unlike a [`Permit`](super::Permit) it has no reference to the limit, which costs two writes that all cores
/// share: who keeps the layer anyway gives the place back to it.
#[derive(Debug)]
#[must_use = "the place is lost unless the layer gets it back by `leave`"]
pub struct Visit {
    start: u64,
    class: Class,
    generation: u32,
    /// Whether a successful answer turns the connection into a tunnel.
    tunnel: bool,
    recorded: bool,
    left: bool,
}

impl Visit {
    /// Of a request that was let in just now.
    #[inline]
    pub(super) fn new(shared: &Shared, class: Class, tunnel: bool) -> Self {
        Self {
            start: shared.start(),
            class,
            generation: shared.be_born(),
            tunnel,
            recorded: false,
            left: false,
        }
    }

    /// Whether it has not left.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        !self.left
    }

    /// Only the first record counts.
    #[inline]
    pub(super) fn record(&mut self, shared: &Shared, outcome: Outcome) {
        if !self.recorded {
            self.recorded = true;
            shared.record(self.start, outcome);
        }
    }

    #[inline]
    pub(super) fn leave(&mut self, shared: &Shared) {
        if self.left {
            return;
        }
        self.left = true;
        if !self.recorded {
            shared.record_cancelled();
        }
        shared.pass_away(self.generation);
        shared.release(self.class);
    }
}

/// For a service that wraps futures and bodies anyway: what the layer does with a request that can begin at once,
/// without a future and a body of its own.
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use stellane_autotune::{AdaptiveLimit, AdaptiveLimitLayer};
///
/// let limit = AdaptiveLimit::builder().build()?;
/// let layer = AdaptiveLimitLayer::new(&limit);
/// // None: it must go through the service of the layer.
/// let mut visit = layer.enter(&Request::new(())).ok_or("it must wait")?;
/// layer.answered(&mut visit, &Response::new(Full::new(Bytes::from("hello"))));
/// assert_eq!(limit.stats().in_flight, 1); // until the body has ended
/// layer.leave(&mut visit);
/// assert_eq!(limit.stats().successes, 1);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
impl AdaptiveLimitLayer {
    /// Takes a place, unless the request must wait for one, has a deadline, is exempt or is to be refused: then
    /// nothing is counted, and the layer's service does all that.
    #[inline]
    pub fn enter<B>(&self, request: &Request<B>) -> Option<Visit> {
        let head = RequestHead::from(request);
        let overload = self.overload.as_ref();
        if overload.is_some_and(|overload| overload.shared.has_timeout(head.headers))
            || self.classifiers.is_exempt(head)
        {
            return None;
        }
        let shared = &*self.limit.shared;
        let class = self.classifiers.class_for(shared, head);
        let tunnel = head.method == Method::CONNECT;
        let entered = shared.try_enter(class, false);
        entered.then(|| Visit::new(shared, class, tunnel))
    }

    /// Records what an answer says about the load, and gives the place back unless its body is to hold it.
    #[inline]
    pub fn answered<B: Body>(&self, visit: &mut Visit, response: &Response<B>) {
        let classify = self.classifiers.outcome.as_ref();
        let hold = self.limit.settings.hold;
        let (outcome, holds) = answer_of(classify, hold, visit.tunnel, response);
        visit.record(&self.limit.shared, outcome);
        if !holds || response.body().is_end_stream() {
            self.leave(visit);
        }
    }

    /// Gives the place back. A request that was not answered before counts as cancelled.
    #[inline]
    pub fn leave(&self, visit: &mut Visit) {
        visit.leave(&self.limit.shared);
    }
}
