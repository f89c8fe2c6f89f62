use std::{fmt, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header::RETRY_AFTER};
#[cfg(feature = "redis")]
use stellane_autotune::rate_limit::shared::{SharedRateLimitLayer, SharedRateLimited};
use stellane_autotune::{AdaptiveLimitLayer, RateLimitLayer, RateLimited, RequestHead, Shed};

use stellane_metrics::HttpMetrics;

use super::ledger::Ledgers;
use crate::{
    catch_faults::{CatchFaultsBody, Failure, Faults, Grpc, Refusal},
    connection::{self, EarlyRefusals, Incoming},
    strict_http1::Violation,
};

/// Why the preset answers a request in the place of the service: see
/// [`RuntimeBuilder::on_refusal`](super::RuntimeBuilder::on_refusal).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusalKind {
    /// The limit, or the deadline of the request: 503, and 504 for [`Shed::TimedOut`].
    Shed(Shed),
    /// An ambiguous request: 400, 414, 431 or 501. Whatever the answer is, the connection ends with it.
    Violation(Violation),
    /// The body is larger than `server.max_body_bytes`, by its own account or when it was read: 413.
    BodyTooLarge,
    /// It was ended to make room for others, since there is no memory left for its body: 503, `RESOURCE_EXHAUSTED` in gRPC.
    /// See [`memory`](crate::memory).
    MemoryExhausted,
    /// Handlers of its route wait by their threads, and [as many as may](crate::engine::EngineConfig::max_blocked) do
    /// already: 503.
    ThreadsHeld,
    /// It came sooner than a rate of `[rate_limit]` allows: 429, `RESOURCE_EXHAUSTED` in gRPC. It may come again
    /// [after this](RateLimited::retry_after), which an answer of one's own has to say itself.
    RateLimited(RateLimited),
    /// The store of a shared rate is away, and its section says `without_store = "refuse"`: 503.
    RateStoreAway,
    /// It came by plain HTTP to an address that sends to https, and names no host to be sent to: 400.
    NoRedirect,
    /// The service returned a [`Refusal`] as its error, which names the status.
    Refused(Refusal),
    /// The service returned another error: 500.
    Error,
    /// The service panicked: 500.
    Panic,
}

impl RefusalKind {
    /// The status of the usual answer. gRPC is answered with 200 and a `grpc-status`.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Shed(shed) => shed.status(),
            Self::Violation(violation) => violation.status(),
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MemoryExhausted | Self::ThreadsHeld | Self::RateStoreAway => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::NoRedirect => StatusCode::BAD_REQUEST,
            Self::Refused(refusal) => refusal.status(),
            Self::Error | Self::Panic => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The usual answer to a request that speaks gRPC, or does not.
    pub(super) fn refusal(self, grpc: Option<Grpc>) -> Refusal {
        match self {
            // gRPC has a status for it.
            Self::MemoryExhausted if grpc.is_some() => {
                Refusal::new(StatusCode::INSUFFICIENT_STORAGE)
            }
            Self::Refused(refusal) => refusal,
            Self::Violation(_) => Refusal::new(self.status()).closing(),
            _ => Refusal::new(self.status()),
        }
    }
}

impl From<Failure> for RefusalKind {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(refusal) => Self::Refused(refusal),
            Failure::BodyTooLarge => Self::BodyTooLarge,
            Failure::Error => Self::Error,
        }
    }
}

