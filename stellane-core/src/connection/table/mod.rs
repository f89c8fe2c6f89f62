//! The records of the live connections, and what counts and reaches them.

pub(crate) mod budget;
pub(crate) mod clock;
pub(crate) mod command;
pub(crate) mod end_hooks;
pub(crate) mod flags;
pub(crate) mod owner;
pub(crate) mod record;
pub(crate) mod throughput;
pub(crate) mod totals;
pub(crate) mod turn;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
};

use crate::connection::{state::ConnectionInfo, table::record::Record};

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

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Most {
    pub(crate) all: usize,
    /// Of one peer; `0` is no limit.
    pub(crate) per_peer: usize,
}

/// Why there is no room for another connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoRoom {
    Full,
    /// Its peer has as many as it may.
    Peer,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection, unless there are too many. Nobody sees the table between that and `count_begin`.
    ///
    /// # Errors
    /// There is no room for it.
    pub(crate) fn insert(
        &self,
        peer: Option<SocketAddr>,
        group: u16,
        now: u64,
        most: Most,
        count_begin: impl FnOnce(),
    ) -> Result<Arc<Record>, NoRoom> {
        let Most { all, per_peer } = most;
        let mut inner = self.lock();
        if inner.records.len() - inner.holes.len() >= all {
            return Err(NoRoom::Full);
        }
        let counted = per_peer > 0 && peer.is_some();
        if let (Some(peer), true) = (peer, counted) {
            let count = inner.peers.entry(prefix(peer.ip())).or_default();
            if *count >= per_peer {
                return Err(NoRoom::Peer);
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
        Ok(record)
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

    /// The `count` connections with the least keys, of those that have one, in their order.
    pub(crate) fn least<K: Ord + Copy>(
        &self,
        count: usize,
        mut key: impl FnMut(&Record) -> Option<K>,
    ) -> Vec<(K, Arc<Record>)> {
        let mut keyed = Vec::new();
        self.for_each(|record| keyed.extend(key(record).map(|key| (key, Arc::clone(record)))));
        if keyed.len() > count {
            keyed.select_nth_unstable_by_key(count, |(key, _)| *key);
            keyed.truncate(count);
        }
        keyed.sort_unstable_by_key(|(key, _)| *key);
        keyed
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
pub(crate) fn prefix(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => v4.into(),
            None => IpAddr::from((v6.to_bits() >> 64 << 64).to_be_bytes()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: usize = 12;

    fn insert(table: &Table, peer: Option<SocketAddr>, per_peer: usize) -> Option<Arc<Record>> {
        let most = Most { all: ALL, per_peer };
        table.insert(peer, 0, 0, most, || ()).ok()
    }

    #[test]
    fn there_are_never_more_than_there_may_be() {
        let table = Table::default();
        let records: Vec<_> = (0..20).filter_map(|_| insert(&table, None, 0)).collect();
        assert_eq!(records.len(), ALL);
        table.remove(&records[3], || ());
        assert!(insert(&table, None, 0).is_some() && insert(&table, None, 0).is_none());
    }

    #[test]
    fn a_peer_has_as_many_as_it_may_and_a_place_again_when_one_ends() {
        let table = Table::default();
        for (address, admitted) in [
            ("192.0.2.1:1", true),
            ("192.0.2.1:2", true),
            ("192.0.2.1:3", false),
            ("[::ffff:192.0.2.1]:4", false),
            ("192.0.2.2:1", true),
            ("[2001:db8::1]:1", true),
            ("[2001:db8::2]:1", true),
            ("[2001:db8::3]:1", false),
            ("[2001:db8:0:1::1]:1", true),
        ] {
            let peer = address.parse().expect("an address");
            assert_eq!(
                insert(&table, Some(peer), 2).is_some(),
                admitted,
                "{address}"
            );
        }
        assert!(
            (0..5).all(|_| insert(&table, None, 2).is_some()),
            "of Unix sockets"
        );
        let first = table.at(0).expect("is there");
        table.remove(&first, || ());
        assert!(insert(&table, first.peer(), 2).is_some());
    }

    #[test]
    fn places_are_used_again_and_ids_are_not() {
        let table = Table::default();
        let records: Vec<_> = (0..3).filter_map(|_| insert(&table, None, 0)).collect();
        table.remove(&records[1], || ());
        assert!(table.at(1).is_none());
        let next = insert(&table, None, 0).expect("no limit");
        assert_eq!((next.slot(), next.id()), (1, 4));
        for record in [&records[0], &records[2], &next] {
            table.remove(record, || ());
        }
        assert_eq!(table.open_in(0), 0);
        let next = insert(&table, None, 0).expect("no limit");
        assert_eq!(
            (next.slot(), next.id()),
            (0, 5),
            "also after the last one has left"
        );
    }

    #[test]
    fn those_with_the_least_keys_are_found() {
        let table = Table::default();
        for _ in 0..4 {
            insert(&table, None, 0);
        }
        // The later, the less; one has none.
        let key = |record: &Record| (record.id() != 1).then_some(9 - record.id());
        for (count, expected) in [(0, vec![]), (2, vec![4, 3]), (9, vec![4, 3, 2])] {
            let ids: Vec<_> = table
                .least(count, key)
                .iter()
                .map(|(_, r)| r.id())
                .collect();
            assert_eq!(ids, expected);
        }
    }

    #[test]
    fn a_visit_goes_on_where_it_was_left() {
        let table = Table::default();
        for _ in 0..5 {
            insert(&table, None, 0);
        }
        let (mut next, mut visited) = (Some(0), Vec::new());
        while let Some(from) = next {
            next = table.visit(from, 3, |record| {
                visited.push(record.id());
                // Enough, in the middle of the first piece.
                record.id() != 2
            });
            visited.push(0);
        }
        assert_eq!(visited, [1, 2, 0, 3, 4, 5, 0]);
    }
}
