//! What the sweep asks of connections, given out a few at a time: ten thousand that are parked or closed at once would
//! keep requests waiting for a tenth of a second.

use std::sync::Arc;

use super::{
    entry::{Command, Entry},
    shared::Shared,
};

/// So many cost about as much as a few dozen requests.
const PIECE: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Orders {
    waiting: Vec<Order>,
}

#[derive(Debug)]
struct Order {
    entry: Arc<Entry>,
    command: Command,
    /// Since when the connection was in the state that was judged.
    since: u64,
}

impl Orders {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The next sweep judges anew.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }

    pub(super) fn add(&mut self, entry: &Arc<Entry>, command: Command) {
        let wanted = match command {
            Command::None => false,
            Command::Park => !entry.parked_or_asked(),
            Command::Close(_) => true,
        };
        if wanted {
            self.waiting.push(Order {
                entry: Arc::clone(entry),
                command,
                since: entry.since(),
            });
        }
    }

    /// Gives some of them out. Between two calls the runtime is to have a turn.
    pub(super) fn give_some(&mut self, shared: &Shared) {
        let rest = self.waiting.len().saturating_sub(PIECE);
        for order in self.waiting.drain(rest..) {
            order.give(shared);
        }
        if self.waiting.is_empty() {
            // The memory of the busiest sweep.
            self.waiting = Vec::new();
        }
    }

    pub(super) fn give_all(&mut self, shared: &Shared) {
        for order in std::mem::take(&mut self.waiting) {
            order.give(shared);
        }
    }
}

impl Order {
    fn give(self, shared: &Shared) {
        // What has gone on since is judged by the next sweep.
        if self.entry.since() == self.since {
            shared.command(&self.entry, self.command);
        }
    }
}
