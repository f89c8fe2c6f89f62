use std::{fmt, net::SocketAddr, sync::Arc};

use http::{Extensions, HeaderName};

use crate::{
    config::{AccessLogConfig, AccessLogField, LogFormat, Secrets},
    logging::LogWriter,
};

type PeerFn = dyn Fn(&Extensions) -> Option<SocketAddr> + Send + Sync;

/// What all requests share.
#[derive(Clone)]
pub(super) struct Log {
    pub(super) writer: LogWriter,
    pub(super) fields: Vec<Named>,
    /// Which they are, a bit for each.
    has: u32,
    pub(super) is_json: bool,
    pub(super) most: usize,
    pub(super) id: HeaderName,
    pub(super) peer: Option<Arc<PeerFn>>,
    pub(super) secrets: Secrets,
}

/// A field, and how it begins where it is not the first: `,"name":` or ` name=`.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) field: AccessLogField,
    pub(super) begin: String,
}

impl Log {
    pub(super) fn new(config: &AccessLogConfig, writer: LogWriter) -> Self {
        let is_json = config.format == LogFormat::Json;
        let named = |field: &AccessLogField| {
            let name = field.as_str();
            let begin = match (is_json, field) {
                // Behind it stands the name of the account.
                (true, AccessLogField::Timing) => format!(",\"{name}_"),
                (true, _) => format!(",\"{name}\":"),
                (false, AccessLogField::Timing) => format!(" {name}_"),
                (false, _) => format!(" {name}="),
            };
            let field = *field;
            Named { field, begin }
        };
        Self {
            writer,
            fields: config.fields.iter().map(named).collect(),
            has: config.fields.iter().fold(0, |has, field| has | bit(*field)),
            is_json,
            most: config.max_value_bytes,
            id: HeaderName::from_static("x-request-id"),
            peer: None,
            secrets: Secrets::default(),
        }
    }

    pub(super) fn has(&self, field: AccessLogField) -> bool {
        self.has & bit(field) != 0
    }
}

fn bit(field: AccessLogField) -> u32 {
    1 << field as u32
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("fields", &self.fields)
            .finish_non_exhaustive()
    }
}
