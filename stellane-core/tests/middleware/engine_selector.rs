//! The native service stands in for the accelerated one, and nothing is done twice.
#![cfg(feature = "engine-selector")]

use std::{
    collections::HashMap,
    convert::Infallible,
    future::{pending, ready},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use stellane_core::{
    BoxError,
    engine_selector::{
        BreakerState, BuildError, Declined, EngineSelector, EngineSelectorLayer, FallbackMode,
        ReplayBody, SelectorConfig, SelectorStats,
    },
};
use tower::{Layer, Service, ServiceExt, service_fn};

type Body = Full<Bytes>;
type Answer = Response<Full<Bytes>>;

fn config() -> SelectorConfig {
    let mut config = SelectorConfig::default();
    config.accelerated_routes = vec!["/fast/{*rest}".to_owned()];
    config
}

fn selector(config: SelectorConfig) -> EngineSelector {
    EngineSelector::builder()
        .config(config)
        .build()
        .expect("builds")
}

fn says(who: &'static str) -> Answer {
    Response::new(Full::new(Bytes::from_static(who.as_bytes())))
}

fn request(method: Method, path: &str, body: &'static str) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .expect("a request")
}

async fn native(request: Request<ReplayBody<Body>>) -> Result<Answer, Infallible> {
    let body = request.into_body().collect().await.expect("a body");
    let said = [&b"native "[..], &body.to_bytes()].concat();
    Ok(Response::new(Full::new(said.into())))
}

/// What a service with this accelerated one says to a request.
async fn answer<A>(
    selector: &EngineSelector,
    accelerated: A,
    request: Request<Body>,
) -> (StatusCode, String)
where
    A: Service<Request<ReplayBody<Body>>, Response = Answer> + Clone,
    A::Error: Into<BoxError>,
{
    let service = EngineSelectorLayer::new(selector, accelerated).layer(service_fn(native));
    let response = service.oneshot(request).await.expect("no error comes out");
    let status = response.status();
    let body = response.into_body().collect().await.expect("a body");
    let text = String::from_utf8(body.to_bytes().to_vec()).expect("text");
    (status, text)
}

#[tokio::test]
async fn chosen_routes_are_accelerated_and_others_are_not() {
    let selector = selector(config());
    let fast = service_fn(|_| ready(Ok::<_, Infallible>(says("fast"))));
    let get = |path| request(Method::GET, path, "");
    assert_eq!(answer(&selector, fast, get("/fast/x")).await.1, "fast");
    assert_eq!(answer(&selector, fast, get("/slow")).await.1, "native ");
    assert_eq!(selector.stats().accelerated, 1);
}

#[tokio::test(start_paused = true)]
async fn errors_panics_stalls_and_refusals_are_answered_by_the_native_service() {
    let selector = selector(config());
    let get = || request(Method::GET, "/fast/x", "");
    let fails = service_fn(|_| ready(Err::<Answer, _>(std::io::Error::other("down"))));
    assert_eq!(answer(&selector, fails, get()).await.1, "native ");
    let panics_at_once =
        service_fn(|_| -> std::future::Ready<Result<Answer, Infallible>> { panic!("at once") });
    assert_eq!(answer(&selector, panics_at_once, get()).await.1, "native ");
    let panics_later = service_fn(|_| async {
        tokio::task::yield_now().await;
        if true {
            panic!("later");
        }
        Ok::<_, Infallible>(says("fast"))
    });
    assert_eq!(answer(&selector, panics_later, get()).await.1, "native ");
    let stalls = service_fn(|_| pending::<Result<Answer, Infallible>>());
    assert_eq!(answer(&selector, stalls, get()).await.1, "native ");
    let declines = service_fn(|_| ready(Err::<Answer, _>(Declined)));
    assert_eq!(answer(&selector, declines, get()).await.1, "native ");
    assert_eq!(answer(&selector, Busy, get()).await.1, "native ");
    let stats = selector.stats();
    let counted = (stats.errors, stats.panics, stats.timeouts);
    assert_eq!(
        (counted, stats.declined, stats.not_ready),
        ((1, 2, 1), 1, 1)
    );
}

/// Never ready.
#[derive(Clone)]
struct Busy;

impl<B> Service<Request<B>> for Busy {
    type Response = Answer;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Answer, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Pending
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        unreachable!("it was not ready")
    }
}

