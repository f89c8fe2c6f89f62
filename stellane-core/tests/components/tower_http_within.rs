//! Each layer of tower-http within the preset, and one stack of all of them within each layer of ours.

use crate::rows::{
    ANY, Boxed, OF_ALL, PACKED, all_layers, app, authorize, boxed, check, documented,
    each_layer_of_tower_http, expected, for_all, layers_of_ours, limited, request,
};
use stellane_core::{Components, RuntimeConfig};
use tower::{Layer, ServiceExt, service_fn};
use tower_http::map_request_body::MapRequestBodyLayer;

#[tokio::test]
async fn each_layer_does_its_work_within_the_preset() {
    let config = RuntimeConfig::default();
    let mut names = Vec::new();
    macro_rules! row {
        ($name:literal, $layer:expr, $request:expr, $expected:expr) => {{
            let components = Components::new(&config).expect("valid");
            let service = components
                .layer(&config.server)
                .layer($layer.layer(service_fn(app)));
            check(
                $name,
                service.oneshot($request).await.expect($name),
                &$expected,
            )
            .await;
            // Each is a request of the preset, and comes to its end.
            let stats = components.metrics.stats();
            assert_eq!(stats.requests_total, 1, "{}", $name);
            assert_eq!(stats.requests_in_flight, 0, "{}", $name);
            assert_eq!(stats.requests_cancelled_total, 0, "{}", $name);
            assert_eq!(components.limit.stats().in_flight, 0, "{}", $name);
            names.push($name);
        }};
    }
    each_layer_of_tower_http!(row);
    assert_eq!(names, documented());
}

#[tokio::test]
async fn all_of_them_stand_within_each_of_ours() {
    macro_rules! row {
        ($name:literal, $ours:expr) => {{
            let all = all_layers(Boxed::new(service_fn(app)));
            let service = $ours.layer(MapRequestBodyLayer::new(boxed).layer(all));
            check(
                $name,
                service.oneshot(for_all()).await.expect($name),
                &OF_ALL,
            )
            .await;
        }};
    }
    layers_of_ours!(row);
}
