use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use super::{AlgorithmKind, ClassConfig};
use crate::ConfigError;

/// Settings of an [`AdaptiveLimit`](super::AdaptiveLimit).
///
/// ```
/// use stellane_autotune::{AdaptiveLimit, LimitConfig};
///
/// let mut config = LimitConfig::default();
/// config.max = 200;
/// let limit = AdaptiveLimit::builder().config(config).build()?;
/// assert_eq!(limit.stats().limit, 200);
/// # Ok::<_, stellane_autotune::BuildError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct LimitConfig {
    /// What sets the limit. Default: `adaptive`.
    pub algorithm: AlgorithmKind,
    /// Whether to refuse (`enforce`) or only to count what would be refused (`shadow`).
    /// Default: `enforce`.
    pub mode: LimitMode,
    /// What may begin at once while nothing is known, within `min` and `max`. Default: 256. `adaptive` doubles it each
    /// tenth of a second while it is used, and what exceeds it waits for that, up to two seconds, instead of being
    /// refused; without the feature `tokio` nobody can wait, and there is no limit until there is evidence. Too low
    /// and a surge of honest requests waits for longer than it must; too high and a cold start into an overload lets more
    /// in than the service is done with in a second. `fixed` stays there; the others start there, but not above 20.
    pub initial: u32,
    /// The lowest that the limit may become. Default: 4. Too high and a slow service stays overloaded.
    pub min: u32,
    /// The highest that the limit may become. Default: 100 000, which no service is expected to reach. Too low and it, not the
    /// service, is the bottleneck, and the only limit that refuses without evidence.
    pub max: u32,
    /// The latency that the limit is to keep: it is cut while the 99th percentile exceeds twice this. `"0s"`, the default, is off:
    /// the shape of the latency alone decides. A target below what the service needs when idle
    /// holds the limit at `min`.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub latency_target: Duration,
    /// How long a request may wait for a place before it is refused. Default: `"0s"`, refuse at
    /// once; in the preset of `stellane-core` `"500ms"`. Needs the feature `tokio`. They are served in order as long as that serves all in time. Once
    /// one has left after a twentieth of this without a place, and until none has for as long as this, the
    /// newest are served first and who has waited for a tenth of it is refused: otherwise, in an overload,
    /// everyone would wait as long as clients do, for nothing. Too long and clients give up on requests that
    /// are then served for nobody.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub max_wait: Duration,
    /// How many requests may wait. Default: 100, in the preset 1000. Only matters with `max_wait`, and not while there is no limit.
    pub max_waiters: u32,
    /// What `Retry-After` says on average; each refusal draws from half to one and a half of it, in
    /// whole seconds, so that clients do not return together. Default: `"2s"`.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub retry_after: Duration,
    /// How long a request occupies its place: while the service does `work` for it, until its response `headers`, or
    /// until the end of its `body`. With each of them streams (`101`, `text/event-stream`, answers to `CONNECT`) give it
    /// back with their headers. Default: `work`.
    pub hold: Hold,
    /// Requests that are neither limited nor counted, by templates of their paths in the syntax of the router; read by
    /// the preset. Of one connection up to 16 at a time. Default: health checks and reflection of gRPC.
    pub exempt: Vec<String>,
    /// Classes of requests: the share of the limit that each is guaranteed, from 0 to 1, or a table of `share`,
    /// `limit`, `adaptive`, `hold`, `paths`, `methods` and `grpc`, as [`ClassConfig`] documents them. Default: none. The
    /// sum of the shares may not exceed 1.
    pub classes: BTreeMap<String, ClassConfig>,
}

impl Default for LimitConfig {
    fn default() -> Self {
        Self {
            algorithm: AlgorithmKind::default(),
            mode: LimitMode::default(),
            initial: 256,
            min: 4,
            max: 100_000,
            latency_target: Duration::ZERO,
            max_wait: Duration::ZERO,
            max_waiters: 100,
            retry_after: Duration::from_secs(2),
            hold: Hold::default(),
            exempt: [
                "/grpc.health.v1.Health/{method}",
                "/grpc.reflection.v1.ServerReflection/{method}",
                "/grpc.reflection.v1alpha.ServerReflection/{method}",
            ]
            .map(str::to_owned)
            .into(),
            classes: BTreeMap::new(),
        }
    }
}

impl LimitConfig {
    /// What `max` may be, besides being no lower than `min`.
    pub const MAX: RangeInclusive<u32> = 1..=u32::MAX;

    /// Changed by a closure: it can't be written as a literal.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Checks every value.
    ///
    /// # Errors
    ///
    /// Lists all values that are out of range.
    pub fn validate(&self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        let mut check = |ok: bool, key, value: &dyn std::fmt::Display, expected: String| {
            if !ok {
                errors.push(ConfigError::new(key, value, expected));
            }
        };
        check(self.min >= 1, "min", &self.min, "at least 1".into());
        check(
            self.max >= self.min,
            "max",
            &self.max,
            format!("at least `min`, {}", self.min),
        );
        check(
            self.initial >= 1,
            "initial",
            &self.initial,
            "at least 1".into(),
        );
        let day = Duration::from_secs(86_400);
        for (key, value) in [
            ("latency_target", self.latency_target),
            ("max_wait", self.max_wait),
            ("retry_after", self.retry_after),
        ] {
            check(
                value <= day,
                key,
                &format_args!("{value:?}"),
                "at most 1 day".into(),
            );
        }
        check(
            cfg!(feature = "tokio") || self.max_wait.is_zero(),
            "max_wait",
            &format_args!("{:?}", self.max_wait),
            "0s, or the feature `tokio` of stellane-autotune".into(),
        );
        let shares = self.classes.values().map(|class| class.share);
        check(
            shares.clone().all(|share| (0.0..=1.0).contains(&share))
                && shares.clone().sum::<f64>() <= 1.0 + 1e-9,
            "classes",
            &format_args!("{:?}", shares.collect::<Vec<_>>()),
            "shares from 0 to 1 that add up to at most 1".into(),
        );
        check(
            self.classes.len() < usize::from(u16::MAX),
            "classes",
            &self.classes.len(),
            "fewer than 65535 classes".into(),
        );
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }
}

/// Whether a limit refuses or only counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum LimitMode {
    /// Refuse what exceeds the limit.
    #[default]
    Enforce,
    /// Admit everything and count what would have been refused.
    Shadow,
}

/// How long a request occupies its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Hold {
    /// While the service works: until the response body has ended or was dropped, but for the times in which the
    /// handler waits for bytes of the request that are not there, or the response for its client. The place is then
    /// taken again at once, even if it is no longer free: what was let in is never delayed. So slow clients, and hostile
    /// ones, keep nobody out.
    #[default]
    Work,
    /// Until the response body ended or was dropped, whatever it waits for: for a service that guards something
    /// which a stream uses to its last byte. Slow clients then hold places.
    Body,
    /// Until the response headers. What a body costs is not limited.
    Headers,
}
