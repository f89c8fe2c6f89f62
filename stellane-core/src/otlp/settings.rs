//! What OpenTelemetry's variables say.

use std::{collections::HashMap, fmt, time::Duration};

use http::{HeaderName, HeaderValue, Uri, uri::PathAndQuery};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};

#[cfg(feature = "tls")]
use super::tls::{Tls, TlsProblem};

/// Why telemetry can't be sent: a variable of the environment that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OtlpError {
    /// The variable.
    pub variable: String,
    /// What is wrong with its value. The value itself may be secret.
    pub problem: String,
}

impl fmt::Display for OtlpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.variable, self.problem)
    }
}

impl std::error::Error for OtlpError {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    Metrics,
    Traces,
}

impl Signal {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Traces => "traces",
        }
    }

    const fn variable(self) -> &'static str {
        match self {
            Self::Metrics => "METRICS",
            Self::Traces => "TRACES",
        }
    }

    const fn http_path(self) -> &'static str {
        match self {
            Self::Metrics => "v1/metrics",
            Self::Traces => "v1/traces",
        }
    }

    const fn grpc_path(self) -> &'static str {
        match self {
            Self::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            Self::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        }
    }
}

/// Where a signal goes, and how.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) signal: Signal,
    pub(super) uri: Uri,
    pub(super) is_grpc: bool,
    pub(super) is_gzip: bool,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) timeout: Duration,
    /// If it is spoken.
    #[cfg(feature = "tls")]
    pub(super) tls: Option<Tls>,
}

impl Target {
    /// As it may be shown: a name and a password stand before the host.
    pub(super) fn place(&self) -> String {
        let host = self.uri.host().unwrap_or_default();
        format!("{host}:{}", self.port())
    }

    pub(super) fn port(&self) -> u16 {
        let usual = if is_https(&self.uri) { 443 } else { 80 };
        self.uri.port_u16().unwrap_or(usual)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) metrics: Option<Target>,
    pub(super) traces: Option<Target>,
    pub(super) resource: Vec<KeyValue>,
    pub(super) interval: Duration,
    pub(super) is_delta: bool,
    /// Spans that wait.
    pub(super) queue: usize,
    pub(super) batch: usize,
    pub(super) delay: Duration,
}

impl Settings {
    /// `None` where nothing is to be sent.
    pub(super) fn new(
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Option<Self>, OtlpError> {
        // An empty value is as good as none.
        let set = variables.into_iter().filter(|(_, value)| !value.is_empty());
        let variables = Variables(set.collect());
        if variables.is("OTEL_SDK_DISABLED", "true") {
            return Ok(None);
        }
        let (metrics, traces) = (
            variables.target(Signal::Metrics)?,
            variables.target(Signal::Traces)?,
        );
        if metrics.is_none() && traces.is_none() {
            return Ok(None);
        }
        let name = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
        let is_delta = match variables.get(name).unwrap_or("cumulative") {
            temporality if temporality.eq_ignore_ascii_case("cumulative") => false,
            temporality if temporality.eq_ignore_ascii_case("delta") => true,
            _ => return Err(wrong(name, "expected `cumulative` or `delta`")),
        };
        let queue = variables.number("OTEL_BSP_MAX_QUEUE_SIZE", 2048)?;
        let queue = usize::try_from(queue).unwrap_or(usize::MAX).min(MOST_SPANS);
        let batch = variables.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)?;
        Ok(Some(Self {
            metrics,
            traces,
            resource: variables.resource()?,
            interval: variables.millis("OTEL_METRIC_EXPORT_INTERVAL", 60_000)?,
            is_delta,
            batch: usize::try_from(batch).unwrap_or(usize::MAX).min(queue),
            queue,
            delay: variables.millis("OTEL_BSP_SCHEDULE_DELAY", 5_000)?,
        }))
    }
}

/// The queue is bounded whatever is asked for.
const MOST_SPANS: usize = 1 << 16;

struct Variables(HashMap<String, String>);

fn wrong(variable: &str, problem: &str) -> OtlpError {
    OtlpError {
        variable: variable.to_owned(),
        problem: problem.to_owned(),
    }
}

