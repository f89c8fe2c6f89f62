use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};

#[cfg(feature = "tls")]
use crate::connection::config::tls::ClientAuth;
use crate::connection::{
    accept,
    config::{ConnectionConfig, forwarded::ForwardedHeader},
    error::{BuildError, ServeError},
    http_service::HttpService,
    incoming::Incoming,
    lifecycle::{Shared, memory::Hook},
    policy::budgets::Budgets,
    protocol::{builders::HyperBuilders, connect_info::ConnectInfo, service_source::ServiceSource},
    reason::CloseReason,
    state::ConnectionInfo,
    stats::{ConnectionStats, DrainReport},
    table::command::Command,
    transport::{listener::Listener, socket::Socket},
    woken::WakeClock,
};

/// Serves connections and owns them; a cheap handle. See the [module docs](super).
#[derive(Debug, Clone)]
pub struct ConnectionManager {
    shared: Arc<Shared>,
    builders: Arc<HyperBuilders>,
}

/// Builds a [`ConnectionManager`].
#[derive(Debug, Default)]
#[must_use]
pub struct ConnectionManagerBuilder {
    config: ConnectionConfig,
    hook: Option<Hook>,
    budgets: Budgets,
    /// What tasks note by when they are woken.
    pub(crate) wakes: WakeClock,
}

impl ConnectionManagerBuilder {
    /// The settings. Default: [`ConnectionConfig::default`].
    pub fn config(mut self, config: ConnectionConfig) -> Self {
        self.config = config;
        self
    }

    /// Called on every worker, at most twice a second, after connections have parked: the place to hand freed memory
    /// back to the system (`mi_collect`, jemalloc's purge). One worker at a time, so that the others go on serving; one
    /// that is busy comes to it later, or not at all if it is busy for seconds. The library never chooses the allocator.
    ///
    /// Version 3 of mimalloc asks the system for huge pages, and then one small allocation takes two megabytes of what
    /// was given back: where idle memory counts, switch them off for the process (`MIMALLOC_ALLOW_THP=0`, or
    /// `PR_SET_THP_DISABLE`).
    pub fn purge_hook(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
        self.hook = Some(Hook::new(hook));
        self
    }

    /// How long a request may take in a drain, in whole seconds counted from its beginning; `None` is as long as
    /// [`drain`](ConnectionManager::drain) was given. It is asked of each request, and a drain goes on for as long as the
    /// longest time of those under way. Streams that go on to the end of their time are ended in the words of their
    /// protocol, and what has none is cut: see [How a drain goes](super#how-a-drain-goes).
    ///
    /// Too short cuts requests that would have been answered, too long keeps the process for a client that never ends.
    ///
    /// ```
    /// use std::time::Duration;
    /// use stellane_core::connection::ConnectionManager;
    ///
    /// let manager = ConnectionManager::builder()
    ///     .drain_budget(|request| match request.uri().path() {
    ///         "/generate" => Some(Duration::from_secs(600)),
    ///         _ => None,
    ///     })
    ///     .build()?;
    /// # Ok::<_, stellane_core::connection::BuildError>(())
    /// ```
    pub fn drain_budget(
        mut self,
        budget: impl Fn(&Request<Incoming>) -> Option<Duration> + Send + Sync + 'static,
    ) -> Self {
        self.budgets = Budgets::new(budget);
        self
    }

    /// Builds the manager.
    ///
    /// # Errors
    /// Every setting that is out of range.
    pub fn build(mut self) -> Result<ConnectionManager, BuildError> {
        self.config
            .validate()
            .map_err(|errors| BuildError { errors })?;
        self.config.connect_info |= self.config.forwarded.header != ForwardedHeader::Off;
        #[cfg(feature = "tls")]
        {
            self.config.connect_info |= self.config.tls.client_auth != ClientAuth::None;
        }
        let builders = Arc::new(HyperBuilders::new(&self.config));
        let configured = self.config.max_connections;
        let mut shared = Shared::new(self.config, self.hook);
        (shared.budgets, shared.wakes) = (self.budgets, self.wakes);
        let manager = ConnectionManager {
            builders,
            shared: Arc::new(shared),
        };
        let most = manager.most_connections();
        let wanted = if configured == 0 { USUAL } else { configured };
        if most < wanted {
            tracing::warn!(
                most,
                wanted,
                "the limit of open files allows few connections: raise it (`ulimit -n`, systemd's LimitNOFILE)"
            );
        }
        Ok(manager)
    }
}

