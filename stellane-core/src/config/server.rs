use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Origin, Problem, secret};
#[cfg(feature = "tls")]
use crate::connection::{ClientAuth, TlsCertificate, TlsVersion};

/// Where the preset listens and how it ends (section `[server]`).
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Address of the service, used by [`Runtime::run`](crate::Runtime::run): `HOST:PORT`, `:3000` for that port of all
    /// addresses of the machine, or `unix:/run/app.sock`. Default `127.0.0.1:3000`.
    pub address: String,
    /// Several addresses of the service, in the place of `address`: for each a table of `address`, `tls` and what is to
    /// be otherwise there than in `connection.tls`, as [`ListenAddress`] documents them. Default: none.
    pub listen: Vec<ListenAddress>,
    /// Address of the admin service (`/metrics`, `/healthz`, `/readyz`, …); empty turns it off. Default `auto`:
    /// `127.0.0.1:9090`, loopback since what it shows is nobody else's business; where that is in use by somebody else, as
    /// by a Prometheus or a second service, another port, with a warning that names it. An address that is written here
    /// and in use, `127.0.0.1:9090` too, is an error.
    pub admin_address: String,
    /// The token that the admin service takes, as `Authorization: Bearer` or as the password of a browser: on a loopback
    /// address for what changes something, on any other for everything but `/healthz`, `/readyz` and `/metrics`. Without
    /// one nothing else is answered there. Default empty: none.
    pub admin_token: String,
    /// Names by which the admin service may be asked for anything but probes and metrics, besides addresses, which need
    /// not be named, and `localhost`: that of a proxy, or of the service in its network, such as
    /// `"orders.internal"`. A page of somebody else's that has its own name point to the admin address is refused by
    /// that. Default: none.
    pub admin_hosts: Vec<String>,
    /// Whether the admin service speaks TLS, with the certificate of the service (`connection.tls`); it does not start
    /// without one. Probes and Prometheus then have to speak it too. Default `false`.
    pub admin_tls: bool,
    /// How long a drain waits for requests in progress before it ends them, `drain_classes` aside. Too short cuts off slow
    /// requests; too long, and whoever stops the process kills it before: with `drain_delay` it has to stay below the
    /// 30 s of Kubernetes, or below what the start says the grace period must be. `connection.drain_idle` is no more than
    /// half of it. Default `20s`.
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
    /// How long a handler may hold a thread of the runtime before that is logged, and counted by route, while it
    /// lasts: once for each time. Too short names what merely computes, too long leaves others waiting without a word.
    /// Seen are the calls and futures of the service, also what they run in `block_in_place`; not response bodies, and not
    /// what it spawns. `0s` is off. Default `500ms`.
    #[serde(with = "humantime_serde")]
    pub held_after: Duration,
    /// After how long without a turn for other tasks, on any runtime that serves, `/healthz` says 503: all threads of
    /// it are held, or it is deadlocked, and whoever probes will restart the process. Too short restarts a service
    /// that is merely busy. `0s` is off. Default `0s`.
    #[serde(with = "humantime_serde")]
    pub unhealthy_after: Duration,
    /// A ceiling for request bodies that no route can raise: a larger one is answered with 413, by its `Content-Length`
    /// or when more has come. Too low refuses uploads, too high lets a handler that collects a body collect as much.
    /// Below it routes have limits of their own (the extractors of axum and of our router 2 MiB, unless
    /// `DefaultBodyLimit` says otherwise), and gRPC limits each message. Default `0`: no ceiling.
    pub max_body_bytes: u64,
    /// Classes of requests that a drain gives another time than `drain_timeout`: for each a table of `timeout`, `paths`,
    /// `methods` and `grpc`, as [`DrainClass`] documents them. The process stays for as long as the longest of those that
    /// are open. Default: none.
    pub drain_classes: BTreeMap<String, DrainClass>,
    /// Requests with a deadline or a body limit of their own, longer or shorter, larger or smaller than that of all, or that
    /// go on when their client leaves: for each kind a table of `timeout`, `max_body_bytes`, `on_disconnect`,
    /// `finish_within`, `paths`, `methods` and `grpc`, as [`RouteLimits`] documents them. Default: none.
    pub route_limits: BTreeMap<String, RouteLimits>,
}

