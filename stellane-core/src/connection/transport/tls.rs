//! Certificates, and the files they come from.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use tokio_rustls::rustls::{
    self, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::detached::DetachedThread;

/// Certificate, key and everything else a server says in a TLS handshake; a cheap handle.
///
/// Given to a [`Listener`](crate::connection::Listener) by [`tls`](crate::connection::Listener::tls). What is changed counts for the
/// handshakes that begin afterwards; no connection notices.
///
/// ```no_run
/// use stellane_core::connection::{Listener, TlsAcceptor};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let tls = TlsAcceptor::from_files("server.pem", "server.key")?;
/// let listener = Listener::bind("0.0.0.0:443", &Default::default()).await?.tls(&tls);
/// // … and when the files have changed:
/// tls.reload()?;
/// # drop(listener);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TlsAcceptor {
    inner: Arc<Inner>,
}

struct Inner {
    current: RwLock<Arc<ServerConfig>>,
    files: Option<Files>,
}

struct Files {
    certificate: PathBuf,
    key: PathBuf,
    /// For ALPN.
    protocols: Vec<Vec<u8>>,
    /// When the files had last changed, as of the latest load.
    changed: Mutex<[Option<SystemTime>; 2]>,
}

impl TlsAcceptor {
    /// With a certificate and a key in PEM files, TLS 1.2 and 1.3, and ALPN for what the
    /// manager speaks: HTTP/2 (feature `http2`) and HTTP/1.1.
    ///
    /// The cryptography is the process's ([`CryptoProvider::install_default`]), or else that of the feature
    /// `tls-aws-lc-rs` or `tls-ring`. Neither is on by itself: a program with a [configuration of its
    /// own](Self::from_rustls) needs none, and who uses rustls elsewhere is not given a second one.
    ///
    /// # Errors
    /// A file that can't be read, or that holds no certificate or key, or two that do not belong together; no
    /// cryptography.
    pub fn from_files(
        certificate: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, TlsError> {
        Self::from_files_for(certificate.as_ref(), key.as_ref(), true)
    }

    /// Without HTTP/1 clients are offered `h2` alone.
    pub(crate) fn from_files_for(
        certificate: &Path,
        key: &Path,
        http1: bool,
    ) -> Result<Self, TlsError> {
        let h2 = cfg!(feature = "http2").then(|| b"h2".to_vec());
        let http1 = http1.then(|| b"http/1.1".to_vec());
        let files = Files {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            protocols: h2.into_iter().chain(http1).collect(),
            changed: Mutex::default(),
        };
        let current = RwLock::new(files.load()?);
        Ok(Self {
            inner: Arc::new(Inner {
                current,
                files: Some(files),
            }),
        })
    }

    /// With a configuration of rustls, for client certificates, several names, or another provider. Its ALPN is
    /// used as it is.
    #[must_use]
    pub fn from_rustls(config: impl Into<Arc<ServerConfig>>) -> Self {
        Self {
            inner: Arc::new(Inner {
                current: RwLock::new(config.into()),
                files: None,
            }),
        }
    }

    /// Loads the files anew; without files it does nothing.
    ///
    /// # Errors
    /// As [`from_files`](Self::from_files); what was loaded before stays in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        if let Some(files) = &self.inner.files {
            self.set_rustls(files.load()?);
        }
        Ok(())
    }

    /// Uses another configuration of rustls from now on.
    pub fn set_rustls(&self, config: impl Into<Arc<ServerConfig>>) {
        let mut current = self
            .inner
            .current
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *current = config.into();
    }

    /// Reloads the files whenever one has changed, looking at each `interval`. Never ends, unless there
    /// are no files or `interval` is zero.
    pub async fn follow_files(&self, interval: Duration) {
        let Some(files) = &self.inner.files else {
            return;
        };
        if interval.is_zero() {
            return;
        }
        let thread = match DetachedThread::spawn("stellane-tls") {
            Ok(thread) => thread,
            Err(error) => return tracing::warn!(%error, "certificates are not followed"),
        };
        loop {
            tokio::time::sleep(interval).await;
            let acceptor = self.clone();
            let reload = move || match &acceptor.inner.files {
                Some(files) if !files.unchanged() => Some(acceptor.reload()),
                _ => None,
            };
            let Some(Some(reloaded)) = thread.run(reload).await else {
                continue;
            };
            match reloaded {
                Ok(()) => {
                    tracing::info!(certificate = %files.certificate.display(), "certificate reloaded")
                }
                // Perhaps only one of the two is written yet: tried again.
                Err(error) => tracing::warn!(%error, "the old certificate stays"),
            }
        }
    }

    /// What counts for a handshake that begins now.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        let current = self
            .inner
            .current
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current)
    }
}

