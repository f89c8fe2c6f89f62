//! Each layer of tower-http around the preset, and one stack of all of them around each layer of ours.

use crate::rows::{
    ANY, Boxed, OF_ALL, PACKED, all_layers, app, authorize, boxed, check, documented,
    each_layer_of_tower_http, expected, for_all, layers_of_ours, limited, request,
};
use stellane_core::{Components, RuntimeConfig};
use tower::{Layer, ServiceExt, service_fn};

/// What they answer by themselves, without the preset.
const ALONE: [&str; 4] = [
    "AsyncRequireAuthorization",
    "Csrf",
    "RequestBodyLimit",
    "ValidateRequestHeader",
];

#[tokio::test]
async fn each_layer_does_its_work_around_the_preset() {
    let config = RuntimeConfig::default();
    let mut names = Vec::new();
    macro_rules! row {
        ($name:literal, $layer:expr, $request:expr, $expected:expr) => {{
            let components = Components::new(&config).expect("valid");
            let service = $layer.layer(components.layer(&config.server).layer(service_fn(app)));
            check(
                $name,
                service.oneshot($request).await.expect($name),
                &$expected,
            )
            .await;
            let stats = components.metrics.stats();
            let reached = match $name {
                "FollowRedirect" => 2,
                name => u64::from(!ALONE.contains(&name)),
            };
            assert_eq!(stats.requests_total, reached, "{}", $name);
            assert_eq!(stats.requests_in_flight, 0, "{}", $name);
            // It is the layer that gives up then.
            let given_up = u64::from($name == "Timeout");
            assert_eq!(stats.requests_cancelled_total, given_up, "{}", $name);
            assert_eq!(components.limit.stats().in_flight, 0, "{}", $name);
            names.push($name);
        }};
    }
    each_layer_of_tower_http!(row);
    assert_eq!(names, documented());
}

#[tokio::test]
async fn all_of_them_stand_around_each_of_ours() {
    macro_rules! row {
        ($name:literal, $ours:expr) => {{
            let service = all_layers(Boxed::new($ours.layer(service_fn(app))));
            check(
                $name,
                service.oneshot(for_all().map(boxed)).await.expect($name),
                &OF_ALL,
            )
            .await;
        }};
    }
    layers_of_ours!(row);
}
