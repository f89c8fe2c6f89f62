//! What hyper is to do with every connection of a manager.

use hyper::server::conn::http1;
#[cfg(feature = "http2")]
use hyper::server::conn::http2;

use crate::connection::config::ConnectionConfig;
#[cfg(feature = "http2")]
use crate::connection::protocol::http2::{builder, streams::StreamExecutor};

/// hyper's builders, made once.
#[derive(Debug)]
pub(crate) struct HyperBuilders {
    pub(crate) http1: http1::Builder,
    #[cfg(feature = "http2")]
    pub(crate) http2: http2::Builder<StreamExecutor>,
}

impl HyperBuilders {
    pub(crate) fn new(config: &ConnectionConfig) -> Self {
        let mut http1 = http1::Builder::new();
        // Deadlines are the sweep's business.
        http1
            .header_read_timeout(None)
            // Who has sent all it sends is answered; it is the manager that looks whether anybody is there.
            .half_close(true)
            .max_header_size(config.max_head_bytes)
            .max_buf_size(config.max_head_bytes.max(config.read_buffer_bytes))
            .pipeline_flush(false);
        Self {
            http1,
            #[cfg(feature = "http2")]
            http2: builder(&config.http2),
        }
    }
}
