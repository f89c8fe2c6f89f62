//! Where the service of a connection comes from, and where one of its own stays while the connection is parked.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use crate::connection::{protocol::connect_info::ConnectInfo, table::record::Entry};

/// The services of one call of `serve`.
pub(crate) enum Services<S> {
    /// One for all: cloned each time a connection becomes active.
    Shared(Mutex<S>),
    /// One for each connection, made when its first bytes arrive.
    Own { make: Make<S>, kept: Arc<Kept<S>> },
}

type Make<S> = Box<dyn Fn(&ConnectInfo) -> S + Send + Sync>;

/// Of parked connections, by their ids.
pub(crate) struct Kept<S>(Mutex<HashMap<u64, S>>);

impl<S: Clone + Send + 'static> Services<S> {
    pub(crate) fn shared(service: S) -> Self {
        Self::Shared(Mutex::new(service))
    }

    pub(crate) fn own(make: impl Fn(&ConnectInfo) -> S + Send + Sync + 'static) -> Self {
        Self::Own {
            make: Box::new(make),
            kept: Arc::new(Kept(Mutex::default())),
        }
    }

    /// The service for a connection that becomes active.
    pub(crate) fn of(&self, entry: &Entry, info: impl FnOnce() -> ConnectInfo) -> S {
        match self {
            Self::Shared(service) => lock(service).clone(),
            Self::Own { make, kept } => {
                // Its own statement: nothing is made under the lock.
                let service = lock(&kept.0).remove(&entry.id);
                service.unwrap_or_else(|| make(&info()))
            }
        }
    }

    /// Takes the service of a connection that is taken apart.
    pub(crate) fn keep(&self, entry: &Entry, service: S) {
        if let Self::Own { kept, .. } = self {
            lock(&kept.0).insert(entry.id, service);
        }
    }

    /// Who has to know when a connection ends.
    pub(crate) fn keeper(&self) -> Option<Weak<dyn Keeper>> {
        match self {
            Self::Shared(_) => None,
            Self::Own { kept, .. } => {
                let kept: Arc<dyn Keeper> = kept.clone();
                Some(Arc::downgrade(&kept))
            }
        }
    }
}

/// What keeps something of parked connections.
pub(crate) trait Keeper: Send + Sync {
    /// The connection has ended.
    fn forget(&self, id: u64);
}

impl<S: Send> Keeper for Kept<S> {
    fn forget(&self, id: u64) {
        let service = {
            let mut kept = lock(&self.0);
            let service = kept.remove(&id);
            if kept.is_empty() {
                // The last one left: give the memory of the busiest hour back.
                kept.shrink_to_fit();
            }
            service
        };
        // What it holds may take its time.
        drop(service);
    }
}

/// The keepers of a manager, by the call of `serve`.
#[derive(Default)]
pub(crate) struct Keepers(Mutex<HashMap<u16, Weak<dyn Keeper>>>);

impl Keepers {
    pub(crate) fn add(&self, group: u16, keeper: Weak<dyn Keeper>) {
        let mut keepers = lock(&self.0);
        keepers.retain(|_, keeper| keeper.strong_count() > 0);
        keepers.insert(group, keeper);
    }

    pub(crate) fn forget(&self, entry: &Entry) {
        let keeper = lock(&self.0).get(&entry.group).and_then(Weak::upgrade);
        if let Some(keeper) = keeper {
            keeper.forget(entry.id);
        }
    }
}

impl std::fmt::Debug for Keepers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keepers")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
