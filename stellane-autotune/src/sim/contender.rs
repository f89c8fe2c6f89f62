use crate::{
    AdaptiveLimit, Algorithm, AlgorithmKind, LimitConfig, LocalSignal, ManualClock, WallClock,
};

/// What stands in front of the service.
#[derive(Debug, Clone)]
pub enum Contender {
    /// The default limit, as it is configured if nothing is.
    Default,
    /// Nothing.
    NoLimit,
    /// One of the algorithms of this crate, with its initial limit.
    Kind(AlgorithmKind, u32),
    /// An algorithm of your own, from a seed.
    Own(fn(u64) -> Box<dyn Algorithm>),
}

impl Contender {
    /// Whether it is [`Self::Default`].
    #[must_use]
    pub fn is_default(&self) -> bool {
        matches!(self, Self::Default)
    }

    pub(super) fn build(
        &self,
        clock: &ManualClock,
        seed: u64,
        signal: &LocalSignal,
        min: u32,
        wall: Option<&WallClock>,
    ) -> AdaptiveLimit {
        let mut config = LimitConfig::default().with(|config| config.min = min);
        let builder = AdaptiveLimit::builder().clock(clock.clock()).seed(seed);
        let builder = builder.local_signal(signal).simulated();
        let builder = match wall {
            None => builder,
            Some(wall) => builder.shared_bottleneck(wall),
        };
        let builder = match self {
            Self::Default => builder,
            Self::NoLimit => {
                config.algorithm = AlgorithmKind::Fixed;
                (config.initial, config.max) = (u32::MAX, u32::MAX);
                builder
            }
            Self::Kind(kind, initial) => {
                config.algorithm = *kind;
                config.initial = *initial;
                config.min = config.min.min(*initial);
                builder
            }
            Self::Own(build) => builder.boxed_algorithm(build(seed)),
        };
        builder
            .config(config)
            .build()
            .unwrap_or_else(|error| unreachable!("valid: {error}"))
    }
}
