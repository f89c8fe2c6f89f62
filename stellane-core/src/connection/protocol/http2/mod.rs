//! HTTP/2: its settings, and an eye on clients that abuse it.

pub(crate) mod abuse;
pub(crate) mod body;
pub(crate) mod frames;
pub(crate) mod ledger;
pub(crate) mod scoped;
pub(crate) mod service;
pub(crate) mod streams;
pub(crate) mod trailers;
pub(crate) mod tunnel;

use std::{error::Error, time::Duration};

use hyper::server::conn::http2::Builder;
use hyper_util::rt::TokioTimer;

use crate::connection::{
    config::http2::Http2Config, protocol::http2::streams::StreamExecutor, reason::CloseReason,
};

/// What a client did that h2 ended its connection for.
pub(crate) fn blame(error: &hyper::Error) -> Option<CloseReason> {
    let error = error.source()?.downcast_ref::<h2::Error>()?;
    if !error.is_library() {
        return None;
    }
    match error.reason()? {
        h2::Reason::ENHANCE_YOUR_CALM => Some(CloseReason::Abuse),
        _ => Some(CloseReason::ProtocolError),
    }
}

/// A builder with these settings.
pub(crate) fn builder(config: &Http2Config) -> Builder<StreamExecutor> {
    let mut http2 = Builder::new(StreamExecutor);
    let pings = |interval: Duration| (!interval.is_zero()).then_some(interval);
    http2
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.max_concurrent_streams)
        .max_pending_accept_reset_streams(config.max_pending_accept_reset_streams)
        .max_local_error_reset_streams(config.max_local_error_reset_streams)
        .max_header_list_size(config.max_header_list_bytes)
        .header_table_size(config.header_table_bytes)
        .max_frame_size(config.max_frame_bytes)
        .max_send_buf_size(config.max_send_buffer_bytes)
        .initial_stream_window_size(config.stream_window_bytes)
        .initial_connection_window_size(config.connection_window_bytes)
        .keep_alive_interval(pings(config.ping_interval))
        .keep_alive_timeout(config.ping_timeout);
    if config.adaptive_window {
        http2.adaptive_window(true); // last: to name a window turns it off
    }
    if config.extended_connect {
        http2.enable_connect_protocol();
    }
    http2
}
