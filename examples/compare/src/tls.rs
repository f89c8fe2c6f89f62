//! The certificate of the servers that speak TLS.

use std::{fs, path::PathBuf};

use crate::{BoxError, contestants::home};

pub(crate) const CERTIFICATE: &str = "certificate.pem";
pub(crate) const KEY: &str = "key.pem";

/// The folder with a new certificate for `localhost`, of the kind that most sites have (ECDSA, P-256), and its key.
pub(crate) fn folder() -> Result<PathBuf, BoxError> {
    let folder = home().join("target/compare/tls");
    fs::create_dir_all(&folder)?;
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    fs::write(folder.join(CERTIFICATE), made.cert.pem())?;
    fs::write(folder.join(KEY), made.signing_key.serialize_pem())?;
    Ok(folder)
}
