use std::{
    fmt,
    path::{Path, PathBuf},
};

/// A certificate, a key, or another file of TLS can't be used.
#[derive(Debug)]
pub struct TlsError {
    file: PathBuf,
    why: String,
}

impl TlsError {
    pub(super) fn new(file: impl AsRef<Path>, why: impl Into<String>) -> Self {
        Self {
            file: file.as_ref().to_owned(),
            why: why.into(),
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, why } = self;
        match file.as_os_str().is_empty() {
            true => write!(f, "TLS: {why}"),
            false => write!(f, "TLS: {}: {why}", file.display()),
        }
    }
}

impl std::error::Error for TlsError {}
