use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    RateStore,
    question::{Ask, Rate},
};
use crate::{
    BuildError, Clock, ConfigError, Key,
    rate_limit::{
        RateLeft, RateLimit, RateLimitBuilder, RateLimitConfig, RateLimitStats, RateLimited,
        RateRule, WithoutStore, table::Debt,
    },
};

/// How often each key may ask of all replicas together: the handle, cheap to clone. See the [module](super).
#[derive(Debug, Clone)]
pub struct SharedRateLimit(Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    rate: Arc<Rate>,
    store: RateStore,
    without_store: WithoutStore,
    asked: AtomicU64,
    without: AtomicU64,
}

impl SharedRateLimit {
    /// A builder without a rule, which needs one at least. Replicas share the rates of the same name.
    pub fn builder(store: &RateStore, name: impl Into<String>) -> SharedRateLimitBuilder {
        SharedRateLimitBuilder {
            store: store.clone(),
            name: name.into(),
            local: RateLimit::builder(),
            without_store: WithoutStore::default(),
        }
    }

    /// Takes `cost` requests of `key`, or none. The future is ready at once unless the store has to be asked; it needs no runtime.
    /// Dropped before it is ready, it may have taken them.
    pub fn check(&self, key: Key, cost: u32) -> SharedCheck {
        match self.decide(key, cost) {
            Ok(decided) => self.checked(key, cost, State::Ready(decided)),
            Err(asked) => asked,
        }
    }

    /// The answer, or the question.
    pub(super) fn decide(
        &self,
        key: Key,
        cost: u32,
    ) -> Result<Result<RateLeft, SharedRateLimited>, SharedCheck> {
        let Shared { rate, store, .. } = &*self.0;
        if !store.is_there() {
            return Ok(self.alone(key, cost));
        }
        match rate.local.take_leased(key, cost) {
            Ok(decided) => Ok(decided.map_err(SharedRateLimited::Rate)),
            Err(debt) => Err(self.checked(key, cost, State::Asked(self.ask(key, cost, debt)))),
        }
    }

    fn checked(&self, key: Key, cost: u32, state: State) -> SharedCheck {
        SharedCheck {
            limit: self.clone(),
            key,
            cost,
            state,
        }
    }

    fn ask(&self, key: Key, cost: u32, debt: Debt) -> Answer {
        self.0.asked.fetch_add(1, Relaxed);
        let (answer, receiver) = oneshot::channel();
        let rate = Arc::clone(&self.0.rate);
        self.0.store.ask(Ask {
            rate,
            key,
            cost,
            debt,
            since: Instant::now(),
            answer,
        });
        receiver
    }

    fn alone(&self, key: Key, cost: u32) -> Result<RateLeft, SharedRateLimited> {
        let Shared {
            rate,
            store,
            without_store,
            without,
            ..
        } = &*self.0;
        without.fetch_add(1, Relaxed);
        let replicas = match without_store {
            WithoutStore::Whole => 1,
            WithoutStore::Share => store.replicas(),
            WithoutStore::Refuse => return Err(SharedRateLimited::WithoutStore),
        };
        rate.local
            .check_share(key, cost, replicas)
            .map_err(SharedRateLimited::Rate)
    }

    /// The rules in force.
    #[must_use]
    pub fn rules(&self) -> Vec<RateRule> {
        self.0.rate.local.rules()
    }

    /// Changes the rates while they are in use, of this replica: the store keeps to what each asks it to.
    ///
    /// # Errors
    ///
    /// There are not as many rules as before.
    pub fn set_rules(&self, rules: &[RateRule]) -> Result<(), ConfigError> {
        self.0.rate.local.set_rules(rules)
    }

    /// What happened so far in this replica. It looks at each key, and is meant for a scrape, not for each request.
    #[must_use]
    pub fn stats(&self) -> SharedRateLimitStats {
        SharedRateLimitStats {
            local: self.local().stats(),
            asked: self.asked(),
            without_store: self.without_store(),
        }
    }

