//! What leads from a request to what others know of it.

use http::{HeaderValue, Request};
use stellane_metrics::embed::RequestSpan;
use tracing::field::display;

use crate::connection::ConnectInfo;

/// Its ids and its span; nothing where nobody asked for them.
#[derive(Debug, Default)]
pub(in crate::runtime) struct Marks {
    pub(super) id: RequestId,
    /// That of its caller, or its own if it has a span.
    pub(super) trace_id: Option<u128>,
    pub(super) span: Option<RequestSpan>,
}

pub(super) fn tell_peer<B>(request: &Request<B>, span: &RequestSpan) {
    let info = request.extensions().get::<ConnectInfo>();
    if let Some(peer) = info.and_then(ConnectInfo::peer) {
        let span = span.span();
        span.record("network.peer.address", display(peer.ip()));
        span.record("network.peer.port", peer.port());
    }
}

/// The first bytes of the id of a request.
#[derive(Debug, Clone, Copy)]
pub(in crate::runtime) struct RequestId {
    bytes: [u8; 40],
    len: u8,
}

impl Default for RequestId {
    fn default() -> Self {
        Self {
            bytes: [0; 40],
            len: 0,
        }
    }
}

impl RequestId {
    pub(super) fn set(&mut self, value: Option<&HeaderValue>) {
        let text = value.and_then(|value| value.to_str().ok());
        let text = text.unwrap_or_default().as_bytes();
        let len = text.len().min(self.bytes.len());
        self.bytes[..len].copy_from_slice(&text[..len]);
        self.len = len as u8;
    }

    pub(super) fn tell(&self, span: &RequestSpan) {
        if let Some(id) = self.text() {
            span.span().record("request_id", id);
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        let text = str::from_utf8(&self.bytes[..usize::from(self.len)]).ok()?;
        (!text.is_empty()).then_some(text)
    }
}