impl Variables {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim())
    }

    fn is(&self, name: &str, value: &str) -> bool {
        self.get(name)
            .is_some_and(|is| is.eq_ignore_ascii_case(value))
    }

    fn number(&self, name: &str, default: u64) -> Result<u64, OtlpError> {
        let Some(value) = self.get(name) else {
            return Ok(default);
        };
        let number = value.parse().ok().filter(|number| *number > 0);
        number.ok_or_else(|| wrong(name, "expected a whole number above zero"))
    }

    fn millis(&self, name: &str, default: u64) -> Result<Duration, OtlpError> {
        self.number(name, default).map(Duration::from_millis)
    }

    /// The variable of the signal, else that of all.
    fn of(&self, signal: Signal, name: &str) -> Option<(String, &str)> {
        let own = format!("OTEL_EXPORTER_OTLP_{}_{name}", signal.variable());
        let all = format!("OTEL_EXPORTER_OTLP_{name}");
        let names = [own, all].into_iter();
        let mut found = names.filter_map(|name| Some((self.get(&name)?, name)));
        found.next().map(|(value, name)| (name, value))
    }

    fn target(&self, signal: Signal) -> Result<Option<Target>, OtlpError> {
        let exporter = format!("OTEL_{}_EXPORTER", signal.variable());
        match self.get(&exporter) {
            Some("none") => return Ok(None),
            None | Some("otlp") => {}
            Some(_) => return Err(wrong(&exporter, "expected `otlp` or `none`")),
        }
        let Some((name, endpoint)) = self.of(signal, "ENDPOINT") else {
            return Ok(None);
        };
        let is_own = name.contains(signal.variable());
        let (protocol_name, protocol) = self
            .of(signal, "PROTOCOL")
            .unwrap_or((String::new(), "http/protobuf"));
        let is_grpc = match protocol {
            "grpc" => true,
            "http/protobuf" => false,
            _ => {
                let expected = "expected `grpc` or `http/protobuf`";
                return Err(wrong(&protocol_name, expected));
            }
        };
        let is_gzip = match self.of(signal, "COMPRESSION") {
            None | Some((_, "none")) => false,
            Some((_, "gzip")) => true,
            Some((name, _)) => return Err(wrong(&name, "expected `gzip` or `none`")),
        };
        let timeout = match self.of(signal, "TIMEOUT") {
            None => Duration::from_secs(10),
            Some((name, _)) => self.millis(&name, 0)?,
        };
        let headers = match self.of(signal, "HEADERS") {
            None => Vec::new(),
            Some((name, text)) => pairs(&name, text)?
                .into_iter()
                .map(|(key, value)| {
                    let header = key.parse().ok().zip(value.parse().ok());
                    header.ok_or_else(|| wrong(&name, "holds what is no header"))
                })
                .collect::<Result<_, _>>()?,
        };
        let uri = endpoint_uri(&name, endpoint, signal, is_grpc, is_own)?;
        Ok(Some(Target {
            signal,
            #[cfg(feature = "tls")]
            tls: match is_https(&uri) {
                true => Some(self.tls(signal, is_grpc, &name)?),
                false => None,
            },
            uri,
            is_grpc,
            is_gzip,
            headers,
            timeout,
        }))
    }

    /// With files that are of use now.
    #[cfg(feature = "tls")]
    fn tls(&self, signal: Signal, is_grpc: bool, endpoint: &str) -> Result<Tls, OtlpError> {
        let roots = self.of(signal, "CERTIFICATE");
        let certificate = self.of(signal, "CLIENT_CERTIFICATE");
        let key = self.of(signal, "CLIENT_KEY");
        let client = match (&certificate, &key) {
            (None, None) => None,
            (Some((_, certificate)), Some((_, key))) => {
                Some(((*certificate).to_owned(), (*key).to_owned()))
            }
            (Some((name, _)), None) => return Err(wrong(name, "expected a `_CLIENT_KEY` too")),
            (None, Some((name, _))) => {
                return Err(wrong(name, "expected a `_CLIENT_CERTIFICATE` too"));
            }
        };
        let tls = Tls {
            roots: roots.as_ref().map(|(_, file)| (*file).to_owned()),
            client,
        };
        let blamed = |found: &Option<(String, &str)>| {
            let name = found.as_ref().map(|(name, _)| &**name);
            name.unwrap_or(endpoint).to_owned()
        };
        tls.config(is_grpc).map_err(|problem| {
            let variable = match &problem {
                TlsProblem::Roots(_) => blamed(&roots),
                TlsProblem::Client(_) => blamed(&certificate),
                TlsProblem::Other(_) => endpoint.to_owned(),
            };
            wrong(&variable, &problem.to_string())
        })?;
        Ok(tls)
    }

    fn resource(&self) -> Result<Vec<KeyValue>, OtlpError> {
        let name = "OTEL_RESOURCE_ATTRIBUTES";
        let mut all = match self.get(name) {
            None => Vec::new(),
            Some(text) => pairs(name, text)?,
        };
        if let Some(service) = self.get("OTEL_SERVICE_NAME") {
            all.retain(|(key, _)| key != "service.name");
            all.push(("service.name".to_owned(), service.to_owned()));
        }
        let mut usually = |key: &str, value: &dyn Fn() -> String| {
            if all.iter().all(|(is, _)| is != key) {
                all.push((key.to_owned(), value()));
            }
        };
        usually("service.name", &|| {
            let program = std::env::current_exe().ok();
            let program = program.as_ref().and_then(|path| path.file_name());
            let program = program.map_or_else(Default::default, |name| name.to_string_lossy());
            format!("unknown_service:{program}")
        });
        // Or the totals of two replicas would be taken for those of one that is always set back.
        usually("service.instance.id", &instance);
        usually("process.pid", &|| std::process::id().to_string());
        usually("telemetry.sdk.name", &|| "stellane".to_owned());
        usually("telemetry.sdk.language", &|| "rust".to_owned());
        usually("telemetry.sdk.version", &|| {
            env!("CARGO_PKG_VERSION").to_owned()
        });
        let attributes = all.into_iter();
        Ok(attributes
            .map(|(key, value)| attribute(key, any_value::Value::StringValue(value)))
            .collect())
    }
}

