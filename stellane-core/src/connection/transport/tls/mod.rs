//! Certificates, and the files they come from.

pub(crate) mod client;
pub(crate) mod error;
mod files;

use std::{
    fmt,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio_rustls::rustls::ServerConfig;

use self::{error::TlsError, files::Files};
use crate::{connection::config::tls::TlsConfig, detached::DetachedThread};

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

impl TlsAcceptor {
    /// With a certificate and a key in PEM files, TLS 1.2 and 1.3, and ALPN for what the
    /// manager speaks: HTTP/2 (feature `http2`) and HTTP/1.1.
    ///
    /// The cryptography is the process's
    /// ([`CryptoProvider::install_default`](tokio_rustls::rustls::crypto::CryptoProvider::install_default)), or else that
    /// of the feature `tls-aws-lc-rs` or `tls-ring`. Neither is on by itself: a program with a [configuration of its
    /// own](Self::from_rustls) needs none, and who uses rustls elsewhere is not given a second one.
    ///
    /// # Errors
    /// A file that can't be read, or that holds no certificate or key, or two that do not belong together; no
    /// cryptography.
    pub fn from_files(
        certificate: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, TlsError> {
        Self::of_files(Files::of_pair(certificate.as_ref(), key.as_ref()))
    }

    /// With what a section `[connection.tls]` says: several certificates, chosen by the name that a client asks for, the
    /// least version, certificates of clients. Otherwise as [`from_files`](Self::from_files).
    ///
    /// ```no_run
    /// use stellane_core::connection::{ClientAuth, TlsAcceptor, TlsConfig};
    ///
    /// let config = TlsConfig::default().with(|tls| {
    ///     tls.certificate = "server.pem".to_owned();
    ///     tls.key = "server.key".to_owned();
    ///     tls.client_auth = ClientAuth::Required;
    ///     tls.client_ca = "clients.pem".to_owned();
    /// });
    /// let tls = TlsAcceptor::from_config(&config)?;
    /// # Ok::<_, stellane_core::connection::TlsError>(())
    /// ```
    ///
    /// # Errors
    /// As [`from_files`](Self::from_files); no certificate at all; `client_auth` without `client_ca`, and the other way
    /// round.
    pub fn from_config(config: &TlsConfig) -> Result<Self, TlsError> {
        Self::from_config_for(config, true)
    }

    /// Without HTTP/1 clients are offered `h2` alone.
    pub(crate) fn from_config_for(config: &TlsConfig, http1: bool) -> Result<Self, TlsError> {
        Self::of_files(Files::new(config, http1))
    }

    fn of_files(files: Files) -> Result<Self, TlsError> {
        let current = RwLock::new(files.load()?);
        Ok(Self {
            inner: Arc::new(Inner {
                current,
                files: Some(files),
            }),
        })
    }

    /// With a configuration of rustls, for what [`from_config`](Self::from_config) does not say, such as ACME or another
    /// provider. Its ALPN is used as it is.
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
            self.set_rustls(files.load_again()?);
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
        let mut told = String::new();
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
                    told.clear();
                    let first = files.first().unwrap_or(Path::new(""));
                    tracing::info!("certificates reloaded, {} first", first.display());
                }
                // Perhaps only one of two is written yet: tried again, and told once.
                Err(error) => {
                    let error = error.to_string();
                    if error != told {
                        tracing::warn!("the old certificates stay: {error}");
                        told = error;
                    }
                }
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
            .field("files", &files)
            .finish_non_exhaustive()
    }
}
