//! A string interner that never grows past its bound.

mod atom;
mod config;
mod front;
mod frozen;
#[cfg(feature = "intern-layer")]
mod interned;
#[cfg(feature = "intern-layer")]
mod layer;
#[cfg(all(feature = "intern-layer", feature = "router"))]
mod route;

use std::{
    fmt,
    hash::BuildHasher,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use foldhash::fast::RandomState;
use quick_cache::{
    OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle},
};

use self::frozen::Frozen;
#[cfg(all(feature = "intern-layer", feature = "router"))]
pub use self::route::InternedRoute;
pub use self::{atom::Atom, config::InternerConfig};
#[cfg(feature = "intern-layer")]
pub use self::{
    interned::Interned,
    layer::{InternLayer, InternService},
};
use crate::ConfigError;

/// What an entry costs besides its text: the counts of the `Arc`, the allocator's header, and the
/// cache's own slot, links, hash entry and share of ghosts, spare capacity of a table that has just
/// doubled included. Measured by `tests/interner_attack.rs`.
const ENTRY_OVERHEAD: u64 = 168;
/// The bits of the doorkeeper: 16 KiB.
const DOOR_BITS: usize = 1 << 17;

/// Turns equal strings into one.
///
/// Two tiers: a frozen vocabulary, read without lock or counter, and a dynamic one bounded in bytes
/// that evicts what is not used. Beyond the bound [`intern`](Self::intern) still returns an
/// [`Atom`], one that owns its text and is remembered nowhere. So a client that sends ten million
/// different strings gets ten million strings freed again, and nothing else happens.
///
/// A word of the dynamic tier that a thread asks for again and again is kept by that thread as well, so that it costs no
/// lock and no count that all cores write: up to 512 words for each thread, beyond the bound. Its atoms are equal to those
/// of other threads, but not in the same place.
///
/// Cloning is one reference count. The frozen vocabulary is never freed, also not with the last
/// clone: that is what makes its atoms free to copy. Build an interner once, not per request.
///
/// ```
/// use stellane_router::Interner;
///
/// let interner = Interner::builder().vocabulary(["eu-west", "us-east"]).build()?;
/// let region = interner.intern("eu-west");
/// assert_eq!(region, "eu-west");
/// assert!(interner.lookup("attack-1").is_none());
/// assert_eq!(interner.stats().entries, 0);
/// # Ok::<(), Vec<stellane_router::ConfigError>>(())
/// ```
#[derive(Clone)]
pub struct Interner(Arc<Shared>);

struct Shared {
    frozen: Frozen,
    hasher: RandomState,
    dynamic: Cache<Arc<str>, Arc<str>, Bytes, RandomState>,
    max_len: usize,
    /// Strings seen once, if the second sight is what admits them.
    door: Option<Door>,
    max_bytes: AtomicU64,
    /// Counts the changes of `max_bytes`: what threads keep of before is no longer asked for.
    epoch: AtomicU64,
    counts: Counts,
}

/// Apart from what every look-up reads.
#[derive(Default)]
#[repr(align(128))]
struct Counts {
    inserted: AtomicU64,
    bypassed: AtomicU64,
}

/// Collects the vocabulary and limits of an [`Interner`].
#[derive(Debug, Clone, Default)]
#[must_use = "a builder does nothing until it is built"]
pub struct InternerBuilder {
    vocabulary: Vec<Box<str>>,
    config: InternerConfig,
}

/// The state of an [`Interner`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct InternerStats {
    /// Strings in the frozen vocabulary.
    pub frozen: u64,
    /// Strings in the dynamic tier.
    pub entries: u64,
    /// What the dynamic tier costs, bookkeeping included.
    pub bytes: u64,
    /// The bound on `bytes`.
    pub max_bytes: u64,
    /// Strings ever admitted to the dynamic tier.
    pub inserted: u64,
    /// Strings handed back without being remembered: too long, or not seen often enough.
    pub bypassed: u64,
}

