//! Rates that all replicas of a service share, by Redis 5 or later, or Valkey.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use stellane_autotune::{Key, rate_limit::shared::{RateStore, SharedRateLimit, SharedRateLimitLayer}};
//!
//! let store = RateStore::builder("redis://:password@cache:6379/0").build()?;
//! let limit = SharedRateLimit::builder(&store, "api-keys").rule("1000/s".parse()?).rule("100000/h".parse()?).build()?;
//! let layer = SharedRateLimitLayer::new(&limit, |head| head.headers.get("x-api-key").map(Key::of));
//! # let _ = layer;
//! # Ok(()) }
//! ```
//!
//! # What is asked, and how often
//!
//! The rule is kept by a script in the store, on the clock of the store: replicas' clocks don't matter. Each replica remembers what
//! the store told of a key. Who is over the rate is refused without a question until the time that the store said. Who is within it
//! may take what the rule frees in 25 ms before the replica asks again, and pays for it with that question: a key of `1000/s` costs
//! one question in 26 requests, one of less than `40/s` one each.
//!
//! What is paid late may count against whoever keeps to the rate, so the store lets that much pass. All in all a key may get more
//! than the rule says by what the rule frees in 50 ms, for each replica, once; over a longer time the rule holds. Of one replica,
//! and of rates below `40/s`, it holds to the last request.
//!
//! Questions of the same moment go together, in one round trip; so do requests of one key in one question. A request
//! waits for its question, some tenths of a millisecond beside a store that is near.
//!
//! # When the store is away
//!
//! No request fails, and none waits for longer than [`timeout`](RateStoreConfig::timeout): a command that is not answered by then ends the
//! connection, and until another one works nobody asks. Meanwhile each replica keeps to the rule by itself, from what it knows, or as
//! [`WithoutStore`] says otherwise. It tries again after a tenth of a second, then at longer intervals of up to one. The same is done
//! with a store that lacks memory, has become a replica of another (`READONLY`), or refuses the password. A warning (feature `tracing`)
//! is written when it begins, and how long it took when it is over; [`SharedRateLimitStats::without_store`] counts the requests.
//!
//! A store that is flushed, or that took over from another without all of its data, begins with full buckets: each key may have
//! its burst once more. A clock of a store that goes back makes nobody wait for longer.
//!
//! # What it costs
//!
//! A key that owes something takes some 150 bytes in the store, and is gone a second after it owes nothing. One core of Redis runs
//! the script some 50 000 times a second. The connection and all questions are those of one thread for each [`RateStore`].
//!
//! # What it can't do
//!
//! One server, or one name for the one that is in charge: neither Cluster nor Sentinel. For `rediss://` add the crate `redis` with its
//! feature `tls-rustls` to the program. The store sees no key, only 64 bits of its hash.

mod config;
mod layer;
mod limit;
mod question;
mod state;
mod store;
mod worker;

pub use config::RateStoreConfig;

pub use layer::{SharedRateLimitFuture, SharedRateLimitLayer, SharedRateLimitService};
pub use limit::{
    SharedCheck, SharedRateLimit, SharedRateLimitBuilder, SharedRateLimitStats, SharedRateLimited,
};
pub use store::{RateStore, RateStoreBuilder, RateStoreStats};

#[doc(no_inline)]
pub use super::WithoutStore;
