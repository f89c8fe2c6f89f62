//! The client of a service of which there are several replicas: it balances between them by what they say of their load, retries
//! within a budget, and hands the deadline of its request on.

use std::{
    collections::HashSet,
    future::{Ready, ready},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::Empty;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use stellane_core::{
    BoxError,
    autotune::{
        AdaptiveLimit, AdaptiveLimitLayer, LimitRequestBody, ResponseHead, RetryAfter,
        overload::HandOnDeadlineLayer,
    },
};
use tokio::sync::mpsc;
use tower::{
    Service, ServiceBuilder,
    balance::p2c::Balance,
    buffer::Buffer,
    discover::Change,
    load::Load,
    retry::{
        Policy,
        budget::{Budget, TpsBudget},
    },
    util::BoxCloneSyncService,
};

use crate::roles;

type Call = Request<Empty<Bytes>>;
/// A client as handlers have it.
pub(crate) type Upstream = BoxCloneSyncService<Call, Response<Body>, BoxError>;

/// A client of one service, behind a limit that finds out how much it takes.
pub(crate) fn one(address: &str) -> Result<Upstream, BoxError> {
    let replica = Replica::new(address)?;
    Ok(BoxCloneSyncService::new(
        ServiceBuilder::new()
            .layer(HandOnDeadlineLayer::new())
            .service(replica),
    ))
}

/// A client of all the replicas that are named: each text is the list of them as it is from then on.
pub(crate) fn balanced(mut lists: mpsc::Receiver<String>) -> Upstream {
    let (changes, mut changed) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut known = HashSet::new();
        while let Some(list) = lists.recv().await {
            let listed: HashSet<_> = list.split(',').map(str::to_owned).collect();
            for address in listed.difference(&known) {
                let change =
                    Replica::new(address).map(|replica| Change::Insert(address.clone(), replica));
                let _ = changes.send(change);
            }
            for address in known.difference(&listed) {
                let _ = changes.send(Ok(Change::Remove(address.clone())));
            }
            known = listed;
        }
    });
    let replicas = stream::poll_fn(move |cx| changed.poll_recv(cx));
    // No more than one retry in ten calls, and ten at the beginning.
    let budget = Arc::new(TpsBudget::new(Duration::from_secs(10), 1, 0.1));
    let client = ServiceBuilder::new()
        .retry(OnceMore {
            budget,
            is_again: false,
        })
        // Before the buffer, whose task belongs to no request.
        .layer(HandOnDeadlineLayer::new())
        .service(Buffer::new(Balance::new(replicas), 1024));
    BoxCloneSyncService::new(client)
}

/// One replica, with what it said last of its load.
#[derive(Clone)]
struct Replica {
    service: BoxCloneSyncService<Call, Response<Body>, BoxError>,
    limit: AdaptiveLimit,
    utilization: Arc<AtomicU64>,
}

impl Replica {
    fn new(address: &str) -> Result<Self, BoxError> {
        let limit = AdaptiveLimit::builder().build()?;
        let utilization = Arc::new(AtomicU64::new(1_f64.to_bits()));
        let (said, address) = (Arc::clone(&utilization), address.to_owned());
        let name = HeaderValue::try_from(&*address)?;
        let http =
            Client::builder(TokioExecutor::new()).build_http::<LimitRequestBody<Empty<Bytes>>>();
        let service = ServiceBuilder::new()
            .map_response(move |mut response: Response<_>| {
                if let Some(utilization) = utilization_of(&response) {
                    said.store(utilization.to_bits(), Relaxed);
                }
                response.headers_mut().insert(roles::REPLICA, name.clone());
                response.map(Body::new)
            })
            .map_err(BoxError::from)
            .layer(AdaptiveLimitLayer::new(&limit).classify_response(|head| head.client_outcome()))
            .map_request(move |mut request: Request<_>| {
                let path = request
                    .uri()
                    .path_and_query()
                    .map_or("/", |path| path.as_str());
                if let Ok(uri) = Uri::try_from(format!("http://{address}{path}")) {
                    *request.uri_mut() = uri;
                }
                request
            })
            .service(http);
        Ok(Self {
            service: BoxCloneSyncService::new(service),
            limit,
            utilization,
        })
    }
}

/// What the report of an answer says; the service tells it as text.
fn utilization_of<B>(response: &Response<B>) -> Option<f64> {
    let report = response
        .headers()
        .get("endpoint-load-metrics")?
        .to_str()
        .ok()?;
    let fields = report.strip_prefix("TEXT ")?.split(',');
    fields
        .filter_map(|field| field.strip_prefix("application_utilization:"))
        .next()?
        .parse()
        .ok()
}

impl Service<Call> for Replica {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = <Upstream as Service<Call>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Call) -> Self::Future {
        self.service.call(request)
    }
}

/// How full it is, by its own word, times the calls that it has already.
impl Load for Replica {
    type Metric = f64;

    fn load(&self) -> f64 {
        let utilization = f64::from_bits(self.utilization.load(Relaxed)).max(0.01);
        utilization * f64::from(1 + self.limit.stats().in_flight)
    }
}

/// What could not be sent, or was refused, is sent once more: the balancer will hardly choose the same replica.
#[derive(Clone)]
struct OnceMore {
    budget: Arc<TpsBudget>,
    is_again: bool,
}

impl Policy<Call, Response<Body>, BoxError> for OnceMore {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Call,
        result: &mut Result<Response<Body>, BoxError>,
    ) -> Option<Ready<()>> {
        let has_failed = match result {
            Err(_) => true,
            Ok(response) => {
                let never = ResponseHead::from(&*response).retry_after() == Some(RetryAfter::Never);
                response.status() == StatusCode::SERVICE_UNAVAILABLE && !never
            }
        };
        if !has_failed {
            self.budget.deposit();
            return None;
        }
        let may = !std::mem::replace(&mut self.is_again, true) && self.budget.withdraw();
        may.then(|| ready(()))
    }

    fn clone_request(&mut self, call: &Call) -> Option<Call> {
        Some(call.clone())
    }
}
