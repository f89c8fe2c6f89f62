use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use super::{
    Class, ClassConfig, Key, Latencies, LimitConfig, LimitEvidence, LimitMode, LimitState,
    LocalSignal, Permit, Refusals, Shed, WallClock,
    algorithm::{Adaptive, Aimd, Algorithm, AlgorithmKind, Fixed, Gradient2, Vegas},
    keys::Keys,
    own::Owns,
    shared::{ClassState, Own, Settings, Shared, scale_share},
};
use crate::{BuildError, Clock, Signal};

/// A concurrency limit that finds its own value. A cheap clone; all clones are the same limit.
///
/// Put it in front of a service with [`AdaptiveLimitLayer`](super::AdaptiveLimitLayer), or use it
/// directly:
///
/// ```
/// use stellane_autotune::{AdaptiveLimit, Outcome};
///
/// let limit = AdaptiveLimit::builder().build()?;
/// match limit.try_acquire() {
///     Ok(permit) => {
///         // … the work …
///         permit.finish(Outcome::Success);
///     }
///     Err(reason) => eprintln!("refused: {reason}"),
/// }
/// assert_eq!(limit.stats().admitted, 1);
/// # Ok::<_, stellane_autotune::BuildError>(())
/// ```
#[derive(Debug, Clone)]
pub struct AdaptiveLimit {
    pub(crate) shared: Arc<Shared>,
    owns: Arc<Owns>,
}

impl AdaptiveLimit {
    /// A builder with the default configuration.
    #[must_use]
    pub fn builder() -> AdaptiveLimitBuilder {
        AdaptiveLimitBuilder::default()
    }

    /// Takes a place, or says why not. Never waits.
    ///
    /// # Errors
    ///
    /// [`Shed::Limit`] if the limit is reached.
    #[inline]
    pub fn try_acquire(&self) -> Result<Permit, Shed> {
        self.try_acquire_for(Class::DEFAULT)
    }

    /// Takes a place for a request of `class`, or says why not. Never waits.
    ///
    /// # Errors
    ///
    /// [`Shed::Limit`] if the limit is reached and so is the share of the class.
    #[inline]
    pub fn try_acquire_for(&self, class: Class) -> Result<Permit, Shed> {
        self.acquire(class, Keys::default())
    }

    /// The same for a request of `key`, which can't take all the places: see [`AdaptiveLimitLayer::key`].
    ///
    /// # Errors
    ///
    /// [`Shed::Limit`] if the limit is reached, or what of it this key may take.
    ///
    /// [`AdaptiveLimitLayer::key`]: super::AdaptiveLimitLayer::key
    pub fn try_acquire_of(&self, class: Class, key: Key) -> Result<Permit, Shed> {
        let chosen = Some(key);
        self.acquire(
            class,
            Keys {
                chosen,
                ..Keys::default()
            },
        )
    }

    #[inline]
    fn acquire(&self, class: Class, keys: Keys) -> Result<Permit, Shed> {
        let reason = match self.shared.take_seat(class) {
            Err(_) => Shed::ClassFull,
            Ok(seat) if self.shared.try_enter(class, keys, false) => {
                let permit = Permit::new(Arc::clone(self.own()), class, keys);
                return Ok(permit.with_seat(seat));
            }
            Ok(_) => Shed::Limit,
        };
        self.shared.shed(class, reason);
        Err(reason)
    }

    /// The limit, for what outlives this.
    #[inline]
    pub(crate) fn own(&self) -> &Arc<Own> {
        self.owns.of_this_thread(&self.shared)
    }

    /// Takes a place again that was given back while a client was waited for, limit or not.
    #[cfg(feature = "sim")]
    pub(crate) fn retake(&self) -> Permit {
        self.shared.gate.enter_beyond_limit();
        Permit::new(Arc::clone(self.own()), Class::DEFAULT, Keys::default())
    }

