use std::{sync::atomic::Ordering, time::Duration};

use super::{
    AdaptiveLimitLayer, Class, LimitEvidence, LimitMode, RequestHead, algorithm::is_full,
    shared::Shared,
};

/// How long a request has waited before it came to the limit, in the extensions of the request, where somebody knows: in a
/// queue before the server, or in its socket, while all threads were busy.
///
/// While the limit limits, and by its latest window the [machine](super::LocalSignal) is full, or has been found full and is
/// still busy, a request that has waited for [`max_wait`](super::LimitConfig::max_wait), and for [`LEAST`](Self::LEAST), is refused
/// with [`Shed::WaitTimeout`](super::Shed::WaitTimeout) even if a place is free. What it waits for a place is beside that. Else a server whose queue has once
/// become as long as its clients' patience has nothing but requests whose clients have left: each of them is answered,
/// nobody hears it, and no limit on what is in flight ever sees more than it may. The first also lowers the limit, as
/// those inside have left no time to read what comes, and has others refused that have waited for [`SOME`](Self::SOME), so
/// that nothing is left of the queue. Requests that are exempt or have a guaranteed share are let in.
///
/// ```
/// use std::{convert::Infallible, time::Instant};
///
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use stellane_autotune::{AdaptiveLimit, AdaptiveLimitLayer, Waited};
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// // When a request was put into a queue of one's own.
/// #[derive(Clone)]
/// struct Queued(Instant);
///
/// let limit = AdaptiveLimit::builder().build()?;
/// let service = ServiceBuilder::new()
///     .map_request(|mut request: Request<Empty<Bytes>>| {
///         if let Some(Queued(at)) = request.extensions_mut().remove() {
///             request.extensions_mut().insert(Waited(at.elapsed()));
///         }
///         request
///     })
///     .layer(AdaptiveLimitLayer::new(&limit))
///     .service_fn(async |_| Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())));
/// let mut request = Request::new(Empty::new());
/// request.extensions_mut().insert(Queued(Instant::now()));
/// assert_eq!(service.oneshot(request).await?.status(), 200);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Waited(pub Duration);

impl Waited {
    /// Nobody is the first to be refused for less.
    pub const LEAST: Duration = Duration::from_millis(500);
    /// Nobody is refused for less.
    pub const SOME: Duration = Duration::from_millis(100);
}

impl AdaptiveLimitLayer {
    /// Whether a request may be refused for what it has [waited](Waited): for who has to find out how long that was. Costs
    /// next to nothing, as it is asked before each request.
    #[inline]
    #[must_use]
    pub fn heeds_waited(&self) -> bool {
        self.limit.shared.heeds_waited()
    }
}

/// In nanoseconds, for how long after one that was too late others are that have [waited](Waited::SOME): behind it stands a
/// queue, which else would stay as long as it may be.
const DRAINS: u64 = 200_000_000;

/// Tasks ready for each core from which on a machine that was found full is still at work on what has waited: a thread
/// that has its sockets wait for it is no queue of its own that a signal could tell of, only busy.
const BUSY: f64 = 0.75;

impl Shared {
    /// Whether a request has waited for so long that its client must be taken for gone.
    #[inline]
    pub(super) fn is_late(&self, head: RequestHead<'_>, class: Class) -> bool {
        self.heeds_waited() && self.is_late_for_limit(head, class)
    }

    #[inline]
    fn heeds_waited(&self) -> bool {
        self.at_work.load(Ordering::Relaxed) && !self.is_open()
    }

    fn is_late_for_limit(&self, head: RequestHead<'_>, class: Class) -> bool {
        let Some(Waited(waited)) = head.extensions.get() else {
            return false;
        };
        let now = self.clock.nanos();
        let is_too_late = *waited >= self.settings.max_wait.max(Waited::LEAST);
        let drains = || now < self.drains_until.load(Ordering::Relaxed);
        let is_late = is_too_late || *waited >= Waited::SOME && drains();
        let class = self.class(class);
        let is_guaranteed = class.share.load(Ordering::Relaxed) > 0;
        if !is_late || is_guaranteed {
            return false;
        }
        if is_too_late {
            let before = self
                .drains_until
                .swap(now.saturating_add(DRAINS), Ordering::Relaxed);
            if now >= before {
                self.on_late(now);
            }
        }
        if self.mode() == LimitMode::Shadow {
            class.would_shed.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// Looks whether the machine has time for more.
    pub(super) fn look_at_work(&self, evidence: Option<LimitEvidence>, tasks: Option<f64>) {
        // A limit that has never been open is no evidence.
        let at_work = |tasks| is_full(tasks) || evidence.is_some() && tasks > BUSY;
        self.at_work
            .store(tasks.is_some_and(at_work), Ordering::Relaxed);
    }
}
