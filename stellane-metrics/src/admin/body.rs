use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::RuntimeMetrics;

/// The body of an answer of [`AdminService`](crate::AdminService): a text, or a stream of events.
pub struct AdminBody(Inner);

enum Inner {
    Full(Option<Bytes>),
    Events(Box<Events>),
}

impl AdminBody {
    pub(super) fn full(text: impl Into<Bytes>) -> Self {
        Self(Inner::Full(Some(text.into())))
    }

    pub(super) fn events(runtime: RuntimeMetrics, stream: Stream) -> Self {
        let mut interval = tokio::time::interval(runtime.interval());
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Self(Inner::Events(Box::new(Events {
            runtime,
            interval,
            last: None,
            _stream: stream,
        })))
    }
}

/// One of a bounded number of open event streams.
pub(super) struct Stream(Arc<AtomicUsize>);

impl Stream {
    const MOST: usize = 64;

    pub(super) fn open(count: &Arc<AtomicUsize>) -> Option<Self> {
        let open = |n| (n < Self::MOST).then_some(n + 1);
        count.fetch_update(Relaxed, Relaxed, open).ok()?;
        Some(Self(Arc::clone(count)))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

struct Events {
    runtime: RuntimeMetrics,
    interval: tokio::time::Interval,
    /// When the snapshot sent last was taken.
    last: Option<Duration>,
    _stream: Stream,
}

impl Events {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        loop {
            std::task::ready!(self.interval.poll_tick(cx));
            let snapshot = self.runtime.snapshot();
            if self.last.replace(snapshot.uptime) == Some(snapshot.uptime) {
                continue;
            }
            if let Ok(json) = serde_json::to_string(&*snapshot) {
                return Poll::Ready(format!("data: {json}\n\n").into());
            }
        }
    }
}

impl Body for AdminBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.get_mut().0 {
            Inner::Full(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Inner::Events(events) => events
                .poll_event(cx)
                .map(|event| Some(Ok(Frame::data(event)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Inner::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Full(text) => SizeHint::with_exact(text.as_ref().map_or(0, |t| t.len() as u64)),
            Inner::Events(_) => SizeHint::default(),
        }
    }
}

impl fmt::Debug for AdminBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AdminBody").finish_non_exhaustive()
    }
}