impl Interner {
    /// Begins an interner with the default limits; see [`InternerConfig`].
    pub fn builder() -> InternerBuilder {
        InternerBuilder::default()
    }

    /// The atom of a string that is in the vocabulary or the dynamic tier; never remembers it.
    ///
    /// The right one for what a client sends.
    #[must_use]
    pub fn lookup(&self, text: &str) -> Option<Atom> {
        let hash = self.0.hasher.hash_one(text);
        if let Some(word) = self.0.frozen.find(hash, text) {
            return Some(Atom::from_static(word));
        }
        if text.len() > self.0.max_len {
            return None;
        }
        self.0.known(hash, text)
    }

    /// The atom of a string; remembers it within the bound and never fails.
    #[must_use]
    pub fn intern(&self, text: &str) -> Atom {
        let this = &*self.0;
        let hash = this.hasher.hash_one(text);
        if let Some(word) = this.frozen.find(hash, text) {
            return Atom::from_static(word);
        }
        if text.len() <= this.max_len {
            if let Some(known) = this.known(hash, text) {
                return known;
            }
            if this.max_bytes.load(Ordering::Relaxed) > 0
                && this.door.as_ref().is_none_or(|door| door.seen(hash))
            {
                let text: Arc<str> = text.into();
                this.counts.inserted.fetch_add(1, Ordering::Relaxed);
                this.dynamic.insert(Arc::clone(&text), Arc::clone(&text));
                return Atom::from_shared(text);
            }
        }
        this.counts.bypassed.fetch_add(1, Ordering::Relaxed);
        Atom::from_shared(text.into())
    }

    /// The state now.
    #[must_use]
    pub fn stats(&self) -> InternerStats {
        let this = &*self.0;
        InternerStats {
            frozen: this.frozen.len() as u64,
            entries: this.dynamic.len() as u64,
            bytes: this.dynamic.weight(),
            max_bytes: this.max_bytes.load(Ordering::Relaxed),
            inserted: this.counts.inserted.load(Ordering::Relaxed),
            bypassed: this.counts.bypassed.load(Ordering::Relaxed),
        }
    }

    /// Changes the bound of the dynamic tier; 0 empties it and turns it off.
    ///
    /// Too low, and strings in use are evicted and allocated again; too high only costs memory.
    pub fn set_max_bytes(&self, max_bytes: u64) {
        self.0.max_bytes.store(max_bytes, Ordering::Relaxed);
        self.0.epoch.fetch_add(1, Ordering::Relaxed);
        self.0.dynamic.set_capacity(max_bytes);
        if max_bytes == 0 {
            self.0.dynamic.clear();
        }
    }
}

impl Shared {
    /// The atom of a word of the dynamic tier.
    #[inline]
    fn known(&self, hash: u64, text: &str) -> Option<Atom> {
        // The hash is this interner's own; should another have the same, the text decides.
        let key = hash ^ self.epoch.load(Ordering::Relaxed);
        if let Some(copy) = front::find(key, text) {
            return Some(Atom::from_shared(copy));
        }
        let known = self.dynamic.get(text)?;
        front::note(key, text);
        Some(Atom::from_shared(known))
    }
}

impl fmt::Debug for Interner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Interner").field(&self.stats()).finish()
    }
}

impl InternerBuilder {
    /// Adds words to the frozen vocabulary. They are never freed, even when the interner is dropped: an
    /// [`Atom`] of theirs is a `&'static str`. So they have to be words of the program, not of its clients.
    pub fn vocabulary<T: AsRef<str>>(mut self, words: impl IntoIterator<Item = T>) -> Self {
        self.vocabulary
            .extend(words.into_iter().map(|word| word.as_ref().into()));
        self
    }

