use http::{Method, Request, Response};
use http_body::Body;

use super::future::answer_of;
use super::{AdaptiveLimitLayer, Class, Hold, RequestHead};

/// A request that an [`AdaptiveLimitLayer`] let in by [`enter`](AdaptiveLimitLayer::enter).
///
/// Unlike a [`Permit`](super::Permit) it has no reference to the limit, which costs two writes that all cores
/// share: who keeps the layer anyway gives the place back to it.
#[derive(Debug)]
#[must_use = "the place is lost unless the layer gets it back by `leave`"]
pub struct Visit {
    start: u64,
    class: Class,
    /// Whether a successful answer turns the connection into a tunnel.
    tunnel: bool,
    recorded: bool,
    left: bool,
}

impl Visit {
    /// Whether it has not left.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        !self.left
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
        shared.try_enter(class, false).then(|| Visit {
            start: shared.start(),
            class,
            tunnel: head.method == Method::CONNECT,
            recorded: false,
            left: false,
        })
    }

    /// Records what an answer says about the load, and gives the place back unless its body is to hold it.
    #[inline]
    pub fn answered<B: Body>(&self, visit: &mut Visit, response: &Response<B>) {
        let outcome = self.classifiers.outcome.as_ref();
        let (outcome, is_stream) = answer_of(outcome, response);
        if !std::mem::replace(&mut visit.recorded, true) {
            self.limit.shared.record(visit.start, outcome);
        }
        if is_stream
            || self.limit.settings.hold == Hold::Headers
            || visit.tunnel && response.status().is_success()
            || response.body().is_end_stream()
        {
            self.leave(visit);
        }
    }

    /// Gives the place back. A request that was not answered before counts as cancelled.
    #[inline]
    pub fn leave(&self, visit: &mut Visit) {
        if std::mem::replace(&mut visit.left, true) {
            return;
        }
        let shared = &*self.limit.shared;
        if !visit.recorded {
            shared.record_cancelled();
        }
        shared.release(visit.class);
    }
}
