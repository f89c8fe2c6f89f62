use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Origin, Problem};

/// Where the preset listens and how it ends (section `[server]`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Address of the service, used by [`Runtime::run`](crate::Runtime::run). Default `127.0.0.1:3000`.
    pub address: String,
    /// Address of the admin service (`/metrics`, `/healthz`, `/readyz`, …); empty turns it off.
    /// Default `127.0.0.1:9090`: loopback, since what it shows is nobody else's business.
    pub admin_address: String,
    /// Bearer token for the admin pages that change something; without one they answer only on a
    /// loopback address. Default empty: none.
    pub admin_token: String,
    /// How long a drain waits for requests in progress before it aborts them. Too short cuts off slow
    /// requests, too long delays a deployment. Default `30s`.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// How long the service goes on accepting after `/readyz` has turned unready, so that load balancers
    /// notice first. Default `0s`.
    #[serde(with = "humantime_serde")]
    pub drain_delay: Duration,
    /// How long the new process that `SIGUSR2` starts may take to become ready, before it is given up and this one
    /// goes on. Too short for a service that warms up first gives up every restart. `0s` turns `SIGUSR2` off. Default
    /// `30s`.
    #[serde(with = "humantime_serde")]
    pub restart_timeout: Duration,
    /// A ceiling for request bodies that no route can raise: a larger one is answered with 413, by its `Content-Length`
    /// or when more has come. Too low refuses uploads, too high lets a handler that collects a body collect as much.
    /// Below it routes have limits of their own (the extractors of axum and of our router 2 MiB, unless
    /// `DefaultBodyLimit` says otherwise), and gRPC limits each message. Default `0`: no ceiling.
    pub max_body_bytes: u64,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:3000".to_owned(),
            admin_address: "127.0.0.1:9090".to_owned(),
            admin_token: String::new(),
            drain_timeout: Duration::from_secs(30),
            drain_delay: Duration::ZERO,
            restart_timeout: Duration::from_secs(30),
            max_body_bytes: 0,
        }
    }
}

impl ServerConfig {
    /// Changed by a closure: it can't be written as a literal.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(super) fn problems(&self, problems: &mut Vec<Problem>) {
        for (key, address, optional) in [
            ("server.address", &self.address, false),
            ("server.admin_address", &self.admin_address, true),
        ] {
            let turned_off = optional && address.is_empty();
            if !turned_off && !is_socket_address(address) {
                problems.push(Problem::new(
                    Origin::Program,
                    key,
                    format!("`{address}` is not an address: expected HOST:PORT, such as `127.0.0.1:3000`"),
                ));
            }
        }
    }
}

/// `HOST:PORT`, where HOST is resolved only when it is bound.
pub(crate) fn is_socket_address(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| {
        let bracketed = host.starts_with('[') && host.ends_with(']');
        !host.is_empty() && (bracketed || !host.contains(':')) && port.parse::<u16>().is_ok()
    })
}
