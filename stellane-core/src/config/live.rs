//! Which keys take effect without a restart, and how: one table for both.

#[cfg(feature = "autotune")]
use stellane_autotune::AdaptiveLimit;
#[cfg(feature = "tuner")]
use stellane_autotune::AutoTuner;
#[cfg(feature = "pool")]
use stellane_pool::Pools;
#[cfg(feature = "workers")]
use stellane_pool::WorkerPool;

use super::RuntimeConfig;
#[cfg(feature = "connection")]
use crate::connection::ConnectionManager;
#[cfg(feature = "logging")]
use crate::logging::LogHandle;

/// The handles of a running service that [`apply`](Self::apply) turns; those that are `None` are left out.
///
/// ```
/// use stellane_core::config::{ConfigWatcher, LiveTargets, Loader};
///
/// # async fn example(targets: LiveTargets) -> Result<(), Box<dyn std::error::Error>> {
/// let watcher = ConfigWatcher::new(Loader::from_process())?;
/// tokio::spawn(watcher.run(move |outcome| match outcome {
///     Ok(reload) => targets.apply(reload),
///     Err(errors) => eprintln!("the old configuration stays:\n{errors}"),
/// }));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct LiveTargets {
    /// For `log.level`.
    #[cfg(feature = "logging")]
    pub log: Option<LogHandle>,
    /// For `connection.*`.
    #[cfg(feature = "connection")]
    pub connections: Option<ConnectionManager>,
    /// For `workers.*`.
    #[cfg(feature = "workers")]
    pub workers: Option<WorkerPool>,
    /// For `pool.*`.
    #[cfg(feature = "pool")]
    pub pools: Option<Pools>,
    /// For `limit.*`.
    #[cfg(feature = "autotune")]
    pub limit: Option<AdaptiveLimit>,
    /// For `tuner.*`.
    #[cfg(feature = "tuner")]
    pub tuner: Option<AutoTuner>,
}

/// The keys whose change takes effect without a restart. Every other change is reported as
/// [`Reload::restart_required`](super::Reload::restart_required) and not applied.
pub fn live_keys() -> impl Iterator<Item = &'static str> {
    LIVE.iter().map(|(key, _)| *key)
}

/// What this key turns, if its change takes effect at once.
pub(super) fn live_key(key: &str) -> Option<Apply> {
    let found = LIVE.iter().find(|(live, _)| *live == key);
    found.map(|(_, apply)| *apply)
}

pub(super) type Apply = fn(&LiveTargets, &RuntimeConfig);

macro_rules! live {
    ($($feature:literal $target:ident: $($section:ident.$key:ident => $apply:expr,)*)*) => {
        const LIVE: &[(&str, Apply)] = &[$($(
            #[cfg(feature = $feature)]
            (concat!(stringify!($section), ".", stringify!($key)), |targets, config| {
                if let Some(target) = &targets.$target {
                    ($apply)(target, config.$section.$key.clone());
                }
            }),
        )*)*];
    };
}

live! {
    "logging" log:
        log.level => |log: &LogHandle, level: String| {
            // A filter that does not parse leaves the old one; the reason was told by validation.
            let _ = log.set_level(&level);
        },
    "connection" connections:
        connection.max_connections => ConnectionManager::set_max_connections,
        connection.max_connections_per_peer => ConnectionManager::set_max_connections_per_peer,
        connection.max_accepts_per_second => ConnectionManager::set_max_accepts_per_second,
        connection.max_idle_connections => ConnectionManager::set_max_idle_connections,
        connection.idle_timeout => ConnectionManager::set_idle_timeout,
        connection.park_after => ConnectionManager::set_park_after,
    "workers" workers:
        workers.min_workers => WorkerPool::set_min_workers,
        workers.max_workers => WorkerPool::set_max_workers,
        workers.queue_size => WorkerPool::set_queue_size,
    "pool" pools:
        pool.enabled => Pools::set_enabled,
        pool.request_pool_size => Pools::set_request_pool_size,
        pool.response_pool_size => Pools::set_response_pool_size,
        pool.max_retained_bytes => Pools::set_budget_bytes,
        pool.max_buffer_bytes => Pools::set_max_buffer_bytes,
        pool.max_body_bytes => Pools::set_max_body_bytes,
        pool.retain_percent => Pools::set_retain_percent,
    "autotune" limit:
        limit.min => AdaptiveLimit::set_min,
        limit.max => AdaptiveLimit::set_max,
        limit.mode => AdaptiveLimit::set_mode,
    "tuner" tuner:
        tuner.mode => AutoTuner::set_mode,
}
