//! A key of the moment, for a server with TLS and a client that trusts it.

use std::{io, sync::Arc};

use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream, rustls};

pub(crate) struct SelfSigned(rcgen::CertifiedKey<rcgen::KeyPair>);

impl SelfSigned {
    pub(crate) fn new() -> Self {
        Self(rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a key"))
    }

    pub(crate) fn server(&self) -> rustls::ServerConfig {
        let key = self.0.signing_key.serialize_der();
        rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![self.0.cert.der().clone()],
                rustls::pki_types::PrivatePkcs8KeyDer::from(key).into(),
            )
            .expect("a certificate")
    }

    /// A handshake with that server.
    pub(crate) async fn connect(&self, socket: TcpStream) -> TlsStream<TcpStream> {
        self.try_connect(socket).await.expect("a handshake")
    }

    pub(crate) async fn try_connect(&self, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.0.cert.der().clone()).expect("a root");
        let client = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = "localhost".try_into().expect("a name");
        let connector = TlsConnector::from(Arc::new(client));
        connector.connect(name, socket).await
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
