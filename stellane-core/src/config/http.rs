use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Origin, Problem};

/// Layers of tower-http around the service (section `[http]`), each off until its key says otherwise. They need the
/// feature `http-layers`; what they do and in which order is told by `HttpLayers`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct HttpConfig {
    /// Headers whose values are secrets, such as `["authorization", "cookie", "set-cookie"]`: in requests and answers
    /// they are marked as such, so that neither logs nor the compression of HTTP/2 keep them. Default: none.
    pub sensitive_headers: Vec<String>,
    /// Whether a request for `/a/` or `//a` is one for `/a`, whatever its query. `%2F` is no slash. Not for a service
    /// that tells folders from files by that slash, such as `ServeDir`: it redirects to `/a/` for ever. Default `false`.
    pub trim_trailing_slash: bool,
    /// An id for each request.
    pub request_id: RequestIdConfig,
    /// Which pages of other origins may call the service from a browser.
    pub cors: CorsConfig,
    /// Requests that pages of other origins make a browser send, with its cookies, are refused.
    pub csrf: CsrfConfig,
    /// Answers are compressed for clients that ask for it.
    pub compression: CompressionConfig,
    /// Headers that tell a browser to be careful.
    pub security_headers: SecurityHeadersConfig,
    /// Browsers come by TLS alone (`Strict-Transport-Security`).
    pub hsts: HstsConfig,
}

/// An id for each request (section `[http.request_id]`): handlers find it in the header and as tower-http's `RequestId`
/// in the extensions, clients in the answer, refusals included.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RequestIdConfig {
    /// Default `false`.
    pub enabled: bool,
    /// The header. Default `x-request-id`.
    pub header: String,
    /// Whether a request keeps the id that it comes with, if that has 1 to 128 letters, digits, or any of `-_.~+/=:`;
    /// any other is replaced. Where clients are not trusted, two may send the same. Default `true`.
    pub accept: bool,
}

/// Which pages of other origins may call the service from a browser (section `[http.cors]`). Their preflights are
/// answered outside of the limit: never refused, and no load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct CorsConfig {
    /// Origins as a browser sends them, such as `["https://app.example.com", "http://localhost:5173"]`, `["*"]` for all,
    /// or `"null"` for pages without one. Default: none, which is off.
    pub allow_origins: Vec<String>,
    /// Methods that they may use, or `["*"]`. Default: those that are usual.
    pub allow_methods: Vec<String>,
    /// Headers that they may send, or `["*"]`, which is what a preflight asks for, `authorization` included. Default
    /// `["*"]`.
    pub allow_headers: Vec<String>,
    /// Headers of answers that they may read besides the simple ones and that of `request_id`, or `["*"]`. Default: none.
    pub expose_headers: Vec<String>,
    /// Whether cookies and certificates come along. Not for `"*"` nor `"null"`, which anybody can be. Default `false`.
    pub allow_credentials: bool,
    /// How long a browser remembers a preflight; browsers have limits of their own, from 10 minutes to a day. Too short
    /// doubles the requests, too long keeps what was allowed once. `0s` says nothing, which is 5 s. Default `10m`.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
}

/// Requests that change something and come from a page of another origin are refused with 403 (section `[http.csrf]`), by
/// `Sec-Fetch-Site` and `Origin`. What is no browser sends neither, and is let through.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct CsrfConfig {
    /// Default `false`.
    pub enabled: bool,
    /// Origins that may, besides those that `cors.allow_origins` names; `"*"` there names none. Behind a proxy that
    /// changes `Host`, also the origin of the service itself, for browsers before 2023. Default: none.
    pub trusted_origins: Vec<String>,
}

/// Answers are compressed for clients that ask for it (section `[http.compression]`), if they are long enough, of such a
/// type, whole, and not compressed yet; never event streams, gRPC, or what says `no-transform`. A strong `ETag` becomes a
/// weak one. An answer that holds a secret beside what a client has sent can tell it by its length (BREACH): leave those
/// out by their type, or by `Cache-Control: no-transform`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct CompressionConfig {
    /// Default `false`.
    pub enabled: bool,
    /// Of `"br"`, `"gzip"` and `"zstd"` those that may be used; a client that likes several alike gets the first of zstd,
    /// br, gzip. Default: all.
    pub encodings: Vec<String>,
    /// Types that are worth it: whole, as `"text/*"`, or as `"*+json"`. Default: text, JSON, XML, JavaScript, wasm.
    pub content_types: Vec<String>,
    /// Shorter answers stay as they are, those of unknown length do not. Too low costs time for nothing: an answer that
    /// fits into one packet is not faster for being shorter. Default `1024`.
    pub min_bytes: u64,
    /// How hard to try, from 1 to 9. From 6 on it costs several times the time for a few percent. Default `4`.
    pub level: u32,
}