#[tokio::test]
async fn what_could_not_be_sent_again_is_not_accelerated() {
    let mut config = config();
    config.max_replay_bytes = 4;
    let selector = selector(config.clone());
    let never = service_fn(|_| async {
        if true {
            panic!("was called");
        }
        Ok::<_, Infallible>(says("fast"))
    });
    for method in [Method::POST, Method::PATCH, Method::PUT, Method::DELETE] {
        let said = answer(&selector, never, request(method, "/fast/x", "body")).await;
        assert_eq!(said.1, "native body");
    }
    let large = request(Method::GET, "/fast/x", "large");
    assert_eq!(answer(&selector, never, large).await.1, "native large");
    assert_eq!(selector.stats().not_replayable, 5);

    config.fallback_mode = FallbackMode::Idempotent;
    let selector = self::selector(config);
    let fails = service_fn(|request: Request<ReplayBody<Body>>| async {
        let body = request.into_body().collect().await?.to_bytes();
        assert_eq!(body, "body");
        Err::<Answer, BoxError>("after it has read the body".into())
    });
    let put = request(Method::PUT, "/fast/x", "body");
    assert_eq!(answer(&selector, fails, put).await.1, "native body");
    let post = request(Method::POST, "/fast/x", "body");
    assert_eq!(answer(&selector, never, post).await.1, "native body");
    assert_eq!(selector.stats().errors, 1);
}

#[tokio::test]
async fn a_body_of_unknown_length_is_not_kept() {
    let mut config = config();
    config.fallback_mode = FallbackMode::Idempotent;
    let selector = selector(config);
    let frames = futures_util::stream::iter([Ok::<_, Infallible>(http_body::Frame::data(
        Bytes::from_static(b"chunk"),
    ))]);
    let never = service_fn(|_| async { Err::<Answer, BoxError>("was called".into()) });
    let native = service_fn(|request: Request<ReplayBody<_>>| async move {
        let body = request.into_body().collect().await?.to_bytes();
        Ok::<_, BoxError>(Response::new(Full::new(body)))
    });
    let service = EngineSelectorLayer::new(&selector, never).layer(native);
    let request = Request::put("/fast/x")
        .body(StreamBody::new(frames))
        .expect("a request");
    let response = service.oneshot(request).await.expect("an answer");
    let body = response.into_body().collect().await.expect("a body");
    assert_eq!(body.to_bytes(), "chunk");
    assert_eq!(selector.stats().not_replayable, 1);
}

#[tokio::test]
async fn without_a_fallback_failures_are_503() {
    let mut config = config();
    config.fallback_mode = FallbackMode::Off;
    let selector = selector(config);
    let fails = service_fn(|_| ready(Err::<Answer, BoxError>("down".into())));
    let post = request(Method::POST, "/fast/x", "body");
    let said = answer(&selector, fails, post).await;
    assert_eq!(said, (StatusCode::SERVICE_UNAVAILABLE, String::new()));
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_spares_the_accelerated_service_until_it_has_recovered() {
    let selector = selector(config());
    let (down, called) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicUsize::new(0)));
    let accelerated = {
        let (down, called) = (down.clone(), called.clone());
        service_fn(move |_| {
            called.fetch_add(1, Relaxed);
            ready(match down.load(Relaxed) {
                0 => Ok(says("fast")),
                _ => Err("down"),
            })
        })
    };
    let get = || request(Method::GET, "/fast/x", "");
    for _ in 0..100 {
        assert_eq!(
            answer(&selector, accelerated.clone(), get()).await.1,
            "native "
        );
    }
    assert_eq!((called.load(Relaxed), selector.stats().open), (16, 84));
    assert_eq!(selector.stats().breaker, BreakerState::Open);
    down.store(0, Relaxed);
    tokio::time::advance(Duration::from_secs(5)).await;
    for _ in 0..10 {
        assert_eq!(
            answer(&selector, accelerated.clone(), get()).await.1,
            "fast"
        );
    }
    assert_eq!(selector.stats().breaker, BreakerState::Closed);
}

#[tokio::test]
async fn a_native_service_with_one_place_is_not_held_by_requests_that_do_not_need_it() {
    let selector = selector(config());
    let fast = service_fn(|_| ready(Ok::<_, Infallible>(says("fast"))));
    let native = tower::limit::ConcurrencyLimit::new(service_fn(native), 1);
    let service = EngineSelectorLayer::new(&selector, fast).layer(native);
    let mut kept = Vec::new();
    for _ in 0..3 {
        let response = service.clone().oneshot(request(Method::GET, "/fast/x", ""));
        kept.push(response.await.expect("an answer"));
    }
    let response = service.oneshot(request(Method::GET, "/slow", "")).await;
    assert_eq!(response.expect("an answer").status(), 200);
}