/// Which of the replicas this is: nothing that anybody has to remember.
fn instance() -> String {
    use std::hash::{BuildHasher, RandomState};
    let part = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", part(), part())
}

pub(super) fn attribute(key: impl Into<String>, value: any_value::Value) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn is_https(uri: &Uri) -> bool {
    uri.scheme_str() == Some("https")
}

fn endpoint_uri(
    name: &str,
    endpoint: &str,
    signal: Signal,
    is_grpc: bool,
    is_own: bool,
) -> Result<Uri, OtlpError> {
    let expected = "expected a URL such as `http://localhost:4318`";
    let uri: Uri = endpoint.parse().map_err(|_| wrong(name, expected))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") if cfg!(feature = "tls") => {}
        Some("https") => {
            let problem =
                "TLS needs the feature `tls` of `stellane-core`; without it expected `http://`";
            return Err(wrong(name, problem));
        }
        _ => return Err(wrong(name, expected)),
    }
    let path = match (is_grpc, is_own) {
        (true, _) => signal.grpc_path().to_owned(),
        // What is said of one signal is meant as it stands.
        (false, true) => return Ok(uri),
        (false, false) => format!(
            "{}/{}",
            uri.path().trim_end_matches('/'),
            signal.http_path()
        ),
    };
    let path = PathAndQuery::try_from(path).map_err(|_| wrong(name, expected))?;
    let mut parts = uri.into_parts();
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).map_err(|_| wrong(name, expected))
}

