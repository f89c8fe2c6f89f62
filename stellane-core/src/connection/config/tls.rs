use std::time::Duration;

use crate::{config_error::ConfigError, connection::config::check::check_up_to_a_day};

/// Settings of TLS (section `[connection.tls]`).
///
/// The files are read when the service starts and again when one of them has changed. One that is no longer right then,
/// or only half written, changes nothing: the old certificates stay, which is logged once.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct TlsConfig {
    /// File with the certificate and those that sign it, in PEM; the preset then serves TLS on
    /// `server.address`. Default empty: no TLS.
    pub certificate: String,
    /// File with the private key, in PEM. Default empty.
    pub key: String,
    /// More certificates, for other names or with another kind of key: for each a table of `certificate` and `key`. A
    /// client gets the first that is for the name it asks for (SNI, by the DNS names in the certificate, such as
    /// `a.example` and `*.a.example`) and whose key it can check; if it names none, or one that nobody has, the first
    /// of all. Default: none.
    pub certificates: Vec<TlsCertificate>,
    /// The least version that is spoken: `1.2` or `1.3`. `1.3` refuses clients from before 2018, such as Java 8 in its
    /// first years and Windows before 11. Default `1.2`.
    pub min_version: TlsVersion,
    /// Whether clients are asked for a certificate: `none`, `optional` (who shows none is served, who shows a wrong one is
    /// not) or `required` (who shows none is not served). What was shown is in the extensions of each request as a
    /// `TlsClient`. Browsers ask their user which one to show, if they are asked. Default `none`.
    pub client_auth: ClientAuth,
    /// File with the certificates that sign those of clients, in PEM, for `client_auth`. One that signs itself and says
    /// that it is an authority is not taken as a client's. Default empty.
    pub client_ca: String,
    /// File with lists of certificates of clients that were revoked, in PEM, or one list in DER. A list that is out of
    /// date counts as well; who is signed by somebody without a list is not refused for that. Connections that are
    /// open stay. Default empty: none are.
    pub client_crl: String,
    /// How often the preset looks whether one of the files has changed, and loads them anew. `0s` is off.
    /// Default `1m`.
    #[cfg_attr(feature = "config", serde(with = "humantime_serde"))]
    pub reload_interval: Duration,
    /// How long a handshake may wait: for the client's hello from its first byte, for its turn to be computed, for the
    /// client's answer; each as long. Too short refuses clients far away, too long keeps those that do nothing.
    /// Default `60s`.
    #[cfg_attr(feature = "config", serde(with = "humantime_serde"))]
    pub handshake_timeout: Duration,
    /// Most handshakes that are computed at once, and never more than there are CPUs; others wait for their turn, which
    /// goes from one peer to the next. A handshake is a thousand times the work of a request: fewer leave CPUs to those.
    /// One that waits for its client counts nothing here. Default 256.
    pub max_handshakes: usize,
}

/// A certificate and its key: see [`TlsConfig::certificates`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct TlsCertificate {
    /// File with the certificate and those that sign it, in PEM.
    pub certificate: String,
    /// File with the private key, in PEM.
    pub key: String,
}

/// A version of TLS: see [`TlsConfig::min_version`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum TlsVersion {
    /// TLS 1.2.
    #[default]
    #[cfg_attr(feature = "config", serde(rename = "1.2"))]
    V1_2,
    /// TLS 1.3.
    #[cfg_attr(feature = "config", serde(rename = "1.3"))]
    V1_3,
}

/// Whether clients are asked for a certificate: see [`TlsConfig::client_auth`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum ClientAuth {
    /// They are not.
    #[default]
    None,
    /// Who has none is served all the same; who shows a wrong one is not.
    Optional,
    /// Who has none is not served.
    Required,
}

impl TlsCertificate {
    /// Of these two files.
    #[must_use]
    pub fn new(certificate: impl Into<String>, key: impl Into<String>) -> Self {
        Self {
            certificate: certificate.into(),
            key: key.into(),
        }
    }
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            certificate: String::new(),
            key: String::new(),
            certificates: Vec::new(),
            min_version: TlsVersion::default(),
            client_auth: ClientAuth::default(),
            client_ca: String::new(),
            client_crl: String::new(),
            reload_interval: Duration::from_secs(60),
            handshake_timeout: Duration::from_secs(60),
            max_handshakes: 256,
        }
    }
}

impl TlsConfig {
    /// Changed by a closure: it can't be written as a literal.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// All certificates, those of the two keys first.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        // One without the other is an error of its own, when it is read.
        let has_first = !self.certificate.is_empty() || !self.key.is_empty();
        let first = has_first.then_some((&*self.certificate, &*self.key));
        let more = self.certificates.iter();
        first
            .into_iter()
            .chain(more.map(|one| (&*one.certificate, &*one.key)))
    }

    pub(crate) fn check(&self, errors: &mut Vec<ConfigError>) {
        check_up_to_a_day(errors, "tls.reload_interval", self.reload_interval);
        check_up_to_a_day(errors, "tls.handshake_timeout", self.handshake_timeout);
        let places = 1..=1 << 20;
        ConfigError::check(errors, "tls.max_handshakes", self.max_handshakes, places);
    }
}
