//! Routes and series, registered once; the cells of each thread.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use super::{
    Clock,
    exemplars::Exemplars,
    histogram::{self, Histogram, Totals},
    index::Index,
    labels::{METHODS, Outcome, RouteId, SeriesKey},
    layout::{Layout, size_bucket},
    running::{PollCell, RunningPoll},
    slot,
};
#[cfg(doc)]
use crate::HttpMetrics;
use crate::MetricsConfig;

pub(crate) const UNMATCHED: RouteId = 0;
const OVERFLOW: RouteId = 1;
/// No request has this key: its outcome is none of the five.
const OVERFLOW_KEY: u64 = u64::MAX;

const CACHE: usize = 256;

/// So many lots of threads that share a shard say what they poll,
const BEYOND: usize = 32;
/// and so many threads are a lot.
const LOT: usize = 256;

pub(crate) struct Table {
    pub(crate) config: MetricsConfig,
    pub(super) clock: Ticks,
    routes: Box<[OnceLock<Arc<str>>]>,
    route_index: Index,
    series: Box<[OnceLock<u64>]>,
    series_index: Index,
    hasher: RandomState,
    shards: Box<[OnceLock<Box<Shard>>]>,
    /// What the threads poll that share a shard.
    polls_beyond: [OnceLock<Box<[PollCell]>>; BEYOND],
    duration_bounds_ns: Box<[u64]>,
    /// For each cell of the fine histogram the bucket that its smallest value falls into.
    bucket_of_cell: Box<[u8; histogram::CELLS]>,
    layout: Layout,
    pub(super) exemplars: Exemplars,
}

#[derive(Clone)]
enum TableClock {
    Counter(quanta::Clock),
    Given(Clock),
}

/// A clock that tells durations cheaply: that of a [table](HttpMetrics::ticks). A cheap handle, which holds no table.
#[derive(Clone)]
pub struct Ticks(TableClock);

impl Ticks {
    /// A reading of it.
    #[inline]
    #[must_use]
    pub fn now(&self) -> u64 {
        match &self.0 {
            TableClock::Counter(clock) => clock.raw(),
            TableClock::Given(clock) => clock().as_nanos() as u64,
        }
    }

    /// Nanoseconds from one reading to another; zero if the second is the earlier one.
    #[inline]
    #[must_use]
    pub fn nanos(&self, from: u64, to: u64) -> u64 {
        match &self.0 {
            TableClock::Counter(clock) => clock.delta_as_nanos(from, to),
            TableClock::Given(_) => to.saturating_sub(from),
        }
    }
}

impl fmt::Debug for Ticks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ticks").field(&self.now()).finish()
    }
}

/// What one thread writes. The last shard is shared by the threads that found no free slot.
struct Shard {
    /// What the thread polls now: see [`running`](super::running).
    poll: PollCell,
    started: [AtomicU64; METHODS.len()],
    finished: [AtomicU64; METHODS.len()],
    cancelled: AtomicU64,
    failed: AtomicU64,
    overflow: AtomicU64,
    full: Histogram,
    head: Histogram,
    /// Direct-mapped caches of indexes: what they say is checked against the table, so a stale entry is only a miss.
    route_cache: [AtomicU32; CACHE],
    series_cache: [AtomicU32; CACHE],
    series: Box<[OnceLock<Box<[AtomicU64]>>]>,
}

/// What is known about a request when it ends.
pub(crate) struct Record {
    pub(crate) key: SeriesKey,
    pub(crate) full_ns: u64,
    pub(crate) head_ns: Option<u64>,
    pub(crate) request_bytes: Option<u64>,
    pub(crate) response_bytes: Option<u64>,
}