/// With room for fewer connections than that, a limit of open files is worth a warning.
const USUAL: usize = 1000;

impl ConnectionManager {
    /// A builder with the default settings.
    pub fn builder() -> ConnectionManagerBuilder {
        ConnectionManagerBuilder::default()
    }

    /// Serves `service` on a listener (TCP, or Unix sockets) until [`drain`](Self::drain) is called.
    /// May be called for several listeners; they share the limits and the statistics.
    ///
    /// The service is cloned once for each time a connection becomes active, never for a request.
    /// Dropping the returned future closes its connections at once.
    ///
    /// # Errors
    /// When the listener is broken for good. Errors of single connections, and running out of open
    /// files, are counted and survived.
    pub fn serve<S: HttpService>(
        &self,
        listener: impl Into<Listener>,
        service: S,
    ) -> impl Future<Output = Result<(), ServeError>> + Send + 'static {
        let services = ServiceSource::shared(service);
        let (shared, builders) = (Arc::clone(&self.shared), Arc::clone(&self.builders));
        accept::serve(shared, builders, listener.into(), services)
    }

    /// As [`serve`](Self::serve), with a service of its own for each connection: a place for what belongs to the
    /// connection, such as who has logged in by it, or a limit on its requests.
    ///
    /// `make` is called when the first bytes of a connection arrive, once, and not at all for one that says nothing.
    /// The service stays while the connection is parked, and is dropped when it ends. That is what it costs: a
    /// parked connection takes the size of its service, with all it holds, and about 20 bytes to find it.
    ///
    /// ```
    /// use std::{convert::Infallible, sync::{Arc, atomic::{AtomicU64, Ordering}}};
    ///
    /// use http::{Request, Response};
    /// use stellane_core::connection::Incoming;
    /// use stellane_core::connection::{ConnectInfo, ConnectionManager};
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// let manager = ConnectionManager::builder().build()?;
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    /// let serving = manager.serve_with(listener, |connection: &ConnectInfo| {
    ///     let (peer, count) = (connection.peer(), Arc::new(AtomicU64::new(0)));
    ///     tower::service_fn(move |_: Request<Incoming>| {
    ///         let nth = count.fetch_add(1, Ordering::Relaxed) + 1;
    ///         async move { Ok::<_, Infallible>(Response::new(format!("{peer:?}: {nth}"))) }
    ///     })
    /// });
    /// # drop(serving);
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`serve`](Self::serve).
    pub fn serve_with<S: HttpService>(
        &self,
        listener: impl Into<Listener>,
        make: impl Fn(&ConnectInfo) -> S + Send + Sync + 'static,
    ) -> impl Future<Output = Result<(), ServeError>> + Send + 'static {
        let services = ServiceSource::own(make);
        let (shared, builders) = (Arc::clone(&self.shared), Arc::clone(&self.builders));
        accept::serve(shared, builders, listener.into(), services)
    }

    /// Serves `service` on several listeners, each with an accept loop in a task of its own: see
    /// [`Listener::bind_all`].
    ///
    /// # Errors
    /// As [`serve`](Self::serve), for the first listener that fails; the others end with it.
    pub fn serve_all<S: HttpService>(
        &self,
        listeners: Vec<Listener>,
        service: S,
    ) -> impl Future<Output = Result<(), ServeError>> + Send + 'static {
        let (shared, builders) = (Arc::clone(&self.shared), Arc::clone(&self.builders));
        accept::serve_all(shared, builders, listeners, move || {
            ServiceSource::shared(service.clone())
        })
    }

    /// As [`serve_all`](Self::serve_all), with a service of its own for each connection: see
    /// [`serve_with`](Self::serve_with).
    ///
    /// # Errors
    /// As [`serve_all`](Self::serve_all).
    pub fn serve_all_with<S: HttpService>(
        &self,
        listeners: Vec<Listener>,
        make: impl Fn(&ConnectInfo) -> S + Clone + Send + Sync + 'static,
    ) -> impl Future<Output = Result<(), ServeError>> + Send + 'static {
        let (shared, builders) = (Arc::clone(&self.shared), Arc::clone(&self.builders));
        accept::serve_all(shared, builders, listeners, move || {
            ServiceSource::own(make.clone())
        })
    }

    /// Serves `service` on one connection that came by other ways than a [`Listener`]: in memory, through a
    /// tunnel, on a socket of another kind. It has a place in the table, counts against the limits, keeps to the
    /// deadlines and is drained like any other; the future resolves to why it ended. An upgraded connection
    /// lives on after that. Without a `peer` a socket of tokio tells it itself.
    ///
    /// When idle it is parked in the future: hyper's buffers are given back, and what `io` holds stays.
    /// Dropping the future closes the connection at once.
    ///
    /// ```
    /// use std::convert::Infallible;
    ///
    /// use http::{Request, Response};
    /// use stellane_core::connection::Incoming;
    /// use stellane_core::connection::{CloseReason, ConnectionManager};
    /// use tokio::io::{AsyncReadExt, AsyncWriteExt};
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// let manager = ConnectionManager::builder().build()?;
    /// let (mut client, server) = tokio::io::duplex(4096);
    /// let service = tower::service_fn(async |_: Request<Incoming>| {
    ///     Ok::<_, Infallible>(Response::new("hello".to_owned()))
    /// });
    /// let serving = tokio::spawn(manager.serve_connection(server, None, service));
    /// client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
    /// let mut answer = String::new();
    /// client.read_to_string(&mut answer).await?;
    /// assert!(answer.ends_with("hello"));
    /// assert_eq!(serving.await?, CloseReason::Finished);
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn serve_connection<S: HttpService>(
        &self,
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: Option<SocketAddr>,
        service: S,
    ) -> impl Future<Output = CloseReason> + Send + 'static {
        self.serve_io(io, peer, ServiceSource::shared(service))
    }

    /// As [`serve_connection`](Self::serve_connection), with a service that is made when its first bytes arrive: see
    /// [`serve_with`](Self::serve_with).
    pub fn serve_connection_with<S: HttpService>(
        &self,
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: Option<SocketAddr>,
        make: impl Fn(&ConnectInfo) -> S + Send + Sync + 'static,
    ) -> impl Future<Output = CloseReason> + Send + 'static {
        self.serve_io(io, peer, ServiceSource::own(make))
    }

    fn serve_io<S: HttpService>(
        &self,
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: Option<SocketAddr>,
        services: ServiceSource<S>,
    ) -> impl Future<Output = CloseReason> + Send + 'static {
        let socket = Socket::of(io);
        let peer = peer.or_else(|| socket.peer_addr());
        let made = |_| std::future::ready(Ok::<_, Infallible>(services));
        let serving = self.serve_made(socket, peer, made);
        async {
            match serving.await {
                Ok(reason) => reason,
                Err(never) => match never {},
            }
        }
    }

    /// Serves a connection by what `make` makes for it.
    pub(super) fn serve_made<S: HttpService, M, E, F>(
        &self,
        socket: Socket,
        peer: Option<SocketAddr>,
        make: F,
    ) -> impl Future<Output = Result<CloseReason, E>> + Send + use<S, M, E, F>
    where
        F: FnOnce(ConnectInfo) -> M + Send + 'static,
        M: Future<Output = Result<ServiceSource<S>, E>> + Send + 'static,
        E: Send + 'static,
    {
        let (shared, builders) = (Arc::clone(&self.shared), Arc::clone(&self.builders));
        accept::single::serve_connection(shared, builders, socket, peer, make)
    }

    /// Ends all connections without losing a request, and every [`serve`](Self::serve) with them.
    ///
    /// Accepting stops at once. Responses then say `Connection: close`; idle connections stay open for
    /// [`drain_idle`](ConnectionConfig::drain_idle), so that a request on its way is still answered. Many
    /// connections come to their turn one after the other, within [`drain_spread`](ConnectionConfig::drain_spread).
    /// What is not done after `deadline`, or after its own [budget](ConnectionManagerBuilder::drain_budget), is
    /// aborted; streams have a second more to say goodbye. See [How a drain goes](super#how-a-drain-goes).
    pub async fn drain(&self, deadline: Duration) -> DrainReport {
        self.shared.drain(deadline).await
    }

    /// What a connection that somebody else serves says of itself. It is in no table, and is told of the drain.
    #[cfg(feature = "preset")]
    pub(crate) fn describe(&self, socket: &Socket, peer: Option<SocketAddr>) -> ConnectInfo {
        let now = self.shared.clock.now();
        let record = Arc::new(crate::connection::table::record::Record::new(
            0, 0, peer, false, 0, now,
        ));
        ConnectInfo::new(socket, &record, &self.shared)
    }

    /// Resolves when a drain has begun. A handler, which has no manager at hand, asks
    /// [`drain_token`](super::drain_token).
    pub fn draining(&self) -> impl Future<Output = ()> + Send + Sync + use<> {
        self.shared.drain.announced()
    }

    /// Whether a drain has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.shared.drain.has_begun()
    }

    /// What the connections are doing and did. Walks the table: for a few times a second, not for each
    /// request.
    #[must_use]
    pub fn stats(&self) -> ConnectionStats {
        self.shared.stats()
    }

    /// Whether idle connections give back what they needed while they were busy.
    #[cfg(feature = "preset")]
    pub(crate) fn gives_memory_back(&self) -> bool {
        self.shared.memory.is_given_back()
    }

    /// Gives back the memory of a thread that has nothing to do for now.
    #[cfg(feature = "engine")]
    pub(crate) fn release_thread(&self) {
        self.shared.memory.release_thread();
    }

    /// How many connections there may be: as configured, and as the limit of open files allows.
    pub(crate) fn most_connections(&self) -> usize {
        let Shared {
            admission,
            settings,
            ..
        } = &*self.shared;
        admission.most(settings).all
    }

    /// The live connections.
    #[must_use]
    pub fn list(&self) -> Vec<ConnectionInfo> {
        self.shared.table.list(self.shared.clock.now())
    }

    /// Closes one connection, whatever it is doing; false if there is none with this id.
    pub fn close(&self, id: u64) -> bool {
        let mut found = false;
        self.shared.command_each(|record| {
            if record.id() == id {
                found = true;
                return Command::Close(CloseReason::Killed);
            }
            Command::None
        });
        found
    }

    /// Closes up to `count` connections that have been idle for longer than
    /// [`drain_idle`](ConnectionConfig::drain_idle), those that have been so longest first; how many were asked.
    pub fn close_idle(&self, count: usize) -> usize {
        self.shared.reclaim(count)
    }

    /// Says how scarce memory is, or anything else that connections take, until it is said again: 0 is no pressure, 1
    /// is all there may be. The timeouts of slow clients shrink by it, as they do when places become scarce: see
    /// [How long the slow may take](super#how-long-the-slow-may-take). The preset measures it and says so itself.
    pub fn set_pressure(&self, level: f64) {
        self.shared.pressure.tell(level);
    }

    /// Says whether memory is so scarce that as little as possible is to lie in buffers, until it is said again. Meanwhile
    /// new connections of HTTP/2 get the least windows, 64 KiB, for as long as they live, and of an answer that its client
    /// does not read the system takes 64 KiB ahead (Linux) and not some megabytes. In the preset the memory budget says it.
    pub fn set_buffers_little(&self, little: bool) {
        self.shared.pressure.set_buffers_little(little);
    }

    /// The settings as they are now, changes at run time included.
    #[must_use]
    pub fn config(&self) -> ConnectionConfig {
        self.shared.settings.tell(self.shared.config.clone())
    }

    /// Changes [`ConnectionConfig::max_connections`].
    pub fn set_max_connections(&self, max: usize) {
        self.shared.settings.set_max_connections(max);
    }

    /// Changes [`ConnectionConfig::max_accepts_per_second`].
    pub fn set_max_accepts_per_second(&self, max: u32) {
        self.shared.admission.rate.set(max);
        self.shared.settings.set_max_accepts_per_second(max);
    }

    /// Changes [`ConnectionConfig::max_connections_per_peer`] for connections to come.
    pub fn set_max_connections_per_peer(&self, max: usize) {
        self.shared.settings.set_max_connections_per_peer(max);
    }

    /// Changes [`ConnectionConfig::max_idle_connections`].
    pub fn set_max_idle_connections(&self, max: usize) {
        self.shared.settings.set_max_idle_connections(max);
    }

    /// Changes [`ConnectionConfig::idle_timeout`], for connections that are idle already too.
    pub fn set_idle_timeout(&self, timeout: Duration) {
        self.shared.settings.set_idle_timeout(timeout);
    }

    /// Changes [`ConnectionConfig::park_after`].
    pub fn set_park_after(&self, after: Duration) {
        self.shared.settings.set_park_after(after);
    }
}
