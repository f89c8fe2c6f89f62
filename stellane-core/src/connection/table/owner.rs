//! Who holds the socket of a connection, and so hears what it is asked.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    task::Waker,
};

use crate::connection::transport::parked::ParkedSocket;

/// Who holds the socket.
#[derive(Debug)]
pub(crate) enum SocketOwner {
    Task(Waker),
    /// Nobody: it waits for bytes among the [parked](crate::connection::transport::parked).
    Parked(ParkedSocket),
}

impl SocketOwner {
    /// A task that was not polled yet: it sees its commands when it is.
    pub(crate) fn starting() -> Self {
        Self::Task(Waker::noop().clone())
    }
}

/// The owner of a connection's socket, as of now.
#[derive(Debug)]
pub(crate) struct Owner(Mutex<SocketOwner>);

impl Owner {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(SocketOwner::starting()))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, SocketOwner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commands wake this task from now on.
    pub(crate) fn hear(&self, waker: &Waker) {
        let mut owner = self.lock();
        if !matches!(&*owner, SocketOwner::Task(old) if old.will_wake(waker)) {
            *owner = SocketOwner::Task(waker.clone());
        }
    }

    pub(crate) fn wake(&self) {
        if let SocketOwner::Task(waker) = &*self.lock() {
            waker.wake_by_ref();
        }
    }

    pub(crate) fn is_parked(&self) -> bool {
        matches!(&*self.lock(), SocketOwner::Parked(_))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering::Relaxed},
        },
        task::Wake,
    };

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn the_task_that_was_heard_of_last_is_woken() {
        let owner = Owner::new();
        owner.wake();
        let tasks = [(); 2].map(|()| Arc::new(Woken::default()));
        for task in &tasks {
            owner.hear(&Waker::from(Arc::clone(task)));
            owner.wake();
        }
        owner.wake();
        assert_eq!(tasks.map(|task| task.0.load(Relaxed)), [1, 2]);
        assert!(!owner.is_parked());
    }
}
