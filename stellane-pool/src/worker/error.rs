use std::{error::Error, fmt, io};

use crate::ConfigError;

/// Why a [`WorkerPool`](super::WorkerPool) could not be built.
#[derive(Debug)]
#[non_exhaustive]
pub enum WorkerPoolError {
    /// Settings are out of range.
    Config(Vec<ConfigError>),
    /// The system gave no thread: lower `min_workers`, or raise the limit of threads.
    Thread(io::Error),
}

impl fmt::Display for WorkerPoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(errors) => {
                f.write_str("the worker pool's configuration is out of range")?;
                for (at, error) in errors.iter().enumerate() {
                    write!(f, "{} {error}", if at == 0 { ":" } else { ";" })?;
                }
                Ok(())
            }
            Self::Thread(error) => write!(
                f,
                "a worker thread could not be started ({error}): lower `min_workers` or allow more threads"
            ),
        }
    }
}

impl Error for WorkerPoolError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Config(_) => None,
            Self::Thread(error) => Some(error),
        }
    }
}
