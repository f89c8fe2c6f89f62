//! The limit before a client: what the far side says of its load is heard, beside what tower and others bring for clients.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use stellane_autotune::{
    AdaptiveLimit, AdaptiveLimitLayer, LimitRequestBody, LimitStats, ResponseHead, RetryAfter,
    overload::{DeadlineScopeLayer, HandOnDeadlineLayer, OverloadLayer},
};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, retry::budget::Budget};

type Body = Full<Bytes>;

/// A far side that answers by the path: `/status/429`, `/grpc/8`, `/hello`; with how long to wait.
async fn far_side() -> SocketAddr {
    let answer = async |request: axum::extract::Request| {
        let path = request.uri().path().to_owned();
        let number = |prefix| {
            path.strip_prefix(prefix)
                .and_then(|rest: &str| rest.parse().ok())
        };
        let mut response = Response::new(axum::body::Body::from(path.clone()));
        if let Some(status) = number("/status/") {
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response
                .headers_mut()
                .insert("retry-after", HeaderValue::from_static("7"));
        } else if let Some(code) = number("/grpc/") {
            response = Response::new(axum::body::Body::empty());
            let headers = response.headers_mut();
            headers.insert("content-type", HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from(code));
            headers.insert("grpc-retry-pushback-ms", HeaderValue::from_static("250"));
        } else if let Some(timeout) = request.headers().get("x-request-timeout-ms") {
            response = Response::new(axum::body::Body::from(timeout.to_str().unwrap().to_owned()));
        }
        response
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = axum::Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

fn limit() -> AdaptiveLimit {
    AdaptiveLimit::builder().build().unwrap()
}

/// How many answers said what, by the limit.
fn heard(stats: &LimitStats) -> (u64, u64, u64) {
    (stats.successes, stats.overloads, stats.ignored)
}

#[tokio::test]
async fn before_a_client_of_hyper_util() {
    let (address, limit) = (far_side().await, limit());
    let client = Client::builder(TokioExecutor::new()).build_http::<LimitRequestBody<Body>>();
    let client = AdaptiveLimitLayer::new(&limit)
        .classify_response(|head| head.client_outcome())
        .layer(client);
    let get = async |path: &str| {
        let uri = format!("http://{address}{path}");
        let request = Request::get(uri).body(Body::default()).unwrap();
        let response = client.clone().oneshot(request).await.unwrap();
        let after = ResponseHead::from(&response).retry_after();
        response.into_body().collect().await.unwrap();
        after
    };
    let seven = Some(RetryAfter::Time(Duration::from_secs(7)));
    assert_eq!(get("/hello").await, None);
    assert_eq!(heard(&limit.stats()), (1, 0, 0));
    for (path, overloads) in [("/status/429", 1), ("/status/503", 2), ("/status/504", 3)] {
        assert_eq!(get(path).await, seven);
        assert_eq!(limit.stats().overloads, overloads, "{path}");
    }
    for path in ["/status/404", "/status/500"] {
        get(path).await;
        assert_eq!(limit.stats().overloads, 3, "{path}");
    }
    let pushback = Some(RetryAfter::Time(Duration::from_millis(250)));
    for (code, overloads) in [(8, 4), (14, 5), (4, 6), (5, 6)] {
        assert_eq!(get(&format!("/grpc/{code}")).await, pushback);
        assert_eq!(limit.stats().overloads, overloads, "{code}");
    }
    assert_eq!(limit.stats().in_flight, 0);
}

#[tokio::test]
async fn before_a_client_of_reqwest() {
    let (address, limit) = (far_side().await, limit());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    // reqwest has types of its own, which turn into those of `http`.
    let client = ServiceBuilder::new()
        .layer(AdaptiveLimitLayer::new(&limit).classify_response(|head| head.client_outcome()))
        .service_fn(move |request: Request<LimitRequestBody<Body>>| {
            let client = client.clone();
            async move {
                let request = request.map(reqwest::Body::wrap);
                let answer = client.execute(request.try_into()?).await?;
                Ok::<_, reqwest::Error>(Response::<reqwest::Body>::from(answer))
            }
        });
    for (path, status) in [("/hello", 200), ("/status/429", 429), ("/status/503", 503)] {
        let request = Request::get(format!("http://{address}{path}"));
        let request = request.body(Body::default()).unwrap();
        let response = client.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status);
        response.into_body().collect().await.unwrap();
    }
    assert_eq!(heard(&limit.stats()), (1, 2, 0));
}

#[tokio::test]
async fn before_a_client_of_tonic() {
    let (address, limit) = (far_side().await, limit());
    let channel = tonic::transport::Endpoint::try_from(format!("http://{address}")).unwrap();
    let layer = AdaptiveLimitLayer::new(&limit).classify_response(|head| head.client_outcome());
    // As a generated client does: `XClient::new(service)`.
    let channel = ServiceBuilder::new()
        .layer(layer)
        .map_request(|request: Request<LimitRequestBody<tonic::body::Body>>| {
            request.map(tonic::body::Body::new)
        })
        .service(channel.connect_lazy());
    let call = async |code: u32| {
        let request = Request::post(format!("http://{address}/grpc/{code}"));
        let request = request.header("content-type", "application/grpc");
        let request = request.body(tonic::body::Body::empty()).unwrap();
        let response = channel.clone().oneshot(request).await.unwrap();
        let status = tonic::Status::from_header_map(response.headers()).unwrap();
        response.into_body().collect().await.unwrap();
        status.code()
    };
    assert_eq!(call(0).await, tonic::Code::Ok);
    assert_eq!(call(8).await, tonic::Code::ResourceExhausted);
    assert_eq!(call(14).await, tonic::Code::Unavailable);
    assert_eq!(limit.stats().overloads, 2);
}

/// tower's retries within their budget, which wait for as long as the far side says: the limit stands inside, so that each try takes
/// a place of its own, and none while it waits.
#[tokio::test(start_paused = true)]
async fn retries_wait_as_they_are_told_and_keep_to_tower_s_budget() {
    #[derive(Clone)]
    struct Patient(Arc<tower::retry::budget::TpsBudget>);

    impl<B> tower::retry::Policy<Request<Body>, Response<B>, Infallible> for Patient {
        type Future = tokio::time::Sleep;

        fn retry(
            &mut self,
            _: &mut Request<Body>,
            result: &mut Result<Response<B>, Infallible>,
        ) -> Option<Self::Future> {
            let Ok(response) = result else { return None };
            let head = ResponseHead::from(&*response);
            let is_good = head.client_outcome() != stellane_autotune::Outcome::Overload;
            if is_good {
                self.0.deposit();
                return None;
            }
            let wait = match head.retry_after() {
                Some(RetryAfter::Never) => return None,
                Some(RetryAfter::Time(wait)) => wait,
                None => Duration::from_millis(100),
            };
            self.0.withdraw().then(|| tokio::time::sleep(wait))
        }

        fn clone_request(&mut self, request: &Request<Body>) -> Option<Request<Body>> {
            Some(request.clone())
        }
    }

    let (limit, tries) = (limit(), Arc::new(AtomicU32::new(0)));
    let counted = Arc::clone(&tries);
    // Refuses twice, then answers; or refuses always.
    let upstream = tower::service_fn(move |request: Request<_>| {
        let number = counted.fetch_add(1, Relaxed);
        async move {
            let answers = request.uri() == "/" && number >= 2;
            let response = Response::builder().header("retry-after", "3");
            let status = if answers { 200 } else { 503 };
            Ok::<_, Infallible>(response.status(status).body(Body::default()).unwrap())
        }
    });
    // No more than one retry in ten, and ten in the beginning.
    let budget = tower::retry::budget::TpsBudget::new(Duration::from_secs(10), 1, 0.1);
    let client = ServiceBuilder::new()
        .retry(Patient(Arc::new(budget)))
        .layer(AdaptiveLimitLayer::new(&limit).classify_response(|head| head.client_outcome()))
        .service(upstream);
    let get = async |path: &'static str| {
        let request = Request::get(path).body(Body::default()).unwrap();
        client.clone().oneshot(request).await.unwrap().status()
    };
    let began = tokio::time::Instant::now();
    assert_eq!(get("/").await, StatusCode::OK);
    assert_eq!((tries.load(Relaxed), limit.stats().overloads), (3, 2));
    assert!(began.elapsed() >= Duration::from_secs(6));
    assert_eq!(limit.stats().in_flight, 0);
    // A far side that is down is not asked twice as often for it.
    let all = futures_util::future::join_all((0..100).map(|_| get("/down")));
    let refused = tokio::time::timeout(Duration::from_secs(3600), all)
        .await
        .unwrap();
    assert!(
        refused
            .iter()
            .all(|status| *status == StatusCode::SERVICE_UNAVAILABLE)
    );
    let tries = tries.load(Relaxed) - 3;
    assert!((100..=115).contains(&tries), "{tries}");
}

