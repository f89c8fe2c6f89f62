//! The files of an acceptor, and what rustls makes of them.

use std::{
    collections::HashMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use tokio_rustls::rustls::{
    self, InconsistentKeys, RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem, pem::PemObject},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use webpki::EndEntityCert;

use crate::{
    connection::{
        config::tls::{ClientAuth, TlsConfig, TlsVersion},
        transport::tls::error::TlsError,
    },
    cryptography::provider,
};

/// Lists of what was revoked are the longest of these files, by far.
const MOST_BYTES: u64 = 64 << 20;

#[derive(Debug)]
pub(super) struct Files {
    pairs: Vec<Pair>,
    min_version: TlsVersion,
    client_auth: ClientAuth,
    client_ca: PathBuf,
    client_crl: PathBuf,
    /// For ALPN.
    protocols: Vec<Vec<u8>>,
    /// When the files had last changed, as of the latest load.
    changed: Mutex<Vec<Option<SystemTime>>>,
}

#[derive(Debug)]
struct Pair {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    pub(super) fn of_pair(certificate: &Path, key: &Path) -> Self {
        let mut files = Self::new(&TlsConfig::default(), true);
        files.pairs.push(Pair {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        });
        files
    }

    /// Without HTTP/1 clients are offered `h2` alone.
    pub(super) fn new(config: &TlsConfig, http1: bool) -> Self {
        let h2 = cfg!(feature = "http2").then(|| b"h2".to_vec());
        let http1 = http1.then(|| b"http/1.1".to_vec());
        let pair = |(certificate, key): (&str, &str)| Pair {
            certificate: certificate.into(),
            key: key.into(),
        };
        Self {
            pairs: config.pairs().map(pair).collect(),
            min_version: config.min_version,
            client_auth: config.client_auth,
            client_ca: (&config.client_ca).into(),
            client_crl: (&config.client_crl).into(),
            protocols: h2.into_iter().chain(http1).collect(),
            changed: Mutex::default(),
        }
    }

    /// The first, which is also that of who asks for no name.
    pub(super) fn first(&self) -> Option<&Path> {
        self.pairs.first().map(|pair| &*pair.certificate)
    }

    /// What the process starts with may be a pipe, such as `<(decrypt server.key)`.
    pub(super) fn load(&self) -> Result<Arc<ServerConfig>, TlsError> {
        self.load_by(read_to_start)
    }

    /// Again: what is no more than looked at must not be waited for.
    pub(super) fn load_again(&self) -> Result<Arc<ServerConfig>, TlsError> {
        self.load_by(read_again)
    }

    fn load_by(&self, read: ReadFn) -> Result<Arc<ServerConfig>, TlsError> {
        // Looked at first: a change while they are read is seen the next time.
        let changed = self.modified();
        let first = self.first().ok_or_else(|| {
            TlsError::new(
                "",
                "there is no certificate: expected `certificate` and `key`",
            )
        })?;
        let provider = provider().ok_or_else(|| TlsError::new(first, NO_PROVIDER))?;
        let keys = self.pairs.iter().map(|pair| pair.load(&provider, read));
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        let clients = self.clients(&provider, read)?;
        let versions: &[_] = match self.min_version {
            TlsVersion::V1_2 => &[&TLS13, &TLS12],
            TlsVersion::V1_3 => &[&TLS13],
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|error| TlsError::new(first, error.to_string()))?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(Arc::new(BySni::new(keys)));
        config.alpn_protocols.clone_from(&self.protocols);
        *self.changed.lock().unwrap_or_else(PoisonError::into_inner) = changed;
        Ok(Arc::new(config))
    }

    fn clients(
        &self,
        provider: &Arc<CryptoProvider>,
        read: ReadFn,
    ) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        if self.client_auth == ClientAuth::None {
            return match (self.client_ca.as_os_str(), self.client_crl.as_os_str()) {
                (ca, crl) if ca.is_empty() && crl.is_empty() => {
                    Ok(WebPkiClientVerifier::no_client_auth())
                }
                (ca, crl) => {
                    let file = if ca.is_empty() { crl } else { ca };
                    let why = "clients are asked for no certificate, so this file has no use: expected `client_auth = \
                        \"optional\"` or `\"required\"`";
                    Err(TlsError::new(file, why))
                }
            };
        }
        if self.client_ca.as_os_str().is_empty() {
            let why = "`client_auth` needs `client_ca`, the file with the certificates that sign those of clients";
            return Err(TlsError::new("", why));
        }
        let mut roots = RootCertStore::empty();
        for root in certificates(&self.client_ca, read)? {
            roots
                .add(root)
                .map_err(|error| TlsError::new(&self.client_ca, error.to_string()))?;
        }
        let mut verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        let mut blamed = &self.client_ca;
        if !self.client_crl.as_os_str().is_empty() {
            blamed = &self.client_crl;
            verifier = verifier
                .with_crls(revoked(&self.client_crl, read)?)
                // An issuer without a list has revoked nobody.
                .allow_unknown_revocation_status();
        }
        if self.client_auth == ClientAuth::Optional {
            verifier = verifier.allow_unauthenticated();
        }
        let verifier = verifier.build();
        verifier.map_err(|error| TlsError::new(blamed, error.to_string()))
    }

    fn modified(&self) -> Vec<Option<SystemTime>> {
        let pairs = self.pairs.iter();
        let files = pairs.flat_map(|pair| [&pair.certificate, &pair.key]);
        let files = files.chain([&self.client_ca, &self.client_crl]);
        files
            .map(|file| std::fs::metadata(file).ok()?.modified().ok())
            .collect()
    }

    pub(super) fn unchanged(&self) -> bool {
        *self.changed.lock().unwrap_or_else(PoisonError::into_inner) == self.modified()
    }
}