impl Table {
    pub(crate) fn new(config: MetricsConfig, clock: Option<Clock>) -> Self {
        let bounds = config.duration_buckets.bounds();
        let bounds_ns: Box<[u64]> = bounds.iter().map(|b| (b * 1e9).round() as u64).collect();
        let layout = Layout {
            durations: bounds.len(),
        };
        let table = Self {
            routes: (0..config.max_routes + 2)
                .map(|_| OnceLock::new())
                .collect(),
            route_index: Index::new(OVERFLOW + 1, config.max_routes),
            series: (0..=config.max_series).map(|_| OnceLock::new()).collect(),
            series_index: Index::new(1, config.max_series),
            hasher: RandomState::new(),
            shards: (0..=slot::EXCLUSIVE).map(|_| OnceLock::new()).collect(),
            polls_beyond: [const { OnceLock::new() }; BEYOND],
            bucket_of_cell: Box::new(std::array::from_fn(|cell| {
                bounds_ns.partition_point(|b| *b < histogram::lowest_of(cell)) as u8
            })),
            duration_bounds_ns: bounds_ns,
            layout,
            exemplars: Exemplars::default(),
            clock: Ticks(clock.map_or_else(
                || TableClock::Counter(quanta::Clock::new()),
                TableClock::Given,
            )),
            config,
        };
        let _ = table.routes[UNMATCHED as usize].set(table.config.unmatched_route.as_str().into());
        let _ = table.routes[OVERFLOW as usize].set("__overflow__".into());
        let _ = table.series[0].set(OVERFLOW_KEY);
        table
    }

