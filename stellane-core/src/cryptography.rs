//! What rustls computes with.

use std::sync::Arc;

use tokio_rustls::rustls::crypto::CryptoProvider;

/// The process's own, or that of a feature.
pub(crate) fn provider() -> Option<Arc<CryptoProvider>> {
    if let Some(installed) = CryptoProvider::get_default() {
        return Some(Arc::clone(installed));
    }
    #[cfg(feature = "tls-aws-lc-rs")]
    return Some(Arc::new(
        tokio_rustls::rustls::crypto::aws_lc_rs::default_provider(),
    ));
    #[cfg(all(feature = "tls-ring", not(feature = "tls-aws-lc-rs")))]
    return Some(Arc::new(
        tokio_rustls::rustls::crypto::ring::default_provider(),
    ));
    #[cfg(not(any(feature = "tls-aws-lc-rs", feature = "tls-ring")))]
    None
}
