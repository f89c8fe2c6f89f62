//! Request bodies that can be read twice.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::BoxError;

pin_project! {
    /// The request body that both services behind an [`EngineSelectorService`](super::EngineSelectorService) get.
    pub struct ReplayBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = Projected]
    enum Kind<B> {
        /// Read once.
        Direct { #[pin] body: B },
        /// Nothing to read; the body itself waits for the other service.
        Empty,
        /// Read by both, each from its beginning.
        Shared { tee: Arc<Mutex<Tee<B>>>, position: usize },
    }
}

/// A body, and what was read from it already.
struct Tee<B> {
    body: Pin<Box<B>>,
    frames: Vec<Kept>,
    ended: bool,
    hint: SizeHint,
}

#[derive(Clone)]
enum Kept {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl<B> ReplayBody<B> {
    pub(super) fn direct(body: B) -> Self {
        Self {
            kind: Kind::Direct { body },
        }
    }
}

impl<B: Body> ReplayBody<B> {
    /// The body for a first reader and for a second.
    pub(super) fn twice(body: B) -> (Self, Self) {
        if body.is_end_stream() {
            return (Self { kind: Kind::Empty }, Self::direct(body));
        }
        let tee = Arc::new(Mutex::new(Tee {
            hint: body.size_hint(),
            body: Box::pin(body),
            frames: Vec::new(),
            ended: false,
        }));
        let reader = |tee| Self {
            kind: Kind::Shared { tee, position: 0 },
        };
        (reader(Arc::clone(&tee)), reader(tee))
    }
}

impl<B> fmt::Debug for ReplayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayBody").finish_non_exhaustive()
    }
}

impl<B: Body<Error: Into<BoxError>>> Body for ReplayBody<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().kind.project() {
            Projected::Direct { body } => {
                let frame = ready!(body.poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map(to_bytes).map_err(Into::into)))
            }
            Projected::Empty => Poll::Ready(None),
            Projected::Shared { tee, position } => {
                let mut tee = tee.lock().unwrap_or_else(PoisonError::into_inner);
                if *position == tee.frames.len() && !tee.ended {
                    // An error ends the body for the second reader too: it polls on, and the body says what it says then.
                    match ready!(tee.body.as_mut().poll_frame(cx)).transpose() {
                        Ok(Some(frame)) => tee.keep(frame),
                        Ok(None) => tee.ended = true,
                        Err(error) => return Poll::Ready(Some(Err(error.into()))),
                    }
                }
                let kept = tee.frames.get(*position).cloned();
                *position += usize::from(kept.is_some());
                Poll::Ready(kept.map(|kept| {
                    Ok(match kept {
                        Kept::Data(data) => Frame::data(data),
                        Kept::Trailers(trailers) => Frame::trailers(trailers),
                    })
                }))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Direct { body } => body.is_end_stream(),
            Kind::Empty => true,
            Kind::Shared { tee, position } => {
                let tee = tee.lock().unwrap_or_else(PoisonError::into_inner);
                *position == tee.frames.len() && (tee.ended || tee.body.is_end_stream())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Direct { body } => body.size_hint(),
            Kind::Empty => SizeHint::with_exact(0),
            // As long as nothing was read it is the whole; later the length has been used already.
            Kind::Shared { tee, position: 0 } => {
                let tee = tee.lock().unwrap_or_else(PoisonError::into_inner);
                // Not `Copy` in http-body 1.0.0.
                SizeHint::clone(&tee.hint)
            }
            Kind::Shared { .. } => SizeHint::default(),
        }
    }
}

impl<B: Body> Tee<B> {
    fn keep(&mut self, frame: Frame<B::Data>) {
        match to_bytes(frame).into_data() {
            Ok(data) => self.frames.push(Kept::Data(data)),
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    self.frames.push(Kept::Trailers(trailers));
                }
            }
        }
    }
}

/// Costs nothing if the data are `Bytes` already.
fn to_bytes<D: Buf>(frame: Frame<D>) -> Frame<Bytes> {
    frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))
}
