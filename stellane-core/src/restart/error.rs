use std::{fmt, io, process::ExitStatus, time::Duration};

/// Why no new process took over; this one goes on.
#[derive(Debug)]
#[non_exhaustive]
pub enum RestartError {
    /// The program could not be started: it is gone, or there are too many processes.
    Start(io::Error),
    /// It ended before it was ready; its own output says why.
    Ended(ExitStatus),
    /// It was not ready in time, and was ended.
    Late(Duration),
    /// This process is the first of its container, or what the first waits for: with it the container would end, and the
    /// new process too.
    First,
}

impl fmt::Display for RestartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(source) => write!(f, "the new process could not be started: {source}"),
            Self::Ended(status) => write!(f, "the new process ended before it was ready: {status}"),
            Self::Late(after) => write!(f, "the new process was not ready after {after:?}"),
            Self::First => f.write_str(
                "the container would end with this process: replace the container instead, by a rolling update for \
                 example",
            ),
        }
    }
}

impl std::error::Error for RestartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Start(source) => Some(source),
            Self::Ended(_) | Self::Late(_) | Self::First => None,
        }
    }
}