    /// A reading of the clock, for [`elapsed_ns`](Self::elapsed_ns).
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        self.clock.now()
    }

    /// Nanoseconds from one reading of the clock to now.
    #[inline]
    pub(crate) fn elapsed_ns(&self, since: u64) -> u64 {
        self.clock.nanos(since, self.clock.now())
    }

    /// The id of a template; allocates the first time it is seen only.
    #[inline]
    pub(crate) fn route_id(&self, template: &str) -> RouteId {
        let (shard, exclusive) = self.shard();
        self.route_id_by(shard, exclusive, template)
    }

    /// As [`route_id`](Self::route_id), and says that the poll of this thread is of it.
    #[inline]
    pub(crate) fn name_poll(&self, template: &str) -> RouteId {
        let (shard, exclusive) = self.shard();
        let route = self.route_id_by(shard, exclusive, template);
        self.poll_cell_by(shard, exclusive).name(route);
        route
    }

    #[inline]
    fn route_id_by(&self, shard: &Shard, exclusive: bool, template: &str) -> RouteId {
        // Where the template lies tells most routes apart; what it says decides.
        let entry = &shard.route_cache[mix(template.as_ptr() as u64 ^ template.len() as u64)];
        let id = entry.load(Relaxed);
        if self.is_of(id, template) {
            return id;
        }
        let id = self.find_or_add_route(template);
        if id == OVERFLOW {
            slot::add(&shard.overflow, 1, exclusive);
        } else {
            entry.store(id, Relaxed);
        }
        id
    }

    /// The id of a template that was seen before, wherever its text lies.
    #[inline]
    pub(crate) fn known_route(&self, template: &str) -> Option<RouteId> {
        let (shard, _) = self.shard();
        let entry = &shard.route_cache[mix(digest(template.as_bytes()))];
        let id = entry.load(Relaxed);
        if self.is_of(id, template) {
            return Some(id);
        }
        let hash = self.hasher.hash_one(template);
        let id = self.route_index.find(hash, |id| self.is_of(id, template))?;
        entry.store(id, Relaxed);
        Some(id)
    }

    #[inline]
    fn is_of(&self, id: RouteId, template: &str) -> bool {
        let known = self.routes.get(id as usize).and_then(OnceLock::get);
        known.is_some_and(|known| **known == *template)
    }

    /// The template of an id; `None` for requests that nothing named.
    pub(crate) fn template(&self, id: RouteId) -> Option<&Arc<str>> {
        let template = self.routes.get(id as usize)?.get()?;
        (id != UNMATCHED).then_some(template)
    }

    #[cold]
    fn find_or_add_route(&self, template: &str) -> RouteId {
        let hash = self.hasher.hash_one(template);
        let is_it = |id| self.is_of(id, template);
        let add = |id| {
            let _ = self.routes[id as usize].set(template.into());
        };
        self.route_index
            .find_or_add(hash, is_it, add)
            .unwrap_or(OVERFLOW)
    }

    /// Where this thread says what it polls.
    #[inline]
    pub(crate) fn poll_cell(&self) -> &PollCell {
        let (shard, exclusive) = self.shard();
        self.poll_cell_by(shard, exclusive)
    }

    #[inline]
    fn poll_cell_by<'a>(&'a self, shard: &'a Shard, exclusive: bool) -> &'a PollCell {
        match exclusive {
            true => &shard.poll,
            false => self.poll_cell_beyond(shard),
        }
    }

    /// Where there are too many even for that nobody looks.
    #[cold]
    fn poll_cell_beyond<'a>(&'a self, shard: &'a Shard) -> &'a PollCell {
        let at = slot::own() - slot::EXCLUSIVE;
        let lot = self.polls_beyond.get(at / LOT);
        let cells = || (0..LOT).map(|_| PollCell::new()).collect();
        lot.map_or(&shard.poll, |lot| &lot.get_or_init(cells)[at % LOT])
    }

    /// What the thread polls that has this number.
    pub(crate) fn running_poll(&self, thread: usize) -> Option<RunningPoll> {
        let cell = match thread.checked_sub(slot::EXCLUSIVE) {
            None => &self.shards[thread].get()?.poll,
            Some(beyond) => &self.polls_beyond.get(beyond / LOT)?.get()?[beyond % LOT],
        };
        let (serial, method, route) = cell.read()?;
        Some(RunningPoll {
            thread,
            serial,
            method: METHODS.get(usize::from(method))?,
            route: self.template(route).cloned(),
        })
    }

    pub(crate) fn running_polls(&self) -> impl Iterator<Item = RunningPoll> {
        let lots = (0..BEYOND).filter(|lot| self.polls_beyond[*lot].get().is_some());
        let beyond = lots.flat_map(|lot| (0..LOT).map(move |at| slot::EXCLUSIVE + lot * LOT + at));
        let threads = (0..slot::EXCLUSIVE).chain(beyond);
        threads.filter_map(|thread| self.running_poll(thread))
    }

    #[inline]
    pub(crate) fn started(&self, method: u8) {
        let (shard, exclusive) = self.shard();
        slot::add(&shard.started[usize::from(method)], 1, exclusive);
    }

    #[inline]
    pub(crate) fn record(&self, record: &Record) {
        let (shard, exclusive) = self.shard();
        // Asked once, not for each of a dozen cells.
        if exclusive {
            self.record_in::<true>(shard, record);
        } else {
            self.record_in::<false>(shard, record);
        }
    }

    #[inline]
    fn record_in<const EXCLUSIVE: bool>(&self, shard: &Shard, record: &Record) {
        let key = record.key.pack();
        let entry = &shard.series_cache[mix(key)];
        let mut index = entry.load(Relaxed) as usize;
        if self.series.get(index).and_then(OnceLock::get) != Some(&key) {
            index = self.find_or_add_series(key);
            if index == 0 {
                slot::add(&shard.overflow, 1, EXCLUSIVE);
            } else {
                entry.store(index as u32, Relaxed);
            }
        }
        let cells = shard.series[index].get_or_init(|| {
            (0..self.layout.cells())
                .map(|_| AtomicU64::new(0))
                .collect()
        });

        let add = |at: usize, n: u64| slot::add(&cells[at], n, EXCLUSIVE);
        let durations = |at: usize, ns: u64, all: &Histogram| {
            let cell = histogram::cell_of(ns);
            all.record(cell, ns, EXCLUSIVE);
            add(at + self.duration_bucket(cell, ns), 1);
            add(at + self.layout.durations + 1, ns);
        };
        let sizes = |at: usize, bytes: u64| {
            add(at + size_bucket(bytes), 1);
            add(at + Layout::SIZES + 1, bytes);
        };
        durations(self.layout.full(), record.full_ns, &shard.full);
        if let Some(ns) = record.head_ns {
            durations(self.layout.head(), ns, &shard.head);
        }
        if let Some(bytes) = record.request_bytes {
            sizes(self.layout.request(), bytes);
        }
        if let Some(bytes) = record.response_bytes {
            sizes(self.layout.response(), bytes);
        }

        match record.key.outcome {
            Outcome::Cancelled => slot::add(&shard.cancelled, 1, EXCLUSIVE),
            _ if record.key.has_failed() => slot::add(&shard.failed, 1, EXCLUSIVE),
            _ => {}
        }
        // Last, so that a request is never counted as ended before its series has it.
        slot::add(
            &shard.finished[usize::from(record.key.method)],
            1,
            EXCLUSIVE,
        );
    }

    /// The first bucket whose bound is not below the duration, which lies in this cell.
    #[inline]
    pub(super) fn duration_bucket(&self, cell: usize, ns: u64) -> usize {
        let mut bucket = usize::from(self.bucket_of_cell[cell]);
        // A cell that a bound divides begins in the bucket below.
        while self
            .duration_bounds_ns
            .get(bucket)
            .is_some_and(|bound| *bound < ns)
        {
            bucket += 1;
        }
        bucket
    }

    #[cold]
    fn find_or_add_series(&self, key: u64) -> usize {
        let hash = self.hasher.hash_one(key);
        let is_it = |at: u32| self.series[at as usize].get() == Some(&key);
        let add = |at: u32| {
            let _ = self.series[at as usize].set(key);
        };
        let found = self.series_index.find_or_add(hash, is_it, add);
        found.unwrap_or(0) as usize
    }

    #[inline]
    fn shard(&self) -> (&Shard, bool) {
        let slot = slot::current();
        let shard = match self.shards[slot].get() {
            Some(shard) => shard,
            None => self.new_shard(slot),
        };
        (shard, slot < slot::EXCLUSIVE)
    }

    #[cold]
    fn new_shard(&self, slot: usize) -> &Shard {
        self.shards[slot].get_or_init(|| Box::new(Shard::new(self.series.len())))
    }

    fn live_shards(&self) -> impl Iterator<Item = &Shard> {
        self.shards
            .iter()
            .filter_map(|shard| shard.get().map(|shard| &**shard))
    }

    pub(crate) fn totals(&self) -> Counts {
        let sum = |pick: fn(&Shard) -> &[AtomicU64]| -> u64 {
            self.live_shards()
                .flat_map(pick)
                .map(|cell| cell.load(Relaxed))
                .sum()
        };
        // Ends before starts: a request between the two reads may then look in flight, never negative.
        let finished = sum(|shard| &shard.finished);
        Counts {
            finished,
            started: sum(|shard| &shard.started),
            cancelled: sum(|shard| std::slice::from_ref(&shard.cancelled)),
            failed: sum(|shard| std::slice::from_ref(&shard.failed)),
            overflow: sum(|shard| std::slice::from_ref(&shard.overflow)),
        }
    }

    /// Requests in flight per method, in the order of [`METHODS`].
    pub(crate) fn active(&self) -> [u64; METHODS.len()] {
        let mut finished = [0_u64; METHODS.len()];
        let mut started = [0_u64; METHODS.len()];
        for (totals, pick) in [
            (
                &mut finished,
                (|s| &s.finished) as fn(&Shard) -> &[AtomicU64; METHODS.len()],
            ),
            (&mut started, |s| &s.started),
        ] {
            for shard in self.live_shards() {
                for (total, cell) in totals.iter_mut().zip(pick(shard)) {
                    *total += cell.load(Relaxed);
                }
            }
        }
        std::array::from_fn(|i| started[i].saturating_sub(finished[i]))
    }

    /// All durations: to the end of the body, and to the head.
    pub(crate) fn durations(&self) -> (Totals, Totals) {
        let mut full = Totals::new();
        let mut head = Totals::new();
        for shard in self.live_shards() {
            shard.full.add_to(&mut full);
            shard.head.add_to(&mut head);
        }
        (full, head)
    }

    /// Of those that were named, without what stands for others.
    pub(crate) fn templates(&self) -> Vec<Arc<str>> {
        let named = self.routes.iter().skip(OVERFLOW as usize + 1);
        named.filter_map(OnceLock::get).cloned().collect()
    }

    pub(crate) fn route_count(&self) -> usize {
        self.route_index.len()
    }

    pub(crate) fn series_count(&self) -> usize {
        self.series_index.len()
    }

    pub(crate) fn route(&self, id: RouteId) -> &str {
        self.routes
            .get(id as usize)
            .and_then(OnceLock::get)
            .map_or("__overflow__", |route| route)
    }

    /// Calls back with every series that has requests: its labels (none for the overflow series) and its cells.
    pub(crate) fn each_series(&self, mut f: impl FnMut(Option<SeriesKey>, &[u64], Layout)) {
        let mut cells = vec![0_u64; self.layout.cells()];
        for index in 0..=self.series_index.len() {
            let Some(key) = self.series[index].get().copied() else {
                continue;
            };
            cells.fill(0);
            for shard in self.live_shards() {
                if let Some(part) = shard.series[index].get() {
                    for (total, cell) in cells.iter_mut().zip(part) {
                        *total = total.wrapping_add(cell.load(Relaxed));
                    }
                }
            }
            let full = self.layout.full();
            if cells[full..=full + self.layout.durations]
                .iter()
                .any(|n| *n > 0)
            {
                f(
                    (key != OVERFLOW_KEY).then(|| SeriesKey::unpack(key)),
                    &cells,
                    self.layout,
                );
            }
        }
    }
}

