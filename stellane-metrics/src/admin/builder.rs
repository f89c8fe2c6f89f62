use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicUsize},
};

use serde_json::{Value, json};

use super::{
    access::Access,
    service::{AdminService, Change, Health, Read, Shared},
};
use crate::{BuildError, Machine, Readiness, RuntimeMetrics};

/// Where [`AdminService`] begins: see [`AdminBuilder`].
///
/// ```
/// use stellane_metrics::{Admin, Readiness};
///
/// let readiness = Readiness::new();
/// let admin = Admin::builder()
///     .readiness(readiness.clone())
///     .bound_to(([127, 0, 0, 1], 9090).into())
///     .build()?;
/// readiness.set_ready(true);
/// # let _ = admin;
/// # Ok::<_, stellane_metrics::BuildError>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Admin;

impl Admin {
    /// An admin service with nothing but the liveness probe and the page.
    pub fn builder() -> AdminBuilder {
        AdminBuilder::default()
    }
}

/// Builds [`AdminService`].
///
/// ```
/// use stellane_metrics::{Admin, Readiness, RuntimeMetrics};
///
/// # fn main() -> Result<(), stellane_metrics::BuildError> {
/// let admin = Admin::builder()
///     .runtime(RuntimeMetrics::builder().build()?)
///     .readiness(Readiness::new())
///     .bound_to(([127, 0, 0, 1], 9090).into())
///     .json("/config", || serde_json::json!({ "token": "is redacted" }))
///     .post("/tuning/mode", |mode| match mode {
///         "observe" | "apply" => Ok(serde_json::json!({ "mode": mode })),
///         _ => Err("expected observe or apply".to_owned()),
///     })
///     .build()?;
/// # let _ = admin;
/// # Ok(())
/// # }
/// ```
#[must_use = "a builder does nothing until `build` is called"]
#[derive(Default)]
pub struct AdminBuilder {
    prefix: String,
    name: Option<String>,
    version: Option<String>,
    access: Access,
    runtime: Option<RuntimeMetrics>,
    readiness: Option<Readiness>,
    health: Option<Health>,
    #[cfg(feature = "prometheus")]
    prometheus: Option<crate::Prometheus>,
    reads: BTreeMap<String, Read>,
    changes: BTreeMap<String, Change>,
    bad_path: Option<String>,
}