impl Files {
    fn load(&self) -> Result<Arc<ServerConfig>, TlsError> {
        // Looked at first: a change while they are read is seen the next time.
        let changed = self.modified();
        let fault = |file: &Path| {
            let file = file.to_owned();
            move |error: Box<dyn std::error::Error + Send + Sync>| TlsError {
                file: file.clone(),
                source: error,
            }
        };
        let wrong = fault(&self.certificate);
        let certificates = CertificateDer::pem_file_iter(&self.certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| wrong(error.into()))?;
        if certificates.is_empty() {
            return Err(wrong("no certificate in it".into()));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| fault(&self.key)(error.into()))?;
        let provider = provider().ok_or_else(|| wrong(NO_PROVIDER.into()))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map(|builder| builder.with_no_client_auth())
            .and_then(|builder| builder.with_single_cert(certificates, key))
            .map_err(|error: rustls::Error| wrong(error.into()))?;
        config.alpn_protocols.clone_from(&self.protocols);
        *self.changed.lock().unwrap_or_else(PoisonError::into_inner) = changed;
        Ok(Arc::new(config))
    }

    fn modified(&self) -> [Option<SystemTime>; 2] {
        [&self.certificate, &self.key].map(|file| std::fs::metadata(file).ok()?.modified().ok())
    }

    fn unchanged(&self) -> bool {
        *self.changed.lock().unwrap_or_else(PoisonError::into_inner) == self.modified()
    }
}

const NO_PROVIDER: &str = "there is no cryptography for rustls: turn on the feature `tls-ring` or `tls-aws-lc-rs` of \
    `stellane-core`, or install a provider (`CryptoProvider::install_default`), or bring a `ServerConfig`";

/// The process's own, or that of a feature.
fn provider() -> Option<Arc<CryptoProvider>> {
    if let Some(installed) = CryptoProvider::get_default() {
        return Some(Arc::clone(installed));
    }
    #[cfg(feature = "tls-aws-lc-rs")]
    return Some(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    #[cfg(all(feature = "tls-ring", not(feature = "tls-aws-lc-rs")))]
    return Some(Arc::new(rustls::crypto::ring::default_provider()));
    #[cfg(not(any(feature = "tls-aws-lc-rs", feature = "tls-ring")))]
    None
}

/// With a configuration of rustls.
impl From<ServerConfig> for TlsAcceptor {
    fn from(config: ServerConfig) -> Self {
        Self::from_rustls(config)
    }
}

/// With a configuration of rustls.
impl From<Arc<ServerConfig>> for TlsAcceptor {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self::from_rustls(config)
    }
}

impl fmt::Debug for TlsAcceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = self.inner.files.as_ref();
        f.debug_struct("TlsAcceptor")
            .field("certificate", &files.map(|files| &files.certificate))
            .finish_non_exhaustive()
    }
}

/// A certificate or a key can't be used.
#[derive(Debug)]
pub struct TlsError {
    file: PathBuf,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TLS: {}: {}", self.file.display(), self.source)
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}
