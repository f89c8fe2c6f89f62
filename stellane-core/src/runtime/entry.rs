//! Two lines, for who has `axum::serve(listener, app)`.

use std::{fmt, io, net::SocketAddr, pin::Pin, time::Duration};

use http::Extensions;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    App, BoundRuntime, BoxApp, BoxService, IntoListener, RunReport, Runtime, RuntimeBuilder,
    RuntimeError, around::OneOrMade, error::BoxResult, make::Make,
};
#[cfg(feature = "tls")]
use crate::connection::TlsAcceptor;
use crate::{
    BoxError,
    config::{ConfigErrors, Loader, RuntimeConfig},
    connection::{ConnectInfo, HttpService, Incoming},
};

/// Serves an axum router, tonic's `Routes`, or any other [`App`] until `SIGTERM` or Ctrl-C, and then loses no request: all
/// of the [`Runtime`] in the place of `axum::serve`.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let app = axum::Router::new().route("/", axum::routing::get(async || "hello"));
/// let listener = tokio::net::TcpListener::bind("0.0.0.0:3000").await?;
/// stellane_core::serve(listener, app).await?;
/// # Ok(())
/// # }
/// ```
///
/// The environment may change its configuration: `STELLANE_CONFIG` names a file, `STELLANE__SECTION__KEY` sets a key, and
/// `STELLANE_ENV` chooses a profile; what it has changed is logged. [`Serve::config`] leaves the environment out. The defaults
/// are those of [`RuntimeConfig`], but for three keys:
///
/// | key | here | because |
/// |---|---|---|
/// | `server.admin_address` | `""`: off | nobody has asked for a second port |
/// | `server.restart_timeout` | `"0s"`: off | the process that `SIGUSR2` starts would listen on the same address itself |
/// | `connection.connect_info` | `true` | handlers find the `ConnectInfo` of axum (feature `axum-08`) and of tonic (`tonic-014`), at the price of three small allocations for a request and one for each of these |
///
/// The listener says where the service listens, whatever `server.address` says; a program that is to ask there calls
/// [`Runtime::run`], or takes `RuntimeConfig::from_env()?.server.address` for the listener.
///
/// The service is [boxed](BoxApp), so that programs compile quickly; who counts allocations takes the [`Runtime`].
pub fn serve<L: IntoListener>(listener: L, app: impl App) -> Serve<L> {
    Serve::new(listener, OneOrMade::One(BoxApp::new(app)))
}

/// As [`serve`], with a service for each connection, from a make-service: that of axum's `into_make_service` and
/// `into_make_service_with_connect_info`, or any other service that makes an [`App`] of a [`ConnectInfo`].
///
/// It is called when the first bytes of a connection arrive. A connection whose service can't be made answers 500.
pub fn serve_make<L, M>(listener: L, make: M) -> Serve<L>
where
    L: IntoListener,
    M: Service<ConnectInfo, Response: App, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + 'static,
{
    Serve::new(listener, OneOrMade::Made(Make::new(make)))
}

/// A server to be awaited; see [`serve`].
#[must_use = "a server does nothing until it is awaited"]
pub struct Serve<L> {
    listener: L,
    served: OneOrMade,
    config: Option<RuntimeConfig>,
    builder: RuntimeBuilder<()>,
}

impl<L> Serve<L> {
    fn new(listener: L, served: OneOrMade) -> Self {
        Self {
            listener,
            served,
            config: None,
            builder: Runtime::builder(),
        }
    }

    /// Begins the drain when `signal` resolves, in the place of `SIGTERM` and Ctrl-C.
    pub fn with_graceful_shutdown(
        mut self,
        signal: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        self.builder = self.builder.shutdown_signal(signal);
        self
    }

    /// This configuration, whatever the environment says: see [`serve`] for what is usual here.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use stellane_core::{RuntimeConfig, serve};
    ///
    /// # let app = axum::Router::new();
    /// let server = serve("127.0.0.1:0", app).config(RuntimeConfig::default().with(|config| {
    ///     config.server.admin_address = String::new();
    ///     config.connection.idle_timeout = Duration::from_secs(20);
    /// }));
    /// # drop(server);
    /// ```
    pub fn config(mut self, config: RuntimeConfig) -> Self {
        self.config = Some(config);
        self
    }

