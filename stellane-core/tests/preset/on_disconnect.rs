//! A request whose client has left goes on in the preset: by the configuration, by a closure, by a layer on a route; with its
//! place under the limit and its record, whether it came through the queue or not, in the one layer and in the many.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use axum::{Router, routing::post};
use http::{Request, Response};
use stellane_core::{
    Components, OnDisconnectLayer, RequestBody, RequestLimits, Runtime, RuntimeConfig,
    autotune::{AlgorithmKind, LimitConfig},
    config::Loader,
    connection::Listener,
    on_disconnect::OnDisconnect,
};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tower::{Layer, service_fn};

use crate::{steps::Steps, until::until};

const CONFIG: &str = r#"
    [server]
    admin_address = ""
    [server.route_limits.orders]
    on_disconnect = "finish"
    finish_within = "1h"
    paths = ["/orders/{id}"]
    methods = ["POST"]
"#;

/// One place, for which the next request waits.
fn config() -> RuntimeConfig {
    let config = Loader::new()
        .text("app.toml", CONFIG)
        .load()
        .expect("loads");
    config.with(|config| {
        let mut limit = LimitConfig::default();
        limit.algorithm = AlgorithmKind::Fixed;
        (limit.initial, limit.min, limit.max) = (1, 1, 1);
        limit.max_wait = Duration::from_secs(3600);
        config.limit = limit;
    })
}

async fn send(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let request = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("writes");
    stream
}

fn leave(stream: TcpStream) {
    socket2::SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .expect("a socket");
    drop(stream);
}

/// One goes on when it has left, and keeps its place, for which another waits that has left when it had not begun. A third
/// waits for both and comes through the queue.
async fn check(components: &Components, handler: &Steps, address: SocketAddr) {
    let connections = &components.connections;
    let stats = || connections.stats().abandoned;
    let first = send(address, "/orders/1").await;
    until(connections, "begun", |_| handler.counts().0 == 1).await;
    leave(first);
    until(connections, "abandoned", |_| stats().running == 1).await;
    assert_eq!(components.limit.stats().in_flight, 1, "it keeps its place");

    let second = send(address, "/orders/2").await;
    until(connections, "waits", |_| {
        components.limit.stats().waiting == 1
    })
    .await;
    leave(second);
    until(connections, "gone", |_| {
        components.limit.stats().waiting == 0
    })
    .await;
    assert_eq!(stats().running, 1, "what has not begun does not begin");

    let third = send(address, "/orders/3").await;
    until(connections, "waits", |_| {
        components.limit.stats().waiting == 1
    })
    .await;
    handler.gate.add_permits(1);
    until(connections, "begun", |_| handler.counts() == (2, 1)).await;
    leave(third);
    until(connections, "abandoned", |_| stats().running == 1).await;
    handler.gate.add_permits(1);
    until(connections, "finished", |_| stats().finished_total == 2).await;
    assert_eq!(handler.counts(), (2, 2));

    // Another route, and another method, are cancelled.
    let other = send(address, "/other").await;
    until(connections, "begun", |_| handler.counts().0 == 3).await;
    leave(other);
    until(connections, "cancelled", |m| {
        m.stats().requests_in_flight == 0
    })
    .await;
    assert_eq!((stats().running, stats().finished_total), (0, 2));

    let (limit, http) = (components.limit.stats(), components.metrics.stats());
    assert_eq!(
        (limit.in_flight, limit.successes, http.requests_in_flight),
        (0, 2, 0)
    );
    // Those that came to their end did, and the one that had waited and the one of another route did not.
    assert_eq!((http.requests_total, http.requests_cancelled_total), (4, 2));
}

async fn listen(components: &Components) -> (Listener, SocketAddr) {
    let options = &components.connections.config().listen;
    let listener = Listener::bind("127.0.0.1:0", options).await.expect("binds");
    let address = listener.local_addr().expect("TCP");
    (listener, address)
}

#[tokio::test]
async fn by_the_configuration() {
    for fused in [true, false] {
        let components = Components::new(&config()).expect("valid");
        let handler = Steps::new();
        let service = service_fn({
            let handler = handler.clone();
            move |_: Request<RequestBody>| {
                let handler = handler.clone();
                async move { Ok::<_, Infallible>(Response::new(handler.run().await)) }
            }
        });
        let (listener, address) = listen(&components).await;
        let (connections, server) = (&components.connections, &config().server);
        if fused {
            let service = components.layer(server).layer(service);
            tokio::spawn(connections.serve(listener, service));
        } else {
            let service = components.layers(server).layer(service);
            tokio::spawn(connections.serve(listener, service));
        }
        check(&components, &handler, address).await;
    }
}

#[tokio::test]
async fn by_a_closure_and_by_a_layer_on_a_route() {
    let within = Duration::from_secs(3600);
    for by_closure in [true, false] {
        let mut config = config();
        config.server.route_limits.clear();
        let handler = Steps::new();
        let route = || {
            let handler = handler.clone();
            post(move || handler.clone().run())
        };
        let mut orders: Router = Router::new().route("/orders/{id}", route());
        let mut builder = Runtime::builder().config(config);
        if by_closure {
            builder = builder.route_limits(move |head| {
                let limits = RequestLimits::default();
                match head.uri.path().starts_with("/orders/") {
                    true => limits.on_disconnect(OnDisconnect::Finish { within }),
                    false => limits,
                }
            });
        } else {
            orders = orders.route_layer(OnDisconnectLayer::finish(within));
        }
        let app = orders.merge(Router::new().route("/other", route()));
        let bound = builder.service(app).build().expect("builds");
        let bound = bound.bind("127.0.0.1:0").await.expect("binds");
        let (address, components) = (bound.local_addr(), bound.components().clone());
        tokio::spawn(bound.serve());
        check(&components, &handler, address).await;
    }
}

#[tokio::test]
async fn a_run_tells_of_those_that_it_stopped() {
    let config = config().with(|config| {
        config.limit = LimitConfig::default();
        config.server.drain_timeout = Duration::from_millis(100);
    });
    let handler = Steps::new();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let orders = {
        let handler = handler.clone();
        post(move || handler.clone().run())
    };
    let bound = Runtime::builder()
        .config(config)
        .service(Router::new().route("/orders/{id}", orders))
        .shutdown_signal(async { drop(stopped.await) })
        .build()
        .expect("builds");
    let bound = bound.bind("127.0.0.1:0").await.expect("binds");
    let (address, components) = (bound.local_addr(), bound.components().clone());
    let serving = tokio::spawn(bound.serve());
    let connections = &components.connections;
    for n in 1..=8 {
        let stream = send(address, "/orders/1").await;
        until(connections, "begun", |_| handler.counts().0 == n).await;
        leave(stream);
    }
    until(connections, "abandoned", |m| {
        m.stats().abandoned.running == 8
    })
    .await;
    stop.send(()).expect("serves");
    let report = serving.await.expect("no panic").expect("serves");
    let drain = report.drain;
    assert_eq!((drain.abandoned, drain.abandoned_stopped), (8, 8));
    assert!(!report.is_clean());
    let told = "; 8 requests went on without their clients, 8 of them stopped";
    assert!(report.to_string().contains(told), "{report}");
}
