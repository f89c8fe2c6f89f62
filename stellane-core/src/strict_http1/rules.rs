use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use http::{Method, Request, Uri, Version, header};

use super::{ConfigError, StrictHttp1Config, Violation, host};
use crate::transfer_coding::TransferCoding;

/// What a request must keep to, and how often one did not; a cheap handle.
#[derive(Debug, Clone)]
pub struct Http1Rules {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: StrictHttp1Config,
    refused: [AtomicU64; Violation::ALL.len()],
}

/// What [`Http1Rules`] have refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StrictHttp1Stats {
    refused: [u64; Violation::ALL.len()],
}

/// Builds [`Http1Rules`].
#[derive(Debug, Default)]
#[must_use]
pub struct Http1RulesBuilder {
    config: StrictHttp1Config,
}

/// The settings are out of range.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BuildError {
    /// Every setting that is out of range.
    pub errors: Vec<ConfigError>,
}

impl Http1RulesBuilder {
    /// The settings. Default: [`StrictHttp1Config::default`].
    pub fn config(mut self, config: StrictHttp1Config) -> Self {
        self.config = config;
        self
    }

    /// Builds the rules.
    ///
    /// # Errors
    /// Every setting that is out of range.
    pub fn build(self) -> Result<Http1Rules, BuildError> {
        self.config
            .validate()
            .map_err(|errors| BuildError { errors })?;
        Ok(Http1Rules::with(self.config))
    }
}

impl Http1Rules {
    /// A builder with the default settings.
    pub fn builder() -> Http1RulesBuilder {
        Http1RulesBuilder::default()
    }

    fn with(config: StrictHttp1Config) -> Self {
        Self {
            shared: Arc::new(Shared {
                config,
                refused: std::array::from_fn(|_| AtomicU64::new(0)),
            }),
        }
    }

    /// How often each rule was broken.
    #[must_use]
    pub fn stats(&self) -> StrictHttp1Stats {
        StrictHttp1Stats {
            refused: std::array::from_fn(|i| self.shared.refused[i].load(Relaxed)),
        }
    }

    /// Checks a request without counting it.
    ///
    /// # Errors
    /// The first rule that it breaks.
    #[inline]
    pub fn check<B>(&self, request: &Request<B>) -> Result<(), Violation> {
        self.check_all(request, true)
    }

    #[inline]
    fn check_all<B>(&self, request: &Request<B>, wants_host: bool) -> Result<(), Violation> {
        let config = &self.shared.config;
        if !config.enabled {
            return Ok(());
        }
        let (uri, headers) = (request.uri(), request.headers());
        let target = uri.path_and_query().map_or("", |target| target.as_str());
        if target.len() > config.max_target_bytes {
            return Err(Violation::TargetTooLong);
        }
        if request.version() > Version::HTTP_11 {
            return check_fields(headers, config.max_headers);
        }
        if !config.allow_non_ascii_target && !target.is_ascii() {
            return Err(Violation::TargetNotAscii);
        }
        // What begins with a slash is for every method but one.
        let authority = uri.authority();
        let is_usual = authority.is_none() && target.starts_with('/');
        let connects = matches!(*request.method(), Method::CONNECT);
        if (connects || !is_usual) && !is_form_of(request.method(), uri) {
            return Err(Violation::TargetForm);
        }
        if headers.len() > config.max_headers {
            return Err(Violation::TooManyHeaders);
        }
        // One walk: cheaper than two look-ups, unless there are very many.
        let (mut host, mut encoded) = (None, false);
        for (name, value) in headers {
            if *name == header::HOST {
                if host.replace(value.as_bytes()).is_some() {
                    return Err(Violation::HostRepeated);
                }
            } else {
                encoded |= *name == header::TRANSFER_ENCODING;
            }
        }
        match host {
            Some(host) if !host::is_valid(host) => return Err(Violation::HostInvalid),
            // A target with an authority names it: so hyper's own client sends it, and nobody can read it differently.
            None if wants_host && authority.is_none() && request.version() == Version::HTTP_11 => {
                return Err(Violation::HostMissing);
            }
            _ => {}
        }
        if let Some(authority) = authority {
            let (authority, scheme) = (authority.as_str().as_bytes(), uri.scheme_str());
            let differs = host.is_some_and(|host| !host::same(host, authority, scheme));
            if differs || authority.contains(&b'@') {
                return Err(Violation::HostContradicted);
            }
        }
        if encoded {
            return check_encoding(headers);
        }
        Ok(())
    }

    /// Checks a request and counts what it breaks. `wants_host` of one that came by a connection of ours: one without a
    /// host may be none of the network's, and is not ambiguous.
    #[inline]
    pub(crate) fn judge<B>(&self, request: &Request<B>, wants_host: bool) -> Result<(), Violation> {
        let checked = self.check_all(request, wants_host);
        checked.inspect_err(|violation| {
            self.shared.refused[*violation as usize].fetch_add(1, Relaxed);
            tracing::debug!(%violation, "request refused");
        })
    }
}

/// Over HTTP/2 each cookie may come in a field of its own, which over HTTP/1 were one line (RFC 9113 8.2.3).
#[inline]
fn check_fields(headers: &http::HeaderMap, max: usize) -> Result<(), Violation> {
    if headers.len() <= max {
        return Ok(());
    }
    let cookies = headers.get_all(header::COOKIE).iter().count();
    match headers.len() - cookies.saturating_sub(1) > max {
        true => Err(Violation::TooManyHeaders),
        false => Ok(()),
    }
}

/// Whether a method may have this form of target, RFC 9112 section 3.2.
#[cold]
fn is_form_of(method: &Method, uri: &Uri) -> bool {
    match (uri.scheme(), uri.authority()) {
        (None, Some(authority)) => {
            let port = authority.port_u16();
            method == Method::CONNECT && port.is_some_and(|port| port > 0)
        }
        _ if uri.path() == "*" => method == Method::OPTIONS,
        _ => method != Method::CONNECT,
    }
}

#[cold]
fn check_encoding(headers: &http::HeaderMap) -> Result<(), Violation> {
    if headers.contains_key(header::CONTENT_LENGTH) {
        return Err(Violation::LengthAndEncoding);
    }
    let codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let codings: Vec<_> = codings.map(|value| value.as_bytes()).collect();
    match TransferCoding::of(&codings.join(&b',')) {
        TransferCoding::Chunked => Ok(()),
        TransferCoding::Unknown => Err(Violation::EncodingUnknown),
        TransferCoding::Invalid => Err(Violation::EncodingInvalid),
    }
}

impl Default for Http1Rules {
    /// The rules with the default settings.
    fn default() -> Self {
        Self::with(StrictHttp1Config::default())
    }
}

impl StrictHttp1Stats {
    /// How many requests were refused for this.
    #[must_use]
    pub fn refused(&self, violation: Violation) -> u64 {
        self.refused[violation as usize]
    }

    /// How many requests were refused.
    #[must_use]
    pub fn refused_total(&self) -> u64 {
        self.refused.iter().sum()
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("strict HTTP/1: ")?;
        for (i, error) in self.errors.iter().enumerate() {
            write!(f, "{}{error}", if i > 0 { "; " } else { "" })?;
        }
        Ok(())
    }
}

impl std::error::Error for BuildError {}
