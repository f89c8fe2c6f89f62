use std::{
    borrow::Cow,
    fmt,
    process::{ExitCode, Termination},
};

use crate::engine::StopReport;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunReport {
    /// The drain of the connections.
    pub drain: StopReport,
    /// The names of the [background work](super::RuntimeBuilder::background) that was cut at the deadline of the drain.
    pub background_cut: Vec<Cow<'static, str>>,
}

impl RunReport {
    /// Whether everything came to its end by itself, or was told goodbye.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let cut = self.drain.aborted + self.drain.left + self.drain.abandoned_stopped;
        cut == 0 && self.background_cut.is_empty()
    }
}

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StopReport {
            closed,
            farewells,
            aborted,
            left,
            abandoned,
            abandoned_stopped,
        } = self.drain;
        write!(
            f,
            "{closed} connections closed, {aborted} of them cut at the end of their time; {farewells} streams told \
             goodbye; {left} connections left to handlers that hold their threads"
        )?;
        if abandoned > 0 {
            write!(
                f,
                "; {abandoned} requests went on without their clients, {abandoned_stopped} of them stopped at the end \
                 of their time"
            )?;
        }
        match &self.background_cut[..] {
            [] => Ok(()),
            names => write!(f, "; background work cut: {}", names.join(", ")),
        }
    }
}

/// What `main` may return: success if [nothing was cut](RunReport::is_clean), and otherwise failure, so that whoever
/// started the process can tell that its time was too short.
impl Termination for RunReport {
    fn report(self) -> ExitCode {
        match self.is_clean() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }
}