/// One of several addresses of the service: see [`ServerConfig::listen`].
///
/// ```
/// use stellane_core::config::{ListenTls, Loader};
///
/// let text = r#"
///     [[server.listen]]
///     address = ":443"
///
///     ## Sends browsers to the one above.
///     [[server.listen]]
///     address = ":80"
///     tls = "redirect"
///
///     ## Other services, by their certificates.
///     [[server.listen]]
///     address = ":8443"
///     client_auth = "required"
///     client_ca = "/etc/app/clients.pem"
///
///     [[server.listen]]
///     address = "unix:/run/app.sock"
///     tls = "off"
/// "#;
/// let config = Loader::new().text("app.toml", text).load()?;
/// assert_eq!(config.server.listen[1].tls, ListenTls::Redirect);
/// # Ok::<_, stellane_core::config::ConfigErrors>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ListenAddress {
    /// As [`ServerConfig::address`]. There is no default.
    pub address: String,
    /// Whether TLS is spoken there: `auto`, `on`, `off` or `redirect`. Default `auto`.
    pub tls: ListenTls,
    /// The port of https as clients see it, to which `redirect` sends them. Default `0`: for a request that names no
    /// port, 443; for one that does, the port of the first address with TLS.
    pub redirect_port: u16,
    /// Certificates for this address in the place of those of `connection.tls`: for each a table of `certificate` and
    /// `key`. Default: those.
    #[cfg(feature = "tls")]
    pub certificates: Vec<TlsCertificate>,
    /// As `connection.tls.min_version`, and by default that.
    #[cfg(feature = "tls")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_version: Option<TlsVersion>,
    /// As `connection.tls.client_auth`, and by default that.
    #[cfg(feature = "tls")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_auth: Option<ClientAuth>,
    /// As `connection.tls.client_ca`, and by default that.
    #[cfg(feature = "tls")]
    pub client_ca: String,
    /// As `connection.tls.client_crl`, and by default that.
    #[cfg(feature = "tls")]
    pub client_crl: String,
}

impl ListenAddress {
    /// Changed by a closure: it can't be written as a literal.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Whether TLS is otherwise here than in `connection.tls`.
    #[cfg(feature = "tls")]
    pub(crate) fn has_own_tls(&self) -> bool {
        self.min_version.is_some()
            || self.client_auth.is_some()
            || !self.certificates.is_empty()
            || !self.client_ca.is_empty()
            || !self.client_crl.is_empty()
    }

    #[cfg(not(feature = "tls"))]
    pub(crate) fn has_own_tls(&self) -> bool {
        false
    }
}

/// Whether TLS is spoken on an address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ListenTls {
    /// If there is a certificate.
    #[default]
    Auto,
    /// The service does not start without a certificate, nor on a Unix socket.
    On,
    /// Never.
    Off,
    /// Never: requests are sent on to https by 308, with their host, path and query. Those for
    /// `/.well-known/acme-challenge/` are the service's, since who issues certificates asks for them here. The service
    /// does not start if it has no address with TLS, nor does it redirect on a Unix socket.
    Redirect,
}

/// How long a drain waits for some requests: see [`ServerConfig::drain_classes`].
///
/// ```
/// use std::time::Duration;
/// use stellane_core::config::Loader;
///
/// let text = r#"
///     [server.drain_classes.generation]
///     timeout = "10m"
///     paths = ["/v1/generate/{model}"]
///     grpc = ["llm.v1.Chat"]
/// "#;
/// let config = Loader::new().text("app.toml", text).load()?;
/// // What Kubernetes has to wait: terminationGracePeriodSeconds.
/// assert_eq!(config.server.grace_period(), Duration::from_secs(605));
/// # Ok::<_, stellane_core::config::ConfigErrors>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct DrainClass {
    /// How long a drain waits for a request of the class, in whole seconds, 9 hours at most. Too short cuts requests
    /// that would have been answered, too long keeps the old process for as long. Default `20s`.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Requests whose path matches one of these templates, in the syntax of the router, such as
    /// `"/v1/generate/{model}"` or `"/files/{*path}"`. A request of several classes is of the one with the most specific
    /// template. Default: none.
    pub paths: Vec<String>,
    /// Only requests with one of these methods. Without `paths` and `grpc`, on any path. Default: any.
    pub methods: Vec<String>,
    /// Calls of these gRPC services, such as `"llm.v1.Chat"`. Default: none.
    pub grpc: Vec<String>,
}