/// The call that a handler makes brings what is left of its own request's time.
#[tokio::test]
async fn a_deadline_is_handed_on_to_the_far_side() {
    let address = far_side().await;
    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let client = HandOnDeadlineLayer::new().layer(client);
    let service = ServiceBuilder::new()
        .layer(OverloadLayer::builder().build().unwrap())
        .layer(DeadlineScopeLayer::new())
        .service_fn(move |_: Request<Body>| {
            let client = client.clone();
            async move {
                // Some time goes by before the call.
                tokio::time::sleep(Duration::from_millis(20)).await;
                let uri = format!("http://{address}/");
                client
                    .oneshot(Request::get(uri).body(Body::default()).unwrap())
                    .await
            }
        });
    let ask = async |timeout: Option<&str>| {
        let mut request = Request::new(Body::default());
        if let Some(timeout) = timeout {
            let timeout = HeaderValue::try_from(timeout).unwrap();
            request
                .headers_mut()
                .insert("x-request-timeout-ms", timeout);
        }
        let response = service.clone().oneshot(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    };
    let left: u64 = ask(Some("60000")).await.parse().unwrap();
    assert!(left <= 59_980, "{left}");
    assert_eq!(ask(None).await, "/");
}

/// Those that break, hedge and eject are other crates': each works around a client that has a limit.
mod beside {
    use super::*;
    use tower_resilience_circuitbreaker::CircuitBreakerLayer;
    use tower_resilience_outlier::{OutlierDetectionLayer, OutlierDetector};

    type Refused = Box<dyn std::error::Error + Send + Sync>;

    /// A far side that is down: each call fails.
    #[tokio::test]
    async fn a_breaker_outside_of_the_limit_stops_asking() {
        let (limit, tries) = (limit(), Arc::new(AtomicU32::new(0)));
        let counted = Arc::clone(&tries);
        let breaker = CircuitBreakerLayer::builder()
            .name("far side")
            .failure_rate_threshold(0.5)
            .minimum_number_of_calls(10)
            .sliding_window_size(10)
            .wait_duration_in_open(Duration::from_secs(3600))
            .build()
            .unwrap();
        let mut client = ServiceBuilder::new()
            .layer(breaker)
            .layer(AdaptiveLimitLayer::new(&limit))
            .service_fn(move |_: Request<_>| {
                counted.fetch_add(1, Relaxed);
                async { Err::<Response<Body>, Refused>("down".into()) }
            });
        for _ in 0..100 {
            let service = client.ready().await.unwrap();
            assert!(service.call(Request::new(Body::default())).await.is_err());
        }
        assert_eq!(tries.load(Relaxed), 10);
        assert_eq!(limit.stats().in_flight, 0);
    }

    /// Of two replicas one is down: it is left out, and the limit of the other sees nothing of it.
    #[tokio::test]
    async fn one_that_fails_is_ejected_and_the_other_s_limit_hears_nothing_of_it() {
        let detector = OutlierDetector::new().max_ejection_percent(50);
        let tries = Arc::new(AtomicU32::new(0));
        let replica = |name: &str, is_down: bool| {
            detector.register(name, 5);
            let ejects = OutlierDetectionLayer::builder()
                .detector(detector.clone())
                .instance_name(name)
                .error_on_ejection()
                .build()
                .unwrap();
            let (limit, counted) = (limit(), Arc::clone(&tries));
            let client = ServiceBuilder::new()
                .layer(ejects)
                .layer(AdaptiveLimitLayer::new(&limit))
                .service_fn(move |_: Request<_>| {
                    counted.fetch_add(u32::from(is_down), Relaxed);
                    async move {
                        match is_down {
                            true => Err::<_, Refused>("down".into()),
                            false => Ok(Response::new(Body::default())),
                        }
                    }
                });
            (client, limit)
        };
        let (mut down, limit_of_down) = replica("down", true);
        let (mut up, limit_of_up) = replica("up", false);
        for _ in 0..50 {
            let answer = async {
                let service = down.ready().await.map_err(|_| ())?;
                service
                    .call(Request::new(Body::default()))
                    .await
                    .map_err(|_| ())
            };
            assert!(answer.await.is_err());
            let service = up.ready().await.unwrap();
            assert!(service.call(Request::new(Body::default())).await.is_ok());
        }
        assert_eq!(tries.load(Relaxed), 5);
        assert_eq!(heard(&limit_of_up.stats()), (50, 0, 0));
        assert_eq!(limit_of_down.stats().in_flight, 0);
    }

    /// Each try takes a place; the one that is not waited for any more gives its place back.
    #[tokio::test(start_paused = true)]
    async fn tower_s_hedge_outside_of_the_limit_takes_a_place_for_each_try() {
        #[derive(Clone)]
        struct Always;

        impl tower::hedge::Policy<Request<Body>> for Always {
            fn clone_request(&self, request: &Request<Body>) -> Option<Request<Body>> {
                Some(request.clone())
            }

            fn can_retry(&self, _: &Request<Body>) -> bool {
                true
            }
        }

        let (limit, tries) = (limit(), Arc::new(AtomicU32::new(0)));
        let counted = Arc::clone(&tries);
        let inside = limit.clone();
        let client = ServiceBuilder::new()
            .layer(AdaptiveLimitLayer::new(&limit))
            .service_fn(move |_: Request<_>| {
                let (number, inside) = (counted.fetch_add(1, Relaxed), inside.clone());
                async move {
                    match number {
                        // The first never answers.
                        0 => std::future::pending::<()>().await,
                        _ => assert_eq!(inside.stats().in_flight, 2),
                    }
                    Ok::<_, Refused>(Response::new(Body::default()))
                }
            });
        let period = Duration::from_secs(10);
        let latencies = [1; 20];
        let hedge = tower::hedge::Hedge::new_with_mock_latencies(
            client, Always, 10, 0.9, period, &latencies,
        );
        let answer = hedge.oneshot(Request::new(Body::default())).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(tries.load(Relaxed), 2);
        drop(answer);
        assert_eq!(limit.stats().in_flight, 0);
    }
}
