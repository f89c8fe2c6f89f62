//! The limit of `stellane-autotune` alone, around a client: a dependency that can do four things at once is asked for no
//! more, and who would have to wait too long is told at once.
//!
//! `cargo run -p stellane-examples --bin alone_limit [HOW_MANY]`

use std::{convert::Infallible, error::Error, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use stellane_core::autotune::{
    AdaptiveLimit, AdaptiveLimitLayer, AlgorithmKind, LimitConfig, LimitRequestBody,
};
use tower::{Layer, ServiceExt, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let calls = std::env::args()
        .nth(1)
        .map_or(Ok(10), |text| text.parse())?;
    let mut config = LimitConfig::default();
    // Known here; the default finds it out.
    config.algorithm = AlgorithmKind::Fixed;
    config.initial = 4;
    config.max_wait = Duration::ZERO;
    let limit = AdaptiveLimit::builder().config(config).build()?;
    // In the place of a client of hyper or reqwest.
    let dependency = service_fn(async |_: Request<LimitRequestBody<Full<Bytes>>>| {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("hello"))))
    });
    let client = AdaptiveLimitLayer::new(&limit).layer(dependency);
    let calls = (0..calls).map(|_| client.clone().oneshot(Request::new(Full::default())));
    let answers = futures_util::future::join_all(calls).await;
    let answered = answers
        .iter()
        .flatten()
        .filter(|answer| answer.status() == StatusCode::OK);
    println!(
        "{} of {} asked the dependency",
        answered.count(),
        answers.len()
    );
    println!("{}", limit.explain());
    println!("try another number of calls as an argument");
    Ok(())
}