    /// Requests for which the store had to be asked, of this replica.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.0.asked.load(Relaxed)
    }

    /// Requests of this replica that were decided without the store, since it was away.
    #[must_use]
    pub fn without_store(&self) -> u64 {
        self.0.without.load(Relaxed)
    }

    pub(super) fn local(&self) -> &RateLimit {
        &self.0.rate.local
    }
}

type Answer = oneshot::Receiver<Result<RateLeft, RateLimited>>;

/// The future of [`SharedRateLimit::check`].
#[must_use = "futures do nothing unless polled"]
pub struct SharedCheck {
    limit: SharedRateLimit,
    key: Key,
    cost: u32,
    state: State,
}

enum State {
    Ready(Result<RateLeft, SharedRateLimited>),
    Asked(Answer),
}

impl SharedCheck {
    pub(super) fn limit(&self) -> &SharedRateLimit {
        &self.limit
    }
}

impl Future for SharedCheck {
    type Output = Result<RateLeft, SharedRateLimited>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = match &mut self.state {
            State::Ready(decided) => return Poll::Ready(*decided),
            State::Asked(answer) => ready!(Pin::new(answer).poll(cx)),
        };
        Poll::Ready(match answer {
            Ok(answer) => answer.map_err(SharedRateLimited::Rate),
            // It was there a moment ago.
            Err(_) => self.limit.alone(self.key, self.cost),
        })
    }
}

impl fmt::Debug for SharedCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedCheck").finish_non_exhaustive()
    }
}

/// Why a request was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SharedRateLimited {
    /// It came too soon.
    Rate(RateLimited),
    /// The store is away, and [`WithoutStore::Refuse`] was asked for.
    WithoutStore,
}

impl SharedRateLimited {
    /// After this the same request may be let in.
    #[must_use]
    pub fn retry_after(&self) -> Duration {
        match self {
            Self::Rate(limited) => limited.retry_after,
            Self::WithoutStore => Duration::from_secs(1),
        }
    }
}

impl fmt::Display for SharedRateLimited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate(limited) => limited.fmt(f),
            Self::WithoutStore => f.write_str("the store of shared rates is away"),
        }
    }
}

impl std::error::Error for SharedRateLimited {}

/// What a [`SharedRateLimit`] did so far, in this replica.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SharedRateLimitStats {
    /// What was let in and refused, with and without the store.
    pub local: RateLimitStats,
    /// Requests for which the store had to be asked.
    pub asked: u64,
    /// Requests that were decided without the store, since it was away.
    pub without_store: u64,
}

/// Builds a [`SharedRateLimit`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct SharedRateLimitBuilder {
    store: RateStore,
    name: String,
    local: RateLimitBuilder,
    without_store: WithoutStore,
}

impl SharedRateLimitBuilder {
    /// The settings, in the place of those given before.
    pub fn config(mut self, config: RateLimitConfig) -> Self {
        self.local = self.local.config(config);
        self
    }

    /// One rule more.
    pub fn rule(mut self, rule: RateRule) -> Self {
        self.local = self.local.rule(rule);
        self
    }

    /// What is done while the store is away. Default: [`WithoutStore::Whole`].
    pub fn without_store(mut self, without_store: WithoutStore) -> Self {
        self.without_store = without_store;
        self
    }

    /// Where the time of this replica comes from. Default: [`Clock::system`].
    pub fn clock(mut self, clock: Clock) -> Self {
        self.local = self.local.clock(clock);
        self
    }

    /// Builds it.
    ///
    /// # Errors
    ///
    /// Lists all values of the configuration that are out of range.
    pub fn build(self) -> Result<SharedRateLimit, BuildError> {
        Ok(SharedRateLimit(Arc::new(Shared {
            rate: Arc::new(Rate {
                local: self.local.build()?,
                name: format!("{}:rate:{}", self.store.prefix(), self.name),
            }),
            store: self.store,
            without_store: self.without_store,
            asked: AtomicU64::new(0),
            without: AtomicU64::new(0),
        })))
    }
}