/// `key=value` with commas between; what is special is percent-encoded.
fn pairs(name: &str, text: &str) -> Result<Vec<(String, String)>, OtlpError> {
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (key, value) = part.split_once('=')?;
            let key = key.trim();
            Some((key.to_owned(), decode(value.trim())?)).filter(|_| !key.is_empty())
        })
        .collect::<Option<_>>()
        .ok_or_else(|| wrong(name, "expected `key=value,key=value`"))
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let (high, low) = (rest.next()?, rest.next()?);
                let digit = |byte: u8| char::from(byte).to_digit(16);
                (digit(high)? * 16 + digit(low)?) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<Option<Settings>, OtlpError> {
        let pairs = text.split_whitespace();
        let pairs = pairs.filter_map(|pair| pair.split_once('='));
        Settings::new(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())))
    }

    #[test]
    fn endpoints_are_those_of_the_specification() {
        let all = "OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4318";
        let metrics = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=http://m:9/own";
        let grpc = "OTEL_EXPORTER_OTLP_PROTOCOL=grpc";
        let service = "opentelemetry.proto.collector.metrics.v1.MetricsService/Export";
        for (text, expected) in [
            (String::new(), [None, None]),
            (format!("{all} OTEL_SDK_DISABLED=true"), [None, None]),
            (
                all.to_owned(),
                [
                    Some("http://c:4318/v1/metrics"),
                    Some("http://c:4318/v1/traces"),
                ],
            ),
            (
                format!("{all}/base/ OTEL_TRACES_EXPORTER=none"),
                [Some("http://c:4318/base/v1/metrics"), None],
            ),
            (metrics.to_owned(), [Some("http://m:9/own"), None]),
            (
                format!("{metrics} {grpc}"),
                [Some(&*format!("http://m:9/{service}")), None],
            ),
        ] {
            let settings = settings(&text).expect("valid");
            let settings = settings.as_ref();
            let uri = |target: &Option<Target>| target.as_ref().map(|one| one.uri.to_string());
            let found = [
                settings.and_then(|settings| uri(&settings.metrics)),
                settings.and_then(|settings| uri(&settings.traces)),
            ];
            assert_eq!(found.each_ref().map(Option::as_deref), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_by_its_variable_and_without_its_value() {
        let all = "OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4318";
        for wrong in [
            "OTEL_EXPORTER_OTLP_ENDPOINT=collector",
            "OTEL_EXPORTER_OTLP_ENDPOINT=ftp://secret",
            "OTEL_EXPORTER_OTLP_ENDPOINT=://",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/json",
            "OTEL_EXPORTER_OTLP_HEADERS=secret",
            "OTEL_EXPORTER_OTLP_HEADERS=a=%zz",
            "OTEL_EXPORTER_OTLP_HEADERS=a=secret%0a",
            "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT=0",
            "OTEL_EXPORTER_OTLP_COMPRESSION=zstd",
            "OTEL_METRICS_EXPORTER=prometheus",
            "OTEL_METRIC_EXPORT_INTERVAL=soon",
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=low",
            "OTEL_RESOURCE_ATTRIBUTES==a",
        ] {
            let error = settings(&format!("{all} {wrong}")).expect_err(wrong);
            let name = wrong.split('=').next().expect("a name");
            assert_eq!(error.variable, name);
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[cfg(feature = "tls-ring")]
    #[test]
    fn files_of_tls_that_are_of_no_use_are_told_by_their_variable() {
        let all = "OTEL_EXPORTER_OTLP_ENDPOINT=https://c:4318";
        for wrong in [
            "OTEL_EXPORTER_OTLP_CERTIFICATE=/secret/none.pem",
            "OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE=/secret/none.pem",
            "OTEL_EXPORTER_OTLP_CLIENT_KEY=/secret/none.pem",
            "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE=/secret/none.pem",
        ] {
            let error = settings(&format!("{all} {wrong}")).expect_err(wrong);
            assert_eq!(Some(&*error.variable), wrong.split('=').next());
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let plain = "OTEL_EXPORTER_OTLP_ENDPOINT=http://c OTEL_EXPORTER_OTLP_CERTIFICATE=/none";
        assert!(settings(plain).is_ok(), "nobody needs it there");
    }

    #[test]
    fn the_resource_is_named() {
        let text = "OTEL_EXPORTER_OTLP_ENDPOINT=http://c OTEL_SERVICE_NAME=shop \
                    OTEL_RESOURCE_ATTRIBUTES=service.name=no,region=eu%20west,service.instance.id=7";
        let resource = settings(text).expect("valid").expect("on").resource;
        let value = |key: &str| {
            let found = resource.iter().filter(|one| one.key == key);
            let found: Vec<_> = found.map(|one| one.value.clone()).collect();
            assert_eq!(found.len(), 1, "{key}");
            match found[0].as_ref().and_then(|value| value.value.clone()) {
                Some(any_value::Value::StringValue(text)) => text,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(value("service.name"), "shop");
        assert_eq!(value("region"), "eu west");
        assert_eq!(value("service.instance.id"), "7");
    }
}
