//! Handlers that hold a thread of the runtimes, as one sees from outside.

use std::{collections::BTreeMap, time::Duration};

use stellane_metrics::RunningPoll;

use crate::runtime::held::{ByRoute, HeldThreads, Told};

/// Looks again and again at what the threads poll. It counts its own looks and no time: a machine that stood still
/// holds nobody.
#[derive(Debug)]
pub(super) struct Look {
    tick: Duration,
    /// After so many looks that found the same, a thread is held; 0 is never.
    most: u32,
    /// The poll of each thread, and how many looks have found it.
    seen: BTreeMap<usize, (u32, u32)>,
}

impl Look {
    pub(super) fn new(after: Duration, tick: Duration) -> Self {
        let most = after.as_nanos().div_ceil(tick.as_nanos());
        Self {
            tick,
            most: u32::try_from(most).unwrap_or(u32::MAX),
            seen: BTreeMap::new(),
        }
    }

    /// How long a thread is held before that is told.
    pub(super) fn after(&self) -> Duration {
        self.tick * self.most
    }

    /// Looks once, and counts; the routes of handlers that have just held a thread for too long.
    pub(super) fn at(
        &mut self,
        polls: impl Iterator<Item = RunningPoll>,
        held: &HeldThreads,
    ) -> Vec<Told> {
        if self.most == 0 {
            return Vec::new();
        }
        let before = std::mem::take(&mut self.seen);
        let (mut now, mut new) = (ByRoute::new(), Vec::new());
        for poll in polls {
            let looks = match before.get(&poll.thread) {
                Some((serial, looks)) if *serial == poll.serial => looks.saturating_add(1),
                _ => 0,
            };
            self.seen.insert(poll.thread, (poll.serial, looks));
            if looks >= self.most {
                let route = held.name(poll.route.as_deref());
                if looks == self.most {
                    new.push(route.clone());
                }
                *now.entry(route).or_default() += 1;
            }
        }
        held.set(now, &new);
        new.into_iter().map(Told::of).collect()
    }
}
