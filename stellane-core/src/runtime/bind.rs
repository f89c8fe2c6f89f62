use std::{io, net::SocketAddr};

#[cfg(all(unix, feature = "restart"))]
use super::successor;
use super::{
    App, Components, IntoListener, Runtime, RuntimeError,
    error::BoxResult,
    listeners::{Listeners, Redirects, listen},
    runtime::RuntimeParts,
};
#[cfg(feature = "tls")]
use crate::connection::TlsAcceptor;
#[cfg(all(unix, feature = "restart"))]
use crate::restart;
use crate::{
    config::{ListenTls, RuntimeConfig, ServerConfig},
    connection::{ListenConfig, Listener},
    engine::EngineKind,
};

impl<S: App> Runtime<S> {
    /// Listens on `address` and on the admin address, and serves neither yet. What connects waits.
    ///
    /// # Errors
    /// An address that can't be listened on.
    pub async fn bind(mut self, address: &str) -> Result<BoundRuntime<S>, RuntimeError> {
        let server = &mut self.parts.config.server;
        if server.address != address {
            tell_of_unused(server, |_| false);
        }
        server.address = address.to_owned();
        server.listen.clear();
        self.bind_configured().await
    }

    /// Listens on the configured `server.address`, with the options of `connection.listen`: see
    /// [`bind`](Self::bind). Sockets that systemd or `stellane dev` handed over (`LISTEN_FDS`) take its place.
    ///
    /// # Errors
    /// An address that can't be listened on.
    pub async fn bind_configured(self) -> Result<BoundRuntime<S>, RuntimeError> {
        Ok(BoundRuntime {
            bound: bind(self.parts).await?,
            service: self.service,
        })
    }
}

impl<S> Runtime<S> {
    /// Listens on what one has: a listener of tokio or std, Unix sockets, several; see [`IntoListener`]. The configured
    /// `server.address` counts for nothing then, which is logged, and sockets that were handed over neither. Where there is TLS in the
    /// configuration, it counts for listeners of TCP that have none of their own.
    ///
    /// # Errors
    /// An address that can't be listened on.
    pub async fn listen_on(
        self,
        listener: impl IntoListener,
    ) -> Result<BoundRuntime<S>, RuntimeError> {
        let options = options(&self.parts.config);
        let listeners = listener.into_listeners(&options).await?;
        Ok(BoundRuntime {
            bound: bind_on(self.parts, listeners).await?,
            service: self.service,
        })
    }
}

/// A server that listens on its addresses; [`serve`](Self::serve) begins to answer.
#[derive(Debug)]
pub struct BoundRuntime<S> {
    pub(super) service: S,
    pub(super) bound: Bound,
}

/// All of a [`BoundRuntime`] but its service.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) parts: RuntimeParts,
    pub(super) listeners: Listeners,
    #[cfg_attr(
        not(any(feature = "admin", all(unix, feature = "restart"))),
        expect(dead_code, reason = "there is none")
    )]
    pub(super) admin: Option<Listener>,
    /// Whose files are to be followed.
    #[cfg(feature = "tls")]
    pub(super) acceptors: Vec<TlsAcceptor>,
    pub(super) local_addr: SocketAddr,
    pub(super) admin_addr: Option<SocketAddr>,
}

impl<S> BoundRuntime<S> {
    /// Serves on this as well, for example on a Unix socket for a proxy on the same machine.
    pub fn listen_also(&mut self, listener: impl Into<Listener>) {
        self.bound.listeners.sockets.push(listener.into());
    }

    /// The address of the service, with the port that the system chose if it was 0.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.bound.local_addr
    }

    /// All addresses of the service that are of TCP.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        let listening = self.bound.listeners.listening();
        let mut addresses: Vec<_> = listening.filter_map(Listener::local_addr).collect();
        // Several sockets may listen on the same.
        addresses.dedup();
        addresses
    }

    /// The address of the admin service, unless it is off.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.bound.admin_addr
    }

    /// The components, for the service's own use.
    #[must_use]
    pub fn components(&self) -> &Components {
        &self.bound.parts.components
    }
}