    /// The class configured under `name`.
    #[must_use]
    pub fn class(&self, name: &str) -> Option<Class> {
        let index = self
            .shared
            .classes
            .iter()
            .skip(1)
            .position(|class| &*class.name == name)?;
        u16::try_from(index + 1).ok().map(Class)
    }

    /// Whether there is evidence that the service is full, so that the limit refuses: see [`LimitState`]. One atomic load.
    #[must_use]
    pub fn is_limiting(&self) -> bool {
        !self.shared.is_open()
    }

    /// The median latency of the latest window; zero before the first. One atomic load.
    #[must_use]
    pub fn latency_p50(&self) -> Duration {
        self.shared.median()
    }

    /// A signal for a tuner: the `q`-quantile of the latency of the answers since the tick before, in
    /// seconds. Missing when there were none.
    #[must_use]
    pub fn latency_signal(&self, name: impl Into<String>, q: f64) -> Signal {
        let limit = self.clone();
        let before = Mutex::new(limit.shared.readings());
        Signal::new(name, move || {
            let mut before = before.lock().unwrap_or_else(PoisonError::into_inner);
            let now = limit.shared.readings();
            let mut latencies = Latencies::default();
            let count = latencies.set_difference(&now, &before);
            *before = now;
            (count > 0).then(|| latencies.quantile(q))
        })
        .unit("s")
    }

    /// Counts a request that another layer refused.
    pub(crate) fn count_shed(&self, reason: Shed) {
        self.shared.shed(Class::DEFAULT, reason);
    }

    /// What happened so far.
    #[must_use]
    pub fn stats(&self) -> LimitStats {
        let shared = &self.shared;
        let now = shared.clock.nanos();
        let totals = shared.totals();
        let (in_flight, limit) = shared.load();
        let inside = u64::from(shared.gate.inside());
        let classes: Vec<_> = shared.classes.iter().map(ClassStats::of).collect();
        let shed_of = |reason: Shed| classes.iter().map(|class| class.shed_by(reason)).sum();
        let finished = totals.successes + totals.overloads + totals.ignored + totals.cancelled;
        LimitStats {
            algorithm: totals.algorithm,
            mode: shared.mode(),
            limit,
            min: totals.min,
            max: totals.max,
            in_flight,
            waiting: shared.waiting(),
            lent: shared.lent(),
            aside: totals.aside,
            state: totals.state,
            evidence: totals.evidence,
            changes: totals.changes,
            since: Duration::from_nanos(now.saturating_sub(totals.changed_at)),
            admitted: finished + inside,
            successes: totals.successes,
            overloads: totals.overloads,
            ignored: totals.ignored,
            cancelled: totals.cancelled,
            shed: classes.iter().map(ClassStats::shed_total).sum(),
            shed_limit: shed_of(Shed::Limit),
            shed_queue_full: shed_of(Shed::QueueFull),
            shed_wait_timeout: shed_of(Shed::WaitTimeout),
            shed_deadline: shed_of(Shed::Deadline),
            shed_class_full: shed_of(Shed::ClassFull),
            would_shed: classes.iter().map(|class| class.would_shed).sum(),
            latency_p50: shared.median(),
            windows: totals.windows,
            classes,
        }
    }

    /// Whether there is a limit, and why, in a sentence: `limiting at 48: throughput flat at 1590/s from 40 in flight on,
    /// latency 1.9 x`, or `open: nothing says that the service is full`.
    ///
    /// For a page or a log; [`LimitStats::changes`] tells when there is something new to log.
    ///
    /// ```
    /// let limit = stellane_autotune::AdaptiveLimit::builder().build()?;
    /// assert_eq!(limit.explain(), "open: nothing says that the service is full");
    /// # Ok::<_, stellane_autotune::BuildError>(())
    /// ```
    #[must_use]
    pub fn explain(&self) -> String {
        let stats = self.stats();
        match (stats.state, stats.evidence) {
            (LimitState::Open, _) => "open: nothing says that the service is full".into(),
            (LimitState::Limiting, None) => format!("limiting at {}", stats.limit),
            (LimitState::Limiting, Some(why)) => format!("limiting at {}: {why}", stats.limit),
        }
    }

