//! Rates by key: who is within them is let in, who is not is told when to come again, whoever else asks.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use stellane_autotune::{
    AdaptiveLimit, AdaptiveLimitLayer, BuildError, Key, LimitState, ManualClock, RateLimit,
    RateLimitConfig, RateLimitHeaders, RateLimitLayer, RateRule,
};
use tower::{Layer, Service, ServiceExt};

type Body = Full<Bytes>;

fn limit(rules: &[&str], time: &ManualClock) -> RateLimit {
    let rules = rules.iter().map(|rule| rule.parse().unwrap());
    let config = RateLimitConfig::default().with(|config| config.rules = rules.collect());
    RateLimit::builder()
        .config(config)
        .clock(time.clock())
        .seed(7)
        .build()
        .unwrap()
}

/// A small generator, the same on each machine.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

#[test]
fn a_key_that_keeps_to_its_rate_is_never_refused() {
    let mut numbers = Numbers(1);
    for rule in [
        "10/s burst 1",
        "7/s burst 1",
        "1000/h burst 1",
        "3/15m burst 1",
        "999/s burst 1",
    ] {
        let time = ManualClock::default();
        let limit = limit(&[rule], &time);
        let rule: RateRule = rule.parse().unwrap();
        let pace = rule.window() / rule.limit();
        for _ in 0..10_000 {
            assert!(limit.check(Key::of("ada"), 1).is_ok(), "{rule}");
            time.advance(pace + Duration::from_nanos(1 + numbers.below(1000)));
        }
    }
}

#[test]
fn nobody_gets_more_than_the_rules_allow_however_he_asks() {
    let mut numbers = Numbers(2);
    for round in 0..50 {
        let time = ManualClock::default();
        let limit = limit(&["10/s burst 20", "600/m burst 50"], &time);
        let mut allowed = 0;
        for _ in 0..5000 {
            let cost = 1 + numbers.below(3) as u32;
            if limit.check(Key::of("eve"), cost).is_ok() {
                allowed += u64::from(cost);
            }
            time.advance(Duration::from_micros(numbers.below(40_000)));
        }
        let seconds = time.clock().now().as_secs_f64();
        // What comes with the last request that is let in may be two more than the bucket holds.
        assert!(
            allowed as f64 <= 10.0 * seconds + 20.0 + 2.0,
            "round {round}: {allowed} in {seconds} s"
        );
        assert!(
            allowed as f64 >= 10.0 * seconds * 0.95,
            "round {round}: {allowed} in {seconds} s"
        );
    }
}

#[test]
fn who_comes_again_when_told_to_is_let_in() {
    let mut numbers = Numbers(3);
    let time = ManualClock::default();
    let limit = limit(&["5/s burst 3", "100/m burst 10"], &time);
    let mut refused = 0;
    for _ in 0..5000 {
        let cost = 1 + numbers.below(5) as u32;
        if let Err(limited) = limit.check(Key::of("ada"), cost) {
            refused += 1;
            time.advance(limited.retry_after);
            assert!(limit.check(Key::of("ada"), cost).is_ok());
        }
    }
    assert!(refused > 1000, "{refused}");
}

#[test]
fn what_costs_more_than_a_bucket_is_let_in_and_paid_off() {
    let time = ManualClock::default();
    let limit = limit(&["10/s burst 5"], &time);
    let ada = Key::of("ada");
    assert!(limit.check(ada, 100).is_ok());
    assert!(limit.check(ada, 1).is_err());
    time.advance(Duration::from_millis(9500));
    assert!(limit.check(ada, 1).is_err());
    time.advance(Duration::from_millis(100));
    assert!(limit.check(ada, 1).is_ok());
}

