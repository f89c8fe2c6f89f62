//! Profiles name what they are for: the hot function, and the route that blocks.
#![cfg(feature = "profiling")]

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use axum::{Router, body::Body, extract::MatchedPath, routing::get};
use http::{Extensions, Request, Response};
use http_body_util::BodyExt;
use stellane_core::profiling::{ProfileLayer, ProfileService, SlowPolls};
use tower::ServiceExt;

async fn ask(service: &ProfileService, path: &str) -> (u16, Vec<u8>) {
    let request = Request::builder()
        .uri(path)
        .header("host", "127.0.0.1:9090")
        .body(Body::empty());
    let response = service
        .clone()
        .oneshot(request.expect("valid"))
        .await
        .expect("infallible");
    let status = response.status().as_u16();
    (
        status,
        response
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes()
            .to_vec(),
    )
}

fn text(body: Vec<u8>) -> String {
    String::from_utf8(body).expect("text")
}

fn here(service: &ProfileService) -> ProfileService {
    service.listening_on("127.0.0.1:9090".parse().expect("an address"))
}

#[inline(never)]
fn the_hot_function(stop: &AtomicBool) -> u64 {
    let mut x = 1_u64;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..1000 {
            x = black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    }
    x
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cpu_profile_names_the_hot_function_in_each_form_one_at_a_time() {
    let stop = Arc::new(AtomicBool::new(false));
    let hot = thread::spawn({
        let stop = stop.clone();
        move || the_hot_function(&stop)
    });
    let service = here(&ProfileService::builder().cpu(true).build());
    let ((status, svg), second) = tokio::join!(
        ask(&service, "/debug/profile/cpu?seconds=1&frequency=199"),
        ask(&service, "/debug/profile/cpu?seconds=1"),
    );
    assert_eq!(second.0, 409);
    let svg = text(svg);
    assert_eq!(status, 200, "{svg}");
    assert!(
        svg.starts_with("<svg") && svg.contains("the_hot_function"),
        "{svg}"
    );

    let folded = text(
        ask(&service, "/debug/profile/cpu?seconds=1&format=folded")
            .await
            .1,
    );
    assert!(
        folded.lines().any(|line| line.contains("the_hot_function")),
        "{folded}"
    );
    let pprof = ask(&service, "/debug/profile/cpu?seconds=1&format=pprof")
        .await
        .1;
    assert!(pprof.windows(16).any(|part| part == b"the_hot_function"));
    stop.store(true, Ordering::Relaxed);
    hot.join().expect("joins");
}

#[tokio::test]
async fn everything_is_off_and_away_from_loopback_refused() {
    let off = here(&ProfileService::builder().build());
    for kind in ["cpu", "heap", "block"] {
        let (status, said) = ask(&off, &format!("/debug/profile/{kind}")).await;
        assert_eq!(status, 404);
        assert!(text(said).contains("STELLANE_PROFILE_"));
    }
    let on = ProfileService::builder()
        .cpu(true)
        .block(SlowPolls::default())
        .build();
    for service in [
        on.clone(),
        on.listening_on("0.0.0.0:9090".parse().expect("an address")),
    ] {
        assert_eq!(ask(&service, "/debug/profile/block").await.0, 403);
    }
    let rebound = Request::builder()
        .uri("/debug/profile/block")
        .header("host", "evil.example:9090");
    let response = here(&on)
        .oneshot(rebound.body(Body::empty()).expect("valid"))
        .await
        .expect("infallible");
    assert_eq!(response.status(), 403);
    for query in [
        "seconds=0",
        "seconds=1000",
        "seconds=x",
        "frequency=0",
        "format=png",
    ] {
        assert_eq!(
            ask(&here(&on), &format!("/debug/profile/cpu?{query}"))
                .await
                .0,
            400,
            "{query}"
        );
    }
}

#[tokio::test]
async fn a_heap_profile_is_what_the_program_s_source_gives() {
    let service = here(
        &ProfileService::builder()
            .heap(|| Ok(b"profile".to_vec()))
            .build(),
    );
    assert_eq!(
        ask(&service, "/debug/profile/heap").await,
        (200, b"profile".to_vec())
    );
    let broken = here(
        &ProfileService::builder()
            .heap(|| Err("not compiled with profiling".into()))
            .build(),
    );
    let (status, said) = ask(&broken, "/debug/profile/heap").await;
    assert_eq!(
        (status, text(said)),
        (500, "not compiled with profiling\n".to_owned())
    );
}

fn matched(extensions: &Extensions) -> Option<String> {
    extensions
        .get::<MatchedPath>()
        .map(|path| path.as_str().to_owned())
}

#[tokio::test]
async fn the_block_profile_names_the_route_that_blocks_and_no_other() {
    let polls = SlowPolls::with_route(Duration::from_millis(20), matched);
    let app = Router::new()
        .route(
            "/block/{ms}",
            get(|| async { thread::sleep(Duration::from_millis(50)) }),
        )
        .route(
            "/wait",
            get(|| tokio::time::sleep(Duration::from_millis(50))),
        )
        .route_layer(polls.layer());
    for path in ["/block/1", "/block/2", "/wait"] {
        let request = Request::get(path).body(Body::empty()).expect("valid");
        app.clone().oneshot(request).await.expect("infallible");
    }
    let stats = polls.stats();
    assert_eq!(stats.len(), 1, "{stats:?}");
    assert_eq!(
        (stats[0].route.as_str(), stats[0].polls),
        ("/block/{ms}", 2)
    );
    assert!(
        stats[0].max >= Duration::from_millis(50)
            && stats[0].total >= 2 * Duration::from_millis(50)
    );
    let service = here(&ProfileService::builder().block(polls).build());
    let said = text(ask(&service, "/debug/profile/block").await.1);
    assert!(
        said.contains("/block/{ms}") && !said.contains("/wait"),
        "{said}"
    );
}

#[tokio::test]
async fn a_route_named_by_the_response_a_dropped_future_and_a_threshold_of_zero() {
    #[derive(Clone)]
    struct Named(&'static str);
    let polls = SlowPolls::with_route(Duration::from_millis(5), |e| {
        e.get::<Named>().map(|n| n.0.to_owned())
    });
    let service = tower::service_fn(|_: Request<()>| async {
        thread::sleep(Duration::from_millis(20));
        let mut response = Response::new(());
        response.extensions_mut().insert(Named("/named"));
        Ok::<_, std::convert::Infallible>(response)
    });
    let service = tower::Layer::layer(&polls.layer(), service);
    service
        .clone()
        .oneshot(Request::new(()))
        .await
        .expect("infallible");
    assert_eq!(polls.stats()[0].route, "/named");

    let stuck = tower::service_fn(|_: Request<()>| async {
        thread::sleep(Duration::from_millis(20));
        std::future::pending::<Result<Response<()>, std::convert::Infallible>>().await
    });
    let stuck = tower::Layer::layer(&polls.layer(), stuck);
    let dropped =
        tokio::time::timeout(Duration::from_millis(1), stuck.oneshot(Request::new(()))).await;
    assert!(dropped.is_err());
    assert!(
        polls
            .stats()
            .iter()
            .any(|route| route.route == "(unknown)" && route.polls == 1)
    );

    polls.set_threshold(Duration::ZERO);
    service.oneshot(Request::new(())).await.expect("infallible");
    assert_eq!(
        polls.stats().iter().map(|route| route.polls).sum::<u64>(),
        2
    );
}

#[tokio::test]
async fn an_admin_service_keeps_its_own_paths_beside_the_profiles() {
    let profiles = here(
        &ProfileService::builder()
            .block(SlowPolls::default())
            .build(),
    );
    let admin = Router::new().route("/healthz", get(|| async { "fine" }));
    let admin = tower::Layer::layer(&ProfileLayer::new(profiles), admin);
    for (path, expected) in [
        ("/healthz", "fine"),
        ("/debug/profile", "Slow polls by route"),
        ("/debug/profile/block", "# polls over"),
        ("/debug/profiles", ""),
    ] {
        let request = Request::get(path).body(Body::empty()).expect("valid");
        let response = admin.clone().oneshot(request).await.expect("infallible");
        let body = response
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        assert!(text(body.to_vec()).contains(expected), "{path}");
    }
}
