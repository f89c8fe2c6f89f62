//! The admin service: what each component has to show.

use std::{net::SocketAddr, sync::Arc};

use serde_json::json;
#[cfg(feature = "tuner")]
use stellane_autotune::{TunerMode, TuningAction};
use stellane_metrics::{Admin, AdminBuilder, AdminService, BuildError};

use super::Components;
#[cfg(feature = "tuner")]
use super::tuning;
#[cfg(feature = "reload")]
use crate::config::ConfigWatcher;
use crate::{
    config::{RuntimeConfig, Secrets, places::places, secret::shown},
    logging::LogHandle,
};

/// Rows of the connection table that are shown; a table of thousands helps nobody.
const MAX_CONNECTIONS: usize = 1000;

/// Whom the admin service lets in, told once to who made it reachable.
pub(super) fn warn_of_strangers(address: SocketAddr, config: &RuntimeConfig) {
    if address.ip().to_canonical().is_loopback() {
        return;
    }
    let rest = match (
        config.server.admin_token.is_empty(),
        config.server.admin_tls,
    ) {
        (true, _) => "and to nobody anything else, since there is no `server.admin_token`",
        (false, false) => {
            "and the rest to who has `server.admin_token`, which crosses the network as clear text without \
             `server.admin_tls`"
        }
        (false, true) => "and the rest to who has `server.admin_token`",
    };
    tracing::warn!(
        "the admin address {address} can be reached from other machines: it shows `/healthz`, `/readyz` and `/metrics` to \
         anybody there, {rest}"
    );
}

pub(super) fn service(
    components: &Components,
    running: Running,
    log: Option<LogHandle>,
    address: SocketAddr,
) -> Result<AdminService, BuildError> {
    let config = running.config();
    let token = config.server.admin_token.clone();
    let unhealthy_after = config.server.unhealthy_after;
    let progress = components.progress.clone();
    let secrets = Secrets::default().and(&config.log.redact);
    let hosts = config.server.admin_hosts.clone();
    let (of, level) = (components.clone(), log.clone());
    let connections = components.connections.clone();
    let kept = components.clone();
    let mut admin = hosts
        .into_iter()
        .fold(Admin::builder(), AdminBuilder::allow_host)
        .bound_to(address)
        .token(token)
        .prometheus(components.prometheus.clone())
        .runtime(components.runtime_metrics.clone())
        .readiness(components.readiness.clone())
        .health(move || match progress.longest_still() {
            still if unhealthy_after.is_zero() || still < unhealthy_after => Ok(()),
            still => Err(format!("no task has had a turn for {still:?}")),
        })
        .json("/config", move || {
            in_force(&running.config(), &of, level.as_ref(), &secrets)
        })
        .json("/requests", move || json!(kept.kept_requests()))
        .json("/connections", move || {
            let list = connections.list();
            let shown = list.iter().take(MAX_CONNECTIONS).map(|connection| {
                json!({
                    "id": connection.id,
                    "peer": connection.peer.map(|peer| peer.to_string()),
                    "state": format!("{:?}", connection.state).to_lowercase(),
                    "age": connection.age.as_secs_f64(),
                    "requests": connection.requests,
                    "bytes_read": connection.bytes_read,
                    "bytes_written": connection.bytes_written,
                })
            });
            let stats = connections.stats();
            let counts = json!({
                "accepted": stats.accepted_total,
                "TLS": stats.tls_total,
                "HTTP/2": stats.http2_total,
                "accept_errors": stats.accept_errors_total,
            });
            json!({ "total": list.len(), "counts": counts, "connections": shown.collect::<Vec<_>>() })
        });
    #[cfg(feature = "tuner")]
    {
        let (tuner, chosen) = (components.tuner.clone(), components.tuner.clone());
        admin = admin
            .json("/tuning", move || {
                json!({
                    "mode": tuner.mode(),
                    "stats": tuner.stats(),
                    "actions": tuner.history().iter().map(action).collect::<Vec<_>>(),
                })
            })
            .post("/tuning/mode", move |mode| {
                let mode = serde_json::from_value::<TunerMode>(json!(mode.trim()))
                    .map_err(|_| "expected observe, recommend or apply".to_owned())?;
                chosen.set_mode(mode);
                Ok(json!({ "mode": mode }))
            });
    }
    if let Some(log) = log {
        let (read, change) = (Arc::new(log.clone()), log);
        admin = admin.log_level(
            move || read.level(),
            move |level| change.set_level(level).map_err(|error| error.to_string()),
        );
    }
    admin.build()
}

