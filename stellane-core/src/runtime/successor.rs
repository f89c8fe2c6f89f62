//! The process that comes before this one, and the one that comes after it.

use std::time::Duration;

use tokio::signal::unix::Signal;

use super::listeners::Listeners;
use crate::{
    config::ServerConfig,
    connection::{ListenConfig, Listener},
    restart::{self, Restart},
};

/// The name by which the socket of the admin address is handed over.
const ADMIN: &str = "admin";

/// The socket named `admin` among those that were handed over.
pub(super) fn take_admin(listeners: &mut Vec<Listener>) -> Option<Listener> {
    let at = restart::names().iter().position(|name| name == ADMIN)?;
    (at < listeners.len()).then(|| listeners.remove(at))
}

/// The sockets that the process before this one had, for the addresses that are configured now: others are listened on
/// anew. Those of systemd stay as they are, whatever is configured.
pub(super) async fn where_configured(
    handed: Vec<Listener>,
    key: &'static str,
    address: &str,
    options: &ListenConfig,
) -> Vec<Listener> {
    let Some(first) = handed.iter().find(|one| one.local_addr().is_some()) else {
        return handed;
    };
    if !restart::is_successor() || first.is_at(address).await {
        return handed;
    }
    let local = first
        .local_addr()
        .map_or(String::new(), |at| at.to_string());
    match Listener::bind_all(address, options).await {
        Ok(listeners) => {
            tracing::info!(key, address, was = %local, "another address than before is listened on");
            listeners
        }
        Err(error) => {
            tracing::warn!(
                key, address, %error,
                "the new address can't be listened on while the process before this one serves: this one goes on at \
                 {local}, as that did, until it is stopped and started anew"
            );
            handed
        }
    }
}

/// What a new process needs, and the signal that asks for it.
pub(super) struct Successor {
    restart: Restart,
    asked: Signal,
    patience: Duration,
}

impl Successor {
    pub(super) fn new(
        asked: Signal,
        config: &ServerConfig,
        listeners: &Listeners,
        admin: Option<&Listener>,
    ) -> Option<Self> {
        let restart = || {
            let restart = Restart::from_process()?.with_listeners("http", listeners.listening())?;
            restart.with_listeners(ADMIN, admin)
        };
        let restart = restart()
            .inspect_err(|error| tracing::warn!(%error, "SIGUSR2 will not restart"))
            .ok()?;
        Some(Self {
            restart,
            asked,
            patience: config.restart_timeout,
        })
    }

    /// Resolves when a new process has taken over.
    pub(super) async fn takes_over(mut self) {
        loop {
            self.asked.recv().await;
            tracing::info!("a new process is to take over");
            match self.restart.hand_over(self.patience).await {
                Ok(pid) => {
                    tracing::info!(pid, "a new process has taken over");
                    return;
                }
                Err(error) => tracing::warn!(%error, "SIGUSR2: this process goes on"),
            }
        }
    }
}

/// Tells those who wait for this process, once it is ready.
pub(super) async fn tell_ready(readiness: stellane_metrics::Readiness) {
    while !readiness.is_ready() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if let Err(error) = restart::ready() {
        tracing::warn!(%error, "nobody could be told that this process is ready");
    }
}