impl AdminBuilder {
    /// What the service is called, so that the pages of many can be told apart. Default: `OTEL_SERVICE_NAME`, else the name of
    /// the program.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into()).filter(|name| !name.is_empty());
        self
    }

    /// Which version of the service this is: `env!("CARGO_PKG_VERSION")`. Default: none is shown.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into()).filter(|version| !version.is_empty());
        self
    }

    /// Serves `/metrics`.
    #[cfg(feature = "prometheus")]
    pub fn prometheus(mut self, prometheus: crate::Prometheus) -> Self {
        self.prometheus = Some(prometheus);
        self
    }

    /// Serves `/runtime.json`, `/history.json`, `/events` and, if it reads request metrics, `/routes`.
    pub fn runtime(mut self, runtime: RuntimeMetrics) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// What `/healthz` says: an error is answered with 503, and a process that says so is restarted. It is called
    /// where the service runs and must not block. Default: always well.
    pub fn health(
        mut self,
        health: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.health = Some(Box::new(health));
        self
    }

    /// Serves `/readyz`, with `?verbose` every dependency too. Without it that always says ready.
    pub fn readiness(mut self, readiness: Readiness) -> Self {
        self.readiness = Some(readiness);
        self
    }

    /// Serves what the closure returns under this path, on a blocking thread.
    ///
    /// The page shows `/connections`, `/requests`, `/routes`, `/tuning` and `/config` if they exist. Under `/config` the values of keys that
    /// look like secrets are replaced.
    pub fn json(
        mut self,
        path: impl Into<String>,
        read: impl Fn() -> Value + Send + Sync + 'static,
    ) -> Self {
        let path = path.into();
        if self.is_free(&path) {
            self.reads.insert(path, Box::new(read));
        }
        self
    }

    /// Calls the closure with the body of a `POST` or `PUT` to this path; an error is answered with 400.
    ///
    /// Who may do that: see [`bound_to`](Self::bound_to). Never a cross-origin request.
    pub fn post(
        mut self,
        path: impl Into<String>,
        change: impl Fn(&str) -> Result<Value, String> + Send + Sync + 'static,
    ) -> Self {
        let path = path.into();
        if self.changes.contains_key(&path) || !path.starts_with('/') {
            self.bad_path = Some(path);
        } else {
            self.changes.insert(path, Box::new(change));
        }
        self
    }

    /// Serves `/log-level`: reads with `GET`, changes with `PUT` or `POST`.
    pub fn log_level(
        self,
        read: impl Fn() -> String + Send + Sync + 'static,
        change: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.json("/log-level", move || Value::String(read()))
            .post("/log-level", move |level| {
                change(level.trim()).map(|()| Value::String(level.trim().to_owned()))
            })
    }

    /// The address this service listens on. On a loopback address it shows all, and changes things too without a token.
    /// On any other, and on one that nobody has named, everything but `/healthz`, `/readyz` and `/metrics` takes the
    /// [token](Self::token). Both answer only requests for an address or a loopback name (see
    /// [`allow_host`](Self::allow_host)).
    pub fn bound_to(mut self, address: SocketAddr) -> Self {
        self.access.bound_to = Some(address);
        self
    }

    /// Whoever mounts the service lets in only those who may see all: no name is checked, and a token only by what changes
    /// things. Default: off.
    pub fn guarded(mut self) -> Self {
        self.access.guarded = true;
        self
    }

    /// The token that changing things takes on any address, and seeing them on one that is no loopback address: as
    /// `Authorization: Bearer`, or as the password of a browser (`Basic`, with any name).
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.access.token = Some(token.into()).filter(|token| !token.is_empty());
        self
    }

    /// Also answers requests for this host name (without a port): that of a reverse proxy, or of the service in its
    /// network. Addresses and loopback names need not be named.
    pub fn allow_host(mut self, host: impl Into<String>) -> Self {
        self.access.hosts.push(host.into());
        self
    }

    /// The path below which the service is mounted, if whoever mounts it does not strip it: `/admin`.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into().trim_end_matches('/').to_owned();
        self
    }

    /// Builds the service.
    ///
    /// # Errors
    ///
    /// [`BuildError::AdminPath`] when a path was given twice, is one of the service's own, or does not start with `/`.
    pub fn build(mut self) -> Result<AdminService, BuildError> {
        if let Some(path) = self.bad_path {
            return Err(BuildError::AdminPath(path));
        }
        if let Some(runtime) = self
            .runtime
            .clone()
            .filter(|runtime| runtime.http().is_some())
        {
            self.reads
                .entry("/routes".to_owned())
                .or_insert_with(|| Box::new(move || runtime.routes_json()));
        }
        Ok(AdminService {
            shared: Arc::new(Shared {
                prefix: self.prefix,
                about: about(self.name, self.version.as_deref()),
                access: self.access,
                runtime: self.runtime,
                readiness: self.readiness,
                health: self.health,
                #[cfg(feature = "prometheus")]
                prometheus: self.prometheus,
                reads: self.reads,
                changes: self.changes,
                streams: Arc::new(AtomicUsize::new(0)),
            }),
        })
    }

    fn is_free(&mut self, path: &str) -> bool {
        let own = [
            "/",
            "/metrics",
            "/healthz",
            "/readyz",
            "/runtime.json",
            "/history.json",
            "/events",
            "/about",
            "/paths",
        ];
        let free = path.starts_with('/') && !own.contains(&path) && !self.reads.contains_key(path);
        if !free {
            self.bad_path = Some(path.to_owned());
        }
        free
    }
}

/// Who this is, and what it may use.
fn about(name: Option<String>, version: Option<&str>) -> Value {
    let program = || {
        let program = std::env::current_exe().ok()?;
        Some(program.file_stem()?.to_string_lossy().into_owned())
    };
    let of_otel = || {
        std::env::var("OTEL_SERVICE_NAME")
            .ok()
            .filter(|name| !name.is_empty())
    };
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let machine = Machine::read();
    json!({
        "name": name.or_else(of_otel).or_else(program),
        "version": version,
        "host": std::env::var("HOSTNAME").ok().or_else(host).map(|host| host.trim().to_owned()),
        "pid": std::process::id(),
        "stellane": env!("CARGO_PKG_VERSION"),
        "os": std::env::consts::OS,
        "arch": std::env::consts::ARCH,
        "cpus": machine.cpus,
        "memory": machine.memory,
        "max_files": machine.max_files,
    })
}

impl fmt::Debug for AdminBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminBuilder")
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}