impl DrainClass {
    /// Changed by a closure: it can't be written as a literal.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

impl Default for DrainClass {
    fn default() -> Self {
        Self {
            timeout: DRAIN_TIMEOUT,
            paths: Vec::new(),
            methods: Vec::new(),
            grpc: Vec::new(),
        }
    }
}

/// A deadline, a body limit and a way to end for some requests: see [`ServerConfig::route_limits`]. What has to be computed is said by
/// [`RuntimeBuilder::route_limits`](crate::runtime::RuntimeBuilder::route_limits).
///
/// ```
/// use stellane_core::config::Loader;
///
/// let text = r#"
///     [server]
///     max_body_bytes = "1MiB"
///     [server.route_limits.uploads]
///     timeout = "10m"
///     max_body_bytes = "1GiB"
///     paths = ["/files/{*path}"]
///     methods = ["PUT"]
/// "#;
/// let config = Loader::new().text("app.toml", text).load()?;
/// assert_eq!(config.server.route_limits["uploads"].max_body_bytes, 1 << 30);
/// # Ok::<_, stellane_core::config::ConfigErrors>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RouteLimits {
    /// How long such a request may take, instead of `overload.default_timeout` and of `overload.max_timeout`: who asks for
    /// less gets less, who asks for more gets this. As those it ends at the head of the answer, and shrinks under pressure.
    /// Too short ends honest requests, too long lets each hold a place for as long. At most one day. Default `0s`: as all
    /// others.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// How large its body may be, instead of `server.max_body_bytes`. It is also what the extractors of axum and of our
    /// router take for their default, where no `DefaultBodyLimit` of the route says otherwise. Too low refuses uploads,
    /// too high lets a handler that collects a body collect as much. Not for gRPC, which limits each message. Default `0`:
    /// as all others.
    #[serde(deserialize_with = "size")]
    pub max_body_bytes: u64,
    /// What becomes of its handler when its client leaves, as [`OnDisconnect`](crate::on_disconnect) documents it: `cancel`,
    /// `finish` or `tell`. Default `cancel`, for all methods.
    pub on_disconnect: WhenDisconnected,
    /// For how long it may go on then, if it does. Too short leaves work half-done, too long keeps a place for nobody. At
    /// most one day. Default `30s`.
    #[serde(with = "humantime_serde")]
    pub finish_within: Duration,
    /// Requests whose path matches one of these templates, in the syntax of the router. A request of several kinds is of
    /// the one with the most specific template. Default: none.
    pub paths: Vec<String>,
    /// Only requests with one of these methods. Without `paths` and `grpc`, on any path. Default: any.
    pub methods: Vec<String>,
    /// Calls of these gRPC services, such as `"llm.v1.Chat"`. Default: none.
    pub grpc: Vec<String>,
}

/// What becomes of a handler whose client has left: see [`RouteLimits::on_disconnect`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum WhenDisconnected {
    /// It is dropped.
    #[default]
    Cancel,
    /// It goes on.
    Finish,
    /// It goes on, and is told.
    Tell,
}

impl Default for RouteLimits {
    fn default() -> Self {
        Self {
            timeout: Duration::ZERO,
            max_body_bytes: 0,
            on_disconnect: WhenDisconnected::default(),
            finish_within: Duration::from_secs(30),
            paths: Vec::new(),
            methods: Vec::new(),
            grpc: Vec::new(),
        }
    }
}

impl RouteLimits {
    /// Changed by a closure: it can't be written as a literal.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

/// In a section of free names nobody else reads sizes.
fn size<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a size, such as 65536 or \"64KiB\"")]
    enum Size {
        Bytes(u64),
        Text(String),
    }
    match Size::deserialize(from)? {
        Size::Bytes(bytes) => Ok(bytes),
        Size::Text(text) => {
            let size = text.parse::<bytesize::ByteSize>();
            let wrong = |_| serde::de::Error::custom(format_args!("\"{text}\" is not a size"));
            size.map(|size| size.as_u64()).map_err(wrong)
        }
    }
}

