//! The body of an answer over HTTP/2, in pieces.

use std::{
    io::IoSlice,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{
    BoxError,
    connection::{
        policy::stream_rates::PIECE,
        protocol::{
            farewell::Farewell,
            http2::{
                ledger::Ledger,
                streams::{note_no_piece, note_piece},
            },
        },
    },
};

/// An answer longer than this may have to wait, whatever a client's window is at first, but for narrow ones.
const LONG: u64 = 65_535;

pin_project! {
    /// Gives hyper little at once. hyper asks for another piece when the client has room for more
    /// than the last, and is done with a stream, which then nobody can end, when it has given away the last of it: with
    /// pieces it always holds one that waits, and what is given away is little.
    ///
    /// Where much depends on it, in answers that are long or whose client opens its window narrowly, the last byte goes
    /// alone: hyper gives it away when the client has room for all before it.
    pub(crate) struct StreamBody<B: Body> {
        #[pin]
        inner: Option<B>,
        // Of a piece that was too large.
        rest: Bytes,
        given: u64,
        farewell: Farewell,
        open: Open,
    }
}

struct Open(Arc<Ledger>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl<B: Body> StreamBody<B> {
    pub(crate) fn new(inner: B, farewell: Farewell, ledger: Arc<Ledger>) -> Self {
        Self::open(Some(inner), farewell, ledger)
    }

    pub(crate) fn empty(ledger: Arc<Ledger>) -> Self {
        Self::open(None, Farewell::none(), ledger)
    }

    fn open(inner: Option<B>, farewell: Farewell, ledger: Arc<Ledger>) -> Self {
        ledger.open();
        Self {
            inner,
            rest: Bytes::new(),
            given: 0,
            farewell,
            open: Open(ledger),
        }
    }
}

impl<B: Body<Error: Into<BoxError>> + 'static> Body for StreamBody<B> {
    type Data = Piece<B::Data>;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, BoxError>>> {
        let mut this = self.project();
        let Some(mut inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        let ledger = &this.open.0;
        if this.rest.is_empty() {
            let frame = match this.farewell.poll_frame(inner.as_mut(), cx) {
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    note_no_piece();
                    return Poll::Pending;
                }
            };
            let mut data = match frame.into_data() {
                Ok(data) => data,
                Err(frame) => return Poll::Ready(Some(Ok(frame.map_data(Piece::Whole)))),
            };
            ledger.count_piece();
            let length = data.remaining();
            let long = *this.given + length as u64 > LONG && inner.is_end_stream();
            if length <= 1 || (length <= PIECE && !long && !ledger.is_narrow()) {
                *this.given += length as u64;
                note_piece(length, length);
                return Poll::Ready(Some(Ok(Frame::data(Piece::Whole(data)))));
            }
            *this.rest = data.copy_to_bytes(length);
        }
        let (length, held) = match this.rest.len() {
            length if length > PIECE => (PIECE, length),
            length @ 2.. if ledger.is_narrow() || inner.is_end_stream() => (length - 1, length),
            length => (length, length),
        };
        *this.given += length as u64;
        note_piece(length, held);
        let piece = this.rest.split_to(length);
        Poll::Ready(Some(Ok(Frame::data(Piece::Part(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
            && (self.farewell.is_said() || self.inner.as_ref().is_none_or(B::is_end_stream))
    }

    /// Of what is to come; hyper asks before it reads.
    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Some(inner) => inner.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

/// A piece of a body as it came, or a part of one.
pub(crate) enum Piece<D> {
    Whole(D),
    Part(Bytes),
}

macro_rules! either {
    ($self:ident, $buf:ident => $call:expr) => {
        match $self {
            Piece::Whole($buf) => $call,
            Piece::Part($buf) => $call,
        }
    };
}

impl<D: Buf> Buf for Piece<D> {
    fn remaining(&self) -> usize {
        either!(self, buf => buf.remaining())
    }

    fn chunk(&self) -> &[u8] {
        either!(self, buf => buf.chunk())
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        either!(self, buf => buf.chunks_vectored(slices))
    }

    fn advance(&mut self, n: usize) {
        either!(self, buf => buf.advance(n));
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        either!(self, buf => buf.copy_to_bytes(length))
    }
}
