//! What leads from a request to what others know of it.

use http::{HeaderName, HeaderValue, Request};
use stellane_metrics::embed::{Asked, Known, RequestSpan, Spans};

use crate::connection::ConnectInfo;

/// Its ids and its span; nothing where nobody asked for them.
#[derive(Debug, Default)]
pub(in crate::runtime) struct Marks {
    pub(super) id: RequestId,
    /// That of its caller, or its own if it has a span.
    pub(super) trace_id: Option<u128>,
    pub(super) span: Option<RequestSpan>,
}

impl Marks {
    /// Of a request that begins, in the place of those of another. Most have none.
    #[inline]
    pub(super) fn begin<B>(
        &mut self,
        request: &mut Request<B>,
        id: Option<&HeaderName>,
        spans: Option<&Spans>,
    ) {
        if let Some(header) = id {
            self.id.set(request.headers().get(header));
        }
        self.trace_id = None;
        if let Some(spans) = spans
            && let Some(asked) = spans.ask(request.headers())
        {
            self.begin_span(request, spans, asked);
        }
    }

    #[cold]
    fn begin_span<B>(&mut self, request: &mut Request<B>, spans: &Spans, asked: Asked) {
        let id = self.id.text();
        let known = |request: &Request<B>| {
            let info = request.extensions().get::<ConnectInfo>();
            let peer = info.and_then(ConnectInfo::peer);
            Known { id, peer }
        };
        (self.trace_id, self.span) = spans.begin(asked, request, known);
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

    pub(super) fn text(&self) -> Option<&str> {
        let text = str::from_utf8(&self.bytes[..usize::from(self.len)]).ok()?;
        (!text.is_empty()).then_some(text)
    }
}
