use serde::{Deserialize, Serialize};

use super::{LogFormat, Origin, Problem};

/// A line for each request (section `[access_log]`); used by [`AccessLogLayer`](crate::access_log::AccessLogLayer).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct AccessLogConfig {
    /// Default `false`. Turns `connection.connect_info` on.
    pub enabled: bool,
    /// `json`, an object in each line, or `text`: `name=value`. Default `json`.
    pub format: LogFormat,
    /// What a line has, in this order; what is not known of a request is left out. Each is explained by
    /// [`AccessLogField`]. Default: all but `query`, `host`, `referer` and `timing`.
    pub fields: Vec<AccessLogField>,
    /// `stderr`, with what else is logged, or `stdout`. Default `stdout`.
    pub output: AccessLogOutput,
    /// So many bytes of each text that a client has sent are written: what is longer is cut, and ends in `…`. Too low cuts
    /// what one looks for, too high lets clients fill the log. From 16 to 8192. Default 256.
    pub max_value_bytes: usize,
}

/// Where the lines of an access log go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum AccessLogOutput {
    /// Standard output.
    #[default]
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a line of an access log says of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AccessLogField {
    /// When it began, in UTC.
    Time,
    /// Whom its connection is of: address and port.
    Peer,
    /// The method.
    Method,
    /// The template of its route, as the metrics have it.
    Route,
    /// The path, as it was sent.
    Path,
    /// What stands behind `?`. It may hold secrets, which the words of `log.redact` and those that always look like secrets
    /// hide, and what else is nobody's business.
    Query,
    /// The version of HTTP.
    Version,
    /// Which name was asked for it.
    Host,
    /// The status; 499 of a client that left before there was one.
    Status,
    /// The code of a call of gRPC.
    GrpcStatus,
    /// The size of its body, if it said so.
    RequestBytes,
    /// How much of the body of its answer was handed over.
    ResponseBytes,
    /// How long it took to the head of the answer, in seconds.
    HeadSeconds,
    /// How long it took to the end of the answer, in seconds.
    DurationSeconds,
    /// How it ended: `complete`, `cancelled`, `body_error`, `service_error` or `panic`.
    End,
    /// Where its time went, in seconds: the accounts of its ledger, which add up to `duration_seconds` and the time before
    /// that, `before_call`. Known in the preset.
    Timing,
    /// Its id, by the header that `http.request_id` names.
    RequestId,
    /// The id of its trace: by the section `[trace]`, else by its `traceparent`.
    TraceId,
    /// `User-Agent`.
    UserAgent,
    /// `Referer`.
    Referer,
}

impl AccessLogField {
    /// The name in a line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Peer => "peer",
            Self::Method => "method",
            Self::Route => "route",
            Self::Path => "path",
            Self::Query => "query",
            Self::Version => "version",
            Self::Host => "host",
            Self::Status => "status",
            Self::GrpcStatus => "grpc_status",
            Self::RequestBytes => "request_bytes",
            Self::ResponseBytes => "response_bytes",
            Self::HeadSeconds => "head_seconds",
            Self::DurationSeconds => "duration_seconds",
            Self::End => "end",
            Self::Timing => "timing",
            Self::RequestId => "request_id",
            Self::TraceId => "trace_id",
            Self::UserAgent => "user_agent",
            Self::Referer => "referer",
        }
    }
}

impl Default for AccessLogConfig {
    fn default() -> Self {
        use AccessLogField as Field;
        Self {
            enabled: false,
            format: LogFormat::Json,
            fields: vec![
                Field::Time,
                Field::Peer,
                Field::Method,
                Field::Route,
                Field::Path,
                Field::Version,
                Field::Status,
                Field::GrpcStatus,
                Field::RequestBytes,
                Field::ResponseBytes,
                Field::HeadSeconds,
                Field::DurationSeconds,
                Field::End,
                Field::RequestId,
                Field::TraceId,
                Field::UserAgent,
            ],
            output: AccessLogOutput::Stdout,
            max_value_bytes: 256,
        }
    }
}

impl AccessLogConfig {
    /// Changed by a closure: it can't be written as a literal.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(super) fn problems(&self, problems: &mut Vec<Problem>) {
        let mut wrong = |key, message| problems.push(Problem::new(Origin::Program, key, message));
        if self.fields.is_empty() {
            let message = "[] says nothing: expected at least one field".to_owned();
            wrong("access_log.fields", message);
        }
        if !(16..=8192).contains(&self.max_value_bytes) {
            let message = format!(
                "{} is out of range: expected 16 to 8192",
                self.max_value_bytes
            );
            wrong("access_log.max_value_bytes", message);
        }
    }
}
