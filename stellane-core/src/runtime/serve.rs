use std::{net::SocketAddr, pin::pin, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::task::JoinSet;
#[cfg(feature = "profiling")]
use tower_layer::Layer;
use tower_service::Service;

use super::{Components, RequestBody, Runtime, RuntimeError, admin, builder::Signal, stack};
#[cfg(feature = "profiling")]
use crate::profiling::{ProfileLayer, ProfileService};
use crate::{
    BoxError,
    config::{ServerConfig, is_socket_address},
    connection::{ConnectionManager, DrainReport, ListenConfig, Listener, TlsAcceptor},
};
#[cfg(feature = "reload")]
use crate::{
    config::{ConfigErrors, ConfigWatcher, LiveTargets, Loader, Reload},
    logging::LogHandle,
};

/// A server that listens on its addresses; [`serve`](Self::serve) begins to answer.
#[derive(Debug)]
pub struct BoundRuntime<S> {
    runtime: Runtime<S>,
    listeners: Vec<Listener>,
    admin: Option<Listener>,
    tls: Option<TlsAcceptor>,
    local_addr: SocketAddr,
    admin_addr: Option<SocketAddr>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunReport {
    /// The drain of the connections.
    pub drain: DrainReport,
}

pub(super) async fn bind<S>(runtime: Runtime<S>) -> Result<BoundRuntime<S>, RuntimeError> {
    let server = &runtime.config.server;
    let options = &runtime.config.connection.listen;
    let mut listeners = Listener::inherited().map_err(|source| RuntimeError::Bind {
        key: "server.address",
        address: server.address.clone(),
        source,
    })?;
    if listeners.is_empty() {
        listeners = listen("server.address", &server.address, options).await?;
    }
    let files = &runtime.config.connection.tls;
    // One without the other is an error of its own.
    let tls = if files.certificate.is_empty() && files.key.is_empty() {
        None
    } else {
        let tls = TlsAcceptor::from_files(&files.certificate, &files.key);
        Some(tls.map_err(|error| RuntimeError::Component {
            name: "connection.tls",
            source: error.into(),
        })?)
    };
    if let Some(tls) = &tls {
        listeners = listeners.into_iter().map(|l| l.tls(tls)).collect();
    }
    let admin = match server.admin_address.as_str() {
        "" => None,
        address => {
            let one = ListenConfig {
                sockets: 1,
                ..options.clone()
            };
            listen("server.admin_address", address, &one).await?.pop()
        }
    };
    // Only a Unix socket that was handed over has none.
    let local_addr = listeners
        .iter()
        .find_map(Listener::local_addr)
        .unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)));
    let admin_addr = admin.as_ref().and_then(Listener::local_addr);
    Ok(BoundRuntime {
        runtime,
        listeners,
        admin,
        tls,
        local_addr,
        admin_addr,
    })
}

/// Applies what can change at run time when the configuration file changes, or on SIGHUP.
#[cfg(feature = "reload")]
async fn follow(components: Components, log: Option<LogHandle>) {
    let loader = Loader::from_process();
    if loader.path().is_none() {
        // Nothing to follow: SIGHUP keeps its usual meaning.
        return;
    }
    // The process started with it; what is wrong now is told when it changes.
    let Ok(watcher) = ConfigWatcher::new(loader) else {
        return;
    };
    let targets = LiveTargets {
        log,
        connections: Some(components.connections),
        workers: Some(components.workers),
        pools: Some(components.pools),
        limit: Some(components.limit),
        tuner: Some(components.tuner),
    };
    let outcome = move |outcome: &Result<Reload, ConfigErrors>| match outcome {
        Ok(reload) => {
            targets.apply(reload);
            tracing::info!("{reload}");
        }
        Err(errors) => tracing::warn!("the old configuration stays: {errors}"),
    };
    watcher.run(outcome).await;
}

