//! A socket that was parked, while its task answers what it asked for.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// So much is read at once.
const READ: usize = 2048;

/// It is still where the [parked](super::parked) ones are, and tokio does not know it: to tell both of a socket that is
/// parked again after one answer costs more than to read it. Who can't read it is woken by the poller, as the owner of the
/// connection. Nobody is woken to write: who can't hands it to tokio first.
#[derive(Debug)]
pub(crate) struct WatchedSocket(pub(crate) TcpStream);

impl AsyncRead for WatchedSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut space = [0; READ];
        let most = buffer.remaining().min(READ);
        poll(|| (&self.0).read(&mut space[..most])).map_ok(|read| buffer.put_slice(&space[..read]))
    }
}

impl AsyncWrite for WatchedSocket {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        poll(|| (&self.0).write(buffer))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.shutdown(Shutdown::Write))
    }
}

fn poll(mut call: impl FnMut() -> io::Result<usize>) -> Poll<io::Result<usize>> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return Poll::Ready(done),
        }
    }
}
