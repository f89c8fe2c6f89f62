//! How a stream that went on to the end of its time in a drain ends: in the words of its protocol, where there are any.

use std::{
    any::Any,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue, Response, header};
use http_body::{Body, Frame};

use crate::{
    BoxError,
    connection::{lifecycle::Shared, protocol::scope, table::budget::Budget},
};

/// What is known of the response's end.
pub(crate) struct Farewell {
    kind: Kind,
    budget: Budget,
    /// Wakes the body when the drain looks whose time is over; made when the body first waits.
    looks: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// The time is over; this was no place to say so.
    is_over: bool,
}

#[derive(Clone, Copy)]
enum Kind {
    /// A response that ends by itself, or in no way that its client could understand.
    Other,
    /// Server-sent events, and the last bytes of them.
    Events([u8; 4]),
    /// A call of gRPC.
    Grpc,
    /// Goodbye was said.
    Said,
}

/// As if an event had just ended.
const BETWEEN_EVENTS: Kind = Kind::Events(*b"\n\n\n\n");

impl Farewell {
    #[inline]
    pub(crate) fn of<B: Body>(response: &Response<B>, budget: Budget) -> Self {
        let body = response.body();
        let kind = match body.is_end_stream() || body.size_hint().exact().is_some() {
            true => Kind::Other,
            false => kind_of(response.headers()),
        };
        Self {
            kind,
            budget,
            looks: None,
            is_over: false,
        }
    }

    /// Of a response that ends by itself.
    #[cfg(feature = "http2")]
    pub(crate) fn none() -> Self {
        Self {
            kind: Kind::Other,
            budget: Budget::DRAINS,
            looks: None,
            is_over: false,
        }
    }

    pub(crate) fn is_said(&self) -> bool {
        matches!(self.kind, Kind::Said)
    }

    /// The next frame of the body, or of its farewell.
    #[inline]
    pub(crate) fn poll_frame<B: Body<Error: Into<BoxError>> + 'static>(
        &mut self,
        body: Pin<&mut B>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        match self.kind {
            Kind::Other => body.poll_frame(cx).map_err(Into::into),
            _ => self.poll_stream(body, cx),
        }
    }

    fn poll_stream<B: Body<Error: Into<BoxError>> + 'static>(
        &mut self,
        body: Pin<&mut B>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        if let Some(last) = self.say() {
            return Poll::Ready(last.map(Ok));
        }
        let polled = body.poll_frame(cx).map_err(Into::into);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => self.pass(frame),
            Poll::Ready(_) => {}
            Poll::Pending => {
                if self.is_to_be_said_while_waiting(cx)
                    && let Some(last) = self.say()
                {
                    return Poll::Ready(last.map(Ok));
                }
            }
        }
        polled
    }

    /// The farewell, if the time is over and this is a place for it.
    fn say<D: Buf + 'static>(&mut self) -> Option<Option<Frame<D>>> {
        let place = match self.kind {
            Kind::Said => return Some(None),
            Kind::Grpc => true,
            Kind::Events(last) => is_between_events(&last),
            Kind::Other => false,
        };
        let retry = scope::with(|shared| {
            let drain = &shared.drain;
            let over = place && drain.is_over(self.budget);
            over.then(|| {
                drain.count_farewell();
                shared.config.sse_retry
            })
        });
        let retry = retry.flatten()?;
        let last = match self.kind {
            Kind::Grpc => Some(Frame::trailers(unavailable())),
            _ if retry.is_zero() => None,
            _ => retry_after(retry).map(Frame::data),
        };
        self.kind = Kind::Said;
        self.looks = None;
        Some(last)
    }

    /// Remembers how the stream ends so far.
    fn pass<D: Buf>(&mut self, frame: &Frame<D>) {
        let Kind::Events(last) = &mut self.kind else {
            return;
        };
        let Some(data) = frame.data_ref() else {
            return;
        };
        let bytes = data.chunk();
        if bytes.len() < data.remaining() {
            // In pieces: nobody knows how it ends.
            *last = [0; 4];
            return;
        }
        let kept = bytes.len().min(last.len());
        last.copy_within(kept.., 0);
        let from = last.len() - kept;
        last[from..].copy_from_slice(&bytes[bytes.len() - kept..]);
    }

    #[cold]
    fn is_to_be_said_while_waiting(&mut self, cx: &mut Context<'_>) -> bool {
        if self.is_over {
            return false;
        }
        if self.looks.is_none() {
            let budget = self.budget;
            self.looks = scope::with(|shared| {
                let looks: Pin<Box<dyn Future<Output = ()> + Send>> =
                    Box::pin(over(Arc::clone(shared), budget));
                looks
            });
        }
        let looks = self.looks.as_mut();
        self.is_over = looks.is_some_and(|looks| looks.as_mut().poll(cx).is_ready());
        self.is_over
    }
}

