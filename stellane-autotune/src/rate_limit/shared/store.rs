use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
        mpsc::{self, Sender},
    },
    thread,
    time::Duration,
};

use super::{RateStoreConfig, question::Ask, state::State, worker::Worker};
use crate::BuildError;

/// The connection to the store of shared rates: the handle, cheap to clone. See the [module](super).
///
/// One for all rates of a program. Its thread ends with the last clone and the last rate.
#[derive(Clone)]
pub struct RateStore {
    asks: Sender<Ask>,
    state: Arc<State>,
}

impl RateStore {
    /// A builder for the store at this URL: `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`, or `unix:PATH`.
    pub fn builder(url: impl Into<String>) -> RateStoreBuilder {
        RateStoreBuilder(RateStoreConfig::default().with(|config| config.url = url.into()))
    }

    /// What happened so far.
    #[must_use]
    pub fn stats(&self) -> RateStoreStats {
        let State {
            is_there,
            trips,
            failures,
            replicas,
            ..
        } = &*self.state;
        RateStoreStats {
            is_there: is_there.load(Relaxed),
            round_trips: trips.load(Relaxed),
            failures: failures.load(Relaxed),
            replicas: replicas.load(Relaxed),
        }
    }

    /// Whether it is asked at all.
    pub(super) fn is_there(&self) -> bool {
        self.state.is_there.load(SeqCst)
    }

    /// Asks, if there is a store. Whoever waits for an answer and gets none goes on without.
    pub(super) fn ask(&self, ask: Ask) {
        // The thread says that there is none before it looks for questions for the last time.
        if self.is_there() {
            let _ = self.asks.send(ask);
        }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.state.prefix
    }

    /// How many replicas there were when the store was last there, at least one.
    pub(super) fn replicas(&self) -> u32 {
        self.state.replicas.load(Relaxed).max(1)
    }
}

impl fmt::Debug for RateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stats().fmt(f)
    }
}

/// What a [`RateStore`] did so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RateStoreStats {
    /// Whether it answers.
    pub is_there: bool,
    /// How often something was sent to it and an answer came. One each second is this replica's sign of life.
    pub round_trips: u64,
    /// How often it was away, or refused what it was asked.
    pub failures: u64,
    /// How many replicas use it, this one included: those that were there in the last three seconds.
    pub replicas: u32,
}

/// Builds a [`RateStore`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct RateStoreBuilder(RateStoreConfig);

impl RateStoreBuilder {
    /// The settings, in the place of those given before.
    pub fn config(mut self, config: RateStoreConfig) -> Self {
        self.0 = config;
        self
    }

    /// What the names of all keys begin with. Default: `stellane`.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.0.prefix = prefix.into();
        self
    }

    /// How long a request waits for the store at most. Default: 20 ms.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.0.timeout = timeout;
        self
    }

    /// Starts its thread, which connects: the store need not be there yet.
    ///
    /// # Errors
    ///
    /// Lists all values of the configuration that are out of range; or there is no room for a thread.
    pub fn build(self) -> Result<RateStore, BuildError> {
        self.0.validate()?;
        let wrong = |problem: String| {
            let error = crate::ConfigError::new("url", "(not shown)", problem);
            BuildError::Config(vec![error])
        };
        let client = self.0.client().map_err(wrong)?;
        let (asks, questions) = mpsc::channel();
        let state = Arc::new(State {
            prefix: self.0.prefix,
            is_there: AtomicBool::new(false),
            trips: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            replicas: AtomicU32::new(0),
        });
        let replica = RandomState::new().hash_one(0_u8);
        let worker = Worker::new(client, self.0.timeout, Arc::clone(&state), replica);
        thread::Builder::new()
            .name("stellane-rates".to_owned())
            .spawn(move || worker.run(&questions))
            .map_err(|error| wrong(format!("a thread for it: {error}")))?;
        Ok(RateStore { asks, state })
    }
}
