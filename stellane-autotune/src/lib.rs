//! Adaptive concurrency limits and a tuner with guard rails for tower services.
//!
//! Four parts, usable one by one:
//!
//! - [`AdaptiveLimit`] and [`AdaptiveLimitLayer`]: a concurrency limit that finds its own value, in
//!   front of any tower service, server or client. What exceeds it is refused with 503,
//!   `Retry-After` and an RFC 9457 body, before its body is read and without an allocation, or waits
//!   up to a bound. Classes of requests have guaranteed shares.
//! - [`OverloadLayer`]: deadlines that requests bring along, and [`overload::Pressure`], one level for
//!   memory, stalls and open files by which timeouts shrink.
//! - [`RateLimit`] and [`RateLimitLayer`]: how often each address, token or tenant may ask; 429 for what is more. See
//!   [`rate_limit`].
//! - [`AutoTuner`]: reads [`Signal`]s and turns [`Knob`]s by [`Rule`]s and [`Controller`]s. It changes
//!   one thing at a time, says why with the numbers, and undoes what made things worse. [`AutoTuneLayer`] is a tuner
//!   whose signals are the requests of the stack that it wraps.
//!
//! ```
//! use stellane_autotune::{AdaptiveLimit, AutoTuner, Condition, Knob, Rule, Signal};
//!
//! // Any component's handle becomes a signal or a knob with a line.
//! let limit = AdaptiveLimit::builder().build()?;
//! let (refused, get, set) = (limit.clone(), limit.clone(), limit.clone());
//! let tuner = AutoTuner::builder()
//!     .signal(Signal::counter("shed", move || Some(refused.stats().shed as f64)))
//!     .knob(Knob::new("limit.max", 10.0..=5000.0, 10.0,
//!         move || f64::from(get.stats().max), move |max| set.set_max(max as u32)))
//!     .rule(Rule::new("refuses").when(Condition::above("shed", 10.0)).scale("limit.max", 1.5))
//!     .build()?;
//! # Ok::<_, stellane_autotune::BuildError>(())
//! ```
//!
//! # Which limit
//!
//! The default, [`algorithm::Adaptive`], needs no target latency. It refuses nobody while nothing says that the service
//! is full ([`LimitState::Open`]), be it fast or slow; then it finds a limit ([`LimitState::Limiting`]), and
//! [`AdaptiveLimit::explain`] says why. In the simulator (feature `sim`;
//! figures in `report.md` beside this crate) it stays close to the best fixed limit of every
//! scenario, where each of [`algorithm::Gradient2`], [`algorithm::Vegas`], [`algorithm::Aimd`] and
//! [`algorithm::Fixed`] has at least one in which it loses half or more. It needs some hundred
//! requests per second to be quick; with fewer it is slow but safe, as it only moves while the limit
//! holds requests back.
//!
//! A service is full sooner than its answers tell: give the limit a [`LocalSignal`] of the machine that the service
//! runs on. Without one, a cold start into a service that collapses under load is not always survived, and a service whose
//! handlers compute on the threads that read its requests never seems to be full: the others wait where no limit sees them.
//!
//! Start with [`LimitMode::Shadow`], look at `would_shed`, then enforce.
//!
//! # Replay
//!
//! Time and randomness are injected ([`Clock`], `seed`), algorithms are functions of the windows they
//! are shown, and a tick of the tuner is a function of its [`Snapshot`]: see
//! [`AutoTuner::set_recording`] and [`AutoTuner::replay`].
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | `tokio` | waiting for a place, enforced deadlines, [`AutoTuner`]'s `run`, `Clock::tokio` |
//! | `serde` | configs can be read and written; actions, stats and snapshots serialise |
//! | `tracing` | an event per tuning action, target `stellane::tuning` |
//! | `metrics` | the counter `stellane_tuning_actions_total{parameter,outcome}` |
//! | `redis` | [`rate_limit`]`::shared`: rates that replicas share by Redis or Valkey |
//! | `quanta` | a clock that is cheaper to read |
//! | `load` | `tower::load::Load` on the limit and its service: tower's balancers choose by saturation |
//! | `sim` | the simulator with its oracle |
#![cfg_attr(docsrs, feature(doc_cfg))]

mod auto_tune;
mod clock;
mod control_group;
pub mod embed;
mod error;
mod limit;
pub mod overload;
pub mod rate_limit;
#[cfg(feature = "sim")]
pub mod sim;
mod tuner;

pub use auto_tune::{AutoTuneBody, AutoTuneFuture, AutoTuneLayer, AutoTuneService, TrafficStats};
pub use clock::{Clock, ManualClock};
pub use error::{BuildError, ConfigError};
pub use limit::{
    AdaptiveLimit, AdaptiveLimitBuilder, AdaptiveLimitLayer, AdaptiveLimitService, Algorithm,
    AlgorithmKind, Class, ClassConfig, ClassStats, EarlyRefusal, Hold, Key, Latencies, LimitBody,
    LimitConfig, LimitEvidence, LimitFuture, LimitMode, LimitRequestBody, LimitState, LimitStats,
    LocalSignal, Outcome, Permit, RequestHead, ResponseHead, RetryAfter, Shed, Waited, WallClock,
    algorithm,
};
pub use overload::{OverloadConfig, OverloadLayer};
pub use rate_limit::{
    RateLeft, RateLimit, RateLimitBuilder, RateLimitConfig, RateLimitFuture, RateLimitHeaders,
    RateLimitLayer, RateLimitService, RateLimitStats, RateLimited, RateRule, RateRuleError,
    RuleStats, WithoutStore,
};
pub use tuner::{
    ActionOutcome, AutoTuner, AutoTunerBuilder, Condition, Controller, Evidence, Knob, KnobStats,
    Memory, Objective, Rule, SetResult, Signal, SignalHealth, SignalStats, Snapshot, Subscription,
    TunerConfig, TunerMode, TunerStats, TuningAction, View, Wish, controllers, names,
};
