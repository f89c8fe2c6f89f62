//! TLS to a collector.

use std::{fmt, path::Path, sync::Arc};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};

use crate::cryptography::provider;

/// Where systems keep whom they trust.
const OF_SYSTEMS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Whom a collector has to be known by, and who this is. Files are read for each connection: what is renewed counts for the next.
#[derive(Debug, Clone)]
pub(in crate::otlp) struct Tls {
    /// Those of the system if there is none.
    pub(in crate::otlp) roots: Option<String>,
    /// A certificate and its key.
    pub(in crate::otlp) client: Option<(String, String)>,
}

/// Which file is of no use, and why; or no file is to blame.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::otlp) enum TlsProblem {
    Roots(String),
    Client(String),
    Other(String),
}

impl fmt::Display for TlsProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Roots(why) | Self::Client(why) | Self::Other(why)) = self;
        f.write_str(why)
    }
}

impl Tls {
    /// What a connection begins with.
    pub(in crate::otlp) fn config(&self, is_grpc: bool) -> Result<ClientConfig, TlsProblem> {
        use TlsProblem::{Client, Other, Roots};
        let provider = provider().ok_or_else(|| {
            let why = "there is no cryptography for rustls: turn on the feature `tls-ring` or `tls-aws-lc-rs` of \
                       `stellane-core`, or install a provider (`CryptoProvider::install_default`)";
            Other(why.to_owned())
        })?;
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Other(error.to_string()))?
            .with_root_certificates(self.roots().map_err(Roots)?);
        let mut config = match &self.client {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates(certificate).map_err(Client)?;
                let key = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| Client(format!("the key: {error}")))?;
                let with_key = config.with_client_auth_cert(chain, key);
                with_key.map_err(|error| Client(error.to_string()))?
            }
        };
        let protocol: &[u8] = if is_grpc { b"h2" } else { b"http/1.1" };
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(config)
    }

    fn roots(&self) -> Result<RootCertStore, String> {
        let all = match &self.roots {
            Some(own) => certificates(own)?,
            None => {
                let mut usual = OF_SYSTEMS.iter().filter(|file| Path::new(file).is_file());
                let file = usual.next();
                certificates(file.ok_or("the system has none: name whom to trust")?)?
            }
        };
        let mut roots = RootCertStore::empty();
        // Of a system's some may be of a kind that nobody uses any more.
        match roots.add_parsable_certificates(all) {
            (0, _) => Err("there is no certificate in the file".to_owned()),
            _ => Ok(roots),
        }
    }
}

/// Of a file, whose name is nobody's business.
fn certificates(file: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    all.map_err(|error| format!("the certificates: {error}"))
}

pub(in crate::otlp) async fn connect(
    config: ClientConfig,
    host: &str,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, String> {
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream);
    connected.await.map_err(|error| error.to_string())
}