#[test]
fn a_refusal_takes_nothing_from_any_rule() {
    let time = ManualClock::default();
    let limit = limit(&["1/s", "10/h"], &time);
    let ada = Key::of("ada");
    assert!(limit.check(ada, 1).is_ok());
    for _ in 0..1000 {
        assert_eq!(limit.check(ada, 1).unwrap_err().rule, 0);
    }
    time.advance(Duration::from_secs(1));
    assert_eq!(
        limit.check(ada, 1).unwrap().left,
        0,
        "the second's, which leaves least"
    );
    let stats = limit.stats();
    let refused: Vec<_> = stats
        .rules
        .iter()
        .map(|rule| (rule.rule.to_string(), rule.refused))
        .collect();
    assert_eq!(refused, [("1/s".to_owned(), 1000), ("10/h".to_owned(), 0)]);
    assert_eq!((stats.allowed, stats.keys, stats.forgotten), (2, 1, 0));
}

#[test]
fn whoever_makes_up_keys_has_nobody_refused() {
    let time = ManualClock::default();
    let limit = limit(&["2/s"], &time);
    let honest: Vec<_> = (0..100).map(|number| Key::of(("honest", number))).collect();
    let mut numbers = 0..;
    for _ in 0..20 {
        // A flood of more keys than there is room for, then each honest one within its rate.
        for number in numbers.by_ref().take(100_000) {
            let _ = limit.check(Key::of(("made up", number)), 1);
        }
        for key in &honest {
            assert!(limit.check(*key, 1).is_ok());
            assert!(limit.check(*key, 1).is_ok());
        }
        time.advance(Duration::from_secs(1));
    }
    let stats = limit.stats();
    assert!(stats.forgotten > 0 && stats.keys <= 1 << 16, "{stats:?}");
}

#[test]
fn who_is_over_its_rate_is_remembered_while_others_make_up_keys() {
    let time = ManualClock::default();
    let limit = limit(&["2/m burst 2"], &time);
    let eve = Key::of("eve");
    while limit.check(eve, 1).is_ok() {}
    for number in 0..1_000_000 {
        let _ = limit.check(Key::of(number), 1);
    }
    // The others owe one each, she owes two.
    assert!(limit.check(eve, 1).is_err());
}