/// Sums of the plain counters.
pub(crate) struct Counts {
    pub(crate) started: u64,
    pub(crate) finished: u64,
    pub(crate) cancelled: u64,
    pub(crate) failed: u64,
    pub(crate) overflow: u64,
}

impl Shard {
    fn new(series: usize) -> Self {
        Self {
            poll: PollCell::new(),
            started: Default::default(),
            finished: Default::default(),
            cancelled: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            overflow: AtomicU64::new(0),
            full: Histogram::new(),
            head: Histogram::new(),
            route_cache: std::array::from_fn(|_| AtomicU32::new(0)),
            series_cache: std::array::from_fn(|_| AtomicU32::new(0)),
            series: (0..series).map(|_| OnceLock::new()).collect(),
        }
    }
}

/// Tells short texts apart by their length and their ends.
#[inline]
fn digest(text: &[u8]) -> u64 {
    let word = |bytes: Option<&[u8; 8]>| bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes));
    word(text.first_chunk()) ^ word(text.last_chunk()).rotate_left(29) ^ text.len() as u64
}

/// Spreads a key over the cache.
#[inline]
fn mix(key: u64) -> usize {
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize
}

const _: () = assert!(CACHE == 256, "`mix` yields 8 bits");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_whose_bound_is_not_smaller() {
        for buckets in [crate::DurationBuckets::Otel, crate::DurationBuckets::Fine] {
            let config = MetricsConfig {
                duration_buckets: buckets,
                ..MetricsConfig::default()
            };
            let table = Table::new(config, None);
            let bounds = table.duration_bounds_ns.clone();
            let near = bounds
                .iter()
                .flat_map(|bound| [bound - 1, *bound, bound + 1]);
            for ns in near.chain((0..40).map(|bit| 3 << bit)).chain([0, u64::MAX]) {
                let expected = bounds.partition_point(|bound| *bound < ns);
                let cell = histogram::cell_of(ns);
                assert_eq!(table.duration_bucket(cell, ns), expected, "{ns} ns");
            }
        }
    }
}
