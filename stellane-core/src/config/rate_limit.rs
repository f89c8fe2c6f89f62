use serde::{Deserialize, Serialize};
use stellane_autotune::{RateLimitConfig, RateLimitHeaders, RateRule, WithoutStore};

use super::{Origin, Problem};

/// How often each client may ask (section `[rate_limit.NAME]`), as the [layer](stellane_autotune::rate_limit) behind it documents
/// it. What has to be computed is said by a [`RateLimitLayer`](stellane_autotune::RateLimitLayer) around the service.
///
/// ```
/// use stellane_core::config::Loader;
///
/// let text = r#"
///     [rate_limit.clients]
///     rules = ["50/s", "10000/h burst 500"]
///     [rate_limit.logins]
///     rules = ["5/m"]
///     paths = ["/login"]
///     methods = ["POST"]
///     [rate_limit.keys]
///     key = "header:x-api-key"
///     rules = ["1000/s"]
/// "#;
/// let config = Loader::new().text("app.toml", text).load()?;
/// assert_eq!(config.rate_limit["logins"].rules[0].limit(), 5);
/// # Ok::<_, stellane_core::config::ConfigErrors>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RateLimits {
    /// Whose rate it is: `peer`, the address of the client, or the first half of it for IPv6; or `header:NAME`, the value
    /// of a header. Who may write another value into the header has another rate: only for what something in front of this has
    /// checked. Behind a proxy the address is the proxy's, unless `connection.forwarded` or `connection.proxy_protocol`
    /// says whom to believe; all of its clients would share one rate. Requests without an address, of Unix sockets, or without
    /// the header are let through. Default `peer`.
    pub key: String,
    /// The rates, such as `["10/s", "1000/h burst 100"]`: a request has to be within all of them. From one to eight.
    pub rules: Vec<RateRule>,
    /// How many keys are remembered at a time, from 1024 to 16 777 216. Default 65 536, some 1.5 MB with one rule.
    pub max_keys: usize,
    /// Which answers say how much is left: `off`, `refused` or `all`. Default `refused`.
    pub headers: RateLimitHeaders,
    /// The store by which all replicas share this rate (feature `redis`), Redis or Valkey: `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`
    /// or `unix:PATH`. Sections of one URL share a connection. Services that share a server take different databases, or other names for
    /// their sections. Rates that are not shared come first. Default: none, each replica keeps to the rate by itself.
    pub shared: String,
    /// What is done while that store is away: `whole`, each replica keeps to the whole rate; `share`, to its part of it by the number of
    /// replicas, which refuses a client whose requests all arrive at one; or `refuse`, by 503, for what must not be tried too often.
    /// Default `whole`.
    pub without_store: WithoutStore,
    /// Only requests whose path matches one of these templates, in the syntax of the router. Default: all.
    pub paths: Vec<String>,
    /// Only requests with one of these methods. Default: all.
    pub methods: Vec<String>,
    /// Only calls of these gRPC services, such as `"llm.v1.Chat"`. Default: all.
    pub grpc: Vec<String>,
}

impl Default for RateLimits {
    fn default() -> Self {
        let RateLimitConfig {
            rules,
            max_keys,
            headers,
            ..
        } = RateLimitConfig::default();
        Self {
            key: "peer".to_owned(),
            rules,
            max_keys,
            headers,
            shared: String::new(),
            without_store: WithoutStore::default(),
            paths: Vec::new(),
            methods: Vec::new(),
            grpc: Vec::new(),
        }
    }
}

impl RateLimits {
    /// Changed by a closure: it can't be written as a literal.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The header whose value is the key; `None` for the peer.
    pub(crate) fn header(&self) -> Option<&str> {
        self.key.strip_prefix("header:")
    }

    pub(crate) fn limit(&self) -> RateLimitConfig {
        RateLimitConfig::default().with(|config| {
            config.rules.clone_from(&self.rules);
            (config.max_keys, config.headers) = (self.max_keys, self.headers);
        })
    }

    #[cfg(feature = "redis")]
    pub(crate) fn store(&self) -> stellane_autotune::rate_limit::shared::RateStoreConfig {
        let config = stellane_autotune::rate_limit::shared::RateStoreConfig::default();
        config.with(|config| config.url.clone_from(&self.shared))
    }

    fn problem_of_store(&self) -> Option<String> {
        if self.shared.is_empty() {
            return None;
        }
        #[cfg(feature = "redis")]
        return self.store().validate().err().map(|errors| {
            let errors = errors.into_iter().map(|error| error.expected);
            format!("expected {}", errors.collect::<Vec<_>>().join(", "))
        });
        #[cfg(not(feature = "redis"))]
        Some("needs the feature `redis` of `stellane-core`".to_owned())
    }

    pub(super) fn problems(&self, name: &str, problems: &mut Vec<Problem>) {
        let key = format!("rate_limit.{name}");
        let mut wrong = |what| problems.push(Problem::new(Origin::Program, &key, what));
        for error in self.limit().validate().err().into_iter().flatten() {
            wrong(error.to_string());
        }
        if let Some(problem) = self.problem_of_store() {
            // Not shown: a password may stand in it.
            wrong(format!("`shared`: {problem}"));
        }
        let is_header = |name: &str| http::HeaderName::try_from(name).is_ok();
        if self.key != "peer" && !self.header().is_some_and(is_header) {
            wrong(format!(
                "`key` = \"{}\": expected `peer` or `header:NAME`",
                self.key
            ));
        }
    }
}
