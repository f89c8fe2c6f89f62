//! Services that know each other by SPIFFE: each shows a certificate with its id, which lasts an hour or so.
//!
//! Where something writes the certificates into files, as spiffe-helper and the CSI driver of cert-manager do, no code is
//! needed. They are followed, and those who sign:
//!
//! ```toml
//! [connection.tls]
//! certificate = "/run/spiffe/svid.pem"
//! key = "/run/spiffe/svid_key.pem"
//! client_auth = "required"
//! client_ca = "/run/spiffe/bundle.pem"
//! reload_interval = "10s"
//! ```
//!
//! This program asks the agent itself (the Workload API, `SPIFFE_ENDPOINT_SOCKET`), with the crates `spiffe` and
//! `spiffe-rustls`, and serves who is of the trust domain that it is given:
//!
//! ```text
//! SPIFFE_ENDPOINT_SOCKET=unix:/tmp/spire-agent/public/api.sock \
//!     cargo run -p stellane-examples --bin serve_spiffe example.org [ADDRESS]
//! ```

use axum::{Extension, Router, routing::get};
use spiffe::X509Source;
use spiffe_rustls::{authorizer, mtls_server};
use stellane_core::{
    BoxError,
    connection::{Listener, TlsAcceptor, TlsClient},
};

/// The id is one of the trust domain: others were refused in the handshake.
async fn whoami(Extension(client): Extension<TlsClient>) -> String {
    format!("you are {}\n", client.spiffe_id().unwrap_or("nobody"))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1);
    let domain = arguments
        .next()
        .ok_or("expected a trust domain, such as example.org")?;
    let address = arguments
        .next()
        .unwrap_or_else(|| "127.0.0.1:8443".to_owned());

    // Follows the agent for as long as it lives.
    let source = X509Source::new().await?;
    let tls = mtls_server(source)
        .authorize(authorizer::trust_domains([domain.as_str()])?)
        .with_alpn_protocols(["h2", "http/1.1"])
        .build()?;

    let listener = Listener::from(tokio::net::TcpListener::bind(address).await?);
    let listener = listener.tls(&TlsAcceptor::from_rustls(tls));
    // `serve` has handlers find who is connected: `connection.connect_info`.
    stellane_core::serve(listener, Router::new().route("/", get(whoami))).await?;
    Ok(())
}
