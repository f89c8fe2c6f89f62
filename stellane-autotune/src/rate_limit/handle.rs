use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

#[cfg(feature = "redis")]
use super::table::{Debt, Told};
use super::{
    RateLimitConfig, RateLimitHeaders, RateRule,
    table::{Pace, Standing, Table},
};
use crate::{BuildError, Clock, ConfigError, Key};

/// How often each key may ask: the handle.
///
/// Cheap to clone; all clones share what they remember. See the [module](super) for the layer.
///
/// ```
/// use std::time::Duration;
/// use stellane_autotune::{Key, ManualClock, RateLimit};
///
/// let time = ManualClock::default();
/// let limit = RateLimit::builder().rule("1/s burst 2".parse()?).clock(time.clock()).build()?;
/// let ada = Key::of("ada");
/// assert_eq!(limit.check(ada, 1)?.left, 1);
/// assert!(limit.check(ada, 1).is_ok());
/// let refused = limit.check(ada, 1).unwrap_err();
/// assert_eq!(refused.retry_after, Duration::from_secs(1));
/// time.advance(refused.retry_after);
/// assert!(limit.check(ada, 1).is_ok());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct RateLimit(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    rules: RwLock<Vec<RateRule>>,
    paces: Box<[AtomicPace]>,
    headers: RateLimitHeaders,
    table: Table,
    clock: Clock,
}

#[derive(Debug)]
struct AtomicPace {
    interval: AtomicU64,
    tolerance: AtomicU64,
}

impl RateLimit {
    /// A builder without a rule, which needs one at least.
    #[must_use]
    pub fn builder() -> RateLimitBuilder {
        RateLimitBuilder::default()
    }

    /// Takes `cost` requests of `key`, or none. Allocates nothing for a key that is known, and takes a lock that it
    /// shares with a few others.
    ///
    /// A cost of more than `burst` is let in when the bucket is full, and paid off before the next.
    ///
    /// # Errors
    ///
    /// The rule that is exceeded, and when to come again.
    pub fn check(&self, key: Key, cost: u32) -> Result<RateLeft, RateLimited> {
        self.check_share(key, cost, 1)
    }

    /// As [`check`](Self::check), of a rate that is shared among so many.
    pub(super) fn check_share(
        &self,
        key: Key,
        cost: u32,
        replicas: u32,
    ) -> Result<RateLeft, RateLimited> {
        let Shared { table, clock, .. } = &*self.0;
        let share = |rule: usize| {
            let pace = self.pace(rule);
            let interval = pace.interval.saturating_mul(replicas.max(1).into());
            let tolerance = pace.tolerance.max(interval);
            Pace {
                interval,
                tolerance,
            }
        };
        decided(table.take(key, u64::from(cost), clock.nanos(), share))
    }

    fn pace(&self, rule: usize) -> Pace {
        let pace = &self.0.paces[rule];
        Pace {
            interval: pace.interval.load(Relaxed),
            tolerance: pace.tolerance.load(Relaxed),
        }
    }

    /// The rules in force.
    #[must_use]
    pub fn rules(&self) -> Vec<RateRule> {
        let rules = self.0.rules.read();
        rules.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn rule(&self, place: usize) -> Option<RateRule> {
        let rules = self.0.rules.read();
        let rules = rules.unwrap_or_else(PoisonError::into_inner);
        rules.get(place).copied()
    }

    /// Changes the rates while they are in use: what a key owes is owed in time, and stays.
    ///
    /// # Errors
    ///
    /// There are not as many rules as before.
    pub fn set_rules(&self, rules: &[RateRule]) -> Result<(), ConfigError> {
        let paces = &self.0.paces;
        if rules.len() != paces.len() {
            let (value, expected) = (rules.len(), format!("as many as before, {}", paces.len()));
            return Err(ConfigError::new("rules", value, expected));
        }
        let mut inner = self.0.rules.write();
        let inner = inner
            .as_deref_mut()
            .unwrap_or_else(|poisoned| poisoned.get_mut());
        inner.copy_from_slice(rules);
        for (pace, rule) in paces.iter().zip(rules) {
            pace.interval.store(rule.interval(), Relaxed);
            pace.tolerance.store(rule.tolerance(), Relaxed);
        }
        Ok(())
    }

    /// What happened so far. It looks at each key, and is meant for a scrape, not for each request.
    #[must_use]
    pub fn stats(&self) -> RateLimitStats {
        let totals = self.0.table.totals(self.0.clock.nanos());
        let rules = self.rules().into_iter().zip(totals.refused);
        RateLimitStats {
            allowed: totals.allowed,
            forgotten: totals.forgotten,
            keys: totals.keys,
            rules: rules
                .map(|(rule, refused)| RuleStats { rule, refused })
                .collect(),
        }
    }

    pub(super) fn headers(&self) -> RateLimitHeaders {
        self.0.headers
    }
}

/// What a rate that is shared by a store needs besides.
#[cfg(feature = "redis")]
impl RateLimit {
    /// Whether the key may come, as far as is known here; if that is not far enough, what it owes to the store.
    pub(super) fn take_leased(
        &self,
        key: Key,
        cost: u32,
    ) -> Result<Result<RateLeft, RateLimited>, Debt> {
        let Shared { table, clock, .. } = &*self.0;
        let pace = |rule| self.pace(rule);
        let standing = table.take_leased(key, u64::from(cost), clock.nanos(), pace)?;
        Ok(decided(standing))
    }