    /// Adds the templates of a table and the names of their parameters to the vocabulary.
    #[cfg(feature = "router")]
    pub fn table(mut self, table: &crate::RouteTable) -> Self {
        for route in table.routes() {
            self.vocabulary.push(route.template().into());
            self.vocabulary.extend(route.params().map(Into::into));
        }
        self
    }

    /// Sets the limits.
    pub fn config(mut self, config: InternerConfig) -> Self {
        self.config = config;
        self
    }

    /// The bound of the dynamic tier in bytes; see [`InternerConfig::max_bytes`].
    pub const fn max_bytes(mut self, max_bytes: u64) -> Self {
        self.config.max_bytes = max_bytes;
        self
    }

    /// The longest string remembered, in bytes; see [`InternerConfig::max_len`].
    pub const fn max_len(mut self, max_len: u32) -> Self {
        self.config.max_len = max_len;
        self
    }

    /// At which sight a string is remembered; see [`InternerConfig::admit_after`].
    pub const fn admit_after(mut self, sights: u32) -> Self {
        self.config.admit_after = sights;
        self
    }

    /// Builds the interner.
    ///
    /// # Errors
    ///
    /// All settings that are out of range.
    pub fn build(self) -> Result<Interner, Vec<ConfigError>> {
        self.config.validate()?;
        let InternerConfig {
            max_bytes,
            max_len,
            admit_after,
            ..
        } = self.config;
        let hasher = RandomState::default();
        // A capacity must have room for one entry in each shard.
        let typical = ENTRY_OVERHEAD + 32;
        let options = OptionsBuilder::new()
            .estimated_items_capacity((max_bytes / typical).clamp(32, 1 << 20) as usize)
            .weight_capacity(max_bytes)
            .build()
            .map_err(|error| {
                vec![ConfigError {
                    key: "max_bytes",
                    value: max_bytes.to_string(),
                    expected: error.to_string(),
                }]
            })?;
        Ok(Interner(Arc::new(Shared {
            frozen: Frozen::new(self.vocabulary, &hasher),
            dynamic: Cache::with_options(
                options,
                Bytes,
                hasher.clone(),
                DefaultLifecycle::default(),
            ),
            hasher,
            max_len: max_len as usize,
            door: (admit_after > 1).then(Door::new),
            max_bytes: AtomicU64::new(max_bytes),
            epoch: AtomicU64::new(0),
            counts: Counts::default(),
        })))
    }
}

/// The weight of an entry in bytes.
#[derive(Debug, Clone, Copy)]
struct Bytes;

impl Weighter<Arc<str>, Arc<str>> for Bytes {
    fn weight(&self, text: &Arc<str>, _: &Arc<str>) -> u64 {
        text.len() as u64 + ENTRY_OVERHEAD
    }
}

/// Remembers, roughly, what was seen once: a bit per hash, all cleared when a quarter are set.
struct Door {
    bits: Box<[AtomicU64]>,
    set: Set,
}

/// How many bits are set; apart from what every look-up reads.
#[derive(Default)]
#[repr(align(128))]
struct Set(AtomicUsize);

impl Door {
    fn new() -> Self {
        Self {
            bits: (0..DOOR_BITS / 64).map(|_| AtomicU64::new(0)).collect(),
            set: Set::default(),
        }
    }

    /// Whether it was seen before; from now on it was.
    ///
    /// Races lose or keep a bit too many: a string is admitted one sight too late or too early.
    fn seen(&self, hash: u64) -> bool {
        // The cache uses the other end of the hash.
        let at = (hash >> 40) as usize % DOOR_BITS;
        let bit = 1 << (at % 64);
        if self.bits[at / 64].fetch_or(bit, Ordering::Relaxed) & bit != 0 {
            return true;
        }
        if self.set.0.fetch_add(1, Ordering::Relaxed) >= DOOR_BITS / 4 {
            self.set.0.store(0, Ordering::Relaxed);
            self.bits
                .iter()
                .for_each(|word| word.store(0, Ordering::Relaxed));
        }
        false
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").finish_non_exhaustive()
    }
}