/// Where the configuration says.
fn bind(parts: RuntimeParts) -> BoxResult<Bound> {
    Box::pin(async move {
        let server = &parts.config.server;
        let options = options(&parts.config);
        let mut listeners = Listener::inherited().map_err(|source| RuntimeError::Bind {
            key: "server.address",
            address: server.address.clone(),
            source,
        })?;
        #[cfg(all(unix, feature = "restart"))]
        let admin = successor::take_admin(&mut listeners);
        #[cfg(not(all(unix, feature = "restart")))]
        let admin = None;
        if !server.listen.is_empty() {
            #[cfg(feature = "tls")]
            let brought = parts.tls.is_some();
            #[cfg(not(feature = "tls"))]
            let brought = false;
            let doors = several(listeners, &parts.config, brought, &options).await?;
            return bound(parts, doors, admin).await;
        }
        #[cfg(all(unix, feature = "restart"))]
        {
            let (key, address) = ("server.address", &server.address);
            listeners = successor::where_configured(listeners, key, address, &options).await;
        }
        if listeners.is_empty() {
            listeners = listen("server.address", &server.address, &options).await?;
        }
        bound(parts, Doors::of(listeners), admin).await
    })
}

/// On what somebody brought along.
fn bind_on(parts: RuntimeParts, listeners: Listeners) -> BoxResult<Bound> {
    Box::pin(async move {
        if listeners.sockets.is_empty() && listeners.sources.is_empty() {
            return Err(RuntimeError::Bind {
                key: "listener",
                address: "[]".to_owned(),
                source: io::Error::new(io::ErrorKind::InvalidInput, "there is none"),
            });
        }
        let local: Vec<_> = listeners.listening().map(Listener::local_addr).collect();
        tell_of_unused(&parts.config.server, |address| {
            // One of a Unix socket, or a source of connections: the program's own business.
            local.is_empty() || local.iter().any(|local| is_at(address, *local))
        });
        bound(parts, Doors::of(listeners), None).await
    })
}

/// Whether an address that was configured is, as far as one can tell without a resolver, that of a listener.
fn is_at(address: &str, local: Option<SocketAddr>) -> bool {
    let Some(local) = local else {
        return address.starts_with("unix:");
    };
    match address.parse::<SocketAddr>() {
        Ok(at) => at.ip() == local.ip() && [0, local.port()].contains(&at.port()),
        Err(_) => address.ends_with(&format!(":{}", local.port())),
    }
}

/// Who has written an address into the configuration looks for the service there.
fn tell_of_unused(server: &ServerConfig, is_used: impl Fn(&str) -> bool) {
    let key = match &server.listen[..] {
        [] if server.address == ServerConfig::default().address || is_used(&server.address) => {
            return;
        }
        [] => "server.address",
        some if some.iter().any(|one| is_used(&one.address)) => return,
        _ => "server.listen",
    };
    tracing::warn!(
        "`{key}` of the configuration is not used: the program says itself where it listens, and only `Runtime::run` asks there"
    );
}

/// Sockets for all addresses.
#[derive(Default)]
struct Doors {
    /// They speak TLS if there is a certificate for all.
    listeners: Listeners,
    plain: Vec<Listener>,
    /// Of those with certificates of their own.
    #[cfg(feature = "tls")]
    acceptors: Vec<TlsAcceptor>,
}

impl Doors {
    fn of(listeners: impl Into<Listeners>) -> Self {
        Self {
            listeners: listeners.into(),
            ..Self::default()
        }
    }
}

/// Those that were handed over first. `brought` says whether the program brings TLS.
async fn several(
    mut handed: Vec<Listener>,
    config: &RuntimeConfig,
    #[cfg_attr(
        not(feature = "tls"),
        expect(unused_variables, reason = "there is none")
    )]
    brought: bool,
    options: &ListenConfig,
) -> Result<Doors, RuntimeError> {
    let mut doors = Doors::default();
    for one in &config.server.listen {
        let mut found = Vec::new();
        for listener in std::mem::take(&mut handed) {
            match listener.is_at(&one.address).await {
                true => found.push(listener),
                false => handed.push(listener),
            }
        }
        if found.is_empty() {
            found = listen("server.listen", &one.address, options).await?;
        }
        match one.tls {
            ListenTls::Off => doors.plain.append(&mut found),
            ListenTls::Redirect => doors.listeners.redirects.push(Redirects {
                sockets: found,
                port: Some(one.redirect_port).filter(|port| *port != 0),
            }),
            ListenTls::Auto | ListenTls::On => {
                #[cfg(feature = "tls")]
                if one.has_own_tls() {
                    let tls = super::tls::own(config, brought, one)?;
                    found = found.into_iter().map(|one| one.tls(&tls)).collect();
                    doors.acceptors.push(tls);
                }
                doors.listeners.sockets.append(&mut found);
            }
        }
    }
    #[cfg(all(unix, feature = "restart"))]
    if restart::is_successor() {
        // What the process before this one had, and the configuration no longer names.
        handed.clear();
    }
    doors.listeners.sockets.append(&mut handed);
    Ok(doors)
}

