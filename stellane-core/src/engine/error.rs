use std::{fmt, io};

use crate::BoxError;

/// Why an engine could not start or serve.
#[derive(Debug)]
#[non_exhaustive]
pub enum EngineError {
    /// A thread or a runtime could not be made: there are too many, or too many open files.
    Start(io::Error),
    /// [`SharedEngine`](super::SharedEngine) or [`HandoffEngine`](super::HandoffEngine) was started outside of a tokio
    /// runtime.
    NoRuntime,
    /// The engine was stopped; make a new one.
    Stopped,
    /// A listener failed for good, or the service's maker panicked.
    Serve(BoxError),
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(source) => write!(f, "the engine could not start: {source}"),
            Self::NoRuntime => {
                f.write_str("there is no tokio runtime here: start the engine within one")
            }
            Self::Stopped => f.write_str("the engine was stopped: make a new one"),
            Self::Serve(source) => write!(f, "serving ended with an error: {source}"),
        }
    }
}

impl std::error::Error for EngineError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Start(source) => Some(source),
            Self::Serve(source) => Some(&**source),
            Self::NoRuntime | Self::Stopped => None,
        }
    }
}
