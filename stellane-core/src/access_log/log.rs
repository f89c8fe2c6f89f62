use std::{fmt, net::SocketAddr, sync::Arc};

use http::{Extensions, HeaderName};

use crate::{
    config::{AccessLogField, Secrets},
    logging::LogWriter,
};

type PeerFn = dyn Fn(&Extensions) -> Option<SocketAddr> + Send + Sync;

/// What all requests share.
#[derive(Clone)]
pub(super) struct Log {
    pub(super) writer: LogWriter,
    pub(super) fields: Vec<AccessLogField>,
    pub(super) is_json: bool,
    pub(super) most: usize,
    pub(super) id: HeaderName,
    pub(super) peer: Option<Arc<PeerFn>>,
    pub(super) secrets: Secrets,
}

impl Log {
    pub(super) fn has(&self, field: AccessLogField) -> bool {
        self.fields.contains(&field)
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("fields", &self.fields)
            .finish_non_exhaustive()
    }
}