fn options(config: &RuntimeConfig) -> ListenConfig {
    let mut options = config.connection.listen.clone();
    if config.engine.kind != EngineKind::Shared && options.sockets == 1 {
        // Each core accepts what the system deals it.
        options.sockets = config.engine.threads();
    }
    options
}

async fn bound(
    parts: RuntimeParts,
    doors: Doors,
    mut admin: Option<Listener>,
) -> Result<Bound, RuntimeError> {
    let server = &parts.config.server;
    let (mut listeners, mut plain) = (doors.listeners, doors.plain);
    #[cfg(feature = "tls")]
    let mut acceptors = doors.acceptors;
    #[cfg(feature = "tls")]
    let tls = super::tls::of_all(&parts)?;
    #[cfg(feature = "tls")]
    acceptors.extend(tls.clone());
    #[cfg(feature = "tls")]
    if let Some(tls) = &tls {
        let with_tls = |listener: Listener| match listener.speaks_tls() {
            false => listener.tls(tls),
            true => listener,
        };
        listeners.sockets = listeners.sockets.into_iter().map(with_tls).collect();
    }
    #[cfg(feature = "tls")]
    let of_all = tls.is_some();
    #[cfg(not(feature = "tls"))]
    let of_all = false;
    let has_tls = listeners.sockets.iter().any(Listener::speaks_tls);
    let in_vain = server.listen.iter().find_map(|one| match one.tls {
        ListenTls::On if !of_all && !one.has_own_tls() => Some("`tls = \"on\"`"),
        ListenTls::Redirect if !has_tls => Some("`tls = \"redirect\"`"),
        _ => None,
    });
    if let Some(what) = in_vain {
        return Err(RuntimeError::Component {
            name: "server.listen",
            source: format!(
                "there is no certificate for {what}: expected `connection.tls.certificate` and `key`"
            )
            .into(),
        });
    }
    listeners.sockets.append(&mut plain);
    let one = ListenConfig {
        sockets: 1,
        ..options(&parts.config)
    };
    let (address, or_another) = match cfg!(feature = "admin") {
        true => server.admin(),
        false => ("", false),
    };
    admin = match (address, admin) {
        ("", _) => None,
        (_, None) => listen_for_admin(address, or_another, &one).await?.pop(),
        // What the process before this one had instead of the default does as well for this one.
        #[cfg(all(unix, feature = "restart"))]
        (_, Some(admin))
            if or_another && admin.local_addr().is_some_and(|at| at.ip().is_loopback()) =>
        {
            Some(admin)
        }
        #[cfg(all(unix, feature = "restart"))]
        (_, Some(admin)) => {
            let key = "server.admin_address";
            let admin = successor::where_configured(vec![admin], key, address, &one);
            admin.await.pop()
        }
        #[cfg(not(all(unix, feature = "restart")))]
        (_, admin) => admin,
    };
    // A Unix socket has none.
    let local_addr = listeners
        .listening()
        .find_map(Listener::local_addr)
        .unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)));
    let admin_addr = admin.as_ref().and_then(Listener::local_addr);
    if server.admin_tls && admin.is_some() {
        #[cfg(feature = "tls")]
        let with_tls = {
            let for_admin = super::tls::of_admin(&parts)?;
            acceptors.extend(for_admin.clone());
            for_admin.and_then(|tls| Some(admin.take()?.tls(&tls)))
        };
        #[cfg(not(feature = "tls"))]
        let with_tls = None;
        admin = Some(with_tls.ok_or_else(|| RuntimeError::Component {
            name: "server.admin_tls",
            source: "there is no certificate: expected `connection.tls`".into(),
        })?);
    }
    Ok(Bound {
        parts,
        listeners,
        admin,
        #[cfg(feature = "tls")]
        acceptors,
        local_addr,
        admin_addr,
    })
}

/// If nobody chose the address, who finds it in use, by a Prometheus or another service, gets another port.
async fn listen_for_admin(
    address: &str,
    or_another: bool,
    options: &ListenConfig,
) -> Result<Vec<Listener>, RuntimeError> {
    const KEY: &str = "server.admin_address";
    match listen(KEY, address, options).await {
        Err(RuntimeError::Bind { source, .. })
            if or_another && source.kind() == io::ErrorKind::AddrInUse => {}
        result => return result,
    }
    let listeners = listen(KEY, "127.0.0.1:0", options).await?;
    if let Some(used) = listeners.first().and_then(Listener::local_addr) {
        tracing::warn!(
            %used,
            "`{KEY}`: the default, {address}, is in use by somebody else; the admin service is on {used} instead"
        );
    }
    Ok(listeners)
}
