//! What is kept for a request under way.

use std::{any::Any, cell::RefCell, mem, sync::Arc, task::Context};

use bytes::Bytes;

use http::{HeaderName, Method, Request, Response};
use http_body::Body;
use stellane_autotune::{AdaptiveLimitLayer, Key, LimitRequestBody, embed::Admission};
use stellane_metrics::{HttpMetrics, embed::Recording};
use stellane_pool::{Pools, embed::PoolScope};
use tower_service::Service;

use crate::{
    BoxError, access_log,
    catch_faults::{Faults, Grpc},
    connection::{ConnectInfo, Incoming, client},
    memory::{MemoryBudget, MemoryKey, Owner, Upload},
    on_disconnect::Asking,
    runtime::{
        RefusalKind, RequestBody,
        body::BodyWatch,
        facts::Facts,
        learned::{ApartRequest, Learned},
        ledger::{Ledger, Ledgers},
        refusal::OnRefusal,
        route_limits::BodyLimits,
    },
    strict_http1::Http1Rules,
};

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// What all requests share.
#[derive(Debug)]
pub(super) struct StackParts {
    pub(super) metrics: HttpMetrics,
    pub(super) limit: AdaptiveLimitLayer,
    pub(super) pools: Pools,
    pub(super) faults: Faults,
    pub(super) rules: Http1Rules,
    /// Whether a request of HTTP/1.1 without a host is refused.
    pub(super) wants_host: bool,
    /// What a request is told of its connection, where that is one of ours.
    pub(super) facts: Option<Facts>,
    pub(super) body_limits: BodyLimits,
    pub(super) on_refusal: OnRefusal,
    /// If it is on.
    pub(super) memory: Option<MemoryBudget>,
    pub(super) ledgers: Ledgers,
    pub(super) learned: Learned,
    /// Whether requests have ids or spans.
    pub(super) marks_requests: bool,
}

impl StackParts {
    /// Whether the request goes no further: what [`StrictHttp1Layer`](crate::strict_http1::StrictHttp1Layer)
    /// checks, and the size that its body says it has.
    #[inline]
    fn refusal<B: Body>(&self, request: &Request<B>, max_body_bytes: usize) -> Option<RefusalKind> {
        if let Err(violation) = self.rules.judge(request, self.wants_host) {
            return Some(RefusalKind::Violation(violation));
        }
        let declared = request.body().size_hint().lower();
        let too_large = usize::try_from(declared).map_or(true, |n| n > max_body_bytes);
        too_large.then_some(RefusalKind::BodyTooLarge)
    }

    /// The body that the service gets.
    #[inline]
    pub(super) fn limit<B: Body>(
        &self,
        admission: &mut Option<Admission>,
        body: B,
    ) -> LimitRequestBody<B> {
        match admission {
            Some(admission) => self.limit.request_body(admission, body),
            None => body.into(),
        }
    }

    /// Calls the user's service with the request, whose body `wrap` wraps first, and has `put` put its future where it
    /// stays; or says why the request goes no further. A request and a future are large to move: the request is taken
    /// from where it lies, and by what may panic.
    #[inline]
    pub(super) fn call<S, B, C>(
        &self,
        service: &mut S,
        request: &mut Option<Request<B>>,
        grpc: Option<Grpc>,
        wrap: impl FnOnce(B) -> LimitRequestBody<C>,
        put: impl FnOnce(S::Future, BodyWatch, Option<Asking>),
    ) -> Option<RefusalKind>
    where
        S: Service<Request<RequestBody<C>>>,
        B: Body<Data = Bytes> + 'static,
        C: Body<Data = Bytes, Error: Into<BoxError>>,
    {
        let Some(head) = request else {
            return Some(RefusalKind::Error);
        };
        let max_bytes = self.body_limits.of(head, grpc);
        let refusal = self.refusal(head, max_bytes);
        if refusal.is_some() {
            return refusal;
        }
        let asking = self.body_limits.asking(head);
        let says_its_size = || head.body().size_hint().exact().is_some();
        let is_open = max_bytes != usize::MAX && !says_its_size();
        let watch = BodyWatch::new(is_open, upload(self.memory.as_ref(), head));
        let call = || {
            let limited = |body| RequestBody::limited(wrap(body), max_bytes, &watch);
            let request = request.take()?.map(limited);
            put(service.call(request), watch, asking);
            Some(())
        };
        let called = self.faults.counter().catch("call", call);
        called.flatten().is_none().then_some(RefusalKind::Panic)
    }
}

