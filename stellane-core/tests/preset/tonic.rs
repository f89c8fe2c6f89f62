//! tonic's `Routes` in the preset: HTTP/2 without TLS, and the gRPC status as a label.

use std::time::Duration;

use stellane_core::{Components, Runtime, RuntimeConfig};
use tonic::transport::{Channel, Endpoint};
use tonic_health::{
    pb::{HealthCheckRequest, health_client::HealthClient},
    server::HealthReporter,
};

/// tonic's health service in the preset, and a client of it.
async fn serve_health(
    mut config: RuntimeConfig,
) -> (Components, HealthReporter, HealthClient<Channel>) {
    let (reporter, health) = tonic_health::server::health_reporter();
    config.server.admin_address = String::new();
    let runtime = Runtime::builder()
        .config(config)
        .service(tonic::service::Routes::new(health))
        .build()
        .expect("builds");
    let components = runtime.components().clone();
    let bound = runtime.bind("127.0.0.1:0").await.expect("binds");
    let address = format!("http://{}", bound.local_addr());
    tokio::spawn(bound.serve());
    let channel = Endpoint::from_shared(address).expect("an address");
    let client = HealthClient::new(channel.connect().await.expect("connects"));
    (components, reporter, client)
}

#[tokio::test]
async fn tonic_routes_are_served_and_their_status_is_counted() {
    let (components, _reporter, mut client) = serve_health(RuntimeConfig::default()).await;
    for _ in 0..3 {
        let answer = client
            .check(HealthCheckRequest {
                service: String::new(),
            })
            .await;
        assert_eq!(answer.expect("healthy").into_inner().status, 1);
    }
    let unknown = client
        .check(HealthCheckRequest {
            service: "nobody".to_owned(),
        })
        .await;
    assert_eq!(unknown.expect_err("unknown").code(), tonic::Code::NotFound);

    let scrape = components.prometheus.render();
    for (status, count) in [("OK", 3), ("NOT_FOUND", 1)] {
        let counted = scrape.lines().any(|line| {
            line.contains("_duration_seconds_count")
                && line.contains(&format!("rpc_response_status_code=\"{status}\""))
                && line.contains(r#"http_route="/grpc.health.v1.Health/Check""#)
                && line.ends_with(&format!(" {count}"))
        });
        assert!(counted, "{status} in {scrape}");
    }
    assert_eq!(components.connections.stats().requests_total, 4);
    assert_eq!(
        components.connections.stats().open,
        1,
        "one HTTP/2 connection"
    );
}

/// A stream that goes on beyond what its client has said it waits ends in gRPC's own words, and one of a client that has
/// said nothing goes on for longer than the server allows for a head.
#[tokio::test]
async fn a_stream_ends_with_its_deadline() {
    let mut config = RuntimeConfig::default();
    config.overload.max_timeout = Duration::from_millis(300);
    let (components, reporter, mut client) = serve_health(config).await;
    let mut watch = async |timeout: Option<&'static str>| {
        let mut request = tonic::Request::new(HealthCheckRequest::default());
        if let Some(timeout) = timeout {
            let timeout = timeout.parse().expect("text");
            request.metadata_mut().insert("grpc-timeout", timeout);
        }
        let mut statuses = client.watch(request).await.expect("begins").into_inner();
        assert!(statuses.message().await.expect("goes on").is_some());
        statuses
    };
    let mut unbound = watch(None).await;
    let ended = watch(Some("400m")).await.message().await;
    let ended = ended.expect_err("its time is over");
    assert_eq!(ended.code(), tonic::Code::DeadlineExceeded, "{ended}");
    assert_eq!(components.overload.stats().timed_out, 1);
    let not_serving = tonic_health::ServingStatus::NotServing;
    reporter.set_service_status("", not_serving).await;
    assert!(unbound.message().await.expect("goes on").is_some());
}