impl Pair {
    fn load(&self, provider: &CryptoProvider, read: ReadFn) -> Result<CertifiedKey, TlsError> {
        let chain = certificates(&self.certificate, read)?;
        let wrong = |why: String| TlsError::new(&self.key, why);
        let pem = read(&self.key).map_err(wrong)?;
        let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
            wrong(match find(&pem, "ENCRYPTED") {
                true => "its key is encrypted: `openssl pkey -in FILE -out NEW_FILE` writes one that is not"
                    .to_owned(),
                false => not_in_it("private key", &pem, &error),
            })
        })?;
        CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => wrong(format!(
                "the key is not that of {}: expected the two that were made together",
                self.certificate.display()
            )),
            rustls::Error::InvalidCertificate(_) => {
                TlsError::new(&self.certificate, error.to_string())
            }
            error => wrong(error.to_string()),
        })
    }
}

fn certificates(file: &Path, read: ReadFn) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(file).map_err(|why| TlsError::new(file, why))?;
    all_in(file, &pem, "certificate")
}

fn revoked(
    file: &Path,
    read: ReadFn,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let bytes = read(file).map_err(|why| TlsError::new(file, why))?;
    if is_der(&bytes) {
        // As authorities publish it.
        return Ok(vec![bytes.into()]);
    }
    all_in(file, &bytes, "list of revoked certificates")
}

/// At least one.
fn all_in<T: PemObject>(file: &Path, pem: &[u8], what: &str) -> Result<Vec<T>, TlsError> {
    let error = match T::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>() {
        Ok(all) if !all.is_empty() => return Ok(all),
        Ok(_) => pem::Error::NoItemsFound,
        Err(error) => error,
    };
    Err(TlsError::new(file, not_in_it(what, pem, &error)))
}

/// Why nothing of the kind was found; what is in the file may be secret.
fn not_in_it(what: &str, bytes: &[u8], error: &pem::Error) -> String {
    match error {
        _ if is_der(bytes) => {
            "it is DER: expected PEM, as `openssl x509` or `openssl pkey` with `-inform der` writes it"
                .to_owned()
        }
        pem::Error::NoItemsFound => {
            format!("no {what} in it: expected PEM, with `-----BEGIN …-----`")
        }
        pem::Error::MissingSectionEnd { .. } => {
            format!("the end of a {what} is missing: is it still being written?")
        }
        pem::Error::Base64Decode(_) => format!("a {what} in it is no base64"),
        _ => "it is not PEM".to_owned(),
    }
}

fn is_der(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0x30)
}

fn find(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|at| at == text.as_bytes())
}

type ReadFn = fn(&Path) -> Result<Vec<u8>, String>;

fn read_to_start(file: &Path) -> Result<Vec<u8>, String> {
    if file.as_os_str().is_empty() {
        return Err("there is no file: expected `certificate` and `key`".to_owned());
    }
    let mut bytes = Vec::new();
    let opened = File::open(file);
    let read = opened.and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(format!("it is longer than {MOST_BYTES} bytes"));
    }
    Ok(bytes)
}

fn read_again(file: &Path) -> Result<Vec<u8>, String> {
    // Before it is opened, which waits for the other end of a FIFO.
    match std::fs::metadata(file) {
        Ok(metadata) if metadata.is_file() => read_to_start(file),
        Ok(_) => Err("it is no regular file".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

const NO_PROVIDER: &str = "there is no cryptography for rustls: turn on the feature `tls-ring` or `tls-aws-lc-rs` of \
    `stellane-core`, or install a provider (`CryptoProvider::install_default`), or bring a `ServerConfig`";

/// Certificates by the name that a client asks for.
#[derive(Debug)]
struct BySni {
    keys: Vec<Arc<CertifiedKey>>,
    /// In lower case; `*.a.example` is under `.a.example`.
    by_name: HashMap<String, Vec<usize>>,
}

impl BySni {
    fn new(keys: Vec<CertifiedKey>) -> Self {
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for (n, key) in keys.iter().enumerate() {
            let parsed = key.cert.first().map(EndEntityCert::try_from);
            let Some(Ok(parsed)) = parsed else { continue };
            for name in parsed.valid_dns_names() {
                let name = name.strip_prefix('*').unwrap_or(name);
                by_name.entry(name.to_lowercase()).or_default().push(n);
            }
        }
        Self {
            keys: keys.into_iter().map(Arc::new).collect(),
            by_name,
        }
    }

    /// Those for a name; whose certificate names it itself comes first.
    fn named(&self, name: &str) -> impl Iterator<Item = &Arc<CertifiedKey>> {
        let name = name.to_lowercase();
        let parent = name.find('.').map(|dot| &name[dot..]);
        let exact = self.by_name.get(&name);
        let wildcard = parent.and_then(|parent| self.by_name.get(parent));
        let found = exact.into_iter().chain(wildcard).flatten();
        found.map(|n| &self.keys[*n])
    }
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let first = self.keys.first()?;
        if self.keys.len() == 1 {
            return Some(Arc::clone(first));
        }
        let schemes = hello.signature_schemes();
        let can_be_checked = |one: &&Arc<CertifiedKey>| one.key.choose_scheme(schemes).is_some();
        let named = hello.server_name().and_then(|name| {
            let mut named = self.named(name);
            named.find(can_be_checked)
        });
        let any = || self.keys.iter().find(can_be_checked);
        named.or_else(any).or(Some(first)).cloned()
    }
}