/// Headers that tell a browser to be careful (section `[http.security_headers]`), with
/// `x-content-type-options: nosniff`. Those that the service sets itself stay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SecurityHeadersConfig {
    /// Default `false`.
    pub enabled: bool,
    /// `x-frame-options`; empty leaves it out. Default `DENY`.
    pub frame_options: String,
    /// `referrer-policy`; empty leaves it out. Default `strict-origin-when-cross-origin`.
    pub referrer_policy: String,
    /// `content-security-policy`; empty leaves it out. Default empty.
    pub content_security_policy: String,
}

/// `Strict-Transport-Security` (section `[http.hsts]`), on connections with TLS of our own only: where a proxy ends TLS,
/// it is the proxy's to say. Turns `connection.connect_info` on.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct HstsConfig {
    /// How long a browser comes by TLS alone. It can't be taken back before: begin with minutes, end with two years
    /// (`"730days"`). Default `0s`, which is off.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
    /// Subdomains too. Default `false`.
    pub include_subdomains: bool,
    /// For the lists that browsers ship; leaving these takes months. Default `false`.
    pub preload: bool,
}

macro_rules! with {
    ($($config:ty),*) => {$(
        impl $config {
            /// Changed by a closure: it can't be written as a literal.
            #[must_use]
            pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
                change(&mut self);
                self
            }
        }
    )*};
}

with!(
    HttpConfig,
    RequestIdConfig,
    CorsConfig,
    CsrfConfig,
    CompressionConfig,
    SecurityHeadersConfig,
    HstsConfig
);

impl Default for RequestIdConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            header: "x-request-id".to_owned(),
            accept: true,
        }
    }
}

impl Default for CorsConfig {
    fn default() -> Self {
        Self {
            allow_origins: Vec::new(),
            allow_methods: strings(&["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]),
            allow_headers: strings(&["*"]),
            expose_headers: Vec::new(),
            allow_credentials: false,
            max_age: Duration::from_secs(600),
        }
    }
}

impl Default for CompressionConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            encodings: strings(&ENCODINGS),
            content_types: strings(&[
                "text/*",
                "*+json",
                "*+xml",
                "application/json",
                "application/x-ndjson",
                "application/javascript",
                "application/xml",
                "application/wasm",
            ]),
            min_bytes: 1024,
            level: 4,
        }
    }
}

impl Default for SecurityHeadersConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            frame_options: "DENY".to_owned(),
            referrer_policy: "strict-origin-when-cross-origin".to_owned(),
            content_security_policy: String::new(),
        }
    }
}

const ENCODINGS: [&str; 3] = ["br", "gzip", "zstd"];
const ANY: &str = "*";

fn strings(all: &[&str]) -> Vec<String> {
    all.iter().map(|&one| one.to_owned()).collect()
}

