use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    num::NonZeroU64,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use crate::clock::mix;

/// Who a request belongs to: a connection, a peer, a tenant.
///
/// A limit lets no key take all of its places: under pressure the last quarter is for keys that hold less than a
/// quarter. See [`AdaptiveLimitLayer::key`](super::AdaptiveLimitLayer::key).
///
/// ```
/// use stellane_autotune::Key;
///
/// assert_eq!(Key::of("tenant-7"), Key::of("tenant-7"));
/// assert_ne!(Key::of("tenant-7"), Key::of("tenant-8"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(NonZeroU64);

impl Key {
    /// The key of whatever can be hashed.
    pub fn of(value: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        Self::from_number(hasher.finish())
    }

    /// The key of a number that is someone's already, such as that of a connection.
    #[inline]
    #[must_use]
    pub fn from_number(number: u64) -> Self {
        Self(NonZeroU64::new(number.wrapping_add(1)).unwrap_or(NonZeroU64::MAX))
    }

    /// The key of an address: of all of it for IPv4, of the first half for IPv6, since whoever has one address there has as
    /// many as he likes of the same /64. An IPv4 address that is written as one of IPv6 is what it is.
    ///
    /// ```
    /// use stellane_autotune::Key;
    ///
    /// let of = |address: &str| Key::peer(address.parse().unwrap());
    /// assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
    /// assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    /// assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    /// ```
    #[must_use]
    pub fn peer(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::of(address.octets()),
            IpAddr::V6(address) => Self::of(&address.octets()[..8]),
        }
    }

    pub(crate) fn number(self) -> u64 {
        self.0.get()
    }
}

/// The keys of one request: that of its connection, which nobody can choose, and another that the client may have
/// chosen. It is held to what both hold, so that a chosen key never gives it more than its connection has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Keys {
    pub(super) connection: Option<Key>,
    pub(super) chosen: Option<Key>,
}

impl Keys {
    #[inline]
    pub(super) fn is_none(self) -> bool {
        self.connection.is_none() && self.chosen.is_none()
    }

    fn all(self) -> impl Iterator<Item = Key> {
        [self.connection, self.chosen].into_iter().flatten()
    }
}

/// What the requests of each key hold, in so many bytes whatever the number of keys.
///
/// Two rows of counters; a key has one in each, by a hash that nobody can foresee, and the lower of both is an upper
/// bound of what it holds. Only keys that hold something count, and only beside one that holds a quarter of all can
/// another look heavier than it is: with four such, once in 65 000 keys.
#[derive(Debug)]
pub(super) struct KeyCounts {
    /// Made with the first key: a limit without keys pays nothing.
    rows: OnceLock<Box<[[Cell; COLUMNS]; ROWS]>>,
    secret: u64,
}

const ROWS: usize = 2;
const COLUMNS: usize = 1024;

/// What a key has.
#[derive(Debug, Default)]
pub(super) struct Cell {
    /// Requests that were let in and have not left, those that are lent among them.
    held: AtomicU32,
    lent: AtomicU32,
    debt: AtomicU32,
    exempt: AtomicU32,
}

/// What is counted.
pub(super) type Count = fn(&Cell) -> &AtomicU32;

/// Requests that were let in and have not left.
pub(super) const HELD: Count = |cell| &cell.held;
/// Those whose place is given back meanwhile.
pub(super) const LENT: Count = |cell| &cell.lent;
/// Those that are exempt.
pub(super) const EXEMPT: Count = |cell| &cell.exempt;
/// Those that took a place back which was no longer free.
pub(super) const DEBT: Count = |cell| &cell.debt;

impl KeyCounts {
    pub(super) fn new(secret: u64) -> Self {
        Self {
            rows: OnceLock::new(),
            secret,
        }
    }

    /// Whether there was a key yet.
    #[inline]
    pub(super) fn is_used(&self) -> bool {
        self.rows.get().is_some()
    }

    /// Whether the key had one before; a request without a key has not.
    #[inline]
    pub(super) fn add(&self, keys: Keys, what: Count) -> bool {
        let one_more = |cell: &Cell| what(cell).fetch_add(1, Relaxed);
        !keys.is_none() && self.count(keys, one_more).is_some_and(|before| before >= 1)
    }

    /// Whether the key has one still.
    #[inline]
    pub(super) fn sub(&self, keys: Keys, what: Count) -> bool {
        let one_less = |cell: &Cell| what(cell).fetch_sub(1, Relaxed);
        !keys.is_none() && self.count(keys, one_less).is_some_and(|before| before >= 2)
    }

    /// Counts in all cells; what the first one was. Apart, so that requests without a key pay nothing.
    #[inline(never)]
    fn count(&self, keys: Keys, count: impl Fn(&Cell) -> u32) -> Option<u32> {
        self.cells(keys).map(count).reduce(|first, _| first)
    }

    /// Of the key that has most.
    pub(super) fn get(&self, keys: Keys, what: Count) -> u32 {
        let of = |key| {
            let cells = self.cells_of(key).into_iter();
            // One that is subtracted before it is added, by another thread, is less than nothing.
            let count = |cell| i32::max(what(cell).load(Relaxed) as i32, 0) as u32;
            cells.map(count).min().unwrap_or(0)
        };
        keys.all().map(of).max().unwrap_or(0)
    }

    fn cells(&self, keys: Keys) -> impl Iterator<Item = &Cell> {
        keys.all().flat_map(|key| self.cells_of(key))
    }

    #[inline]
    fn cells_of(&self, key: Key) -> [&Cell; ROWS] {
        let rows = self.rows.get_or_init(|| {
            let row = || std::array::from_fn(|_| Cell::default());
            Box::new([row(), row()])
        });
        let hash = mix(key.number() ^ self.secret);
        [
            &rows[0][hash as usize % COLUMNS],
            &rows[1][(hash >> 32) as usize % COLUMNS],
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(number: u64) -> Keys {
        Keys {
            connection: Some(Key::from_number(number)),
            chosen: None,
        }
    }

    #[test]
    fn a_million_keys_that_come_and_go_leave_nothing() {
        let counts = KeyCounts::new(7);
        for number in 0..1_000_000 {
            counts.add(connection(number), HELD);
            assert!(counts.get(connection(number), HELD) >= 1);
            counts.sub(connection(number), HELD);
        }
        for number in 0..1000 {
            assert_eq!(counts.get(connection(number), HELD), 0);
        }
    }

    #[test]
    fn beside_a_heavy_key_others_stay_light() {
        let counts = KeyCounts::new(7);
        for _ in 0..1000 {
            counts.add(connection(u64::MAX), HELD);
        }
        let taken_for_heavy = (0..10_000)
            .filter(|number| counts.get(connection(*number), HELD) > 0)
            .count();
        assert!(taken_for_heavy <= 1, "{taken_for_heavy}");
    }

    #[test]
    fn a_chosen_key_gives_no_more_than_the_connection_has() {
        let counts = KeyCounts::new(7);
        let chosen = |number: u64| Keys {
            chosen: Some(Key::from_number(1000 + number)),
            ..connection(1)
        };
        for number in 0..10 {
            counts.add(chosen(number), HELD);
        }
        assert_eq!(counts.get(chosen(77), HELD), 10);
    }
}