pub(super) type AnswerFn =
    dyn Fn(RefusalKind, RequestHead<'_>) -> Option<Response<Bytes>> + Send + Sync;

/// Who is asked for an answer first, if anybody.
#[derive(Clone, Default)]
pub(super) struct OnRefusal {
    answer: Option<Arc<AnswerFn>>,
    faults: Faults,
}

impl OnRefusal {
    pub(super) fn new(answer: Option<Arc<AnswerFn>>, faults: &Faults) -> Self {
        Self {
            answer,
            faults: faults.clone(),
        }
    }

    pub(super) fn ask(&self, kind: RefusalKind, head: RequestHead<'_>) -> Option<Response<Bytes>> {
        let answer = self.answer.as_ref()?;
        self.faults
            .counter()
            .catch("on_refusal", || answer(kind, head))
            .flatten()
    }

    /// Has the layer ask too.
    pub(super) fn of_limit(&self, layer: AdaptiveLimitLayer) -> AdaptiveLimitLayer {
        if self.answer.is_none() {
            return layer;
        }
        let asked = self.clone();
        layer.on_refusal(move |shed, head| asked.ask(RefusalKind::Shed(shed), head))
    }

    /// Has the layer ask too.
    pub(super) fn of_rates(&self, layer: &RateLimitLayer) -> RateLimitLayer {
        let asked = self.clone();
        let kind = RefusalKind::RateLimited;
        layer
            .clone()
            .on_refusal(move |limited, head| asked.ask(kind(limited), head))
    }

    /// Has the layer ask too.
    #[cfg(feature = "redis")]
    pub(super) fn of_shared_rates(&self, layer: &SharedRateLimitLayer) -> SharedRateLimitLayer {
        let asked = self.clone();
        layer.clone().on_refusal(move |limited, head| {
            let kind = match limited {
                SharedRateLimited::Rate(limited) => RefusalKind::RateLimited(limited),
                SharedRateLimited::WithoutStore => RefusalKind::RateStoreAway,
                _ => return None,
            };
            asked.ask(kind, head)
        })
    }

    /// The head of a request that the service gets, should it fail there; nothing if nobody is to be asked.
    #[inline]
    pub(super) fn remember<B>(&self, request: &Request<B>) -> Option<Box<Request<()>>> {
        self.answer.as_ref().map(|_| copy_head(request))
    }

    /// The answer in the place of the service.
    #[cold]
    pub(super) fn answer<B>(
        &self,
        kind: RefusalKind,
        remembered: Option<&Request<()>>,
        grpc: Option<Grpc>,
    ) -> Response<CatchFaultsBody<B>> {
        let own = remembered.and_then(|request| self.ask(kind, RequestHead::from(request)));
        let refusal = kind.refusal(grpc);
        let mut response = match own {
            Some(own) => return refusal.closed_by(own.map(CatchFaultsBody::text)),
            None => refusal.response(grpc),
        };
        if kind == RefusalKind::ThreadsHeld {
            let soon = HeaderValue::from_static("1");
            response.headers_mut().insert(RETRY_AFTER, soon);
        }
        response
    }
}

/// The limit's refusals, where nothing stands outside of it but the metrics.
#[derive(Debug)]
pub(super) struct EarlyLimit {
    pub(super) limit: AdaptiveLimitLayer,
    pub(super) metrics: HttpMetrics,
    pub(super) ledgers: Ledgers,
}

impl EarlyRefusals for EarlyLimit {
    #[inline]
    fn may_refuse(&self) -> bool {
        self.limit.may_refuse() || self.limit.heeds_waited()
    }

    fn refuse(
        &self,
        request: &mut Request<Incoming>,
        again: &dyn Fn() -> bool,
        out: &mut Vec<u8>,
    ) -> bool {
        // The layer knows how to tell it.
        if Grpc::of_headers(request.headers()).is_some() {
            return false;
        }
        if self.limit.heeds_waited() {
            self.ledgers.tell_waited(request);
        }
        let again = self.limit.may_refuse() && again();
        let Some(refusal) = self.limit.refuse(request, None, again) else {
            return false;
        };
        let mut recording = self.metrics.begin(request);
        let (status, problem) = (refusal.shed().status(), refusal.problem());
        connection::write_problem(status, refusal.retry_after(), problem, out);
        recording.answered(status, problem.len() as u64);
        self.ledgers.refused(&recording, request);
        true
    }
}

#[cold]
fn copy_head<B>(request: &Request<B>) -> Box<Request<()>> {
    let mut copy = Box::new(Request::new(()));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    copy
}

impl fmt::Debug for OnRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnRefusal")
            .field(&self.answer.is_some())
            .finish()
    }
}
