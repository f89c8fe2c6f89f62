//! What is kept for a request under way.

use std::{cell::RefCell, mem, sync::Arc};

use http::{Request, Response};
use http_body::Body;
use stellane_autotune::{AdaptiveLimitLayer, Key, LimitRequestBody, Visit};
use stellane_metrics::{HttpMetrics, Recording};
use stellane_pool::{PoolScope, Pools};

use tower_service::Service;

use crate::{
    connection::Incoming,
    fault::Faults,
    runtime::{RefusalKind, RequestBody, refusal::OnRefusal},
    strict_http1::Http1Rules,
};

/// What all requests share.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) metrics: HttpMetrics,
    pub(super) limit: AdaptiveLimitLayer,
    pub(super) pools: Pools,
    pub(super) faults: Faults,
    pub(super) rules: Http1Rules,
    pub(super) max_body_bytes: usize,
    /// Whether the service tells its routes before their handlers run.
    pub(super) routes_told: bool,
    pub(super) on_refusal: OnRefusal,
}

impl Parts {
    /// Whether the request goes no further: what [`StrictHttp1Layer`](crate::strict_http1::StrictHttp1Layer)
    /// checks, and the size that its body says it has.
    #[inline]
    fn refusal<B: Body>(&self, request: &Request<B>) -> Option<RefusalKind> {
        if let Err(violation) = self.rules.judge(request) {
            return Some(RefusalKind::Violation(violation));
        }
        let declared = request.body().size_hint().lower();
        let too_large = usize::try_from(declared).map_or(true, |n| n > self.max_body_bytes);
        too_large.then_some(RefusalKind::BodyTooLarge)
    }

    /// Calls the user's service, unless the request goes no further.
    #[inline]
    pub(super) fn call<S>(
        &self,
        service: &mut S,
        request: Request<LimitRequestBody<Incoming>>,
    ) -> Result<S::Future, RefusalKind>
    where
        S: Service<Request<RequestBody>>,
    {
        if let Some(kind) = self.refusal(&request) {
            return Err(kind);
        }
        let request = request.map(|body| RequestBody::new(body, self.max_body_bytes));
        let called = self.faults.catch("call", || service.call(request));
        called.ok_or(RefusalKind::Panic)
    }
}

/// How many boxes a thread keeps.
const KEPT: usize = 64;

type Stock = Vec<Box<Held>>; // the boxes are what is kept

thread_local! {
    static STOCK: RefCell<Stock> = const { RefCell::new(Vec::new()) };
}

/// A request under way: its place under the limit and its record, until the answer has been sent; or nothing, after
/// that. Dropped before, it counts as cancelled.
///
/// In a box, so that futures and bodies are small to move. The box comes from the thread's stock with its references
/// in it, so that a request neither allocates nor counts references.
#[derive(Debug, Default)]
pub(super) struct Ongoing(Option<Box<Held>>);

#[derive(Debug)]
pub(super) struct Held {
    pub(super) parts: Arc<Parts>,
    pub(super) pools: PoolScope,
    pub(super) recording: Recording,
    /// None of a request that went through the layer of the limit.
    visit: Option<Visit>,
    /// For one's own answer should the service fail, if there is to be one.
    pub(super) head: Option<Box<Request<()>>>,
}

impl Held {
    #[cold]
    fn new(parts: &Arc<Parts>, request: &Request<Incoming>) -> Box<Self> {
        Box::new(Self {
            parts: Arc::clone(parts),
            pools: PoolScope::new(&parts.pools),
            recording: parts.metrics.begin(request),
            visit: parts.limit.enter_from(request, connection(request)),
            head: parts.on_refusal.remember(request),
        })
    }

    /// Whether it must go through the layer of the limit.
    #[inline]
    pub(super) fn is_limited(&self) -> bool {
        self.visit.is_none()
    }

    /// The body that the service gets.
    #[inline]
    pub(super) fn limit(&mut self, body: Incoming) -> LimitRequestBody<Incoming> {
        match &mut self.visit {
            Some(visit) => self.parts.limit.request_body(visit, body),
            None => body.into(),
        }
    }

    /// What the service does is polled now.
    #[inline]
    pub(super) fn resume(&mut self) {
        if let Some(visit) = &mut self.visit {
            self.parts.limit.resume(visit);
        }
    }

    /// It has nothing to do.
    #[inline]
    pub(super) fn pause(&mut self) {
        if let Some(visit) = &mut self.visit {
            self.parts.limit.pause(visit);
        }
    }

    /// A frame of the answer is out, which was not the last.
    #[inline]
    pub(super) fn hand_over(&mut self) {
        if let Some(visit) = &mut self.visit {
            self.parts.limit.hand_over(visit);
        }
    }
}

/// A connection with many streams is one client; one without has but one request at a time.
#[inline]
pub(super) fn connection(request: &Request<Incoming>) -> Option<Key> {
    request.body().shared_connection().map(Key::from_number)
}

impl Ongoing {
    /// A request begins, and takes its place unless it must go through the layer of the limit.
    #[inline]
    pub(super) fn begin(parts: &Arc<Parts>, request: &Request<Incoming>) -> Self {
        let kept = STOCK.try_with(|stock| stock.try_borrow_mut().ok()?.pop());
        let held = match kept {
            Ok(Some(mut held)) if Arc::ptr_eq(&held.parts, parts) => {
                held.recording = parts.metrics.begin(request);
                let Held { visit, .. } = &mut *held;
                parts.limit.enter_again(visit, request, connection(request));
                held.head = parts.on_refusal.remember(request);
                held
            }
            _ => Held::new(parts, request),
        };
        Self(Some(held))
    }

    #[inline]
    pub(super) fn held(&mut self) -> Option<&mut Held> {
        self.0.as_deref_mut()
    }

    /// The head of the answer is there: what its body is to hold.
    #[inline]
    pub(super) fn answered<B: Body>(&mut self, response: &Response<B>) -> Self {
        if let Some(held) = &mut self.0 {
            let Held {
                parts,
                recording,
                visit,
                ..
            } = &mut **held;
            recording.head(response);
            if let Some(visit) = visit {
                parts.limit.answered(visit, response);
            }
            if recording.is_finished() && !visit.as_ref().is_some_and(Visit::is_inside) {
                self.end();
            }
        }
        mem::take(self)
    }

    /// The answer has been sent, or nobody waits for it.
    #[inline]
    pub(super) fn end(&mut self) {
        let Some(mut held) = self.0.take() else {
            return;
        };
        if let Some(visit) = &mut held.visit {
            held.parts.limit.leave(visit);
        }
        held.recording.end();
        held.head = None;
        // A thread that is ending keeps nothing.
        let _ = STOCK.try_with(|stock| {
            if let Ok(mut stock) = stock.try_borrow_mut()
                && stock.len() < KEPT
            {
                stock.push(held);
            }
        });
    }
}

impl Drop for Ongoing {
    #[inline]
    fn drop(&mut self) {
        if self.0.is_some() {
            self.end();
        }
    }
}