/// What its body is counted by, if it is.
#[inline]
pub(super) fn upload<B: Body + 'static>(
    memory: Option<&MemoryBudget>,
    request: &Request<B>,
) -> Option<Upload> {
    let memory = memory?;
    let owner = || {
        let (body, extensions) = (request.body() as &dyn Any, request.extensions());
        if let Some(MemoryKey(key)) = extensions.get() {
            return Some(Owner::Named(*key));
        }
        let limited = || Some(body.downcast_ref::<LimitRequestBody<Incoming>>()?.get_ref());
        let incoming = body.downcast_ref().or_else(limited);
        // As trusted proxies say, if anybody has asked for it.
        let peer = extensions.get().and_then(ConnectInfo::peer);
        let client = peer.map_or_else(|| incoming?.client(), |peer| client(peer.ip()));
        let connection = || incoming?.shared_connection().map(Owner::Connection);
        client.map(Owner::Client).or_else(connection)
    };
    Upload::begin(memory, owner, request.body())
}

/// How many boxes a thread keeps.
const KEPT: usize = 64;

type Stock = Vec<Box<RequestState>>; // the boxes are what is kept

thread_local! {
    static STOCK: RefCell<Stock> = const { RefCell::new(Vec::new()) };
}

/// A box whose references are those of `parts`. If there is one of others, all of those are dropped: who has ended must not
/// live on in a thread's stock.
#[inline]
fn take(stock: &mut Stock, parts: &Arc<StackParts>) -> Option<Box<RequestState>> {
    let kept = stock.pop()?;
    if Arc::ptr_eq(&kept.parts, parts) {
        return Some(kept);
    }
    stock.retain(|kept| Arc::ptr_eq(&kept.parts, parts));
    stock.pop()
}

/// A request under way: its place under the limit and its record, until the answer has been sent; or nothing, after
/// that. Dropped before, it counts as cancelled.
///
/// In a box, so that futures and bodies are small to move. The box comes from the thread's stock with its references
/// in it, so that a request neither allocates nor counts references.
#[derive(Debug, Default)]
pub(super) struct InFlight(Option<Box<RequestState>>);

#[derive(Debug)]
pub(super) struct RequestState {
    pub(super) parts: Arc<StackParts>,
    pub(super) pools: PoolScope,
    pub(super) recording: Recording,
    pub(super) ledger: Ledger,
    /// Whether the limit or a deadline has answered it.
    pub(super) is_refused: bool,
    /// None of a request that went through the layer of the limit.
    pub(super) admission: Option<Admission>,
    /// For one's own answer should the service fail, if there is to be one.
    pub(super) head: Option<Box<Request<()>>>,
    /// What it is to be answered in.
    pub(super) grpc: Option<Grpc>,
    /// If handlers of its route wait by their threads.
    pub(super) apart: Option<ApartRequest>,
}

