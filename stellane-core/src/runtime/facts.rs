//! What a request says about its connection, for those who look for it where their own server puts it.

use std::{fmt, sync::Arc};

use http::{Extensions, Request};

use crate::connection::ConnectInfo;

/// Puts what a program of one's own looks for into the extensions of a request.
pub(super) type DescribeFn = dyn Fn(&ConnectInfo, &mut Extensions) + Send + Sync;

/// Puts what axum and tonic look for beside our own [`ConnectInfo`], if that is there.
#[derive(Clone)]
pub(super) struct Facts(pub(super) Option<Arc<DescribeFn>>);

impl Facts {
    #[inline]
    pub(super) fn tell<B>(&self, request: &mut Request<B>) {
        if request.extensions().get::<ConnectInfo>().is_some() {
            describe(request.extensions_mut(), self.0.as_deref());
        }
    }
}

/// Apart, so that requests without it pay nothing.
#[inline(never)]
fn describe(extensions: &mut Extensions, further: Option<&DescribeFn>) {
    let Some(connection) = extensions.get::<ConnectInfo>().cloned() else {
        return;
    };
    #[cfg(feature = "axum-08")]
    for_axum(&connection, extensions);
    #[cfg(feature = "tonic-014")]
    for_tonic(&connection, extensions);
    if let Some(further) = further {
        further(&connection, extensions);
    }
}

#[cfg(feature = "axum-08")]
fn for_axum(connection: &ConnectInfo, extensions: &mut Extensions) {
    if let Some(peer) = connection.peer() {
        extensions.insert(axum::extract::ConnectInfo(peer));
    }
}

/// What `into_make_service_with_connect_info::<SocketAddr>()` asks of a connection. One of a Unix socket has no address:
/// it gets `0.0.0.0:0`.
#[cfg(feature = "axum-08")]
impl axum::extract::connect_info::Connected<ConnectInfo> for std::net::SocketAddr {
    fn connect_info(connection: ConnectInfo) -> Self {
        let unknown = Self::from(([0, 0, 0, 0], 0));
        connection.peer().unwrap_or(unknown)
    }
}

#[cfg(feature = "tonic-014")]
fn for_tonic(connection: &ConnectInfo, extensions: &mut Extensions) {
    use tonic::transport::server::TcpConnectInfo;
    #[cfg(unix)]
    if let Some(peer) = connection.unix_peer() {
        extensions.insert(tonic::transport::server::UdsConnectInfo {
            peer_addr: peer.address.clone(),
            peer_cred: peer.credentials,
        });
        return;
    }
    #[cfg(feature = "tls")]
    if let Some(tls) = connection.tonic_tls() {
        let mut tls = tls.clone();
        tls.get_mut().remote_addr = connection.peer();
        extensions.insert(tls);
    }
    if connection.local().is_some() || connection.peer().is_some() {
        extensions.insert(TcpConnectInfo {
            local_addr: connection.local(),
            remote_addr: connection.peer(),
        });
    }
}

impl fmt::Debug for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Facts").finish_non_exhaustive()
    }
}
