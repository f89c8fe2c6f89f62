//! Who hears when a connection ends.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError, Weak},
};

use crate::connection::table::record::Record;

/// What keeps something for connections of one call of `serve`.
pub(crate) trait OnEnd: Send + Sync {
    /// The connection has ended.
    fn ended(&self, id: u64);
}

/// Those of a manager, by the call of `serve`.
#[derive(Default)]
pub(crate) struct EndHooks(Mutex<HashMap<u16, Weak<dyn OnEnd>>>);

impl EndHooks {
    pub(crate) fn add(&self, group: u16, hook: Weak<dyn OnEnd>) {
        let mut hooks = self.lock();
        hooks.retain(|_, hook| hook.strong_count() > 0);
        hooks.insert(group, hook);
    }

    pub(crate) fn run(&self, record: &Record) {
        // Its own statement: nothing runs under the lock.
        let hook = self.lock().get(&record.group()).and_then(Weak::upgrade);
        if let Some(hook) = hook {
            hook.ended(record.id());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u16, Weak<dyn OnEnd>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for EndHooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EndHooks")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    struct Ended(Mutex<Vec<u64>>);

    impl OnEnd for Ended {
        fn ended(&self, id: u64) {
            self.0.lock().expect("no panic").push(id);
        }
    }

    #[test]
    fn only_the_group_of_a_connection_hears_of_its_end() {
        let hooks = EndHooks::default();
        let groups = [(); 2].map(|()| Arc::new(Ended(Mutex::default())));
        for (group, hook) in (0..).zip(&groups) {
            let hook: Arc<dyn OnEnd> = hook.clone();
            hooks.add(group, Arc::downgrade(&hook));
        }
        for (id, group) in [(1, 0), (2, 1), (3, 1), (4, 2)] {
            hooks.run(&Record::new(id, 0, None, false, group, 0));
        }
        let ended = groups.map(|group| group.0.lock().expect("no panic").clone());
        assert_eq!(ended, [vec![1], vec![2, 3]]);
    }
}
