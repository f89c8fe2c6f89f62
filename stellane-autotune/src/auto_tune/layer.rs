use std::sync::Arc;

use tower_layer::Layer;

use super::{AutoTuneService, TrafficStats, traffic::Traffic};
use crate::{AutoTuner, AutoTunerBuilder, BuildError};

/// Watches the requests that pass, and turns what it was given to turn, of whatever stack.
///
/// Made by [`AutoTunerBuilder::build_layer`]. Rules, controllers and objectives find what passes under these
/// [names](crate::names): `throughput`, answers per second; `latency_p50` and `latency_p99`, in seconds, to the head of
/// an answer; `in_flight`, until its body has ended; `shed_rate`, refusals per second (503, 504, and the gRPC statuses 4
/// and 14); `error_rate`, other answers of 500 and above and errors of the service per second. A client that leaves is
/// none of these, and only counts for as long as it is there.
///
/// One layer may wrap several services, which are then tuned as one. Nothing is tuned before somebody polls
/// [`AutoTuner::run`], or calls [`tick`](AutoTuner::tick). Costs no allocation.
///
/// ```
/// use std::sync::{Arc, atomic::{AtomicUsize, Ordering}};
/// use std::time::Duration;
///
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use stellane_autotune::{AutoTuner, Condition, Knob, Objective, Rule, TunerConfig, TunerMode};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // How many connections somebody's database pool may have.
/// let size = Arc::new(AtomicUsize::new(4));
/// let (get, set) = (size.clone(), size.clone());
/// let layer = AutoTuner::builder()
///     .config(TunerConfig::default().with(|config| config.mode = TunerMode::Apply))
///     .knob(Knob::new("database.pool", 1.0..=64.0, 1.0,
///         move || get.load(Ordering::Relaxed) as f64,
///         move |size| set.store(size as usize, Ordering::Relaxed)))
///     .rule(Rule::new("slow_and_busy")
///         .when(Condition::above("latency_p99", 0.050))
///         .when(Condition::above_times("in_flight", 2.0, "database.pool"))
///         .scale("database.pool", 2.0)
///         .objective(Objective::minimize("latency_p99")))
///     .build_layer()?;
/// let tuner = layer.tuner().clone();
/// # #[cfg(feature = "tokio")]
/// tokio::spawn(async move { tuner.run().await });
///
/// let service = ServiceBuilder::new().layer(layer.clone()).service(service_fn(
///     async |_: Request<Full<&'static [u8]>>| {
///         Ok::<_, std::convert::Infallible>(Response::new(Full::new(&b"hello"[..])))
///     },
/// ));
/// service.oneshot(Request::new(Full::default())).await?;
/// assert_eq!(layer.stats().answered, 1);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct AutoTuneLayer {
    tuner: AutoTuner,
    traffic: Arc<Traffic>,
}

impl AutoTuneLayer {
    /// The tuner: what it did, its mode, its `run`.
    #[must_use]
    pub fn tuner(&self) -> &AutoTuner {
        &self.tuner
    }

    /// What has passed so far.
    #[must_use]
    pub fn stats(&self) -> TrafficStats {
        self.traffic.stats()
    }
}

impl AutoTunerBuilder {
    /// Builds the tuner as a layer, with the requests that pass it as signals. Latencies are measured by the clock of the
    /// tuner.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build); also if a signal has the name of one that the layer brings.
    pub fn build_layer(mut self) -> Result<AutoTuneLayer, BuildError> {
        let traffic = Arc::new(Traffic::new(self.clock.clone()));
        for signal in traffic.signals() {
            self = self.signal(signal);
        }
        let tuner = self.build()?;
        Ok(AutoTuneLayer { tuner, traffic })
    }
}

impl<S> Layer<S> for AutoTuneLayer {
    type Service = AutoTuneService<S>;

    fn layer(&self, inner: S) -> AutoTuneService<S> {
        AutoTuneService {
            inner,
            traffic: Arc::clone(&self.traffic),
        }
    }
}
