use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::runtime::Handle;

use super::{CoreMetrics, Engine, EngineError, EngineMetrics, StopReport};
use crate::connection::{ConnectInfo, ConnectionManager, HttpService, Listener, ServeError};

/// Serves on the tokio runtime on which it is started. See the [module docs](super).
///
/// With more than some hundred busy connections for each worker thread, tokio's multi-thread runtime as it comes
/// serves some of them again and again and lets others wait: with 1000 on one thread the median was 4 ms and the
/// 99th percentile 168 ms. `Builder::event_interval(256)` and `Builder::max_io_events_per_tick(256)` make it serve
/// all that are ready before it asks for more: 30 and 44 ms.
///
/// ```
/// use stellane_core::{connection::ConnectionManager, engine::SharedEngine};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let connections = ConnectionManager::builder().build()?;
/// let engine = SharedEngine::new(&connections);
/// # drop(engine);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SharedEngine {
    connections: ConnectionManager,
    runtime: OnceLock<Handle>,
    stopped: AtomicBool,
}

impl SharedEngine {
    /// An engine that serves through `connections`.
    #[must_use]
    pub fn new(connections: &ConnectionManager) -> Self {
        Self {
            connections: connections.clone(),
            runtime: OnceLock::new(),
            stopped: AtomicBool::new(false),
        }
    }
}

async fn serve(
    started: Result<(), EngineError>,
    serving: impl Future<Output = Result<(), ServeError>>,
) -> Result<(), EngineError> {
    started?;
    serving
        .await
        .map_err(|error| EngineError::Serve(error.into()))
}

impl Engine for SharedEngine {
    fn name(&self) -> &'static str {
        "shared"
    }

    fn start(&self) -> Result<(), EngineError> {
        if self.stopped.load(Relaxed) {
            return Err(EngineError::Stopped);
        }
        if self.runtime.get().is_none() {
            let handle = Handle::try_current().map_err(|_| EngineError::NoRuntime)?;
            self.runtime.get_or_init(|| handle);
        }
        Ok(())
    }

    fn serve<S: HttpService>(
        &self,
        listeners: Vec<Listener>,
        service: S,
    ) -> impl Future<Output = Result<(), EngineError>> + Send + 'static {
        serve(self.start(), self.connections.serve_all(listeners, service))
    }

    fn serve_make<S: HttpService>(
        &self,
        listeners: Vec<Listener>,
        make: impl Fn(&ConnectInfo) -> S + Clone + Send + Sync + 'static,
    ) -> impl Future<Output = Result<(), EngineError>> + Send + 'static {
        serve(
            self.start(),
            self.connections.serve_all_with(listeners, make),
        )
    }

    async fn stop(&self, deadline: Duration) -> StopReport {
        self.stopped.store(true, Relaxed);
        self.connections.drain(deadline).await.into()
    }

    fn metrics(&self) -> EngineMetrics {
        let cores = self.runtime.get().map_or_else(Vec::new, |runtime| {
            (0..runtime.metrics().num_workers())
                .map(|worker| CoreMetrics::of(runtime, worker))
                .collect()
        });
        EngineMetrics::of(&self.connections.stats(), cores)
    }
}
