//! Deadlines and body limits of some requests, and what becomes of them when their client leaves.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use http::Request;
use stellane_autotune::{RequestHead, overload::OverloadLayer};
use stellane_router::BuildReport;

use super::classes::{Rules, RulesBuilder};
use crate::{
    catch_faults::{FaultCounter, Faults, Grpc},
    config::{RouteLimits, WhenDisconnected},
    on_disconnect::{Asking, OnDisconnect},
};

/// The limits of one request, where they are not those of all: see
/// [`RuntimeBuilder::route_limits`](super::RuntimeBuilder::route_limits). The default leaves all as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RequestLimits {
    /// See [`RouteLimits::timeout`].
    pub timeout: Option<Duration>,
    /// See [`RouteLimits::max_body_bytes`].
    pub max_body_bytes: Option<u64>,
    /// See [`RouteLimits::on_disconnect`].
    pub on_disconnect: Option<OnDisconnect>,
}

impl RequestLimits {
    /// How long it may take.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How large its body may be.
    #[must_use]
    pub const fn max_body_bytes(mut self, bytes: u64) -> Self {
        self.max_body_bytes = Some(bytes);
        self
    }

    /// What becomes of its handler when its client leaves.
    #[must_use]
    pub const fn on_disconnect(mut self, how: OnDisconnect) -> Self {
        self.on_disconnect = Some(how);
        self
    }
}

pub(super) type LimitsFn = dyn Fn(RequestHead<'_>) -> RequestLimits + Send + Sync;

/// Which requests have limits of their own: by a closure, then by the configuration.
#[derive(Clone, Default)]
pub(super) struct OwnLimits {
    by_closure: Option<(Arc<LimitsFn>, FaultCounter)>,
    configured: Option<Arc<Rules<RequestLimits>>>,
}

impl OwnLimits {
    pub(super) fn new(kinds: &BTreeMap<String, RouteLimits>) -> Result<Self, BuildReport> {
        if kinds.is_empty() {
            return Ok(Self::default());
        }
        let mut rules = RulesBuilder::new();
        for kind in kinds.values() {
            let limits = RequestLimits {
                timeout: Some(kind.timeout).filter(|timeout| !timeout.is_zero()),
                max_body_bytes: Some(kind.max_body_bytes).filter(|bytes| *bytes > 0),
                on_disconnect: on_disconnect(kind),
            };
            rules.add(limits, &kind.paths, &kind.methods, &kind.grpc);
        }
        Ok(Self {
            by_closure: None,
            configured: Some(Arc::new(rules.build()?)),
        })
    }

    /// What the closure leaves open is as configured, and all if it panics.
    pub(super) fn by(mut self, closure: Arc<LimitsFn>, faults: &Faults) -> Self {
        self.by_closure = Some((closure, faults.counter()));
        self
    }

    fn pick<T>(
        &self,
        head: RequestHead<'_>,
        pick: impl Fn(RequestLimits) -> Option<T>,
    ) -> Option<T> {
        let by_closure = || {
            let (of, faults) = self.by_closure.as_ref()?;
            pick(faults.catch("route_limits", || of(head))?)
        };
        let configured = || {
            let rules = self.configured.as_ref()?;
            pick(rules.find(head.uri.path(), head.method)?)
        };
        by_closure().or_else(configured)
    }

    /// Has deadlines go by them.
    pub(super) fn apply(&self, layer: OverloadLayer) -> OverloadLayer {
        if self.is_none() {
            return layer;
        }
        let limits = self.clone();
        layer.timeouts(move |head| limits.pick(head, |limits| limits.timeout))
    }

    #[inline(never)]
    fn asking<B>(&self, request: &mut Request<B>) -> Option<Asking> {
        let head = RequestHead::from(&*request);
        let how = self.pick(head, |limits| limits.on_disconnect)?;
        Asking::new(how.begin(request.extensions_mut())?).ok()
    }

    fn is_none(&self) -> bool {
        self.by_closure.is_none() && self.configured.is_none()
    }
}

fn on_disconnect(kind: &RouteLimits) -> Option<OnDisconnect> {
    let within = kind.finish_within;
    match kind.on_disconnect {
        WhenDisconnected::Cancel => None,
        WhenDisconnected::Finish => Some(OnDisconnect::Finish { within }),
        WhenDisconnected::Tell => Some(OnDisconnect::Tell { within }),
    }
}

/// How large the body of a request may be, and whether it goes on without its client.
#[derive(Debug, Clone)]
pub(super) struct BodyLimits {
    max_bytes: usize,
    /// If there are any: requests pay but a look at this where there are none.
    own: Option<Box<OwnLimits>>,
}

impl BodyLimits {
    /// 0 is no limit.
    pub(super) fn new(max_bytes: u64, own: &OwnLimits) -> Self {
        let max_bytes = match max_bytes {
            0 => usize::MAX,
            bytes => to_usize(bytes),
        };
        Self {
            max_bytes,
            own: (!own.is_none()).then(|| Box::new(own.clone())),
        }
    }

    /// That of this request. One of its own the extractors are to know too: what they have by default is less than many
    /// would allow.
    #[inline]
    pub(super) fn of<B>(&self, request: &mut Request<B>, grpc: Option<Grpc>) -> usize {
        // gRPC limits each of its messages, and a stream has as many as it likes.
        if grpc.is_some() {
            return usize::MAX;
        }
        match &self.own {
            None => self.max_bytes,
            Some(own) => self.own_of(own, request),
        }
    }

    #[inline(never)]
    fn own_of<B>(&self, own: &OwnLimits, request: &mut Request<B>) -> usize {
        let head = RequestHead::from(&*request);
        let Some(own) = own.pick(head, |limits| limits.max_body_bytes) else {
            return self.max_bytes;
        };
        let own = to_usize(own);
        stellane_router::set_default_body_limit(request, own);
        own
    }

    /// Asks its connection to let it go on, if it is to and that is ours.
    #[inline]
    pub(super) fn asking<B>(&self, request: &mut Request<B>) -> Option<Asking> {
        match &self.own {
            None => None,
            Some(own) => own.asking(request),
        }
    }
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

impl fmt::Debug for OwnLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnLimits")
            .field("by_closure", &self.by_closure.is_some())
            .field("configured", &self.configured)
            .finish()
    }
}
