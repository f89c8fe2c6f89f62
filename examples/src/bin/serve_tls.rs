//! TLS by a configuration of rustls that the program brings; here with a certificate made at the start, which clients
//! do not trust. Files that are read again when they change are `connection.tls.certificate` and `connection.tls.key`.
//!
//! ```text
//! cargo run -p stellane-examples --bin serve_tls [ADDRESS]
//! curl -ki https://127.0.0.1:3000/
//! ```

use std::sync::Arc;

use axum::{Extension, Router, routing::get};
use stellane_core::{
    BoxError,
    connection::{ConnectInfo, Listener, TlsAcceptor},
};
use tokio_rustls::rustls::{ServerConfig, crypto::ring, pki_types::PrivatePkcs8KeyDer};

async fn hello(Extension(connection): Extension<ConnectInfo>) -> String {
    let version = connection.tls().and_then(|tls| tls.version);
    format!("hello over {}\n", version.unwrap_or("nothing"))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let address = std::env::args().nth(1);
    let address = address.unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];

    let listener = tokio::net::TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    println!("serving https://{address}/, try: curl -ki https://{address}/");
    let listener = Listener::from(listener).tls(&TlsAcceptor::from_rustls(config));
    let app = Router::new().route("/", get(hello));
    stellane_core::serve(listener, app).await?;
    Ok(())
}