#[test]
fn mistakes_in_the_settings_are_named() {
    let mut wrong = config();
    wrong.breaker_percent = 101;
    let error = EngineSelector::builder().config(wrong).build();
    let error = error.expect_err("out of range").to_string();
    assert!(
        error.contains("`breaker_percent` = 101: expected 1 to 100"),
        "{error}"
    );
    let error = EngineSelector::builder().route("/users/{id").build();
    assert!(matches!(error, Err(BuildError::Routes(_))), "{error:?}");
}

/// A small generator, so that a failure can be run again.
fn next(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

/// Ten per cent each of errors, panics and stalls, each of them before or after the work is done. Requests name
/// themselves, and who carries one out that is not safe writes it down.
#[tokio::test(start_paused = true)]
async fn under_fault_injection_clients_see_no_error_and_nothing_is_done_twice() {
    std::panic::set_hook(Box::new(|info| {
        let injected = info.payload().downcast_ref::<&str>() == Some(&"injected");
        if !injected {
            eprintln!("{info}");
        }
    }));
    let seed = 0x5eed_u64;
    println!("seed {seed:#x}");
    let mut config = config();
    // High enough for the accelerated service to go on being tried.
    config.breaker_percent = 60;
    let selector = selector(config);
    let done = Arc::new(Mutex::new(HashMap::<String, u32>::new()));
    let work = {
        let done = done.clone();
        move |request: &Request<ReplayBody<Body>>| {
            if !request.method().is_safe() {
                let name = request.uri().path().to_owned();
                *done
                    .lock()
                    .expect("no panic inside")
                    .entry(name)
                    .or_default() += 1;
            }
        }
    };
    let faults = Arc::new(Mutex::new(seed));
    let accelerated = {
        let work = work.clone();
        service_fn(move |request: Request<ReplayBody<Body>>| {
            let dice = next(&mut faults.lock().expect("no panic inside")) % 100;
            let after = dice.is_multiple_of(2);
            let work = work.clone();
            async move {
                if after {
                    work(&request);
                }
                tokio::time::sleep(Duration::from_millis(dice % 7)).await;
                match dice {
                    0..10 => return Err(BoxError::from("injected")),
                    10..20 => panic!("injected"),
                    20..30 => pending::<()>().await,
                    _ => {}
                }
                if !after {
                    work(&request);
                }
                Ok(says("fast"))
            }
        })
    };
    let native = service_fn(move |request: Request<ReplayBody<Body>>| {
        work(&request);
        ready(Ok::<_, Infallible>(says("native")))
    });
    let service = EngineSelectorLayer::new(&selector, accelerated).layer(native);
    let mut clients = tokio::task::JoinSet::new();
    let methods = [
        Method::GET,
        Method::POST,
        Method::HEAD,
        Method::PUT,
        Method::DELETE,
    ];
    for client in 0..20_u64 {
        let (mut service, methods) = (service.clone(), methods.clone());
        clients.spawn(async move {
            for i in 0..500 {
                let method = methods[i % methods.len()].clone();
                let path = format!("/fast/{client}/{i}");
                let request = Request::builder()
                    .method(method)
                    .uri(path)
                    .body(Full::new(Bytes::from_static(b"work")))
                    .expect("a request");
                let response = service.ready().await.expect("ready").call(request).await;
                assert_eq!(response.expect("no error comes out").status(), 200);
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.expect("no client sees an error");
    }
    let done = done.lock().expect("no panic inside");
    assert_eq!(done.len(), 20 * 300, "all that has effects was done");
    assert!(done.values().all(|times| *times == 1), "and done once");
    let SelectorStats {
        accelerated,
        not_replayable,
        errors,
        panics,
        timeouts,
        open,
        ..
    } = selector.stats();
    println!("{:?}", selector.stats());
    assert_eq!(not_replayable, 20 * 300);
    assert_eq!(accelerated + errors + panics + timeouts + open, 20 * 200);
    assert!(
        errors > 200 && panics > 200 && timeouts > 200,
        "there were faults"
    );
}
