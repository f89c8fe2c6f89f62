pub(crate) mod clock;
pub(crate) mod command;
pub(crate) mod end_hooks;
pub(crate) mod owner;
pub(crate) mod record;
pub(crate) mod throughput;
pub(crate) mod totals;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
};

use crate::connection::{
    state::{ConnectionInfo, ConnectionState},
    table::record::Record,
};

/// The live connections. Locked once for each accept and end, and by the sweep; never for a request.
#[derive(Debug, Default)]
pub(crate) struct Table {
    inner: Mutex<Inner>,
    /// For the next call of `serve`.
    next_group: AtomicU16,
}

#[derive(Debug, Default)]
struct Inner {
    /// Holes are reused, so that the sweep walks a dense list.
    records: Vec<Option<Arc<Record>>>,
    holes: Vec<u32>,
    peers: HashMap<IpAddr, usize>,
    /// How many there are of each call of `serve`.
    groups: HashMap<u16, usize>,
    next_id: u64,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection, unless its peer has `per_peer` already (`0`: no limit). Nobody sees the table between
    /// that and `count_begin`.
    pub(crate) fn insert(
        &self,
        peer: Option<SocketAddr>,
        group: u16,
        now: u64,
        per_peer: usize,
        count_begin: impl FnOnce(),
    ) -> Option<Arc<Record>> {
        let mut inner = self.lock();
        let counted = per_peer > 0 && peer.is_some();
        if let (Some(peer), true) = (peer, counted) {
            let count = inner.peers.entry(prefix(peer.ip())).or_default();
            if *count >= per_peer {
                return None;
            }
            *count += 1;
        }
        count_begin();
        *inner.groups.entry(group).or_default() += 1;
        inner.next_id += 1;
        let slot = match inner.holes.pop() {
            Some(hole) => hole,
            None => {
                inner.records.push(None);
                // Bounded by the number of open files, far below.
                u32::try_from(inner.records.len() - 1).unwrap_or(u32::MAX)
            }
        };
        let record = Arc::new(Record::new(inner.next_id, slot, peer, counted, group, now));
        inner.records[slot as usize] = Some(Arc::clone(&record));
        Some(record)
    }

    /// The connection at a place.
    pub(crate) fn at(&self, slot: usize) -> Option<Arc<Record>> {
        self.lock().records.get(slot)?.clone()
    }

    /// Removes a connection. Nobody sees the table between that and `count_end`.
    pub(crate) fn remove(&self, record: &Record, count_end: impl FnOnce()) {
        let mut inner = self.lock();
        count_end();
        if let Some(place) = inner.records.get_mut(record.slot() as usize) {
            *place = None;
        }
        inner.holes.push(record.slot());
        if let Some(count) = inner.groups.get_mut(&record.group()) {
            *count -= 1;
        }
        if record.is_counted()
            && let Some(peer) = record.peer().map(|peer| prefix(peer.ip()))
            && let Some(count) = inner.peers.get_mut(&peer)
        {
            *count -= 1;
            if *count == 0 {
                inner.peers.remove(&peer);
            }
        }
        if inner.holes.len() == inner.records.len() {
            // The last one left: give the memory of the busiest hour back.
            *inner = Inner {
                next_id: inner.next_id,
                ..Inner::default()
            };
        }
    }

    /// A number for a call of `serve`.
    pub(crate) fn next_group(&self) -> u16 {
        self.next_group.fetch_add(1, Relaxed)
    }

    /// How many connections this call of `serve` has.
    pub(crate) fn open_in(&self, group: u16) -> usize {
        self.lock().groups.get(&group).copied().unwrap_or(0)
    }

    /// Runs `count` while nobody sees the table.
    pub(crate) fn unseen(&self, count: impl FnOnce()) {
        let _inner = self.lock();
        count();
    }

    /// Visits every connection.
    pub(crate) fn for_each(&self, visit: impl FnMut(&Arc<Record>)) {
        self.for_each_after(|| (), visit);
    }

    /// Visits every connection; none begins or ends between `first` and that.
    pub(crate) fn for_each_after<T>(
        &self,
        first: impl FnOnce() -> T,
        mut visit: impl FnMut(&Arc<Record>),
    ) -> T {
        let inner = self.lock();
        let first = first();
        inner.records.iter().flatten().for_each(&mut visit);
        first
    }

    /// Visits connections in order, from a place on, until `visit` says that it is enough or `most` places are
    /// passed: the next place, if there is one.
    pub(crate) fn visit(
        &self,
        from: usize,
        most: usize,
        mut visit: impl FnMut(&Arc<Record>) -> bool,
    ) -> Option<usize> {
        let inner = self.lock();
        let end = inner.records.len().min(from + most);
        let mut next = from;
        while next < end {
            let record = inner.records[next].as_ref();
            next += 1;
            if record.is_some_and(|record| !visit(record)) {
                break;
            }
        }
        (next < inner.records.len()).then_some(next)
    }

    /// The `count` connections that have been idle longest.
    pub(crate) fn idlest(&self, count: usize) -> Vec<Arc<Record>> {
        use ConnectionState::{Idle, New, Parked};
        let mut idle: Vec<_> = self
            .lock()
            .records
            .iter()
            .flatten()
            .filter(|record| matches!(record.state(), Idle | Parked | New))
            .map(|record| (record.since(), Arc::clone(record)))
            .collect();
        if idle.len() > count {
            idle.select_nth_unstable_by_key(count, |(since, _)| *since);
            idle.truncate(count);
        }
        idle.into_iter().map(|(_, record)| record).collect()
    }

    pub(crate) fn list(&self, now: u64) -> Vec<ConnectionInfo> {
        self.lock()
            .records
            .iter()
            .flatten()
            .map(|record| record.info(now))
            .collect()
    }
}

/// What counts as one peer: a whole IPv6 subscriber network, since each has 2^64 addresses.
fn prefix(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => v4.into(),
            None => IpAddr::from((v6.to_bits() >> 64 << 64).to_be_bytes()),
        },
    }
}
