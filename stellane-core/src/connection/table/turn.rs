//! The polls of a connection's task.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// No poll of a task has this number.
pub(crate) const NO_TURN: u32 = 0;

/// The number of the latest poll, and in its lowest bit whether it ended waiting for bytes of a body.
#[derive(Debug)]
pub(crate) struct Turn(AtomicU32);

const STARVED: u32 = 1;

impl Turn {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(NO_TURN))
    }

    /// The task is polled.
    pub(crate) fn begin(&self) {
        let next = (self.0.load(Relaxed) | STARVED).wrapping_add(1);
        self.0.store(next.max(NO_TURN + 2), Relaxed);
    }

    /// Names the latest poll of the task.
    pub(crate) fn number(&self) -> u32 {
        self.0.load(Relaxed) & !STARVED
    }

    /// hyper wants more of a body than the client has sent, until the next turn.
    pub(crate) fn starve(&self) {
        self.0.store(self.0.load(Relaxed) | STARVED, Relaxed);
    }

    /// Whether the service waits for the client's bytes.
    pub(crate) fn is_starved(&self) -> bool {
        self.0.load(Relaxed) & STARVED != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_has_a_number_of_its_own_and_ends_the_hunger_of_the_one_before() {
        for start in [NO_TURN, u32::MAX - 3] {
            let turn = Turn(AtomicU32::new(start));
            let mut before = turn.number();
            for _ in 0..5 {
                turn.begin();
                assert!(turn.number() != before && turn.number() != NO_TURN);
                assert!(!turn.is_starved());
                before = turn.number();
                turn.starve();
                assert!(turn.is_starved());
                assert_eq!(turn.number(), before);
            }
        }
    }
}