    /// The limit never falls below `min` (at least 1) from now on.
    pub fn set_min(&self, min: u32) {
        self.shared.set_range(|_, max| (min, max.max(min)));
    }

    /// The limit never exceeds `max` (at least 1) from now on.
    pub fn set_max(&self, max: u32) {
        self.shared.set_range(|min, _| (min.min(max), max));
    }

    /// Refuse from now on, or only count.
    pub fn set_mode(&self, mode: LimitMode) {
        self.shared.set_mode(mode);
    }

    /// The share of the limit that is guaranteed to `class` from now on, from 0 to 1.
    /// [`Class::DEFAULT`] has none and gets none.
    pub fn set_share(&self, class: Class, share: f64) {
        if let Some(state) = self.shared.classes.get(usize::from(class.0))
            && class != Class::DEFAULT
        {
            state.share.store(scale_share(share), Ordering::Relaxed);
        }
    }

    /// Changes the algorithm; it starts from its own initial limit.
    pub fn set_algorithm(&self, algorithm: impl Algorithm + 'static) {
        self.shared.set_algorithm(Box::new(algorithm));
    }
}

/// Builds an [`AdaptiveLimit`].
#[derive(Debug, Default)]
pub struct AdaptiveLimitBuilder {
    config: LimitConfig,
    clock: Clock,
    seed: u64,
    local_signal: LocalSignal,
    algorithm: Option<Box<dyn Algorithm>>,
    is_simulated: bool,
    wall: Option<WallClock>,
}

impl AdaptiveLimitBuilder {
    /// The settings.
    #[must_use]
    pub fn config(mut self, config: LimitConfig) -> Self {
        self.config = config;
        self
    }

    /// Where the time comes from. Default: [`Clock::system`].
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The seed of all randomness. Default: 0. Processes that must not probe together differ in it.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Who waits there needs no timer.
    #[cfg(feature = "sim")]
    pub(crate) fn simulated(mut self) -> Self {
        self.is_simulated = true;
        self
    }

    /// What the machine under the service says of itself. Default: nothing, and what requests themselves tell must do:
    /// see [`Adaptive`].
    #[must_use]
    pub fn local_signal(mut self, signal: &LocalSignal) -> Self {
        self.local_signal = signal.clone();
        self
    }

    /// Several processes call one service, each behind such a limit: they look for its capacity together. Default: each alone.
    /// For [`AlgorithmKind::Adaptive`]; all of them need this.
    ///
    /// To a limit alone the others' requests are a queue that it cannot shed, and a limit that it raises takes throughput from
    /// them: four that find a full service keep a third of what it can do or less, and 64 next to nothing. Limits
    /// with the same [`WallClock`] swing up and down in the same fifths of a second, so that each sees what all of them do. Every
    /// eight seconds all go down for 0.6 s to where nothing queues, and see how long an answer takes then. Nobody talks
    /// to anybody, and who comes or goes need not be known.
    ///
    /// In the simulator, with four places of the service for each and clocks that are 20 ms apart, 4, 16 or 64 limits keep 93 to
    /// 97 % of what it can do, at twice as much load as that or ten times, also when all have different shares of the load; and
    /// 88 to 93 % over the twenty seconds after half of them have come at once, of which the worst two keep 39 to 65 %.
    ///
    /// **When to use it:** from two to a hundred replicas that call a service which does not limit itself, with
    /// `min` 1, so that many limits may be few places. **When not:** where the service can have a limit of its own, which is
    /// better in all cases; where it may become many times slower by itself, which is taken for too much load here: of 1512
    /// honest loads in the simulator some of the requests of 13 were refused; where there is one caller only (it costs some
    /// hundredths, and the limit is found later); where a replica has less than some twenty answers per second, which say too
    /// little.
    ///
    /// What it needs:
    ///
    /// - **The clocks agree** to some hundredths of a second, by NTP or by [`WallClock::hear`]. At twice the load 0.2 s cost next
    ///   to nothing, at ten times up to a third of the throughput. Clocks that are seconds off are hardly better than limits
    ///   that are not aligned.
    /// - **No outsider**: whoever calls the service with a limit of its own takes what the others leave. At twice the load one costs
    ///   nothing; at ten times one of 4 or of 16 may cost nine tenths.
    ///
    /// It begins with 20 places at most, whatever `initial` is. What exceeds them waits, as ever, and they are doubled each tenth of
    /// a second unless answers become slower meanwhile.
    ///
    /// ```
    /// use stellane_autotune::{AdaptiveLimit, LimitConfig, WallClock};
    ///
    /// let wall = WallClock::system();
    /// let limit = AdaptiveLimit::builder()
    ///     .config(LimitConfig::default().with(|config| config.min = 1))
    ///     .shared_bottleneck(&wall)
    ///     .build()?;
    /// # Ok::<_, stellane_autotune::BuildError>(())
    /// ```
    #[must_use]
    pub fn shared_bottleneck(mut self, wall: &WallClock) -> Self {
        self.wall = Some(wall.clone());
        self
    }

