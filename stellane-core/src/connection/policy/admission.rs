//! How many connections there may be.

#[cfg(feature = "tls")]
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::connection::{
    config::ConnectionConfig,
    policy::{accept_rate::AcceptRate, settings::LiveSettings},
};

/// How many idle connections make room at once when a limit is reached.
pub(crate) const RECLAIM: usize = 32;

/// What limits the connections of a manager, besides the settings that can be changed.
#[derive(Debug)]
pub(crate) struct Admission {
    /// How many connections the limit of open files has room for.
    file_limit: usize,
    pub(crate) rate: AcceptRate,
    #[cfg(feature = "tls")]
    handshakes: Semaphore,
}

impl Admission {
    pub(crate) fn new(config: &ConnectionConfig) -> Self {
        Self {
            file_limit: file_limit(config.reserve_files),
            rate: AcceptRate::new(config.max_accepts_per_second),
            #[cfg(feature = "tls")]
            handshakes: Semaphore::new(config.tls.max_handshakes.min(Semaphore::MAX_PERMITS)),
        }
    }

    /// Whether there is no room for another connection beside so many.
    pub(crate) fn is_full(&self, open: usize, settings: &LiveSettings) -> bool {
        open >= self.most(settings)
    }

    /// How many connections there may be.
    pub(crate) fn most(&self, settings: &LiveSettings) -> usize {
        most_connections(settings.max_connections(), self.file_limit)
    }

    /// Waits for one of the places for handshakes; `None` if there are no more for good.
    #[cfg(feature = "tls")]
    pub(crate) async fn place_for_a_handshake(&self) -> Option<SemaphorePermit<'_>> {
        self.handshakes.acquire().await.ok()
    }
}

/// How many of so many idle connections are too many.
pub(crate) fn surplus(idle: usize, settings: &LiveSettings) -> usize {
    match settings.max_idle_connections() {
        0 => 0,
        most => idle.saturating_sub(most),
    }
}

/// How many connections there may be: as configured, and no more than the limit of open files has room for besides the
/// reserve.
fn most_connections(configured: usize, file_limit: usize) -> usize {
    match configured {
        0 => file_limit,
        most => most.min(file_limit),
    }
}

/// How many files connections may open.
#[cfg(unix)]
fn file_limit(reserve: usize) -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let files = limit.current.map_or(usize::MAX, |files| {
        usize::try_from(files).unwrap_or(usize::MAX)
    });
    // However few there are, the service answers somebody.
    files.saturating_sub(reserve).max(1)
}

/// How many files connections may open.
#[cfg(not(unix))]
fn file_limit(_: usize) -> usize {
    usize::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_as_configured_and_as_files_allow() {
        for (configured, file_limit, most) in
            [(0, 100, 100), (10, 100, 10), (1000, 100, 100), (1, 1, 1)]
        {
            assert_eq!(most_connections(configured, file_limit), most);
        }
        let settings = LiveSettings::new(&ConnectionConfig::default());
        let admission = Admission::new(&ConnectionConfig::default());
        settings.set_max_connections(1);
        assert!(!admission.is_full(0, &settings) && admission.is_full(1, &settings));
    }

    #[test]
    fn idle_ones_are_too_many_beyond_the_limit_if_there_is_one() {
        let settings = LiveSettings::new(&ConnectionConfig::default());
        for (most, idle, too_many) in [(0, 1000, 0), (10, 9, 0), (10, 10, 0), (10, 13, 3)] {
            settings.set_max_idle_connections(most);
            assert_eq!(surplus(idle, &settings), too_many, "{idle} of {most}");
        }
    }
}
