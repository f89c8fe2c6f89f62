//! TLS by configuration: what is spoken on which address.

use super::{RuntimeError, runtime::RuntimeParts};
use crate::{
    config::{ListenAddress, ListenTls, RuntimeConfig},
    connection::{ClientAuth, TlsAcceptor, TlsConfig, TlsVersion},
};

/// For all addresses that have nothing of their own: what the program brought, or the files of `connection.tls`.
pub(super) fn of_all(runtime: &RuntimeParts) -> Result<Option<TlsAcceptor>, RuntimeError> {
    let config = &runtime.config.connection.tls;
    let is_asked_for = config.client_auth != ClientAuth::None
        || config.min_version != TlsVersion::default()
        || !config.client_ca.is_empty()
        || !config.client_crl.is_empty();
    let has_files = config.pairs().next().is_some();
    match (&runtime.tls, is_asked_for) {
        (Some(_), true) => Err(wrong(
            KEY,
            "the program brings TLS of its own, which these keys do not change: say `min_version` and the certificates \
             of clients there (`TlsAcceptor::from_config`), or leave `RuntimeBuilder::tls` out",
        )),
        (Some(brought), false) => Ok(Some(brought.clone())),
        (None, true) if !has_files && speaks_by_it(&runtime.config.server.listen) => Err(wrong(
            KEY,
            "there is no certificate, so nobody speaks TLS: expected `certificate` and `key`",
        )),
        (None, _) if !has_files => Ok(None),
        (None, _) => load(KEY, config, &runtime.config).map(Some),
    }
}

/// Whether any address goes by what is said for all.
fn speaks_by_it(listen: &[ListenAddress]) -> bool {
    let speaks = |one: &ListenAddress| matches!(one.tls, ListenTls::Auto | ListenTls::On);
    listen.is_empty() || listen.iter().any(|one| speaks(one) && !one.has_own_tls())
}

/// The same for the admin service, where nobody needs a certificate: probes have none, and the token guards the rest.
pub(super) fn of_admin(runtime: &RuntimeParts) -> Result<Option<TlsAcceptor>, RuntimeError> {
    if runtime.tls.is_some() {
        return Ok(runtime.tls.clone());
    }
    let config = runtime.config.connection.tls.clone().with(|tls| {
        tls.client_auth = ClientAuth::None;
        tls.client_ca.clear();
        tls.client_crl.clear();
    });
    match config.pairs().next() {
        Some(_) => load(KEY, &config, &runtime.config).map(Some),
        None => Ok(None),
    }
}

/// For an address that has something of its own. What the program [brought](of_all) can't be changed for it.
pub(super) fn own(
    runtime: &RuntimeConfig,
    brought: bool,
    listen: &ListenAddress,
) -> Result<TlsAcceptor, RuntimeError> {
    let mut config = runtime.connection.tls.clone();
    if !listen.certificates.is_empty() {
        config.certificate.clear();
        config.key.clear();
        config.certificates.clone_from(&listen.certificates);
    } else if brought {
        let why = format!(
            "`{}` needs `certificates` of its own: those that the program brings (`RuntimeBuilder::tls`) can't be used \
             with what is said of TLS there",
            listen.address
        );
        return Err(wrong(LISTEN, why));
    }
    config.min_version = listen.min_version.unwrap_or(config.min_version);
    config.client_auth = listen.client_auth.unwrap_or(config.client_auth);
    for (own, of_all) in [
        (&listen.client_ca, &mut config.client_ca),
        (&listen.client_crl, &mut config.client_crl),
    ] {
        if !own.is_empty() {
            of_all.clone_from(own);
        } else if config.client_auth == ClientAuth::None {
            of_all.clear();
        }
    }
    load(LISTEN, &config, runtime)
}

/// Whether any address asks clients for certificates, which handlers are to find then.
pub(super) fn asks_clients(config: &RuntimeConfig) -> bool {
    let asks = |auth| auth != ClientAuth::None;
    let listen = config.server.listen.iter();
    asks(config.connection.tls.client_auth) || listen.filter_map(|one| one.client_auth).any(asks)
}

const KEY: &str = "connection.tls";
const LISTEN: &str = "server.listen";

fn load(
    name: &'static str,
    tls: &TlsConfig,
    config: &RuntimeConfig,
) -> Result<TlsAcceptor, RuntimeError> {
    #[cfg(feature = "http2")]
    let http1 = config.connection.http1;
    #[cfg(not(feature = "http2"))]
    let http1 = {
        let _ = config;
        true
    };
    TlsAcceptor::from_config_for(tls, http1).map_err(|error| wrong(name, error))
}

fn wrong(name: &'static str, why: impl Into<crate::BoxError>) -> RuntimeError {
    RuntimeError::Component {
        name,
        source: why.into(),
    }
}
