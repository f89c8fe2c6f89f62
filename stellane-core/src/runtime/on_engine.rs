//! A service and the engine it is served on, in boxes: what serves them is compiled once, together with the library, and
//! not for each service anew.

use std::{pin::Pin, sync::Arc, time::Duration};

use tokio::runtime::Handle;

use super::{
    around::{Around, Served, Serving},
    bypass::PlainEngine,
    listeners::Listeners,
};
use crate::{
    connection::ConnectionManager,
    engine::{Engine, StopReport},
};

pub(super) struct OnEngine {
    pub(super) name: &'static str,
    /// Those of the engine's own threads, to be watched.
    pub(super) runtimes: Vec<Handle>,
    /// Whether it tells itself of threads that are held.
    #[cfg(feature = "admin")]
    pub(super) tells_held: bool,
    pub(super) start: Box<StartFn>,
    pub(super) stop: Box<StopFn>,
}

type StartFn = dyn FnOnce(&ConnectionManager, Listeners, Around) -> Serving + Send;
type StopFn = dyn FnOnce(Duration) -> Stopping + Send;
type Stopping = Pin<Box<dyn Future<Output = StopReport> + Send>>;

impl OnEngine {
    pub(super) fn new(engine: impl Engine, service: impl Served) -> Self {
        Self::with(engine, |engine, connections, listeners, around| {
            service.start(engine, connections, listeners, around)
        })
    }

    pub(super) fn bypass(plain: &PlainEngine, service: impl Served) -> Self {
        Self::with(plain.clone(), |plain, connections, listeners, around| {
            service.bypass(plain, connections, listeners, around)
        })
    }

    fn with<E: Engine>(
        engine: E,
        start: impl FnOnce(&E, &ConnectionManager, Listeners, Around) -> Serving + Send + 'static,
    ) -> Self {
        let engine = Arc::new(engine);
        let stopped = Arc::clone(&engine);
        Self {
            name: engine.name(),
            runtimes: Vec::new(),
            #[cfg(feature = "admin")]
            tells_held: false,
            start: Box::new(move |connections, listeners, around| {
                start(&engine, connections, listeners, around)
            }),
            stop: Box::new(move |deadline| Box::pin(async move { stopped.stop(deadline).await })),
        }
    }

    pub(super) fn that_tells_held(self) -> Self {
        Self {
            #[cfg(feature = "admin")]
            tells_held: true,
            ..self
        }
    }

    pub(super) fn with_runtimes(mut self, runtimes: Vec<Handle>) -> Self {
        self.runtimes = runtimes;
        self
    }
}
