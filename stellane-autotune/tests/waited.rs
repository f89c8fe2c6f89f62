//! What a request has waited before it came to the limit.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use stellane_autotune::{
    AdaptiveLimit, AdaptiveLimitLayer, AlgorithmKind, ClassConfig, LimitConfig, LimitMode,
    LocalSignal, ManualClock, Outcome, Waited,
};
use tower::{Layer, ServiceExt, service_fn};

const MS: Duration = Duration::from_millis(1);

fn waited(waited: Duration) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    request.extensions_mut().insert(Waited(waited));
    request
}

/// A limit with room for all, in whose machine so many tasks are ready for each core.
fn roomy(
    tasks_per_core: f64,
    change: impl FnOnce(&mut LimitConfig),
) -> (AdaptiveLimit, ManualClock, LocalSignal) {
    let mut config = LimitConfig::default();
    config.algorithm = AlgorithmKind::Fixed;
    change(&mut config);
    let (signal, clock) = (LocalSignal::new(), ManualClock::default());
    signal.report(tasks_per_core);
    let limit = AdaptiveLimit::builder()
        .config(config)
        .clock(clock.clock())
        .local_signal(&signal)
        .build();
    let limit = limit.expect("valid");
    notice(&limit, &clock);
    (limit, clock, signal)
}

/// Has it look at the machine.
fn notice(limit: &AdaptiveLimit, clock: &ManualClock) {
    for _ in 0..20 {
        clock.advance(100 * MS);
        let permit = limit.try_acquire().expect("there is room");
        permit.finish(Outcome::Success);
    }
}

/// As the three ways in have it: the service, what is entered by hand, and what is refused without either.
async fn is_refused(layer: &AdaptiveLimitLayer, request: Request<Empty<Bytes>>) -> bool {
    let inner = service_fn(async |_| Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())));
    let answer = layer.layer(inner).oneshot(request.clone()).await;
    let refused = answer.expect("answers").status() == StatusCode::SERVICE_UNAVAILABLE;
    let mut entered = layer.enter(&request);
    assert_eq!(entered.is_none(), refused);
    if let Some(admission) = &mut entered {
        layer.leave(admission);
    }
    let answer = layer.refuse(&request, None, false);
    assert_eq!(answer.is_some(), refused);
    refused
}

#[tokio::test]
async fn who_has_waited_as_long_as_anybody_may_is_refused_by_a_full_machine_only() {
    for (tasks, refuses) in [(5.0, true), (2.0, false), (f64::NAN, false)] {
        let (limit, clock, _) = roomy(tasks, |_| {});
        let layer = AdaptiveLimitLayer::new(&limit);
        assert_eq!(layer.heeds_waited(), refuses, "{tasks}");
        assert!(!is_refused(&layer, waited(499 * MS)).await, "{tasks}");
        assert_eq!(
            is_refused(&layer, waited(500 * MS)).await,
            refuses,
            "{tasks}"
        );
        let refused = u64::from(refuses) * 2;
        assert_eq!(limit.stats().shed_wait_timeout, refused, "{tasks}");
        assert_eq!(limit.stats().in_flight, 0);
        // A queue stands behind it, which is not to stay as it is.
        assert_eq!(
            is_refused(&layer, waited(Waited::SOME)).await,
            refuses,
            "{tasks}"
        );
        assert!(
            !is_refused(&layer, Request::new(Empty::new())).await,
            "{tasks}"
        );
        assert!(!is_refused(&layer, waited(99 * MS)).await, "{tasks}");
        clock.advance(250 * MS);
        assert!(!is_refused(&layer, waited(Waited::SOME)).await, "{tasks}");
    }
}

#[tokio::test]
async fn the_longest_wait_is_the_limits_own_unless_that_is_short_or_none() {
    let longest = [(2000, 1999, 2000), (100, 499, 500), (0, 499, 500)];
    for (max_wait, may, may_not) in longest {
        let (limit, ..) = roomy(5.0, |config| config.max_wait = max_wait * MS);
        let layer = AdaptiveLimitLayer::new(&limit);
        assert!(!is_refused(&layer, waited(may * MS)).await, "{max_wait}");
        assert!(is_refused(&layer, waited(may_not * MS)).await, "{max_wait}");
    }
}

#[tokio::test]
async fn a_guaranteed_share_an_exemption_and_shadow_mode_let_it_in() {
    let (limit, ..) = roomy(5.0, |config| {
        let mut class = ClassConfig::default();
        class.share = 0.1;
        config.classes.insert("checkout".to_owned(), class);
    });
    let layer = AdaptiveLimitLayer::new(&limit);
    let mut request = waited(1000 * MS);
    let class = limit.class("checkout").expect("configured");
    request.extensions_mut().insert(class);
    assert!(!is_refused(&layer, request).await);
    let inner = service_fn(async |_| Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())));
    let exempting = layer
        .clone()
        .exempt(|head| head.uri.path() == "/")
        .layer(inner);
    let answer = exempting.oneshot(waited(1000 * MS)).await;
    assert_eq!(answer.expect("answers").status(), 200);
    limit.set_mode(LimitMode::Shadow);
    let inner = service_fn(async |_| Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())));
    let answer = layer.layer(inner).oneshot(waited(1000 * MS)).await;
    assert_eq!(answer.expect("answers").status(), 200);
    assert_eq!((limit.stats().would_shed, limit.stats().shed), (1, 0));
}

#[tokio::test]
async fn without_evidence_nobody_is_refused_and_with_it_the_limit_goes_down() {
    let (limit, clock, signal) = roomy(0.1, |config| config.algorithm = AlgorithmKind::Adaptive);
    let layer = AdaptiveLimitLayer::new(&limit);
    assert!(!layer.heeds_waited());
    assert!(!is_refused(&layer, waited(9000 * MS)).await);
    signal.report(10.0);
    notice(&limit, &clock);
    assert!(limit.is_limiting());
    // Nothing more to do than it can: still at work.
    for (tasks, refuses) in [(0.5, false), (0.9, true)] {
        signal.report(tasks);
        notice(&limit, &clock);
        let before = limit.stats().limit;
        assert_eq!(layer.heeds_waited(), refuses, "{tasks}");
        assert_eq!(is_refused(&layer, waited(500 * MS)).await, refuses);
        let after = limit.stats().limit;
        assert_eq!(after < before, refuses, "{tasks}: {before} -> {after}");
        assert_eq!(is_refused(&layer, waited(500 * MS)).await, refuses);
        assert_eq!(limit.stats().limit, after, "once for a queue");
    }
}