impl HttpConfig {
    /// Whether nothing is on.
    #[cfg(all(feature = "preset", not(feature = "http-layers")))]
    pub(crate) fn is_off(&self) -> bool {
        self.sensitive_headers.is_empty()
            && !self.trim_trailing_slash
            && !self.request_id.enabled
            && !self.cors.is_on()
            && !self.csrf.enabled
            && !self.compression.enabled
            && !self.security_headers.enabled
            && self.hsts.max_age.is_zero()
    }

    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut wrong = |key: &str, message: String| {
            let key = format!("http.{key}");
            problems.push(Problem::new(Origin::Program, &key, message));
        };
        let Self {
            cors, compression, ..
        } = self;
        let names = |name: &String| !is_token(name);
        let tokens: [(&str, &[String], bool); 5] = [
            ("sensitive_headers", &self.sensitive_headers, false),
            (
                "request_id.header",
                std::slice::from_ref(&self.request_id.header),
                false,
            ),
            ("cors.allow_methods", &cors.allow_methods, true),
            ("cors.allow_headers", &cors.allow_headers, true),
            ("cors.expose_headers", &cors.expose_headers, true),
        ];
        for (key, all, may_be_any) in tokens {
            for name in all.iter().filter(|name| names(name)) {
                let what = match key {
                    "cors.allow_methods" => "a method, such as \"GET\"",
                    _ => "the name of a header, such as \"x-request-id\"",
                };
                wrong(key, format!("\"{name}\" is not {what}"));
            }
            let has_any = all.iter().any(|name| name == ANY);
            if has_any && !may_be_any {
                wrong(
                    key,
                    "\"*\" stands for all headers only in `cors`".to_owned(),
                );
            } else if has_any && all.len() > 1 {
                wrong(
                    key,
                    "\"*\" stands for all: expected nothing beside it".to_owned(),
                );
            }
        }
        for (key, origins) in [
            ("cors.allow_origins", &cors.allow_origins),
            ("csrf.trusted_origins", &self.csrf.trusted_origins),
        ] {
            let of_cors = key.starts_with("cors");
            for origin in origins {
                if of_cors && (origin == ANY || origin == "null") {
                    continue;
                }
                if let Some(fault) = fault_of_origin(origin) {
                    wrong(
                        key,
                        format!(
                            "\"{origin}\" is not an origin as browsers send it: {fault}, expected such as \
                             \"https://app.example.com\" or \"http://localhost:5173\""
                        ),
                    );
                }
            }
        }
        if cors.allows_any() && cors.allow_origins.len() > 1 {
            wrong(
                "cors.allow_origins",
                "\"*\" stands for all: expected nothing beside it".to_owned(),
            );
        }
        if cors.allow_credentials {
            for anybody in [ANY, "null"] {
                if cors.allow_origins.iter().any(|origin| origin == anybody) {
                    wrong(
                        "cors.allow_credentials",
                        format!(
                            "not with \"{anybody}\" in `allow_origins`, which anybody can be: expected origins by name"
                        ),
                    );
                }
            }
            if cors.expose_headers.iter().any(|name| name == ANY) {
                wrong(
                    "cors.expose_headers",
                    "browsers do not take \"*\" for all with `allow_credentials`: expected headers by name".to_owned(),
                );
            }
        }
        let known = |name: &&String| !ENCODINGS.contains(&name.as_str());
        for name in compression.encodings.iter().filter(known) {
            wrong(
                "compression.encodings",
                format!("\"{name}\" is not one of {}", ENCODINGS.join(", ")),
            );
        }
        if compression.enabled && compression.encodings.is_empty() {
            wrong("compression.encodings", "there is none".to_owned());
        }
        for pattern in compression.content_types.iter().filter(|p| !is_type(p)) {
            wrong(
                "compression.content_types",
                format!(
                    "\"{pattern}\" is not a type: expected \"text/css\", \"text/*\" or \"*+json\""
                ),
            );
        }
        if !(1..=9).contains(&compression.level) {
            wrong(
                "compression.level",
                format!("{} is out of range: expected 1 to 9", compression.level),
            );
        }
        let security = &self.security_headers;
        for (key, value) in [
            ("frame_options", &security.frame_options),
            ("referrer_policy", &security.referrer_policy),
            ("content_security_policy", &security.content_security_policy),
        ] {
            if !value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
                wrong(
                    &format!("security_headers.{key}"),
                    format!("{value:?} is not the value of a header: expected printable ASCII"),
                );
            }
        }
        problems
    }
}

impl CorsConfig {
    #[cfg(feature = "preset")]
    pub(crate) fn is_on(&self) -> bool {
        !self.allow_origins.is_empty()
    }

    pub(crate) fn allows_any(&self) -> bool {
        self.allow_origins.iter().any(|origin| origin == ANY)
    }
}

/// What is wrong with an origin: it is compared to the byte, so one in another form would never be met.
fn fault_of_origin(origin: &str) -> Option<&'static str> {
    let Some((scheme, rest)) = origin.split_once("://") else {
        return Some("there is no scheme");
    };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let is_lower = |byte: u8| !byte.is_ascii_uppercase();
    if rest.contains(['/', '?', '#', '@', ' ', '*', ',']) {
        return Some("after the host there is nothing but a port");
    }
    if !origin.bytes().all(is_lower) || !origin.is_ascii() {
        return Some("letters are small and ASCII");
    }
    let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    if scheme.is_empty() || !scheme.bytes().all(is_scheme) || host.is_empty() {
        return Some("there is no host");
    }
    let usual = [("http", "80"), ("https", "443")];
    match port {
        Some(port) if usual.contains(&(scheme, port)) => Some("the usual port is left out"),
        Some(port) if port.parse::<u16>().is_err() => Some("that is no port"),
        _ => None,
    }
}

/// The name of a header or a method.
fn is_token(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_part)
}

fn is_type(pattern: &str) -> bool {
    match pattern.strip_prefix("*+") {
        Some(suffix) => is_token(suffix),
        None => pattern
            .split_once('/')
            .is_some_and(|(kind, sub)| is_token(kind) && is_token(sub)),
    }
}
