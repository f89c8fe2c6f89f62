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

/// The longest piece that is not cut, if there is room for it: as much as a client may take of an answer unseen.
const LONGEST: usize = 2 * PIECE;
/// An answer longer than this may have to wait, whatever a client's window is at first, but for narrow ones.
const LONG: u64 = 65_535;

pin_project! {
    /// Gives hyper little at once. hyper asks for another piece when the client has room for more
    /// than the last, and is done with a stream, which then nobody can end, when it has given away the last of it: with
    /// pieces it always holds one that waits, and what is given away is little.
    ///
    /// Where much depends on it, in answers that are long or whose client opens its window narrowly, the last byte goes
    /// alone: hyper gives it away when the client has room for all before it.
    ///
    /// What the client has made room for already waits for nobody: it goes as it is.
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
            let length = data.remaining();
            let given = *this.given + length as u64;
            let fits = ledger.count_piece(length as u64) && given <= ledger.stream_window();
            let long = given > LONG && inner.is_end_stream();
            let goes = match length {
                0..=1 => true,
                2..=PIECE => fits || !(long || ledger.is_narrow()),
                _ => fits && length <= LONGEST,
            };
            if goes {
                *this.given = given;
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

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, task::Waker};

    use http_body_util::{Full, StreamBody as Frames};

    use super::*;
    use crate::connection::table::record::Record;

    /// The lengths of the pieces that hyper gets.
    fn pieces(
        body: impl Body<Data = Bytes, Error = Infallible> + 'static,
        ledger: Ledger,
    ) -> Vec<usize> {
        let body = StreamBody::new(body, Farewell::none(), Arc::new(ledger));
        let (mut body, mut lengths) = (Box::pin(body), Vec::new());
        let cx = &mut Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(cx) {
            let data = frame.expect("no error").into_data();
            lengths.push(data.map_or(0, |data| data.remaining()));
        }
        lengths
    }

    fn ledger(stream: u64, all: u64) -> Ledger {
        let ledger = Ledger::new(Arc::new(Record::new(1, 0, None, false, 0, 0)));
        ledger.set_stream_window(stream);
        ledger.widen(all);
        ledger
    }

    #[test]
    fn what_has_room_goes_as_it_is_and_what_may_have_to_wait_in_pieces() {
        const WIDE: u64 = 1 << 20;
        for (stream, all, length, expected) in [
            (65_535, 0, 1000, &[1000][..]),
            (65_535, 0, 65_535, &[65_535]),
            // More than the windows that nobody spoke of.
            (65_535, 0, 70_000, &[65_536, 4463, 1]),
            (WIDE, 0, 70_000, &[65_536, 4463, 1]),
            (65_535, WIDE, 70_000, &[65_536, 4463, 1]),
            (WIDE, WIDE, 70_000, &[70_000]),
            (WIDE, WIDE, 131_072, &[131_072]),
            (WIDE, WIDE, 131_073, &[65_536, 65_536, 1]),
            // A narrow window.
            (100, 0, 100, &[100]),
            (100, 0, 101, &[100, 1]),
            (0, WIDE, 1, &[1]),
        ] {
            let body = Full::new(Bytes::from(vec![0; length]));
            let got = pieces(body, ledger(stream, all));
            assert_eq!(got, expected, "{length} bytes, {stream} and {all}");
        }
    }

    #[test]
    fn a_body_of_many_pieces_has_room_until_the_windows_are_full() {
        let body = || {
            let frames = (0..4).map(|_| Ok(Frame::data(Bytes::from(vec![0; 100_000]))));
            Frames::new(futures_util::stream::iter(frames))
        };
        let cut = [65_536, 34_464];
        for (window, whole) in [(99_999, 0), (200_000, 2), (400_000, 4)] {
            let expected: Vec<_> = (0..4)
                .flat_map(|n| {
                    if n < whole {
                        vec![100_000]
                    } else {
                        cut.to_vec()
                    }
                })
                .collect();
            assert_eq!(
                pieces(body(), ledger(window, 1 << 20)),
                expected,
                "{window}"
            );
            // Of all answers together.
            let all = ledger(1 << 20, window - 65_535);
            assert_eq!(pieces(body(), all), expected, "{window}");
        }
    }
}
