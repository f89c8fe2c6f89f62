//! The connections of the admin address.

use std::{io, time::Duration};

use tracing::{Dispatch, dispatcher};

use crate::connection::{ConnectionConfig, ConnectionManager, ConnectionState};

/// Most connections there.
const PLACES: usize = 512;
/// Who has not asked for anything yet gives way while more places than this are taken.
const TAKEN: usize = 64;
/// A client that is in the same building has sent its request by then.
const SOON: Duration = Duration::from_millis(200);
/// How long a client may take to ask, and to read its answer.
const ASKING: Duration = Duration::from_secs(2);
const READING: Duration = Duration::from_secs(10);

/// Keeps places for probes: who connects and asks for nothing is closed, the oldest first.
#[derive(Debug)]
pub(super) struct AdminPlaces(ConnectionManager);

impl AdminPlaces {
    /// A manager of its own, so that a full service can still be seen.
    pub(super) fn manager() -> io::Result<ConnectionManager> {
        let config = ConnectionConfig {
            max_connections: PLACES,
            // It is what the service's reserve is for.
            reserve_files: 0,
            first_byte_timeout: ASKING,
            head_timeout: ASKING,
            write_timeout: READING,
            rate_grace: READING,
            ..ConnectionConfig::default()
        };
        // What few open files mean, that of the service says.
        let build = || ConnectionManager::builder().config(config).build();
        let manager = dispatcher::with_default(&Dispatch::none(), build);
        manager.map_err(io::Error::other)
    }

    pub(super) fn new(manager: ConnectionManager) -> Self {
        Self(manager)
    }

    /// To be called a few times a second.
    pub(super) fn keep_some(&self) {
        let mut connections = self.0.list();
        let surplus = connections.len().saturating_sub(TAKEN);
        if surplus == 0 {
            return;
        }
        let has_asked = |state| !matches!(state, ConnectionState::New | ConnectionState::Head);
        connections.retain(|one| !has_asked(one.state) && one.age >= SOON);
        connections.sort_unstable_by_key(|one| std::cmp::Reverse(one.age));
        for one in connections.iter().take(surplus) {
            self.0.close(one.id);
        }
    }
}
