//! Where the service of a connection comes from, and where one of its own stays while the connection is parked.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use crate::connection::{
    protocol::connect_info::ConnectInfo,
    table::{end_hooks::OnEnd, record::Record},
};

/// The services of one call of `serve`.
pub(crate) enum ServiceSource<S> {
    /// One for all: cloned each time a connection becomes active.
    Shared(Mutex<S>),
    /// One for each connection, made when its first bytes arrive.
    Own {
        make: Make<S>,
        kept: Arc<ParkedServices<S>>,
    },
}

type Make<S> = Box<dyn Fn(&ConnectInfo) -> S + Send + Sync>;

/// Of parked connections, by their ids.
pub(crate) struct ParkedServices<S>(Mutex<HashMap<u64, S>>);

impl<S: Clone + Send + 'static> ServiceSource<S> {
    pub(crate) fn shared(service: S) -> Self {
        Self::Shared(Mutex::new(service))
    }

    pub(crate) fn own(make: impl Fn(&ConnectInfo) -> S + Send + Sync + 'static) -> Self {
        Self::Own {
            make: Box::new(make),
            kept: Arc::new(ParkedServices(Mutex::default())),
        }
    }

    /// The service for a connection that becomes active.
    pub(crate) fn of(&self, record: &Record, info: impl FnOnce() -> ConnectInfo) -> S {
        match self {
            Self::Shared(service) => lock(service).clone(),
            Self::Own { make, kept } => {
                // Its own statement: nothing is made under the lock.
                let service = lock(&kept.0).remove(&record.id());
                service.unwrap_or_else(|| make(&info()))
            }
        }
    }

    /// Takes the service of a connection that is taken apart.
    pub(crate) fn keep(&self, record: &Record, service: S) {
        if let Self::Own { kept, .. } = self {
            lock(&kept.0).insert(record.id(), service);
        }
    }

    /// Who has to know when a connection ends.
    pub(crate) fn on_end(&self) -> Option<Weak<dyn OnEnd>> {
        match self {
            Self::Shared(_) => None,
            Self::Own { kept, .. } => {
                let kept: Arc<dyn OnEnd> = kept.clone();
                Some(Arc::downgrade(&kept))
            }
        }
    }
}

impl<S: Send> OnEnd for ParkedServices<S> {
    fn ended(&self, id: u64) {
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
