//! The body of a simple answer.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, BufMut};
use http_body::{Body, Frame};

use crate::{BoxError, connection::protocol::open_body::OpenBody};

/// Writes a body of this length if it is ready and comes in one piece; otherwise gives it back, as far as it was read.
/// The place is where it is read, so that no answer needs another one.
pub(crate) fn write_body<B: Body<Error: Into<BoxError>>>(
    place: &mut Pin<Box<Option<B>>>,
    cx: &mut Context<'_>,
    body: B,
    length: u64,
    out: &mut Vec<u8>,
) -> Result<(), OpenBody<B>> {
    place.set(Some(body));
    let Some(body) = place.as_mut().as_pin_mut() else {
        return Ok(());
    };
    let begun = match body.poll_frame(cx).map(|frame| frame.map(into_data)) {
        Poll::Ready(Some(Ok(data))) if data.remaining() as u64 == length => {
            out.put(data);
            place.set(None);
            return Ok(());
        }
        Poll::Ready(Some(Ok(data))) => Some(Ok(Frame::data(data))),
        Poll::Ready(Some(Err(frame))) => Some(frame.map_err(Into::into)),
        // It ended before it was as long as it said.
        Poll::Ready(None) => {
            place.set(None);
            None
        }
        // It is asked again.
        Poll::Pending => None,
    };
    let rest = mem::replace(place, Box::pin(None));
    Err(OpenBody::begun(length, begun, rest))
}

/// The data of a frame, or what it is otherwise.
fn into_data<D, E>(frame: Result<Frame<D>, E>) -> Result<D, Result<Frame<D>, E>> {
    match frame {
        Ok(frame) => frame.into_data().map_err(Ok),
        Err(error) => Err(Err(error)),
    }
}
