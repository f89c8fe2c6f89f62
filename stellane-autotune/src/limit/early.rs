use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};

use super::{
    AdaptiveLimitLayer, Key, LimitMode, RequestHead, Shed, Waited,
    refusal::{Refusals, Text},
};

/// For a server that can answer a request without calling the service: most of what a refusal costs is what is made
/// for the service, in vain.
///
/// ```
/// use http::Request;
/// use stellane_autotune::{AdaptiveLimit, AdaptiveLimitLayer, AlgorithmKind, LimitConfig};
///
/// let mut config = LimitConfig::default();
/// (config.algorithm, config.initial, config.min) = (AlgorithmKind::Fixed, 1, 1);
/// let limit = AdaptiveLimit::builder().config(config).build()?;
/// let layer = AdaptiveLimitLayer::new(&limit);
/// let request = Request::new(());
/// assert!(!layer.may_refuse() && layer.refuse(&request, None, false).is_none());
/// let place = limit.try_acquire()?;
/// assert!(layer.may_refuse());
/// let refusal = layer.refuse(&request, None, false).ok_or("not full")?;
/// assert_eq!(refusal.response(request.into_parts().0.headers).status(), 503);
/// assert_eq!(limit.stats().shed_limit, 1);
/// # drop(place);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
impl AdaptiveLimitLayer {
    /// Whether a request that comes now may be refused at once: all places are taken. Costs next to nothing, as it is asked
    /// before each request. Never while [one's own answers](Self::on_refusal) are to be asked for.
    #[inline]
    #[must_use]
    pub fn may_refuse(&self) -> bool {
        let shared = &self.limit.shared;
        shared.gate.is_taken()
            && shared.mode() == LimitMode::Enforce
            && !self.classifiers.on_refusal.is_set()
    }

    /// Refuses a request that the service of this layer would refuse, if that is certain enough; the refusal is counted.
    /// Allocates nothing.
    ///
    /// That is if nobody may wait, no more may, or so many do that this one would wait in vain, or if it has
    /// [waited](Waited) for too long already. `again` says that the client has asked a moment ago too: then the service
    /// should have it wait if it would, or clients that ask again at once take all the CPU there is. `None` also if the
    /// request has a deadline, or is of a class with seats of its own: the service knows.
    pub fn refuse<B>(
        &self,
        request: &Request<B>,
        connection: Option<Key>,
        again: bool,
    ) -> Option<EarlyRefusal<'_>> {
        let shared = &self.limit.shared;
        let head = RequestHead::from(request);
        let max_wait = shared.may_wait();
        let turns_away = || max_wait.is_none() || shared.is_in_vain(again);
        let is_in_vain = self.may_refuse() && turns_away();
        let may_be_late =
            head.extensions.get::<Waited>().is_some() && !self.classifiers.on_refusal.is_set();
        if !is_in_vain && !may_be_late {
            return None;
        }
        let class = self.classifiers.class_for(shared, head);
        let overload = self.overload.as_ref();
        if overload.is_some_and(|overload| overload.has_timeout(head))
            || shared.seats(class).is_some()
            || self.classifiers.is_exempt(head)
        {
            return None;
        }
        let shed = if shared.is_late(head, class) {
            Shed::WaitTimeout
        } else if is_in_vain {
            let keys = self.classifiers.keys_for(head, connection);
            if shared.try_enter(class, keys, max_wait.is_some()) {
                // Something speaks for it. The service will find that too.
                shared.release(class, keys);
                return None;
            }
            max_wait.map_or(Shed::Limit, |_| Shed::QueueFull)
        } else {
            return None;
        };
        shared.shed(class, shed);
        let refusals = &shared.settings.refusals;
        Some(EarlyRefusal { shed, refusals })
    }
}

/// A refusal of which no answer was made yet: see [`refuse`](AdaptiveLimitLayer::refuse).
#[derive(Debug, Clone, Copy)]
pub struct EarlyRefusal<'a> {
    shed: Shed,
    refusals: &'a Refusals,
}

impl<'a> EarlyRefusal<'a> {
    /// Why.
    #[must_use]
    pub fn shed(self) -> Shed {
        self.shed
    }

    /// The answer, in the language of the client. The header map of the request becomes that of the answer.
    #[must_use]
    pub fn response(self, headers: HeaderMap) -> Response<Bytes> {
        self.refusals.response(self.shed, headers)
    }

    /// For who writes the answer without a [`Response`], to a request without a `Content-Type`, which is none of gRPC: its
    /// body, of `application/problem+json`, to be sent with the status of [`shed`](Self::shed).
    #[must_use]
    pub fn problem(self) -> &'static str {
        Text::of(self.shed).problem
    }

    /// What its `Retry-After` says, in seconds: another value each time.
    #[must_use]
    pub fn retry_after(self) -> &'a HeaderValue {
        self.refusals.draw_retry_after()
    }
}