/// Nobody has chosen the address of the admin service.
const AUTO: &str = "auto";
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);
/// What comes after the longest request: its goodbye, and the end of the process.
const LAST_WORDS: Duration = Duration::from_secs(5);

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:3000".to_owned(),
            listen: Vec::new(),
            admin_address: AUTO.to_owned(),
            admin_token: String::new(),
            admin_hosts: Vec::new(),
            admin_tls: false,
            drain_timeout: DRAIN_TIMEOUT,
            drain_delay: Duration::ZERO,
            restart_timeout: Duration::from_secs(30),
            held_after: Duration::from_millis(500),
            unhealthy_after: Duration::ZERO,
            max_body_bytes: 0,
            drain_classes: BTreeMap::new(),
            route_limits: BTreeMap::new(),
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

    /// How long whoever stops the process has to wait for it: `drain_delay`, the longest time that a request has in a
    /// drain, and 5 s. On Kubernetes this is the least `terminationGracePeriodSeconds`, to which a `preStop` hook
    /// adds its own time; for systemd, `TimeoutStopSec`.
    #[must_use]
    pub fn grace_period(&self) -> Duration {
        let classes = self.drain_classes.values().map(|class| class.timeout);
        let longest = classes.fold(self.drain_timeout, Duration::max);
        [longest, LAST_WORDS]
            .into_iter()
            .fold(self.drain_delay, Duration::saturating_add)
    }

    /// Where the admin service is to be (empty: nowhere), and whether another port will do.
    #[must_use]
    pub fn admin(&self) -> (&str, bool) {
        match self.admin_address.as_str() {
            AUTO => ("127.0.0.1:9090", true),
            chosen => (chosen, false),
        }
    }

    pub(super) fn problems(&self, problems: &mut Vec<Problem>) {
        let mut not_one = |key, address: &str, expected| {
            let message = format!("`{address}` is not an address: expected {expected}");
            problems.push(Problem::new(Origin::Program, key, message));
        };
        let listen = self.listen.iter().map(|one| ("server.listen", one));
        let needs_tcp = |tls| matches!(tls, ListenTls::On | ListenTls::Redirect);
        let on_tls = listen.clone().filter(|(_, one)| needs_tcp(one.tls));
        let plain = |tls| matches!(tls, ListenTls::Off | ListenTls::Redirect);
        let idle = listen
            .clone()
            .filter(|(_, one)| plain(one.tls) && one.has_own_tls());
        let of_all = listen.map(|(key, one)| (key, &one.address));
        for (key, address) in of_all.chain([("server.address", &self.address)]) {
            if !is_address(address) {
                let expected =
                    "HOST:PORT, such as `127.0.0.1:3000`, `:3000`, or `unix:/run/app.sock`";
                not_one(key, address, expected);
            }
        }
        for (key, one) in on_tls.filter(|(_, one)| one.address.starts_with(UNIX)) {
            let expected = match one.tls {
                ListenTls::Redirect => "one of TCP, since `tls` is `redirect`",
                _ => "one of TCP, since `tls` is `on`",
            };
            not_one(key, &one.address, expected);
        }
        let admin = self.admin().0;
        if !admin.is_empty() && !is_socket_address(admin) {
            not_one(
                "server.admin_address",
                admin,
                "HOST:PORT, such as `127.0.0.1:9090`",
            );
        }
        for (key, one) in idle {
            let message = format!(
                "`{}`: nobody speaks TLS there, so what is said of its certificates has no effect: expected `tls` of `auto` \
                 or `on`",
                one.address
            );
            problems.push(Problem::new(Origin::Program, key, message));
        }
        for (name, class) in &self.drain_classes {
            let key = format!("server.drain_classes.{name}");
            let mut wrong = |what: &str| {
                problems.push(Problem::new(Origin::Program, &key, what.to_owned()));
            };
            if class.timeout > Duration::from_secs(9 * 3600) {
                wrong("`timeout` is out of range: expected 0s to 9 hours");
            }
            if class.paths.is_empty() && class.methods.is_empty() && class.grpc.is_empty() {
                wrong("no request is of this class: expected `paths`, `methods` or `grpc`");
            }
        }
        for (name, limits) in &self.route_limits {
            let key = format!("server.route_limits.{name}");
            let mut wrong = |what: &str| {
                problems.push(Problem::new(Origin::Program, &key, what.to_owned()));
            };
            if limits.timeout > Duration::from_secs(24 * 3600) {
                wrong("`timeout` is out of range: expected 0s to 1 day");
            }
            if limits.finish_within > Duration::from_secs(24 * 3600) {
                wrong("`finish_within` is out of range: expected 0s to 1 day");
            }
            let limits_time =
                !limits.timeout.is_zero() || limits.on_disconnect != WhenDisconnected::Cancel;
            if !limits_time && limits.max_body_bytes == 0 {
                wrong("it limits nothing: expected `timeout`, `max_body_bytes` or `on_disconnect`");
            }
            let has_paths = !limits.paths.is_empty() || !limits.methods.is_empty();
            if !has_paths && limits.grpc.is_empty() {
                wrong("no request is of this kind: expected `paths`, `methods` or `grpc`");
            } else if !has_paths && !limits_time {
                wrong(
                    "`max_body_bytes` is not for gRPC, which limits each message: expected `timeout`",
                );
            }
        }
    }
}

/// Without what is [secret](super::Secrets).
impl fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        secret::debug("ServerConfig", self, f)
    }
}

const UNIX: &str = "unix:";

/// What a service can listen on, as far as one can tell before it does.
pub(crate) fn is_address(address: &str) -> bool {
    match address.strip_prefix(UNIX) {
        Some(path) => cfg!(unix) && !path.is_empty(),
        None => is_socket_address(address),
    }
}

/// `HOST:PORT`, where HOST is resolved only when it is bound, or `:PORT`.
fn is_socket_address(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| {
        let bracketed = host.starts_with('[') && host.ends_with(']');
        (bracketed || !host.contains(':')) && port.parse::<u16>().is_ok()
    })
}