impl RequestState {
    #[cold]
    fn new<B: Body + 'static>(parts: &Arc<StackParts>, request: &Request<B>) -> Box<Self> {
        Box::new(Self {
            parts: Arc::clone(parts),
            pools: PoolScope::new(&parts.pools),
            recording: parts.metrics.begin(request),
            ledger: Ledger::new(&parts.metrics),
            is_refused: false,
            admission: parts.limit.enter_from(request, connection(request)),
            head: parts.on_refusal.remember(request),
            grpc: Grpc::of(request),
            apart: None,
        })
    }

    /// Whether it must go through the layer of the limit.
    #[inline]
    pub(super) fn is_limited(&self) -> bool {
        self.admission.is_none()
    }

    /// If handlers of its route wait by their threads: it is to be polled on one of its own, or there are too many of them.
    #[cold]
    pub(super) fn apart(&mut self, method: &Method, path: &str) -> Option<RefusalKind> {
        let learned = &self.parts.learned;
        let route = learned.find(method, path)?;
        let apart = ApartRequest::new(learned, route);
        if apart.is_too_much() {
            return Some(self.refuse_apart(&apart));
        }
        self.apart = Some(apart);
        None
    }

    /// It has not begun, and does not.
    #[cold]
    pub(super) fn refuse_apart(&mut self, apart: &ApartRequest) -> RefusalKind {
        apart.refuse();
        let entered = self.recording.enter();
        stellane_metrics::label_route(apart.route());
        entered.leave();
        self.is_refused = true;
        // No answer that the limit could learn from.
        if let Some(mut admission) = self.admission.take() {
            self.parts.limit.leave(&mut admission);
        }
        RefusalKind::ThreadsHeld
    }

    /// What the service does is polled now.
    #[inline]
    pub(super) fn resume(&mut self) {
        if let Some(admission) = &mut self.admission {
            self.parts.limit.resume(admission);
        }
    }

    /// It has nothing to do: it waits for what has this name, if it is known.
    #[inline]
    pub(super) fn pause(&mut self, name: Option<&'static str>, cx: &Context<'_>) {
        self.ledger.pending(self.recording.begun(), name, cx);
        if let Some(admission) = &mut self.admission {
            self.parts.limit.pause(admission);
        }
    }

    /// Has the answer say where its time went, if it is to.
    #[inline]
    pub(super) fn tell_timing<B>(&self, response: &mut Response<B>) {
        if self.parts.ledgers.server_timing {
            let timing = self.ledger.server_timing(self.recording.begun());
            response.headers_mut().append(SERVER_TIMING, timing);
        }
    }

    /// A frame of the answer is out, which was not the last.
    #[inline]
    pub(super) fn hand_over(&mut self) {
        self.ledger.hand_over(self.recording.begun());
        if let Some(admission) = &mut self.admission {
            self.parts.limit.hand_over(admission);
        }
    }
}

/// A connection with many streams is one client; one without has but one request at a time. Who serves without our
/// connections may say in the extensions of a request whose it is, as to the layer of the limit.
#[inline]
pub(super) fn connection<B: 'static>(request: &Request<B>) -> Option<Key> {
    match (request.body() as &dyn Any).downcast_ref::<Incoming>() {
        Some(body) => body.shared_connection().map(Key::from_number),
        None => request.extensions().get().copied(),
    }
}

impl InFlight {
    /// A request begins, and takes its place unless it must go through the layer of the limit.
    #[inline]
    pub(super) fn begin<B: Body + 'static>(
        parts: &Arc<StackParts>,
        request: &mut Request<B>,
    ) -> Self {
        if parts.limit.heeds_waited() {
            parts.ledgers.tell_waited(request);
        }
        let kept = STOCK.try_with(|stock| take(&mut *stock.try_borrow_mut().ok()?, parts));
        let mut held = match kept {
            Ok(Some(mut held)) => {
                held.recording.begin_again(&parts.metrics, request);
                let RequestState { admission, .. } = &mut *held;
                parts
                    .limit
                    .enter_again(admission, request, connection(request));
                held.head = parts.on_refusal.remember(request);
                held.grpc = Grpc::of(request);
                held
            }
            _ => RequestState::new(parts, request),
        };
        held.ledger.begin(held.recording.begun());
        if parts.marks_requests {
            let begun = held.recording.begun();
            held.ledger.mark(&parts.ledgers, request, begun);
        }
        Self(Some(held))
    }

    #[inline]
    pub(super) fn held(&mut self) -> Option<&mut RequestState> {
        self.0.as_deref_mut()
    }

    /// The head of the answer is there: what its body is to hold.
    #[inline]
    pub(super) fn answered<B: Body>(&mut self, response: &Response<B>) -> Self {
        if let Some(held) = &mut self.0 {
            let RequestState {
                parts,
                recording,
                ledger,
                admission,
                ..
            } = &mut **held;
            recording.head(response);
            ledger.head(recording.begun());
            if let Some(admission) = admission {
                parts.limit.answered(admission, response);
            }
            if recording.is_finished() && !admission.as_ref().is_some_and(Admission::is_inside) {
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
        if let Some(admission) = &mut held.admission {
            held.parts.limit.leave(admission);
        }
        held.recording.end();
        let RequestState {
            parts,
            recording,
            ledger,
            is_refused,
            ..
        } = &mut *held;
        if access_log::is_noting() {
            access_log::note(ledger.notes(recording));
        }
        let is_refused = mem::take(is_refused);
        ledger.end(recording, is_refused, &parts.ledgers.kept);
        held.head = None;
        held.apart = None;
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

impl Drop for InFlight {
    #[inline]
    fn drop(&mut self) {
        if self.0.is_some() {
            self.end();
        }
    }
}