    /// An algorithm of your own, instead of the configured one.
    #[must_use]
    pub fn algorithm(self, algorithm: impl Algorithm + 'static) -> Self {
        self.boxed_algorithm(Box::new(algorithm))
    }

    pub(crate) fn boxed_algorithm(mut self, algorithm: Box<dyn Algorithm>) -> Self {
        self.algorithm = Some(algorithm);
        self
    }

    /// Builds the limit.
    ///
    /// # Errors
    ///
    /// Lists all values of the configuration that are out of range.
    pub fn build(self) -> Result<AdaptiveLimit, BuildError> {
        let config = self.config;
        config.validate()?;
        let (min, max) = (config.min, config.max);
        let initial = config.initial.clamp(min, max);
        let can_wait = cfg!(feature = "tokio") || self.is_simulated;
        let algorithm = self.algorithm.unwrap_or_else(|| match config.algorithm {
            AlgorithmKind::Adaptive => {
                // What nobody can wait for would be refused.
                let at_once = if can_wait { initial } else { max };
                let mut adaptive = Adaptive::new(at_once, min, max, self.seed);
                if let Some(wall) = self.wall {
                    adaptive = adaptive.aligned(wall);
                }
                Box::new(adaptive.latency_target(config.latency_target))
            }
            AlgorithmKind::Fixed => Box::new(Fixed::new(initial)),
            AlgorithmKind::Aimd => {
                let timeout = match config.latency_target {
                    Duration::ZERO => Duration::from_secs(5),
                    target => target,
                };
                Box::new(Aimd::new(initial.min(START), min, max, timeout))
            }
            AlgorithmKind::Vegas => Box::new(Vegas::new(initial.min(START), min, max, self.seed)),
            AlgorithmKind::Gradient2 => Box::new(Gradient2::new(initial.min(START), min, max)),
        });
        let mode = config.mode;
        let settings = Arc::new(Settings {
            max_wait: config.max_wait,
            can_wait,
            max_waiters: config.max_waiters,
            refusals: Refusals::new(config.retry_after),
        });
        let seats = |class: &ClassConfig| {
            let most = class.limit;
            let (algorithm, range): (Box<dyn Algorithm>, _) = match class.adaptive {
                true => (Box::new(Adaptive::new(most, 1, max, self.seed)), (1, max)),
                false => (Box::new(Fixed::new(most)), (most, most)),
            };
            let classes = Box::new([ClassState::new("default", 0.0, class.hold, None)]);
            let (settings, clock) = (Arc::clone(&settings), self.clock.clone());
            let seats = Shared::new(algorithm, range, mode, classes, settings, clock);
            Own::new(&Arc::new(seats))
        };
        let class = |(name, class): (&String, &ClassConfig)| {
            let seats = (class.limit > 0).then(|| seats(class));
            ClassState::new(name, class.share, class.hold, seats)
        };
        let default = ClassState::new("default", 0.0, config.hold, None);
        let classes = std::iter::once(default)
            .chain(config.classes.iter().map(class))
            .collect();
        let range = (min, max);
        let mut shared = Shared::new(algorithm, range, mode, classes, settings, self.clock);
        shared.local_signal = self.local_signal;
        let shared = Arc::new(shared);
        Ok(AdaptiveLimit {
            owns: Arc::new(Owns::to(&shared)),
            shared,
        })
    }
}