#[test]
fn rates_change_while_they_are_in_use() {
    let time = ManualClock::default();
    let limit = limit(&["1/h"], &time);
    let ada = Key::of("ada");
    assert!(limit.check(ada, 1).is_ok());
    assert!(limit.check(ada, 1).is_err());
    time.advance(Duration::from_secs(3600));
    limit.set_rules(&["100/s".parse().unwrap()]).unwrap();
    assert!((0..100).all(|_| limit.check(ada, 1).is_ok()));
    assert!(limit.check(ada, 1).is_err());
    let error = limit.set_rules(&[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`rules` = 0: expected as many as before, 1"
    );
    assert_eq!(limit.rules()[0].to_string(), "100/s");
}

#[test]
fn a_limit_without_a_rule_is_an_error_that_shows_one() {
    let error = RateLimit::builder().build().unwrap_err();
    assert!(matches!(error, BuildError::Config(_)));
    assert!(
        error.to_string().contains(r#"1 to 8, such as "10/s""#),
        "{error}"
    );
}

#[tokio::test]
async fn a_refusal_says_when_to_come_again_in_the_clients_language() {
    let time = ManualClock::default();
    let limit = limit(&["1/2s"], &time);
    let layer = RateLimitLayer::new(&limit, |head| head.headers.get("x-key").map(Key::of));
    let mut service = layer.layer(tower::service_fn(async |_: Request<Body>| {
        Ok::<_, Infallible>(Response::new(Body::from("served")))
    }));
    let ask = |key: Option<&str>, content_type: &str| {
        let request = Request::builder().header("content-type", content_type);
        let request = key
            .iter()
            .fold(request, |request, key| request.header("x-key", *key));
        request.body(Body::default()).unwrap()
    };
    for _ in 0..3 {
        let answer = service
            .ready()
            .await
            .unwrap()
            .call(ask(None, "text/plain"))
            .await
            .unwrap();
        assert_eq!(
            answer.status(),
            StatusCode::OK,
            "nobody's requests are let through"
        );
    }
    let answer = service
        .ready()
        .await
        .unwrap()
        .call(ask(Some("a"), "text/plain"))
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(answer.headers().is_empty());
    time.advance(Duration::from_millis(500));

    let answer = service
        .ready()
        .await
        .unwrap()
        .call(ask(Some("a"), "text/plain"))
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("retry-after"), "2", "1.5 s, and never too early");
    assert_eq!(header("ratelimit-policy"), r#""1/2s";q=1;w=2"#);
    assert_eq!(header("ratelimit"), r#""1/2s";r=0;t=2"#);
    assert_eq!(header("content-type"), "application/problem+json");
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (&body["status"], &body["reason"]),
        (&429.into(), &"rate".into())
    );

    let answer = service
        .ready()
        .await
        .unwrap()
        .call(ask(Some("a"), "application/grpc"))
        .await
        .unwrap();
    assert_eq!(
        (answer.status(), &answer.headers()["grpc-status"]),
        (StatusCode::OK, &"8".parse().unwrap())
    );
    assert_eq!(answer.headers()["grpc-retry-pushback-ms"], "1500");
    assert_eq!(answer.headers()["content-type"], "application/grpc");
}

#[tokio::test]
async fn answers_say_how_much_is_left_if_asked_to() {
    let time = ManualClock::default();
    let config = RateLimitConfig::default().with(|config| {
        config.rules = vec!["5/s".parse().unwrap(), "100/h".parse().unwrap()];
        config.headers = RateLimitHeaders::All;
    });
    let limit = RateLimit::builder()
        .config(config)
        .clock(time.clock())
        .build()
        .unwrap();
    let service = RateLimitLayer::new(&limit, |_| Some(Key::of("all")))
        .cost(|head| {
            if head.method == http::Method::POST {
                3
            } else {
                1
            }
        })
        .on_refusal(|limited, _| {
            let mut response = Response::new(Bytes::from(format!("{limited}")));
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            Some(response)
        })
        .layer(tower::service_fn(async |_: Request<Body>| {
            Ok::<_, Infallible>(Response::new(Body::from("served")))
        }));
    let answer = service
        .clone()
        .oneshot(Request::post("/").body(Body::default()).unwrap())
        .await
        .unwrap();
    assert_eq!(answer.headers()["ratelimit"], r#""5/s";r=2;t=1"#);
    assert_eq!(
        answer.into_body().collect().await.unwrap().to_bytes(),
        "served"
    );
    let answer = service
        .oneshot(Request::post("/").body(Body::default()).unwrap())
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()["ratelimit"], r#""5/s";r=0;t=1"#);
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(text, "rule 0 is exceeded: come again in 200ms");
}

/// One tenant over its quota closes the limit for nobody, on whichever side of it the rate stands.
#[tokio::test]
async fn a_rate_within_an_adaptive_limit_closes_nothing() {
    let time = ManualClock::default();
    let rate = limit(&["1/s"], &time);
    let adaptive = AdaptiveLimit::builder()
        .clock(time.clock())
        .build()
        .unwrap();
    let served = tower::service_fn(async |_: Request<_>| {
        Ok::<_, Infallible>(Response::new(Body::from("served")))
    });
    let rate = RateLimitLayer::new(&rate, |head| head.headers.get("x-tenant").map(Key::of));
    let service = AdaptiveLimitLayer::new(&adaptive).layer(rate.layer(served));
    let (mut refused, mut others) = (0, 0);
    for _ in 0..20_000 {
        let tenant = Request::builder()
            .header("x-tenant", "eve")
            .body(Body::default())
            .unwrap();
        let status = service.clone().oneshot(tenant).await.unwrap().status();
        refused += u32::from(status == StatusCode::TOO_MANY_REQUESTS);
        let other = Request::new(Body::default());
        others +=
            u32::from(service.clone().oneshot(other).await.unwrap().status() == StatusCode::OK);
        time.advance(Duration::from_millis(1));
    }
    assert!(refused > 19_900, "{refused}");
    assert_eq!(others, 20_000);
    assert_eq!(adaptive.stats().state, LimitState::Open);
}