async fn listen(
    key: &'static str,
    address: &str,
    options: &ListenConfig,
) -> Result<Vec<Listener>, RuntimeError> {
    if !is_socket_address(address) {
        return Err(RuntimeError::Address {
            key,
            address: address.to_owned(),
        });
    }
    Listener::bind_all(address, options)
        .await
        .map_err(|source| RuntimeError::Bind {
            key,
            address: address.to_owned(),
            source,
        })
}

impl<S> BoundRuntime<S> {
    /// Serves on this as well, for example on a Unix socket for a proxy on the same machine.
    pub fn listen_also(&mut self, listener: impl Into<Listener>) {
        self.listeners.push(listener.into());
    }

    /// The address of the service, with the port that the system chose if it was 0.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The address of the admin service, unless it is off.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_addr
    }

    /// The components, for the service's own use.
    #[must_use]
    pub fn components(&self) -> &Components {
        &self.runtime.components
    }
}

impl<S, B> BoundRuntime<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError> + Send,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    /// Answers until the signal, then drains. Everything that runs in the background ends with it.
    ///
    /// # Errors
    /// A listener that fails for good.
    pub async fn serve(self) -> Result<RunReport, RuntimeError> {
        let Runtime {
            config,
            components,
            service,
            signal,
            log,
        } = self.runtime;
        let mut background = JoinSet::new();
        components.spawn_background(&mut background);
        if let Some(tls) = self.tls {
            let interval = config.connection.tls.reload_interval;
            background.spawn(async move { tls.follow_files(interval).await });
        }
        #[cfg(feature = "reload")]
        background.spawn(follow(components.clone(), log.clone()));
        let admin_manager = Components::admin_manager()?;
        if let (Some(listener), Some(address)) = (self.admin, self.admin_addr) {
            let admin =
                admin::service(&components, &config, log.clone(), address).map_err(|error| {
                    RuntimeError::Component {
                        name: "admin",
                        source: error.into(),
                    }
                })?;
            #[cfg(feature = "profiling")]
            let admin = {
                let profiles = ProfileService::builder()
                    .cpu(config.dev.profile_cpu)
                    .build();
                ProfileLayer::new(profiles.listening_on(address)).layer(admin)
            };
            background.spawn(ignore_end(admin_manager.serve(listener, admin)));
        }

        let connections = components.connections.clone();
        let service = stack::around(service, &components, &config.server);
        let serving = connections.serve_all(self.listeners, service);
        let ending = drain_after(signal, &components, &connections, &config.server);
        components.readiness.set_ready(true);
        tracing::info!(address = %self.local_addr, admin = ?self.admin_addr, "serving");

        let (mut serving, mut ending) = (pin!(serving), pin!(ending));
        let failed = |error| RuntimeError::Serve(Box::new(error));
        let drain = tokio::select! {
            // A listener that fails ends the run now, not at the next signal.
            served = &mut serving => {
                served.map_err(failed)?;
                ending.await
            }
            drain = &mut ending => {
                serving.await.map_err(failed)?;
                drain
            }
        };
        components.workers.shutdown();
        admin_manager.drain(Duration::from_millis(100)).await;
        tracing::info!(?drain, "ended");
        Ok(RunReport { drain })
    }
}

async fn drain_after(
    signal: Option<Signal>,
    components: &Components,
    connections: &ConnectionManager,
    server: &ServerConfig,
) -> DrainReport {
    match signal {
        Some(signal) => signal.await,
        None => terminated().await,
    }
    tracing::info!(delay = ?server.drain_delay, deadline = ?server.drain_timeout, "draining");
    components.readiness.set_ready(false);
    tokio::time::sleep(server.drain_delay).await;
    connections.drain(server.drain_timeout).await
}

async fn ignore_end<T>(future: impl Future<Output = T>) {
    let _ = future.await;
}

/// Resolves at `SIGTERM` or `SIGINT`.
#[cfg(unix)]
async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        Err(error) => {
            tracing::warn!(%error, "SIGTERM can't be caught; only SIGINT drains");
            ignore_end(tokio::signal::ctrl_c()).await;
        }
    }
}

/// Resolves at Ctrl-C.
#[cfg(not(unix))]
async fn terminated() {
    ignore_end(tokio::signal::ctrl_c()).await;
}