/// Where algorithms start that have a limit from the beginning, if no lower one is configured: above it they take
/// seconds to come down, and below it they refuse what a small service can do.
const START: u32 = 20;

/// What an [`AdaptiveLimit`] did so far; counts are since it was built.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LimitStats {
    /// The name of the algorithm.
    pub algorithm: &'static str,
    /// Whether it refuses or only counts.
    pub mode: LimitMode,
    /// The limit in force.
    pub limit: u32,
    /// The lowest it may become.
    pub min: u32,
    /// The highest it may become.
    pub max: u32,
    /// Requests that hold a place.
    pub in_flight: u32,
    /// Requests that were let in and hold none at the moment, since their client is waited for, or their thread is held.
    pub lent: u32,
    /// Requests that wait for one.
    pub waiting: u32,
    /// Of those that hold a place, so many have outlived the others by far: they are beside the limit.
    pub aside: u32,
    /// Whether there is a limit.
    pub state: LimitState,
    /// What says that the service is full, while there is a limit.
    pub evidence: Option<LimitEvidence>,
    /// How often the state has changed.
    pub changes: u64,
    /// For how long the state has been what it is.
    pub since: Duration,
    /// Requests that got a place.
    pub admitted: u64,
    /// Answers whose latency counted.
    pub successes: u64,
    /// Answers that said "overloaded".
    pub overloads: u64,
    /// Answers that say nothing about the load.
    pub ignored: u64,
    /// Requests that were dropped before they were answered.
    pub cancelled: u64,
    /// Requests that were refused, for any reason.
    pub shed: u64,
    /// Refused because the limit was reached and nobody may wait.
    pub shed_limit: u64,
    /// Refused because the queue was full.
    pub shed_queue_full: u64,
    /// Refused because no place became free in time.
    pub shed_wait_timeout: u64,
    /// Refused because their deadline had passed.
    pub shed_deadline: u64,
    /// Refused because the places of their class were taken.
    pub shed_class_full: u64,
    /// Admitted in shadow mode although the limit was reached.
    pub would_shed: u64,
    /// The median latency of the latest window; zero before the first.
    pub latency_p50: Duration,
    /// Windows that were complete: how often the algorithm was asked.
    pub windows: u64,
    /// By class; the first is the default class.
    pub classes: Vec<ClassStats>,
}

/// One class of an [`AdaptiveLimit`].
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ClassStats {
    /// Its name.
    pub name: String,
    /// The share of the limit it is guaranteed.
    pub share: f64,
    /// Its requests that hold a place; 0 when no classes are configured.
    pub in_flight: u32,
    /// Its requests that were refused, by [`Shed`] in the order of its variants.
    pub shed: [u64; Shed::COUNT],
    /// Its requests that shadow mode admitted although the limit was reached.
    pub would_shed: u64,
}

impl ClassStats {
    /// How many were refused for `reason`.
    #[must_use]
    pub fn shed_by(&self, reason: Shed) -> u64 {
        self.shed[reason as usize]
    }

    /// How many were refused.
    #[must_use]
    pub fn shed_total(&self) -> u64 {
        self.shed.iter().sum()
    }

    fn of(class: &ClassState) -> Self {
        Self {
            name: class.name.to_string(),
            share: class.share.load(Ordering::Relaxed) as f64 / (1_u64 << 32) as f64,
            in_flight: class.in_flight.load(Ordering::Relaxed),
            shed: std::array::from_fn(|index| class.shed[index].load(Ordering::Relaxed)),
            would_shed: class.would_shed.load(Ordering::Relaxed),
        }
    }
}
