//! What stands around the service of a runtime, and how it comes onto its listeners.

use std::{
    fmt,
    pin::{Pin, pin},
    sync::Arc,
};

use tokio::task::JoinSet;
use tower_layer::Layer;

use super::{
    App, BoxService, PresetLayer, PresetService,
    facts::{DescribeFn, Described},
    listeners::{Listeners, Source},
    make::Make,
};
use crate::{
    connection::{ConnectionManager, HttpService, Incoming},
    engine::{Engine, EngineError},
    hot_reload::LiveReloadLayer,
};

/// A service outside of the preset.
pub(super) type OuterFn = dyn Fn(BoxService<Incoming>) -> BoxService<Incoming> + Send + Sync;
pub(super) type Serving = Pin<Box<dyn Future<Output = Result<(), EngineError>> + Send>>;

#[derive(Clone)]
pub struct Around {
    pub(super) preset: PresetLayer,
    pub(super) describe: Option<Arc<DescribeFn>>,
    pub(super) outer: Option<Arc<OuterFn>>,
    #[cfg(feature = "http-layers")]
    pub(super) http: super::HttpLayers,
    pub(super) hot_reload: bool,
}

/// What a runtime serves: one service for all connections, or one for each.
pub trait Served: Send + Sized + 'static {
    fn start<E: Engine>(
        self,
        engine: &E,
        connections: &ConnectionManager,
        listeners: Listeners,
        around: Around,
    ) -> Serving;
}

impl<S: App> Served for S {
    fn start<E: Engine>(
        self,
        engine: &E,
        connections: &ConnectionManager,
        listeners: Listeners,
        around: Around,
    ) -> Serving {
        around.serve(engine, connections, listeners, self)
    }
}

impl Around {
    fn preset<S: 'static>(&self, app: S) -> Described<PresetService<S>> {
        Described::new(self.preset.layer(app), self.describe.clone())
    }

    /// Whether something outside of the limit has to see each request.
    pub(super) fn sees_all(&self) -> bool {
        #[cfg(feature = "http-layers")]
        if !self.http.outer().is_off() {
            return true;
        }
        self.hot_reload || self.outer.is_some()
    }

    /// Whether there is something else than the preset.
    fn is_more(&self) -> bool {
        #[cfg(feature = "http-layers")]
        if !self.http.inner().is_off() {
            return true;
        }
        self.sees_all()
    }

    /// With all that is rarely there.
    pub(super) fn boxed<S: App>(&self, app: S) -> BoxService<Incoming> {
        #[cfg(feature = "http-layers")]
        let service = match self.http.inner() {
            layer if layer.is_off() => self.outside(self.preset(app)),
            layer => self.outside(self.preset(layer.layer(app))),
        };
        #[cfg(not(feature = "http-layers"))]
        let service = self.outside(self.preset(app));
        // The answer to "which process is this?" is no request of the application: outside of all.
        match self.hot_reload {
            true => BoxService::new(LiveReloadLayer::new().layer(service)),
            false => service,
        }
    }

    /// The preset with what stands outside of it.
    fn outside(&self, preset: impl HttpService<ResBody: Default>) -> BoxService<Incoming> {
        #[cfg(feature = "http-layers")]
        if !self.http.outer().is_off() {
            let layer = self.http.outer();
            return match &self.outer {
                Some(outer) => BoxService::new(layer.layer(outer(BoxService::new(preset)))),
                None => BoxService::new(layer.layer(preset)),
            };
        }
        let service = BoxService::new(preset);
        match &self.outer {
            Some(outer) => outer(service),
            None => service,
        }
    }

    /// One service for all connections.
    fn serve<E: Engine, S: App>(
        &self,
        engine: &E,
        connections: &ConnectionManager,
        listeners: Listeners,
        app: S,
    ) -> Serving {
        if self.is_more() {
            return serve(engine, connections, listeners, self.boxed(app));
        }
        serve(engine, connections, listeners, self.preset(app))
    }

    /// One for each. Without an engine: they know of no such thing.
    pub(super) fn serve_make(
        self,
        connections: &ConnectionManager,
        listeners: Listeners,
        make: &Make,
    ) -> Serving {
        if !listeners.sources.is_empty() {
            let error = "a make-service is served on listeners, not on connections from elsewhere";
            return Box::pin(async move { Err(EngineError::Serve(error.into())) });
        }
        let mut all = JoinSet::new();
        for listener in listeners.sockets {
            let (around, make) = (self.clone(), make.clone());
            let serving = connections.serve_with(listener, move |connection| {
                around.boxed(make.of(connection))
            });
            all.spawn(async move {
                serving
                    .await
                    .map_err(|error| EngineError::Serve(error.into()))
            });
        }
        Box::pin(async move {
            while let Some(ended) = all.join_next().await {
                if let Ok(served) = ended {
                    served?;
                }
            }
            Ok(())
        })
    }
}

impl fmt::Debug for Around {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Around").finish_non_exhaustive()
    }
}

fn serve<E: Engine>(
    engine: &E,
    connections: &ConnectionManager,
    listeners: Listeners,
    service: impl HttpService,
) -> Serving {
    let Listeners { sockets, sources } = listeners;
    if sources.is_empty() {
        return Box::pin(engine.serve(sockets, service));
    }
    let mut all = JoinSet::new();
    for source in sources {
        all.spawn(serve_source(source, connections.clone(), service.clone()));
    }
    let serving = engine.serve(sockets, service);
    Box::pin(async move {
        serving.await?;
        while all.join_next().await.is_some() {}
        Ok(())
    })
}

/// Until the drain, which ends the connections too.
async fn serve_source(
    mut source: Source,
    connections: ConnectionManager,
    service: impl HttpService,
) {
    let mut all = JoinSet::new();
    {
        let mut draining = pin!(connections.draining());
        loop {
            tokio::select! {
                next = source.next() => match next {
                    Some(Ok((io, peer))) => {
                        all.spawn(connections.serve_connection(io, peer, service.clone()));
                    }
                    Some(Err(error)) => {
                        tracing::debug!(%error, "a connection could not be accepted");
                        tokio::task::yield_now().await;
                    }
                    None => break,
                },
                Some(_) = all.join_next() => {}
                () = &mut draining => break,
            }
        }
    }
    while all.join_next().await.is_some() {}
}