/// Resolves when the time of a stream is over.
pub(crate) async fn over(shared: Arc<Shared>, budget: Budget) {
    let mut looks = shared.drain.looks();
    // An error would mean that the drain is gone, which is held here.
    let _ = looks.wait_for(|_| shared.drain.is_over(budget)).await;
}

#[cold]
fn kind_of(headers: &HeaderMap) -> Kind {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.map_or(&[][..], HeaderValue::as_bytes);
    let is = |name: &[u8], and: &[u8]| {
        let begins = kind.get(..name.len());
        let next = kind.get(name.len());
        begins.is_some_and(|begins| begins.eq_ignore_ascii_case(name))
            && next.is_none_or(|next| and.contains(next))
    };
    if is(b"text/event-stream", b"; ") {
        BETWEEN_EVENTS
    } else if is(b"application/grpc", b"+; ") {
        Kind::Grpc
    } else {
        Kind::Other
    }
}

/// Whether a stream of events that ends so has ended its last event: with an empty line.
fn is_between_events(last: &[u8]) -> bool {
    let without_line_end = |bytes: &'_ [u8]| -> Option<usize> {
        let ends = [&b"\r\n"[..], b"\n", b"\r"];
        let end = ends.into_iter().find(|end| bytes.ends_with(end))?;
        Some(bytes.len() - end.len())
    };
    without_line_end(last).is_some_and(|end| without_line_end(&last[..end]).is_some())
}

fn unavailable() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert("grpc-status", HeaderValue::from_static("14"));
    let message = HeaderValue::from_static("the server is shutting down");
    trailers.insert("grpc-message", message);
    trailers
}

/// The field that tells a client of events when to come again, if the data of the body are bytes.
fn retry_after<D: 'static>(retry: Duration) -> Option<D> {
    let field = format!("retry: {}\n\n", retry.as_millis());
    let mut field = Some(Bytes::from(field));
    (&mut field as &mut dyn Any)
        .downcast_mut::<Option<D>>()?
        .take()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_end_with_an_empty_line_however_they_are_cut() {
        for (pieces, between) in [
            (&[][..], true),
            (&["data: x\n\n"], true),
            (&["data: x\n"], false),
            (&["data: x"], false),
            (&["data: x\n", "\n"], true),
            (&["data: x\r\n\r\n"], true),
            (&["data: x\r\n", "\r", "\n"], true),
            (&["data: x\r\n"], false),
            (&["data: x\r\r"], true),
            (&[": a comment\n\n", "data"], false),
            (&["data: x\n\n", ""], true),
            (&["x"], false),
        ] {
            let mut farewell = Farewell {
                kind: BETWEEN_EVENTS,
                budget: Budget::DRAINS,
                looks: None,
                is_over: false,
            };
            for piece in pieces {
                farewell.pass(&Frame::data(piece.as_bytes()));
            }
            let Kind::Events(last) = farewell.kind else {
                panic!("events");
            };
            assert_eq!(is_between_events(&last), between, "{pieces:?}");
        }
    }

    #[test]
    fn a_stream_is_known_by_its_content_type() {
        for (content_type, known) in [
            ("text/event-stream", true),
            ("text/event-stream; charset=utf-8", true),
            ("Text/Event-Stream", true),
            ("text/event-streams", false),
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web+proto", false),
            ("application/json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
            let is_known = !matches!(kind_of(&headers), Kind::Other);
            assert_eq!(is_known, known, "{content_type}");
        }
        assert!(matches!(kind_of(&HeaderMap::new()), Kind::Other));
    }

    #[test]
    fn only_bytes_can_carry_a_field_of_ours() {
        let field: Option<Bytes> = retry_after(Duration::from_secs(2));
        assert_eq!(field.as_deref(), Some(&b"retry: 2000\n\n"[..]));
        assert!(retry_after::<&'static [u8]>(Duration::from_secs(2)).is_none());
    }
}
