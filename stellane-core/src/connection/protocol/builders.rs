//! What hyper is to do with every connection of a manager.

use hyper::server::conn::http1;
#[cfg(feature = "http2")]
use hyper::server::conn::http2;

use crate::connection::config::ConnectionConfig;
#[cfg(feature = "http2")]
use crate::connection::{
    lifecycle::Shared,
    protocol::http2::{builder, streams::StreamExecutor},
};

/// hyper's builders, made once.
#[derive(Debug)]
pub(crate) struct HyperBuilders {
    pub(crate) http1: http1::Builder,
    #[cfg(feature = "http2")]
    http2: http2::Builder<StreamExecutor>,
    /// With the least windows that the protocol knows.
    #[cfg(feature = "http2")]
    narrow_http2: http2::Builder<StreamExecutor>,
}

impl HyperBuilders {
    pub(crate) fn new(config: &ConnectionConfig) -> Self {
        let mut http1 = http1::Builder::new();
        // Deadlines are the sweep's business.
        http1
            .header_read_timeout(None)
            // Who has sent all it sends is answered; it is the manager that looks whether anybody is there.
            .half_close(true)
            .max_buf_size(config.max_head_bytes.max(config.read_buffer_bytes))
            .max_header_size(config.max_head_bytes)
            .pipeline_flush(false);
        Self {
            http1,
            #[cfg(feature = "http2")]
            http2: builder(&config.http2),
            #[cfg(feature = "http2")]
            narrow_http2: builder(&config.http2.clone().with(|http2| {
                const LEAST: u32 = 65_535;
                http2.stream_window_bytes = http2.stream_window_bytes.min(LEAST);
                http2.connection_window_bytes = LEAST;
                http2.adaptive_window = false;
            })),
        }
    }

    /// For a connection that begins now.
    #[cfg(feature = "http2")]
    pub(crate) fn http2(&self, shared: &Shared) -> &http2::Builder<StreamExecutor> {
        match shared.pressure.buffers_little() {
            true => &self.narrow_http2,
            false => &self.http2,
        }
    }
}

/// What hyper has since 1.12. In a program that holds an older one, the buffer is what keeps heads small, and so is that small:
/// bodies come in smaller pieces.
#[allow(
    dead_code,
    reason = "hyper's own method comes first where there is one"
)]
trait MaxHeaderSize {
    fn max_header_size(&mut self, bytes: usize) -> &mut Self;
}

impl MaxHeaderSize for http1::Builder {
    fn max_header_size(&mut self, bytes: usize) -> &mut Self {
        self.max_buf_size(bytes)
    }
}
