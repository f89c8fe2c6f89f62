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

/// What a key has, by [`Count`].
type Cell = [AtomicU32; 4];

/// What is counted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Count {
    /// Requests that were let in and have not left, those that are lent among them.
    Held,
    /// Those whose place is given back meanwhile.
    Lent,
    /// Those that took a place back which was no longer free.
    Debt,
    /// Those that are exempt.
    Exempt,
}

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
        self.count(keys, what, 1) >= 1
    }

    /// Whether the key has one still.
    #[inline]
    pub(super) fn sub(&self, keys: Keys, what: Count) -> bool {
        self.count(keys, what, u32::MAX) >= 2
    }

    /// Adds to all cells, and wraps; what the first one was.
    #[inline]
    fn count(&self, keys: Keys, what: Count, by: u32) -> u32 {
        let connection = keys.connection.map(|key| self.count_one(key, what, by));
        let chosen = keys.chosen.map(|key| self.count_one(key, what, by));
        connection.or(chosen).unwrap_or(0)
    }

    /// Apart, so that requests without a key pay nothing.
    #[inline(never)]
    fn count_one(&self, key: Key, what: Count, by: u32) -> u32 {
        let [one, other] = self.cells_of(key);
        other[what as usize].fetch_add(by, Relaxed);
        one[what as usize].fetch_add(by, Relaxed)
    }

    /// Of the key that has most.
    pub(super) fn get(&self, keys: Keys, what: Count) -> u32 {
        let of = |key| {
            let [one, other] = self.cells_of(key);
            // One that is subtracted before it is added, by another thread, is less than nothing.
            let count = |cell: &Cell| i32::max(cell[what as usize].load(Relaxed) as i32, 0) as u32;
            count(one).min(count(other))
        };
        let connection = keys.connection.map_or(0, of);
        connection.max(keys.chosen.map_or(0, of))
    }

    #[inline]
    fn cells_of(&self, key: Key) -> [&Cell; ROWS] {
        let rows = match self.rows.get() {
            Some(rows) => rows,
            None => self.first_rows(),
        };
        let hash = mix(key.number() ^ self.secret);
        [
            &rows[0][hash as usize % COLUMNS],
            &rows[1][(hash >> 32) as usize % COLUMNS],
        ]
    }

    #[cold]
    fn first_rows(&self) -> &[[Cell; COLUMNS]; ROWS] {
        self.rows.get_or_init(|| {
            let row = || std::array::from_fn(|_| Cell::default());
            Box::new([row(), row()])
        })
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
            counts.add(connection(number), Count::Held);
            assert!(counts.get(connection(number), Count::Held) >= 1);
            counts.sub(connection(number), Count::Held);
        }
        for number in 0..1000 {
            assert_eq!(counts.get(connection(number), Count::Held), 0);
        }
    }

    #[test]
    fn beside_a_heavy_key_others_stay_light() {
        let counts = KeyCounts::new(7);
        for _ in 0..1000 {
            counts.add(connection(u64::MAX), Count::Held);
        }
        let taken_for_heavy = (0..10_000)
            .filter(|number| counts.get(connection(*number), Count::Held) > 0)
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
            counts.add(chosen(number), Count::Held);
        }
        assert_eq!(counts.get(chosen(77), Count::Held), 10);
    }
}
