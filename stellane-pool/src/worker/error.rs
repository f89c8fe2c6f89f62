use std::{error::Error, fmt};

use crate::ConfigError;

/// Why a [`WorkerPool`](super::WorkerPool) could not be built.
#[derive(Debug)]
#[non_exhaustive]
pub enum WorkerPoolError {
    /// Settings are out of range.
    Config(Vec<ConfigError>),
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
        }
    }
}

impl Error for WorkerPoolError {}
