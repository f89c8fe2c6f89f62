//! What stands around the service of a runtime, and how it comes onto its listeners.

use std::{
    fmt,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use stellane_autotune::RateLimitLayer;
#[cfg(feature = "redis")]
use stellane_autotune::rate_limit::shared::SharedRateLimitLayer;
use tokio::{task::JoinSet, time::Instant};
use tower_layer::Layer;

use super::{
    App, BoxApp, BoxService, PresetLayer,
    app::told,
    bypass::{Bare, PlainEngine},
    facts::Facts,
    listeners::{Listeners, Redirects, Source},
    make::Make,
    redirect::Redirect,
    refusal::OnRefusal,
};
use crate::{
    access_log::AccessLogLayer,
    connection::{ConnectInfo, ConnectionManager, HttpService, Incoming, Socket},
    engine::{Engine, EngineError},
    hot_reload::LiveReloadLayer,
};

/// A service outside of the preset.
pub(super) type OuterFn = dyn Fn(BoxService<Incoming>) -> BoxService<Incoming> + Send + Sync;
pub(super) type Serving = Pin<Box<dyn Future<Output = Result<(), EngineError>> + Send>>;

#[derive(Clone)]
pub struct Around {
    pub(super) preset: PresetLayer,
    pub(super) facts: Facts,
    pub(super) outer: Option<Arc<OuterFn>>,
    /// Outside of it.
    pub(super) access_log: Option<AccessLogLayer>,
    #[cfg(feature = "http-layers")]
    pub(super) http: super::HttpLayers,
    #[cfg(feature = "fleet")]
    pub(super) fleet: super::fleet::Fleet,
    pub(super) rates: Option<RateLimitLayer>,
    /// Inside of it.
    #[cfg(feature = "redis")]
    pub(super) shared_rates: Option<SharedRateLimitLayer>,
    pub(super) on_refusal: OnRefusal,
    pub(super) hot_reload: bool,
    /// Nothing of ours is to be around.
    pub(super) bypass: Option<PlainEngine>,
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

    /// With nothing of the preset around it.
    fn bypass(
        self,
        plain: &PlainEngine,
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
        around.beside_redirects(engine, listeners, self, |listeners, app| {
            around.serve(engine, connections, listeners, app)
        })
    }

    fn bypass(
        self,
        plain: &PlainEngine,
        connections: &ConnectionManager,
        listeners: Listeners,
        around: Around,
    ) -> Serving {
        around.beside_redirects(plain, listeners, self, |listeners, app| {
            let service = around.boxed(app);
            serve(
                plain,
                connections,
                listeners,
                service,
                around.bypass.clone(),
            )
        })
    }
}

/// What a [`Serve`](super::Serve) serves.
#[derive(Debug, Clone)]
pub(super) enum OneOrMade {
    One(BoxApp),
    Made(Make),
}

impl Served for OneOrMade {
    fn start<E: Engine>(
        self,
        engine: &E,
        connections: &ConnectionManager,
        listeners: Listeners,
        around: Around,
    ) -> Serving {
        match self {
            Self::One(app) => app.start(engine, connections, listeners, around),
            Self::Made(make) => around.serve_make(engine, connections, listeners, make),
        }
    }

    fn bypass(
        self,
        plain: &PlainEngine,
        connections: &ConnectionManager,
        listeners: Listeners,
        around: Around,
    ) -> Serving {
        match self {
            Self::One(app) => app.bypass(plain, connections, listeners, around),
            Self::Made(make) => around.serve_make(plain, connections, listeners, make),
        }
    }
}

impl Around {
    /// Whether something outside of the limit has to see each request.
    pub(super) fn sees_all(&self) -> bool {
        #[cfg(feature = "http-layers")]
        if !self.http.outer().is_off() {
            return true;
        }
        #[cfg(feature = "fleet")]
        if self.fleet.sees_all() {
            return true;
        }
        let is_seen = self.outer.is_some() || self.access_log.is_some();
        self.hot_reload || is_seen || self.bypass.is_some()
    }

    /// Whether there is something else than the preset.
    fn is_more(&self) -> bool {
        #[cfg(feature = "http-layers")]
        if !self.http.inner().is_off() {
            return true;
        }
        #[cfg(feature = "redis")]
        if self.shared_rates.is_some() {
            return true;
        }
        #[cfg(feature = "fleet")]
        if self.fleet.hands_on_deadlines() {
            return true;
        }
        self.rates.is_some() || self.sees_all()
    }

    /// With all that is rarely there.
    pub(super) fn boxed<S: App>(&self, app: S) -> BoxService<Incoming> {
        #[cfg(feature = "fleet")]
        if self.fleet.hands_on_deadlines() {
            return self.with_rates(self.fleet.inner(app));
        }
        self.with_rates(app)
    }

    fn with_rates<S: App>(&self, app: S) -> BoxService<Incoming> {
        #[cfg(feature = "redis")]
        if let Some(shared) = &self.shared_rates {
            let app = BoxApp::new(shared.layer(told(app)));
            return match &self.rates {
                None => self.with_http(app),
                Some(rates) => self.with_http(rates.layer(app)),
            };
        }
        match &self.rates {
            None => self.with_http(app),
            Some(rates) => self.with_http(rates.layer(told(app))),
        }
    }

    fn with_http<S: App>(&self, app: S) -> BoxService<Incoming> {
        #[cfg(feature = "http-layers")]
        let service = match self.http.inner() {
            layer if layer.is_off() => self.inside(app),
            layer => self.inside(layer.layer(app)),
        };
        #[cfg(not(feature = "http-layers"))]
        let service = self.inside(app);
        let service = match &self.access_log {
            Some(layer) => BoxService::new(layer.layer(service)),
            None => service,
        };
        #[cfg(feature = "fleet")]
        let service = self.fleet.outer(service);
        // The answer to "which process is this?" is no request of the application: outside of all.
        match self.hot_reload {
            true => BoxService::new(LiveReloadLayer::new().layer(service)),
            false => service,
        }
    }

    /// The preset, unless it is bypassed, with what stands outside of it.
    fn inside<S: App>(&self, app: S) -> BoxService<Incoming> {
        match self.bypass {
            Some(_) => {
                let bare = Bare::new(app, self.facts.clone());
                self.outside(BoxService::new(bare))
            }
            None => self.outside(self.preset.layer(app)),
        }
    }

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

    /// What serves the app, and beside it the listeners that only send to others.
    fn beside_redirects<E: Engine, S: App>(
        &self,
        engine: &E,
        mut listeners: Listeners,
        app: S,
        serve: impl FnOnce(Listeners, S) -> Serving,
    ) -> Serving {
        let https = listeners.https_port();
        let redirects = std::mem::take(&mut listeners.redirects);
        let redirect = |Redirects { sockets, port }| -> Serving {
            let redirect = Redirect::new(app.clone(), https, port, &self.on_refusal);
            Box::pin(engine.serve(sockets, self.boxed(redirect)))
        };
        let redirects: Vec<_> = redirects.into_iter().map(redirect).collect();
        redirects.into_iter().fold(serve(listeners, app), both)
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
            let service = self.boxed(app);
            return serve(engine, connections, listeners, service, self.bypass.clone());
        }
        serve(engine, connections, listeners, self.preset.layer(app), None)
    }

    /// One for each.
    pub(super) fn serve_make<E: Engine>(
        self,
        engine: &E,
        connections: &ConnectionManager,
        listeners: Listeners,
        make: Make,
    ) -> Serving {
        let Listeners {
            sockets, sources, ..
        } = listeners;
        let bypass = self.bypass.clone();
        let service = move |connection: &ConnectInfo| self.boxed(make.of(connection));
        let elsewhere = {
            let (connections, service) = (connections.clone(), service.clone());
            move |io, peer| {
                let (connections, service) = (connections.clone(), service.clone());
                let bypass = bypass.clone();
                async move {
                    match bypass {
                        Some(plain) => plain.serve_io(io, peer, service).await,
                        None => drop(connections.serve_connection_with(io, peer, service).await),
                    }
                }
            }
        };
        let elsewhere = serve_sources(sources, connections, elsewhere);
        let listening = !sockets.is_empty();
        let serving = engine.serve_make(sockets, service);
        Box::pin(until_both_end(listening.then_some(serving), elsewhere))
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
    bypass: Option<PlainEngine>,
) -> Serving {
    let Listeners {
        sockets, sources, ..
    } = listeners;
    if sources.is_empty() {
        return Box::pin(engine.serve(sockets, service));
    }
    let elsewhere = {
        let (connections, service) = (connections.clone(), service.clone());
        move |io, peer| {
            let (connections, service) = (connections.clone(), service.clone());
            let bypass = bypass.clone();
            async move {
                match bypass {
                    Some(plain) => plain.serve_io(io, peer, move |_| service.clone()).await,
                    None => drop(connections.serve_connection(io, peer, service).await),
                }
            }
        }
    };
    let elsewhere = serve_sources(sources, connections, elsewhere);
    let listening = !sockets.is_empty();
    let serving = engine.serve(sockets, service);
    Box::pin(until_both_end(listening.then_some(serving), elsewhere))
}

fn both(others: Serving, one: Serving) -> Serving {
    Box::pin(async { tokio::try_join!(others, one).map(drop) })
}

async fn until_both_end(
    listening: Option<impl Future<Output = Result<(), EngineError>>>,
    elsewhere: impl Future<Output = ()>,
) -> Result<(), EngineError> {
    let listening = async {
        match listening {
            Some(listening) => listening.await,
            None => Ok(()),
        }
    };
    // A listener that fails ends all at once.
    let elsewhere = async {
        elsewhere.await;
        Ok(())
    };
    tokio::try_join!(listening, elsewhere).map(drop)
}

/// Until the drain, which ends the connections too, or the ends of all sources and their connections.
fn serve_sources<C, F>(
    sources: Vec<Source>,
    connections: &ConnectionManager,
    serve: C,
) -> impl Future<Output = ()> + Send + use<C, F>
where
    C: FnMut(Socket, Option<SocketAddr>) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let mut all = JoinSet::new();
    for source in sources {
        all.spawn(serve_source(source, connections.clone(), serve.clone()));
    }
    async move {
        while let Some(ended) = all.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

/// So many errors in a row are a client's each: a handshake that fails, a connection that is gone before it is there.
const FEW_ERRORS: u32 = 8;
/// A source that only fails is asked again after so long at most.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

async fn serve_source<F>(
    mut source: Source,
    connections: ConnectionManager,
    mut serve: impl FnMut(Socket, Option<SocketAddr>) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut all = JoinSet::new();
    let mut errors: u32 = 0;
    let mut rests_until = None;
    {
        let mut draining = pin!(connections.draining());
        loop {
            let next = async {
                if let Some(instant) = rests_until {
                    tokio::time::sleep_until(instant).await;
                }
                source.next().await
            };
            tokio::select! {
                next = next => match next {
                    Some(Ok((io, peer))) => {
                        (errors, rests_until) = (0, None);
                        all.spawn(serve(io, peer));
                    }
                    Some(Err(error)) => {
                        tracing::debug!(%error, "a connection could not be accepted");
                        let doublings = errors.saturating_sub(FEW_ERRORS).min(10);
                        let pause = Duration::from_millis(1 << doublings).min(LONGEST_PAUSE);
                        rests_until = (errors >= FEW_ERRORS).then(|| Instant::now() + pause);
                        errors = errors.saturating_add(1);
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
