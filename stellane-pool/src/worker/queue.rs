//! One shard of waiting jobs: what is served next, and what is not served at all.

use std::collections::VecDeque;

use super::{Discipline, class::Classes};

/// The waiting jobs of one shard, one lane for each class.
#[derive(Debug)]
pub(super) struct Queue<T> {
    lanes: Vec<Lane<T>>,
    len: usize,
}

#[derive(Debug)]
struct Lane<T> {
    entries: VecDeque<Entry<T>>,
    codel: Codel,
}

#[derive(Debug)]
pub(super) struct Entry<T> {
    pub(super) item: T,
    pub(super) queued: u64,
    /// When it is no longer to be run; `u64::MAX` is never.
    pub(super) expires: u64,
}

/// The settings, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) discipline: Discipline,
    pub(super) target: u64,
    pub(super) interval: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Popped<T> {
    Run(T),
    /// Its time was over.
    Expired(T),
    /// CoDel gave it up.
    Waited(T),
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            lanes: Vec::new(),
            len: 0,
        }
    }
}

impl<T> Queue<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether all jobs are of that class.
    pub(super) fn holds_only(&self, class: u16) -> bool {
        let lane = self.lanes.get(usize::from(class));
        lane.is_some_and(|lane| lane.entries.len() == self.len)
    }

    pub(super) fn push(&mut self, class: u16, entry: Entry<T>, classes: &Classes) {
        let lane = &mut self.lane(class).entries;
        if lane.is_empty() {
            classes.returns(class);
        }
        lane.push_back(entry);
        self.len += 1;
    }

    fn lane(&mut self, class: u16) -> &mut Lane<T> {
        let class = usize::from(class);
        while self.lanes.len() <= class {
            self.lanes.push(Lane {
                entries: VecDeque::new(),
                codel: Codel::default(),
            });
        }
        &mut self.lanes[class]
    }

    /// Whether jobs of that class, the oldest of which came then, may be run as they come: nothing else waits, and
    /// not for long.
    pub(super) fn calm(
        &mut self,
        class: u16,
        oldest: u64,
        now: u64,
        rules: &Rules,
        classes: &Classes,
    ) -> bool {
        if self.len > 0 {
            return false;
        }
        let delay = now.saturating_sub(oldest);
        let target = rules.target.max(classes.mean_run(usize::from(class)));
        let codel = &mut self.lane(class).codel;
        rules.discipline == Discipline::Fifo || !codel.standing(now, delay, target, rules.interval)
    }

    /// The next job, from the class that is furthest behind.
    pub(super) fn pop(&mut self, now: u64, rules: &Rules, classes: &Classes) -> Option<Popped<T>> {
        let waiting = |(_, lane): &(usize, &Lane<T>)| !lane.entries.is_empty();
        let filled = self.lanes.iter().enumerate().filter(waiting);
        let at = classes.pick(filled.map(|(at, _)| at))?;
        let lane = &mut self.lanes[at];
        // A queue one job deep waits about as long as a job runs: that is not overload.
        let target = rules.target.max(classes.mean_run(at));
        let oldest = lane.entries.front()?.queued;
        let delay = now.saturating_sub(oldest);
        let standing = match rules.discipline {
            Discipline::Fifo => false,
            _ => lane.codel.standing(now, delay, target, rules.interval),
        };
        let newest_first = standing && rules.discipline == Discipline::AdaptiveLifo;
        let entry = if newest_first {
            lane.entries.pop_back()?
        } else {
            lane.entries.pop_front()?
        };
        self.len -= 1;
        Some(if entry.expires <= now {
            Popped::Expired(entry.item)
        } else if standing && rules.discipline == Discipline::CoDel && delay > 2 * target {
            Popped::Waited(entry.item)
        } else {
            Popped::Run(entry.item)
        })
    }

    /// Gives up a job so that another can come in: of a class that has more than its share; of its own
    /// class the oldest, if the newest are served first. None if the newcomer is the one to refuse.
    pub(super) fn make_room(&mut self, class: u16, rules: &Rules, classes: &Classes) -> Option<T> {
        let share = |at: usize, len: usize| len as f64 / classes.weight(at) as f64;
        let own = usize::from(class);
        let lengths = self.lanes.iter().map(|lane| lane.entries.len());
        let (longest, length) = lengths
            .enumerate()
            .max_by(|(a, x), (b, y)| share(*a, *x).total_cmp(&share(*b, *y)))?;
        let own_length = self.lanes.get(own).map_or(0, |lane| lane.entries.len());
        let lifo = rules.discipline == Discipline::AdaptiveLifo;
        let lane = &mut self.lanes[longest];
        let entry = if share(longest, length) > share(own, own_length + 1) {
            if lifo {
                lane.entries.pop_front()
            } else {
                lane.entries.pop_back()
            }
        } else if longest == own && lifo && lane.codel.standing {
            lane.entries.pop_front()
        } else {
            None
        }?;
        self.len -= 1;
        Some(entry.item)
    }

    /// Takes out what has expired, and what `dead` says. Returns also when the next one expires.
    pub(super) fn sweep(&mut self, now: u64, dead: impl Fn(&T) -> bool) -> (Vec<T>, u64) {
        let mut next_expiry = u64::MAX;
        let mut out = Vec::new();
        for lane in &mut self.lanes {
            let mut kept = VecDeque::with_capacity(lane.entries.len());
            for entry in lane.entries.drain(..) {
                if entry.expires <= now || dead(&entry.item) {
                    out.push(entry.item);
                } else {
                    next_expiry = next_expiry.min(entry.expires);
                    kept.push_back(entry);
                }
            }
            lane.entries = kept;
        }
        self.len -= out.len();
        (out, next_expiry)
    }

    /// When the oldest came; `u64::MAX` without any.
    pub(super) fn oldest(&self) -> u64 {
        let oldest = self.lanes.iter().filter_map(|lane| lane.entries.front());
        oldest.map(|entry| entry.queued).min().unwrap_or(u64::MAX)
    }

    pub(super) fn clear(&mut self) -> Vec<T> {
        let lanes = std::mem::take(&mut self.lanes);
        self.len = 0;
        let entries = lanes.into_iter().flat_map(|lane| lane.entries);
        entries.map(|entry| entry.item).collect()
    }
}

/// Tells a standing queue from a burst: the shortest wait of a whole interval was above the target. The wait
/// is the oldest job's, so that it does not seem short when the newest are served first.
#[derive(Debug, Default)]
struct Codel {
    ends: u64,
    shortest: u64,
    standing: bool,
}

impl Codel {
    fn standing(&mut self, now: u64, delay: u64, target: u64, interval: u64) -> bool {
        if now >= self.ends {
            // The verdict on the interval before; after a pause there is none.
            self.standing = self.ends != 0 && now < self.ends + interval && self.shortest > target;
            self.ends = now + interval;
            self.shortest = delay;
        } else {
            self.shortest = self.shortest.min(delay);
            // The queue has been worked off: no need to wait for the interval's end.
            self.standing &= delay > target;
        }
        self.standing
    }
}
