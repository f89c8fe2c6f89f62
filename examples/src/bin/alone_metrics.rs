//! `stellane-metrics` alone, into a recorder of one's own: whatever takes the `metrics` facade gets the request metrics.
//!
//! `cargo run -p stellane-examples --bin alone_metrics`

use std::{convert::Infallible, error::Error, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use stellane_core::metrics::{
    FacadePublisher, HttpMetrics, MetricsLayer,
    metrics::{
        Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    },
};
use tower::{Layer, ServiceExt, service_fn};

/// Prints counters; a real one sends them somewhere.
struct Printed;

struct PrintedCounter(Key);

impl CounterFn for PrintedCounter {
    fn increment(&self, value: u64) {
        println!("{} + {value}", self.0);
    }

    fn absolute(&self, value: u64) {
        println!("{} = {value}", self.0);
    }
}

impl Recorder for Printed {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(Arc::new(PrintedCounter(key.clone())))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        println!("a histogram: {key}");
        Histogram::noop()
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let metrics = HttpMetrics::builder().build()?;
    let service = MetricsLayer::new(&metrics).layer(service_fn(async |_: Request<_>| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("hello"))))
    }));
    let answer = service
        .oneshot(Request::new(Full::<Bytes>::default()))
        .await?;
    answer.into_body().collect().await?;
    FacadePublisher::new(Arc::new(Printed))
        .http(&metrics)
        .publish();
    println!("{} request counted", metrics.stats().requests_total);
    Ok(())
}
