//! How many connections there may be.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::connection::{
    config::ConnectionConfig,
    policy::{accept_rate::AcceptRate, settings::LiveSettings},
    table::Most,
};

/// How many connections make room at once when there are no more open files.
pub(crate) const RECLAIM: usize = 32;
/// How many newcomers are answered after a while when there is no room for them; more are at once.
const LOBBY: usize = 1024;

/// What limits the connections of a manager, besides the settings that can be changed.
#[derive(Debug)]
pub(crate) struct Admission {
    /// How many connections the limit of open files has room for.
    file_limit: usize,
    /// Places for those that are not taken in, or not yet.
    pub(crate) lobby: Arc<Semaphore>,
    pub(crate) rate: AcceptRate,
}

impl Admission {
    pub(crate) fn new(config: &ConnectionConfig) -> Self {
        let file_limit = file_limit(config.reserve_files);
        let lobby = lobby(config.max_connections, file_limit, config.reserve_files);
        Self {
            file_limit,
            lobby: Arc::new(Semaphore::new(lobby)),
            rate: AcceptRate::new(config.max_accepts_per_second),
        }
    }

    /// How many connections there may be.
    pub(crate) fn most(&self, settings: &LiveSettings) -> Most {
        Most {
            all: most_connections(settings.max_connections(), self.file_limit),
            per_peer: settings.max_connections_per_peer(),
        }
    }
}

/// How many handshakes are computed at once: more than there are CPUs would only wait for each other, and requests for
/// them.
#[cfg(feature = "tls")]
pub(crate) fn handshakes(config: &ConnectionConfig) -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    config.tls.max_handshakes.min(cpus)
}

/// How many of so many idle connections are too many.
pub(crate) fn surplus(idle: usize, settings: &LiveSettings) -> usize {
    match settings.max_idle_connections() {
        0 => 0,
        most => idle.saturating_sub(most),
    }
}

/// How many connections there may be: as configured, and no more than the limit of open files has room for besides the
/// reserve; if none are configured, besides newcomers too.
fn most_connections(configured: usize, file_limit: usize) -> usize {
    match configured {
        0 => file_limit - (file_limit / 16).min(LOBBY),
        most => most.min(file_limit),
    }
}

/// How many newcomers may be in the lobby: what the limit of open files has room for besides the connections, or half of
/// the reserve.
fn lobby(configured: usize, file_limit: usize, reserve: usize) -> usize {
    let besides = file_limit - most_connections(configured, file_limit);
    besides.max(reserve / 2).clamp(16, LOBBY)
}

/// How many files connections may open.
#[cfg(unix)]
fn file_limit(reserve: usize) -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let files = limit.current.map_or(usize::MAX, |files| {
        usize::try_from(files).unwrap_or(usize::MAX)
    });
    // However few there are, half of them are for clients.
    files.saturating_sub(reserve.min(files / 2)).max(1)
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
        for (configured, file_limit, most) in [
            (0, 100, 94),
            (0, 1, 1),
            (0, 1 << 20, (1 << 20) - LOBBY),
            (10, 100, 10),
            (1000, 100, 100),
            (1, 1, 1),
        ] {
            assert_eq!(most_connections(configured, file_limit), most);
        }
        let settings = LiveSettings::new(&ConnectionConfig::default());
        let admission = Admission::new(&ConnectionConfig::default());
        settings.set_max_connections(1);
        settings.set_max_connections_per_peer(7);
        let Most { all, per_peer } = admission.most(&settings);
        assert_eq!((all, per_peer), (1, 7));
    }

    #[test]
    fn the_lobby_takes_what_connections_leave_or_half_of_the_reserve() {
        for (configured, file_limit, reserve, places) in [
            (10_000, 900, 128, 64),
            (10_000, 10_500, 128, 500),
            (10_000, 1 << 20, 128, LOBBY),
            (0, 900, 128, 64),
            (0, 900, 0, 56),
            (0, 100, 0, 16),
            (0, 20_000, 128, LOBBY),
        ] {
            assert_eq!(lobby(configured, file_limit, reserve), places);
        }
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