    /// See [`RuntimeBuilder::outer_layer`].
    pub fn outer_layer<O>(mut self, layer: O) -> Self
    where
        O: Layer<BoxService<Incoming>, Service: HttpService> + Send + Sync + 'static,
    {
        self.builder = self.builder.outer_layer(layer);
        self
    }

    /// See [`RuntimeBuilder::tls`].
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: impl Into<TlsAcceptor>) -> Self {
        self.builder = self.builder.tls(tls);
        self
    }

    /// See [`RuntimeBuilder::connect_info`].
    pub fn connect_info(
        mut self,
        describe: impl Fn(&ConnectInfo, &mut Extensions) + Send + Sync + 'static,
    ) -> Self {
        self.builder = self.builder.connect_info(describe);
        self
    }

    /// See [`RuntimeBuilder::purge_hook`]. For a program with the allocator of glibc:
    ///
    /// ```
    /// use stellane_core::{connection::malloc_trim, serve};
    ///
    /// # let app = axum::Router::new();
    /// let server = serve("127.0.0.1:0", app).purge_hook(malloc_trim);
    /// # drop(server);
    /// ```
    pub fn purge_hook(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
        self.builder = self.builder.purge_hook(hook);
        self
    }
}

impl<L> Serve<L> {
    /// See [`RuntimeBuilder::bypass`].
    pub fn bypass(mut self, bypass: bool) -> Self {
        self.builder = self.builder.bypass(bypass);
        self
    }

    /// See [`RuntimeBuilder::install_recorder`].
    pub fn install_recorder(mut self) -> Self {
        self.builder = self.builder.install_recorder();
        self
    }
}

impl<L: IntoListener> Serve<L> {
    /// The address of the listener that was given.
    ///
    /// # Errors
    /// There is none yet: one that is listened on by [`bind`](Self::bind) has it then.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Listens, and answers not yet: what connects waits for [`BoundServe::serve`].
    ///
    /// # Errors
    /// A wrong configuration, an address that can't be listened on, or a component that can't start.
    pub async fn bind(self) -> Result<BoundServe, RuntimeError> {
        let config = match self.config {
            Some(config) => config,
            None => configured()?,
        };
        let runtime = built(self.builder.config(config), self.served)?;
        let runtime = runtime.listen_on(self.listener).await?;
        Ok(BoundServe { runtime })
    }
}

/// A [`Serve`] that listens.
#[derive(Debug)]
#[must_use = "a server does nothing until it serves"]
pub struct BoundServe {
    runtime: BoundRuntime<OneOrMade>,
}

impl BoundServe {
    /// The address, with the port that the system chose if it was 0.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.runtime.local_addr()
    }

    /// The address of the admin service, if it is on.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.runtime.admin_addr()
    }

    /// The components, for looking at what they count and for turning their knobs.
    #[must_use]
    pub fn components(&self) -> &super::Components {
        self.runtime.components()
    }

    /// Answers until the signal, then drains.
    ///
    /// # Errors
    /// A listener that fails for good.
    pub async fn serve(self) -> Result<RunReport, RuntimeError> {
        serve_bound(self.runtime).await
    }
}

/// A function of its own: one that has no parameters of type is compiled with the library, and all that it needs with it.
fn built(
    builder: RuntimeBuilder<()>,
    served: OneOrMade,
) -> Result<Runtime<OneOrMade>, RuntimeError> {
    builder.served(served).build()
}

/// The same, in a box: a future is compiled where it is polled. So a program that calls [`serve`] compiles nothing that
/// serves (`.ci/suites/compiled` looks).
fn serve_bound(runtime: BoundRuntime<OneOrMade>) -> BoxResult<RunReport> {
    runtime.serve_configured()
}

impl<L: IntoListener + 'static> IntoFuture for Serve<L> {
    type Output = Result<RunReport, RuntimeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.bind().await?.serve().await })
    }
}

/// What the environment makes of the configuration of a program that has said nothing.
fn configured() -> Result<RuntimeConfig, ConfigErrors> {
    let loader = Loader::from_process();
    let names = loader.names();
    if !names.is_empty() {
        tracing::info!("configured by the environment: {}", names.join(", "));
    }
    loader.load_after(|config| {
        config.server.admin_address = String::new();
        config.server.restart_timeout = Duration::ZERO;
        config.connection.connect_info = true;
    })
}

impl<L> fmt::Debug for Serve<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
