//! `OnDisconnectLayer` where no connection manager of ours is.
#![cfg(feature = "on-disconnect")]

use std::{
    convert::Infallible,
    future::Future,
    pin::pin,
    task::{Context, Waker},
    time::Duration,
};

use axum::{Router, routing::get};
use http::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use stellane_core::on_disconnect::{Abandoned, AbandonedStats, ClientLeft, OnDisconnectLayer};
use tokio::{net::TcpStream, task::yield_now};
use tower::{Layer, Service, limit::ConcurrencyLimitLayer, service_fn};

use crate::{looks::holds_soon, steps::Steps};

const HOUR: Duration = Duration::from_secs(3600);

/// Does the two steps.
fn service(
    steps: &Steps,
) -> impl Service<Request<()>, Response = Response<String>, Error = Infallible, Future: Send + 'static>
+ Clone
+ use<> {
    let steps = steps.clone();
    service_fn(move |_| {
        let steps = steps.clone();
        async move { Ok(Response::new(steps.run().await)) }
    })
}

async fn until(holds: impl Fn() -> bool) {
    assert!(holds_soon(async || holds()).await, "never");
}

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) {
    assert!(
        future
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_pending()
    );
}

#[tokio::test]
async fn a_future_that_is_dropped_while_it_waits_goes_on() {
    let (steps, abandoned) = (Steps::new(), Abandoned::default());
    let mut service = OnDisconnectLayer::finish(HOUR)
        .counted_by(&abandoned)
        .layer(service(&steps));
    // Not begun, it does not begin.
    drop(service.call(Request::new(())));
    yield_now().await;
    assert_eq!(
        (steps.counts(), abandoned.stats()),
        ((0, 0), AbandonedStats::default())
    );
    {
        let mut future = pin!(service.call(Request::new(())));
        poll_once(future.as_mut());
    }
    assert_eq!((steps.counts(), abandoned.stats().running), ((1, 0), 1));
    steps.gate.add_permits(1);
    assert!(abandoned.drain(HOUR).await);
    assert_eq!(
        (steps.counts(), abandoned.stats().finished_total),
        ((1, 1), 1)
    );
    // After the drain nothing is taken on.
    {
        let mut future = pin!(service.call(Request::new(())));
        poll_once(future.as_mut());
    }
    assert_eq!(
        (abandoned.stats().running, abandoned.stats().refused_total),
        (0, 1)
    );
}

#[test]
fn without_a_runtime_it_is_dropped_and_counted() {
    let (steps, abandoned) = (Steps::new(), Abandoned::default());
    let mut service = OnDisconnectLayer::finish(HOUR)
        .counted_by(&abandoned)
        .layer(service(&steps));
    {
        let mut future = pin!(service.call(Request::new(())));
        poll_once(future.as_mut());
    }
    assert_eq!(
        (abandoned.stats().running, abandoned.stats().refused_total),
        (0, 1)
    );

    // One that ends takes those along that go on.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("builds");
    runtime.block_on(async {
        let mut future = pin!(service.call(Request::new(())));
        poll_once(future.as_mut());
    });
    assert_eq!(abandoned.stats().running, 1);
    drop(runtime);
    assert_eq!(
        (abandoned.stats().running, abandoned.stats().stopped_total),
        (0, 1)
    );
}

#[tokio::test]
async fn one_that_panics_is_not_polled_again() {
    let abandoned = Abandoned::default();
    let layer = OnDisconnectLayer::finish(HOUR).counted_by(&abandoned);
    let mut service = layer.layer(service_fn(
        async |_: Request<()>| -> Result<(), Infallible> { panic!("as asked") },
    ));
    let task = tokio::spawn(service.call(Request::new(())));
    assert!(task.await.expect_err("it panicked").is_panic());
    assert_eq!(abandoned.stats(), AbandonedStats::default());
}

#[tokio::test(start_paused = true)]
async fn a_drain_drops_what_is_left() {
    let (steps, abandoned) = (Steps::new(), Abandoned::default());
    let mut service = OnDisconnectLayer::finish(HOUR)
        .counted_by(&abandoned)
        .layer(service(&steps));
    {
        let mut future = pin!(service.call(Request::new(())));
        poll_once(future.as_mut());
    }
    assert!(!abandoned.drain(Duration::from_secs(10)).await);
    assert_eq!(
        (steps.counts(), abandoned.stats().stopped_total),
        ((1, 0), 1)
    );
}

/// As the docs say: what stands outside of the layer goes with the client.
#[tokio::test]
async fn a_limit_around_it_is_left_and_one_within_is_held() {
    let (steps, abandoned) = (Steps::new(), Abandoned::default());
    let layer = OnDisconnectLayer::finish(HOUR).counted_by(&abandoned);
    for outside in [true, false] {
        let limit = ConcurrencyLimitLayer::new(1);
        let service: tower::util::BoxCloneService<_, _, _> = if outside {
            tower::util::BoxCloneService::new(limit.layer(layer.layer(service(&steps))))
        } else {
            tower::util::BoxCloneService::new(layer.layer(limit.layer(service(&steps))))
        };
        let (mut service, mut other) = (service.clone(), service);
        tower::ServiceExt::ready(&mut service).await.expect("ready");
        {
            let mut future = pin!(service.call(Request::new(())));
            poll_once(future.as_mut());
        }
        let free = other
            .poll_ready(&mut Context::from_waker(Waker::noop()))
            .is_ready();
        assert_eq!(free, outside);
        steps.gate.add_permits(1);
        until(|| abandoned.stats().running == 0).await;
    }
}

#[tokio::test]
async fn clients_of_axum_serve_leave_by_both_protocols() {
    for http2 in [false, true] {
        let (steps, abandoned) = (Steps::new(), Abandoned::default());
        let handler = {
            let steps = steps.clone();
            get(move || steps.clone().run())
        };
        let told = {
            let steps = steps.clone();
            get(
                move |axum::Extension(client): axum::Extension<ClientLeft>| {
                    steps.begin();
                    async move { client.left().await }
                },
            )
        };
        let app = Router::new()
            .route(
                "/finish",
                handler.route_layer(OnDisconnectLayer::finish(HOUR).counted_by(&abandoned)),
            )
            .route(
                "/tell",
                told.route_layer(OnDisconnectLayer::tell(HOUR).counted_by(&abandoned)),
            );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("binds");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move { axum::serve(listener, app).await });
        let left = || abandoned.stats().running + abandoned.stats().finished_total;
        for (path, n) in [("/finish", 1), ("/tell", 2)] {
            let io = TokioIo::new(TcpStream::connect(address).await.expect("connects"));
            let request = Request::get(format!("http://{address}{path}"))
                .body(String::new())
                .expect("valid");
            if http2 {
                let (mut client, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                        .await
                        .expect("connects");
                tokio::spawn(connection);
                let sent = tokio::spawn(client.send_request(request));
                until(|| steps.begun() as u64 == n).await;
                // By RST_STREAM: the connection goes on.
                sent.abort();
                until(|| left() == n).await;
                assert!(!client.is_closed());
            } else {
                let (mut client, connection) = hyper::client::conn::http1::handshake(io)
                    .await
                    .expect("connects");
                let connection = tokio::spawn(connection);
                let sent = tokio::spawn(async move { client.send_request(request).await });
                until(|| steps.begun() as u64 == n).await;
                connection.abort();
                sent.abort();
                until(|| left() == n).await;
            }
        }
        steps.gate.add_permits(1);
        until(|| abandoned.stats().finished_total == 2).await;
        assert_eq!(steps.counts(), (2, 1), "{http2}");
    }
}