/// The configuration that the service began with, and what a reload has made of it.
pub(super) struct Running {
    initial: Arc<RuntimeConfig>,
    #[cfg(feature = "reload")]
    watcher: Option<ConfigWatcher>,
}

impl Running {
    pub(super) fn new(
        config: &RuntimeConfig,
        #[cfg(feature = "reload")] watcher: Option<ConfigWatcher>,
    ) -> Self {
        Self {
            initial: Arc::new(config.clone()),
            #[cfg(feature = "reload")]
            watcher,
        }
    }

    fn config(&self) -> Arc<RuntimeConfig> {
        #[cfg(feature = "reload")]
        if let Some(watcher) = &self.watcher {
            return watcher.config();
        }
        self.initial.clone()
    }
}

/// What is in force now, and under `from` where the keys have their values from that have no default: a place in the file,
/// a variable of the environment, the profile, the program, the tuner, or `/log-level`.
fn in_force(
    config: &RuntimeConfig,
    components: &Components,
    log: Option<&LogHandle>,
    secrets: &Secrets,
) -> serde_json::Value {
    let now = now(config, components, log);
    #[cfg(feature = "tuner")]
    let is_of_tuner = |key: &str, value: &_| tuning::has_turned(&components.tuner, key, value);
    #[cfg(not(feature = "tuner"))]
    let is_of_tuner = |_: &str, _: &_| false;
    let changed_by = |key: &str, value: &_| match key {
        "log.level" => "/log-level",
        _ if is_of_tuner(key, value) => "tuner",
        _ => "program",
    };
    let from = places(config, &now, changed_by).into_iter();
    let from = from.map(|(key, from)| json!({ "key": key, "from": from }));
    let mut shown = serde_json::to_value(shown(&now, secrets)).unwrap_or_default();
    shown["from"] = from.collect();
    shown
}

/// The configuration with what the handles say.
fn now(config: &RuntimeConfig, components: &Components, log: Option<&LogHandle>) -> RuntimeConfig {
    let mut now = config.clone();
    now.connection = components.connections.config();
    let limit = components.limit.stats();
    (now.limit.min, now.limit.max) = (limit.min, limit.max);
    now.pool.retain_percent = components.pools.retain_percent();
    now.pool.max_body_bytes = components.pools.max_body_bytes();
    #[cfg(feature = "workers")]
    {
        let workers = components.workers.stats();
        now.workers.min_workers = workers.min_workers;
        now.workers.max_workers = workers.max_workers;
        now.workers.queue_size = workers.queue_size;
    }
    #[cfg(feature = "tuner")]
    {
        now.tuner.mode = components.tuner.mode();
    }
    if let Some(log) = log.filter(|log| !log.is_at(&config.log.level)) {
        now.log.level = log.level();
    }
    now
}

/// An action as the live page reads it: with the short names beside the full ones, and its time in seconds.
#[cfg(feature = "tuner")]
fn action(action: &TuningAction) -> serde_json::Value {
    let mut shown = serde_json::to_value(action).unwrap_or_default();
    shown["at"] = json!(action.at.as_secs_f64());
    shown["old"] = json!(action.old_value);
    shown["new"] = json!(action.new_value);
    shown
}
