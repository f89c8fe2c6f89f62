use std::{fmt, io, pin::Pin};

use crate::config::{ConfigErrors, Secrets};

/// What functions return that are compiled once for all services: a future is compiled where it is polled, one in a box
/// where it is made.
pub(super) type BoxResult<T> = Pin<Box<dyn Future<Output = Result<T, RuntimeError>> + Send>>;

/// Why the runtime could not be built or served.
#[non_exhaustive]
pub enum RuntimeError {
    /// There is no tokio runtime around.
    NoTokio,
    /// The configuration is wrong; every mistake is in it.
    Config(ConfigErrors),
    /// The service could not be made, for example because its routes conflict.
    Service(crate::BoxError),
    /// The address is not of the form `HOST:PORT`.
    Address {
        /// What it was given for: `server.address` or `server.admin_address`.
        key: &'static str,
        /// The address as it was given.
        address: String,
    },
    /// The address can't be listened on.
    Bind {
        /// What it was given for: `server.address` or `server.admin_address`.
        key: &'static str,
        /// The address as it was given.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// A component could not be started, for example because no thread could be spawned.
    Component {
        /// The component's section in the configuration.
        name: &'static str,
        /// What it says.
        source: crate::BoxError,
    },
    /// The listener failed for good while serving.
    Serve(crate::BoxError),
}

/// As [`Display`](fmt::Display): it is what `main` prints of an error that it returns, and `unwrap` too.
impl fmt::Debug for RuntimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for RuntimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It may have been meant for something else.
        let shown = |text: &str| Secrets::default().text(text).into_owned();
        match self {
            Self::NoTokio => f.write_str(
                "there is no tokio runtime here: build it within one, such as in a function under `#[tokio::main]`",
            ),
            Self::Config(errors) => errors.fmt(f),
            Self::Service(source) => write!(
                f,
                "the service could not be made: {}",
                shown(&source.to_string())
            ),
            Self::Address { key, address } => write!(
                f,
                "`{key}` = \"{}\" is not an address: expected HOST:PORT with a port from 0 to 65535, \
                 such as 127.0.0.1:3000",
                shown(address)
            ),
            Self::Bind {
                key,
                address,
                source,
            } if source.kind() == io::ErrorKind::AddrInUse => write!(
                f,
                "`{key}` = \"{}\" is in use by another process: stop it or choose another port",
                shown(address)
            ),
            Self::Bind {
                key,
                address,
                source,
            } => {
                let address = shown(address);
                write!(f, "`{key}` = \"{address}\" can't be listened on: {source}")
            }
            Self::Component { name, source } => {
                let source = shown(&source.to_string());
                write!(f, "`{name}` could not be started: {source}")
            }
            Self::Serve(source) => write!(f, "serving ended with an error: {source}"),
        }
    }
}

impl std::error::Error for RuntimeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Config(errors) => Some(errors),
            Self::Bind { source, .. } => Some(source),
            Self::Component { source, .. } | Self::Service(source) | Self::Serve(source) => {
                Some(&**source)
            }
            Self::NoTokio | Self::Address { .. } => None,
        }
    }
}

impl From<ConfigErrors> for RuntimeError {
    fn from(errors: ConfigErrors) -> Self {
        Self::Config(errors)
    }
}

/// For a `main` that returns what `axum::serve` does. The kind is that of the address that can't be listened on.
impl From<RuntimeError> for io::Error {
    fn from(error: RuntimeError) -> Self {
        let kind = match &error {
            RuntimeError::Bind { source, .. } => source.kind(),
            RuntimeError::Config(_) | RuntimeError::Address { .. } => io::ErrorKind::InvalidInput,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}