    /// What the store says: the answers to those that it let in, and to those that it refused.
    pub(super) fn told(&self, key: Key, told: Told<'_>) -> (RateLeft, RateLimited) {
        let Shared { table, clock, .. } = &*self.0;
        let (let_in, refused) = table.told(key, told, clock.nanos(), |rule| self.pace(rule));
        (left(let_in), limited(refused))
    }

    pub(super) fn paces(&self) -> impl Iterator<Item = Pace> {
        (0..self.0.paces.len()).map(|rule| self.pace(rule))
    }
}

fn decided(standing: Standing) -> Result<RateLeft, RateLimited> {
    match standing.wait {
        0 => Ok(left(standing)),
        _ => Err(limited(standing)),
    }
}

fn left(standing: Standing) -> RateLeft {
    RateLeft {
        rule: standing.rule,
        left: standing.left,
        full_in: Duration::from_nanos(standing.full_in),
    }
}

fn limited(standing: Standing) -> RateLimited {
    RateLimited {
        rule: standing.rule,
        retry_after: Duration::from_nanos(standing.wait),
        full_in: Duration::from_nanos(standing.full_in),
    }
}

/// A request that was let in, as seen by the rule that leaves least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateLeft {
    /// The rule, by its place among the rules.
    pub rule: usize,
    /// How many more may come at once.
    pub left: u64,
    /// When all of its burst is free again, if nothing else comes.
    pub full_in: Duration,
}

/// A request that came too soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateLimited {
    /// The rule that refuses for longest, by its place among the rules.
    pub rule: usize,
    /// After this the same request is let in, if nothing of the key comes meanwhile.
    pub retry_after: Duration,
    /// When all of its burst is free again, if nothing else comes.
    pub full_in: Duration,
}

impl RateLimited {
    /// Nothing, until then.
    pub(super) fn left(self) -> RateLeft {
        let Self { rule, full_in, .. } = self;
        RateLeft {
            rule,
            left: 0,
            full_in,
        }
    }
}

impl fmt::Display for RateLimited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rule, retry_after, ..
        } = self;
        write!(f, "rule {rule} is exceeded: come again in {retry_after:?}")
    }
}

impl std::error::Error for RateLimited {}

/// What a [`RateLimit`] did so far.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RateLimitStats {
    /// Requests that were let in.
    pub allowed: u64,
    /// Keys that were forgotten while they owed something, since there was no room: should it grow, raise `max_keys`.
    pub forgotten: u64,
    /// Keys that owe something now.
    pub keys: u64,
    /// For each rule.
    pub rules: Vec<RuleStats>,
}

/// What one rule did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RuleStats {
    /// The rule.
    pub rule: RateRule,
    /// Requests that it refused, each counted for the rule that refused it for longest.
    pub refused: u64,
}

/// Builds a [`RateLimit`].
#[derive(Debug, Default)]
pub struct RateLimitBuilder {
    config: RateLimitConfig,
    clock: Clock,
    seed: Option<u64>,
}

impl RateLimitBuilder {
    /// The settings, in the place of those given before.
    #[must_use]
    pub fn config(mut self, config: RateLimitConfig) -> Self {
        self.config = config;
        self
    }

    /// One rule more.
    #[must_use]
    pub fn rule(mut self, rule: RateRule) -> Self {
        self.config.rules.push(rule);
        self
    }

    /// Where the time comes from. Default: [`Clock::system`].
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Where keys stand in the table. Default: random, so that nobody can choose keys that push out a certain other one.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Builds it.
    ///
    /// # Errors
    ///
    /// Lists all values of the configuration that are out of range.
    pub fn build(self) -> Result<RateLimit, BuildError> {
        self.config.validate()?;
        let RateLimitConfig {
            rules,
            max_keys,
            headers,
        } = self.config;
        let pace = |rule: &RateRule| AtomicPace {
            interval: rule.interval().into(),
            tolerance: rule.tolerance().into(),
        };
        let seed = self
            .seed
            .unwrap_or_else(|| RandomState::new().hash_one(0_u8));
        Ok(RateLimit(Arc::new(Shared {
            paces: rules.iter().map(pace).collect(),
            table: Table::new(max_keys, rules.len(), seed),
            rules: RwLock::new(rules),
            headers,
            clock: self.clock,
        })))
    }
}
