//! tower's balancer chooses by how full a limit is.
#![cfg(not(loom))]

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use stellane_autotune::{
    AdaptiveLimit, AdaptiveLimitLayer, AlgorithmKind, Hold, LimitConfig, LimitRequestBody,
};
use tokio::sync::Semaphore;
use tower::{
    Layer, Service, ServiceExt, balance::p2c::Balance, discover::ServiceList, load::Load,
    service_fn,
};

/// A replica that can take so many at a time.
fn limit_of(places: u32) -> AdaptiveLimit {
    let config = LimitConfig::default().with(|config| {
        config.algorithm = AlgorithmKind::Fixed;
        (config.initial, config.min, config.max) = (places, places, places);
        config.hold = Hold::Headers;
    });
    AdaptiveLimit::builder()
        .config(config)
        .build()
        .expect("valid")
}

#[tokio::test]
async fn the_balancer_sends_each_replica_what_it_can_take() {
    let gate = Arc::new(Semaphore::new(0));
    let limits = [1, 9].map(limit_of);
    let replicas = limits.each_ref().map(|limit| {
        let gate = Arc::clone(&gate);
        let slow = service_fn(move |_: Request<LimitRequestBody<Full<Bytes>>>| {
            let gate = Arc::clone(&gate);
            async move {
                let _open = gate.acquire().await;
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            }
        });
        AdaptiveLimitLayer::new(limit).layer(slow)
    });
    assert!(replicas.iter().all(|replica| replica.load() == 0.0));
    let mut balance = Balance::new(ServiceList::new(replicas));
    let mut answers = Vec::new();
    for _ in 0..10 {
        let ready = balance.ready().await.expect("none fails");
        answers.push(tokio::spawn(ready.call(Request::new(Full::default()))));
        // Until it is in its place.
        tokio::task::yield_now().await;
    }
    let in_flight = limits.each_ref().map(|limit| limit.stats().in_flight);
    assert_eq!(
        in_flight,
        [1, 9],
        "by their number alone it would be five each"
    );
    assert!(limits.iter().all(|limit| limit.load() == 1.0));
    gate.add_permits(10);
    for answer in answers {
        let answer = answer.await.expect("no panic").expect("no error");
        assert_eq!(answer.status(), 200);
    }
    assert!(limits.iter().all(|limit| limit.load() == 0.0));
}
