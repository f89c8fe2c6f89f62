//! Three replicas of one service, of which the second does twice and the third four times what the first does, each telling its load
//! with every answer. A client of gRPC that balances by `weighted_round_robin` gives each what it can do:
//!
//! ```sh
//! cargo run --release -p stellane-examples --bin fleet_replicas   # prints the three addresses
//! python3 examples/fleet/weighted_round_robin.py ADDRESS,ADDRESS,ADDRESS         # needs grpcio
//! python3 examples/fleet/weighted_round_robin.py ADDRESS,ADDRESS,ADDRESS --oob   # by a stream of reports of each replica
//! node examples/fleet/weighted_round_robin.mjs ADDRESS,ADDRESS,ADDRESS           # the same, of @grpc/grpc-js
//! python3 examples/fleet/envoy.py ADDRESS,ADDRESS,ADDRESS                        # HTTP/1.1 by way of Envoy
//! ```
//!
//! `/fleet.Work/Do` takes a seat of its replica for 20 ms; `/fleet.Work/Slow` makes one replica four times as slow. It ends with its
//! standard input.

use std::{
    convert::Infallible,
    io::Read,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Either, Full, combinators::WithTrailers};
use stellane_core::{
    BoxError, RequestBody,
    metrics::{HttpMetrics, LoadReportLayer, LoadReports, MetricsLayer, OpenRcaService},
};
use tokio::{net::TcpListener, sync::Semaphore};
use tower::{ServiceBuilder, ServiceExt};

const GRPC: &str = "application/grpc";

#[derive(Clone)]
struct Replica {
    number: u8,
    seats: Arc<Semaphore>,
    millis: Arc<AtomicU64>,
}

type Trailers = std::future::Ready<Option<Result<HeaderMap, Infallible>>>;

impl Replica {
    async fn answer(
        self,
        request: Request<RequestBody>,
    ) -> Response<WithTrailers<Full<Bytes>, Trailers>> {
        if request.uri().path().ends_with("/Slow") {
            self.millis.store(80, Relaxed);
        } else {
            let _seat = self.seats.acquire().await;
            tokio::time::sleep(Duration::from_millis(self.millis.load(Relaxed))).await;
        }
        let kind = request.headers().get(CONTENT_TYPE);
        if kind.is_none_or(|kind| kind != GRPC) {
            let text = self.number.to_string();
            return Response::new(Full::from(text).with_trailers(std::future::ready(None)));
        }
        // A message of one byte: the number of the replica.
        let message = Bytes::copy_from_slice(&[0, 0, 0, 0, 1, self.number]);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let body = Full::new(message).with_trailers(std::future::ready(Some(Ok(trailers))));
        let mut response = Response::new(body);
        let grpc = HeaderValue::from_static(GRPC);
        response.headers_mut().insert(CONTENT_TYPE, grpc);
        response
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut addresses = Vec::new();
    for (number, seats) in (0..).zip([2_u32, 4, 8]) {
        let replica = Replica {
            number,
            seats: Arc::new(Semaphore::new(seats as usize)),
            millis: Arc::new(AtomicU64::new(20)),
        };
        let http = HttpMetrics::builder().build()?;
        let (in_flight, free) = (http.clone(), Arc::clone(&replica.seats));
        // The seats that are taken. What waits for one counts once it would fill them all again: a few that come together say
        // nothing, and of two seats they would seem to say much.
        let utilization = move || {
            let taken = seats as usize - free.available_permits();
            let waits = (in_flight.stats().requests_in_flight as usize).saturating_sub(taken);
            let counts = if waits < seats as usize {
                taken
            } else {
                taken + waits
            };
            Some(counts as f64 / f64::from(seats))
        };
        let reports = LoadReports::builder(&http)
            .application_utilization(utilization)
            .build()?;
        let service = ServiceBuilder::new()
            .layer(LoadReportLayer::new(&reports))
            .layer(MetricsLayer::new(&http))
            .service_fn(move |request| {
                let replica = replica.clone();
                async move { Ok::<_, Infallible>(replica.answer(request).await) }
            });
        let out_of_band = OpenRcaService::new(&reports);
        // Outside of all that measures: a stream of reports is no work.
        let service = tower::service_fn(move |request: Request<RequestBody>| {
            let (service, out_of_band) = (service.clone(), out_of_band.clone());
            async move {
                match request.uri().path() == OpenRcaService::PATH {
                    true => out_of_band
                        .oneshot(request)
                        .await
                        .map(|told| told.map(Either::Left)),
                    false => service
                        .oneshot(request)
                        .await
                        .map(|answer| answer.map(Either::Right)),
                }
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        addresses.push(listener.local_addr()?.to_string());
        tokio::spawn(async move { stellane_core::serve(listener, service).await });
    }
    println!("{}", addresses.join(","));
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    std::process::exit(0);
}
