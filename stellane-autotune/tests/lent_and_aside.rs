//! Requests that wait for their clients hold no place, however long they do: so they make no room beside the limit either.
#![cfg(feature = "tokio")]

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use stellane_autotune::{
    AdaptiveLimit, AdaptiveLimitLayer, AlgorithmKind, Clock, LimitConfig, LimitRequestBody,
};
use tokio::time::sleep;
use tower::{Layer, ServiceExt, service_fn};

const LIMIT: u32 = 4;

/// The body of a client that has gone to sleep, or none.
struct Stalled(bool);

impl Body for Stalled {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.0 {
            Poll::Pending
        } else {
            Poll::Ready(None)
        }
    }

    fn is_end_stream(&self) -> bool {
        !self.0
    }
}

#[tokio::test(start_paused = true)]
async fn clients_that_stall_for_long_do_not_raise_the_limit_for_others() {
    let mut config = LimitConfig::default();
    config.algorithm = AlgorithmKind::Fixed;
    (config.initial, config.min) = (LIMIT, LIMIT);
    let builder = AdaptiveLimit::builder().config(config);
    let limit = builder.clock(Clock::tokio()).build().expect("valid");
    let (working, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let work = service_fn({
        let (working, most) = (Arc::clone(&working), Arc::clone(&most));
        move |request: Request<LimitRequestBody<Stalled>>| {
            let (working, most) = (Arc::clone(&working), Arc::clone(&most));
            async move {
                let _ = request.into_body().collect().await;
                most.fetch_max(
                    1 + working.fetch_add(1, Ordering::Relaxed),
                    Ordering::Relaxed,
                );
                sleep(Duration::from_millis(10)).await;
                working.fetch_sub(1, Ordering::Relaxed);
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
            }
        }
    });
    let service = AdaptiveLimitLayer::new(&limit).layer(work);
    for _ in 0..50 {
        tokio::spawn(service.clone().oneshot(Request::new(Stalled(true))));
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!((limit.stats().in_flight, limit.stats().lent), (0, 50));
    // Long enough for whoever has a place to be overtaken by all others.
    for _ in 0..1000 {
        let answer = service.clone().oneshot(Request::new(Stalled(false))).await;
        assert!(answer.expect("answers").status().is_success());
    }
    let crowd = (0..40).map(|_| service.clone().oneshot(Request::new(Stalled(false))));
    let crowd: Vec<_> = crowd.map(tokio::spawn).collect();
    for asking in crowd {
        let _ = asking.await.expect("no panic");
    }
    let most = most.load(Ordering::Relaxed);
    assert!(
        most <= LIMIT as usize,
        "{most} at once, {:?}",
        limit.stats()
    );
}
