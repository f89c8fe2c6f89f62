//! What systemd hears of the service, by the socket in `NOTIFY_SOCKET`; without one all of this does nothing. That the
//! service is ready is said by [`restart::ready`](crate::restart::ready).

use std::time::Duration;

use sd_notify::NotifyState;
#[cfg(feature = "reload")]
use stellane_metrics::Readiness;
use tokio::runtime::Handle;
#[cfg(feature = "reload")]
use tokio::signal::unix::{SignalKind, signal};

#[cfg(feature = "reload")]
use crate::config::Asked;
use crate::restart;

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = restart::notify(states) {
        tracing::warn!("systemd could not be told how the service is: {error}");
    }
}

/// The service ends, within this time.
pub(super) fn stopping(grace: Duration) {
    // `ExtendTimeoutUsec` ends at 71 minutes.
    let extend = format!("EXTEND_TIMEOUT_USEC={}", grace.as_micros());
    tell(&[
        NotifyState::Stopping,
        NotifyState::Custom(&extend),
        NotifyState::Status("draining"),
    ]);
}

/// SIGHUP has come, or is obeyed: `Type=notify-reload` waits for both.
#[cfg(feature = "reload")]
pub(super) fn reloading(asked: Asked, readiness: &Readiness) {
    if !readiness.is_ready() {
        // It does not ask for it before.
        return;
    }
    match asked {
        Asked::Begins => match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        },
        Asked::Done => tell(&[NotifyState::Ready]),
    }
}

/// Obeys SIGHUP where there is no file: without a handler it ends the process, which is not what systemd means by it.
#[cfg(feature = "reload")]
pub(super) async fn nothing_to_reload(readiness: &Readiness) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let Ok(mut hangup) = signal(SignalKind::hangup()) else {
        return;
    };
    while hangup.recv().await.is_some() {
        tracing::info!("SIGHUP: there is no configuration file to read again");
        reloading(Asked::Begins, readiness);
        reloading(Asked::Done, readiness);
    }
}

/// Says three times in `WatchdogSec` that the service is alive, for as long as these runtimes make progress, and the one
/// that this runs on.
pub(super) async fn watchdog(runtimes: Vec<Handle>) {
    let Some(patience) = sd_notify::watchdog_enabled() else {
        return;
    };
    loop {
        for runtime in &runtimes {
            // One that has ended makes no progress either, and is not waited for.
            let _ = runtime.spawn(async {}).await;
        }
        tell(&[NotifyState::Watchdog]);
        tokio::time::sleep(patience / 3).await;
    }
}
