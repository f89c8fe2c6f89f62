//! The configuration is followed while it serves.

use super::Components;
#[cfg(all(unix, feature = "restart"))]
use super::systemd;
use crate::{
    config::{ConfigErrors, ConfigWatcher, LiveTargets, Reload},
    logging::LogHandle,
};

/// Applies what can change at run time when the configuration file changes, or on SIGHUP.
#[cfg(feature = "reload")]
pub(super) async fn follow(
    watcher: Option<ConfigWatcher>,
    components: Components,
    log: Option<LogHandle>,
) {
    let Some(watcher) = watcher else {
        // Nothing to follow: SIGHUP keeps its usual meaning.
        #[cfg(all(unix, feature = "restart"))]
        systemd::nothing_to_reload(&components.readiness).await;
        return;
    };
    if let Err(error) = components.export_reloads(&watcher) {
        tracing::warn!(%error, "reloads are not counted in the metrics");
    }
    let told = components.runtime_metrics.clone();
    let targets = LiveTargets {
        log,
        connections: Some(components.connections),
        #[cfg(feature = "workers")]
        workers: Some(components.workers),
        pools: Some(components.pools),
        limit: Some(components.limit),
        #[cfg(feature = "tuner")]
        tuner: Some(components.tuner),
    };
    let outcome = move |outcome: &Result<Reload, ConfigErrors>| match outcome {
        Ok(reload) => {
            targets.apply(reload);
            told.tell(&reload.to_string());
            tracing::info!("{reload}");
        }
        Err(errors) => {
            told.tell("the configuration file has mistakes: the old configuration stays");
            for problem in errors.problems() {
                tracing::warn!("the old configuration stays: {problem}");
            }
        }
    };
    #[cfg(all(unix, feature = "restart"))]
    let asked = {
        let readiness = components.readiness;
        move |asked| systemd::reloading(asked, &readiness)
    };
    #[cfg(not(all(unix, feature = "restart")))]
    let asked = |_| {};
    watcher.run_and_tell(outcome, asked).await;
}
