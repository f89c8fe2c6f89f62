use std::{fmt, future::Future, net::SocketAddr, pin::Pin, sync::Arc};

use stellane_autotune::AdaptiveLimitLayer;
use tokio::io::{AsyncRead, AsyncWrite};

#[cfg(unix)]
use super::signals::Ending;
use super::{
    App, BoxService, Components, PresetLayer,
    around::{Around, OuterFn},
    background::BackgroundTask,
    bypass::PlainEngine,
    facts::{DescribeFn, Facts},
    ready_check::ReadyCheck,
    refusal::{AnswerFn, OnRefusal},
    route_limits::OwnLimits,
};
#[cfg(feature = "profiling")]
use crate::BoxError;
#[cfg(feature = "tls")]
use crate::connection::TlsAcceptor;
use crate::{
    access_log::AccessLogLayer,
    config::RuntimeConfig,
    connection::{CloseReason, Incoming, Socket},
    logging::LogHandle,
};

/// Gives heap profiles.
#[cfg(feature = "profiling")]
pub(super) type HeapProfile = Box<dyn Fn() -> Result<Vec<u8>, BoxError> + Send + Sync>;
/// Begins to sample about every so many bytes.
#[cfg(feature = "profiling")]
pub(super) type HeapSource = Box<dyn FnOnce(u64) -> HeapProfile + Send + Sync>;
pub(super) type Signal = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What runs beside the service, on its runtime.
#[derive(Debug, Default)]
pub(super) struct Duties {
    pub(super) checks: Vec<ReadyCheck>,
    pub(super) background: Vec<BackgroundTask>,
}

/// A server that is ready to listen. See the [module docs](super).
///
/// ```no_run
/// use axum::{Router, routing::get};
/// use stellane_core::{Runtime, RuntimeConfig};
///
/// #[tokio::main]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let app: Router = Router::new().route("/", get(async || "hello"));
///     let runtime = Runtime::builder().config(RuntimeConfig::from_env()?).service(app).build()?;
///     let report = runtime.serve("127.0.0.1:3000").await?; // until SIGTERM or Ctrl-C
///     println!("{report}");
///     Ok(())
/// }
/// ```
pub struct Runtime<S> {
    pub(super) service: S,
    pub(super) parts: RuntimeParts,
}

/// All of a [`Runtime`] but its service.
pub(super) struct RuntimeParts {
    pub(super) config: RuntimeConfig,
    pub(super) components: Components,
    pub(super) signal: Option<Signal>,
    pub(super) on_refusal: Option<Arc<AnswerFn>>,
    pub(super) limit_layer: AdaptiveLimitLayer,
    pub(super) own_limits: OwnLimits,
    pub(super) duties: Duties,
    /// `SIGUSR2`, unless it is not ours: one that comes before the service does ends nothing, and is obeyed then.
    #[cfg(all(unix, feature = "restart"))]
    pub(super) restart: Option<tokio::signal::unix::Signal>,
    /// `SIGTERM` and `SIGINT`, unless they are not ours.
    #[cfg(unix)]
    pub(super) ending: Option<Ending>,
    #[cfg_attr(
        not(any(feature = "admin", feature = "reload")),
        expect(dead_code, reason = "nothing changes the level")
    )]
    pub(super) log: Option<LogHandle>,
    pub(super) describe: Option<Arc<DescribeFn>>,
    pub(super) outer: Option<Arc<OuterFn>>,
    pub(super) access_log: Option<AccessLogLayer>,
    #[cfg(feature = "fleet")]
    pub(super) fleet: super::fleet::Fleet,
    /// Where the metrics are sent.
    #[cfg(feature = "otlp")]
    pub(super) otlp: Option<crate::otlp::Otlp>,
    pub(super) bypass: Option<PlainEngine>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<TlsAcceptor>,
    #[cfg(feature = "http-layers")]
    pub(super) http: super::HttpLayers,
    #[cfg(all(feature = "admin", feature = "profiling"))]
    pub(super) heap: Option<HeapSource>,
}

impl RuntimeParts {
    /// What stands around its service.
    pub(super) fn around(&self) -> Around {
        let on_refusal = OnRefusal::new(self.on_refusal.clone(), &self.components.faults);
        let overload = self.own_limits.apply(self.components.overload.clone());
        let limit = self.limit_layer.clone().overload(&overload);
        let limit = on_refusal.of_limit(limit);
        let server = &self.config.server;
        let facts = Facts(self.describe.clone());
        let rates = &self.components.rate_limits;
        Around {
            preset: PresetLayer::new(
                &self.components,
                server,
                limit,
                &self.own_limits,
                on_refusal.clone(),
                true,
                Some(facts.clone()),
            ),
            facts,
            outer: self.outer.clone(),
            access_log: self.access_log.clone(),
            bypass: self.bypass.clone(),
            #[cfg(feature = "http-layers")]
            http: self.http.clone(),
            #[cfg(feature = "fleet")]
            fleet: self.fleet.clone(),
            rates: rates.layer().map(|layer| on_refusal.of_rates(layer)),
            #[cfg(feature = "redis")]
            shared_rates: rates
                .shared_layer()
                .map(|layer| on_refusal.of_shared_rates(layer)),
            on_refusal,
            hot_reload: self.config.dev.hot_reload,
        }
    }

    /// See [`Runtime::serve_connection`]; compiled once for all services.
    fn serve_connection(
        &self,
        io: Socket,
        peer: Option<SocketAddr>,
        service: BoxService<Incoming>,
    ) -> Pin<Box<dyn Future<Output = CloseReason> + Send>> {
        Box::pin(
            self.components
                .connections
                .serve_connection(io, peer, service),
        )
    }
}

impl<S> Runtime<S> {
    /// The components, for the service's own use.
    #[must_use]
    pub fn components(&self) -> &Components {
        &self.parts.components
    }
}

impl<S: App> Runtime<S> {
    /// Serves one connection that came by other ways than a listener, such as in memory, with all of the preset around
    /// its requests; see [`ConnectionManager::serve_connection`](crate::connection::ConnectionManager::serve_connection).
    /// For tests: what the runtime does beside its connections is not begun by it.
    pub fn serve_connection<Io>(
        &self,
        io: Io,
        peer: Option<SocketAddr>,
    ) -> impl Future<Output = CloseReason> + Send + use<S, Io> + 'static
    where
        Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = self.parts.around().boxed(self.service.clone());
        self.parts.serve_connection(Socket::of(io), peer, service)
    }
}

impl<S> fmt::Debug for Runtime<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime")
            .field("config", &self.parts.config)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RuntimeParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuntimeParts").finish_non_exhaustive()
    }
}
