//! One TLS handshake, off the accept loop.

use std::{future::poll_fn, io, sync::Arc};

use tokio::net::TcpStream;
use tokio_rustls::{StartHandshake, rustls::server::Acceptor};

use crate::connection::{
    lifecycle::Shared,
    reason::CloseReason,
    state::ConnectionState,
    table::{prefix, record::Record},
    transport::{socket::Socket, tls::TlsAcceptor},
};

/// The longest hello: four times that of a browser that brings a ticket and post-quantum keys.
const MAX_HELLO: usize = 16 << 10;

/// The socket once the handshake is done. Its deadlines are the sweep's business.
pub(crate) async fn handshake(
    acceptor: TlsAcceptor,
    socket: TcpStream,
    shared: Arc<Shared>,
    record: Arc<Record>,
) -> Result<Socket, CloseReason> {
    // Until the client speaks there are no buffers. Readiness alone may be a false alarm.
    match socket.peek(&mut [0]).await {
        Ok(0) => return Err(CloseReason::ClientClosed),
        Ok(_) => {}
        Err(_) => return Err(CloseReason::IoError),
    }
    record.enter(ConnectionState::Handshake, shared.clock.now());
    // In boxes of their own, or the wait for the client would take up as much.
    let hello = Box::pin(read_hello(socket, &record)).await?;
    record.enter(ConnectionState::Queued, shared.clock.now());
    let peer = record.peer().map(|peer| prefix(peer.ip()));
    let mut place = Some(shared.handshakes.place(peer).await);
    record.enter(ConnectionState::Handshake, shared.clock.now());
    let mut accepting = Box::pin(hello.into_stream(acceptor.current()));
    let accepted = poll_fn(|cx| {
        let polled = accepting.as_mut().poll(cx);
        // The work is done; what follows is the client's turn.
        place = None;
        polled
    });
    match accepted.await {
        Ok(stream) => {
            shared.totals.count_tls();
            record.enter(ConnectionState::New, shared.clock.now());
            Ok(Socket::Tls(Box::new(stream)))
        }
        Err(error) => Err(failed(&error)),
    }
}

/// Reads what the client says first; nothing is computed.
async fn read_hello(
    socket: TcpStream,
    record: &Record,
) -> Result<StartHandshake<TcpStream>, CloseReason> {
    let mut acceptor = Acceptor::default();
    let mut read = 0;
    loop {
        if socket.readable().await.is_err() {
            return Err(CloseReason::IoError);
        }
        match acceptor.read_tls(&mut ReadNow(&socket)) {
            Ok(0) => return Err(CloseReason::ClientClosed),
            Ok(n) => {
                read += n;
                record.add_read(n);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(failed(&error)),
        }
        match acceptor.accept() {
            Ok(Some(hello)) => return Ok(StartHandshake::from_parts(hello, socket)),
            Ok(None) if read <= MAX_HELLO => {}
            Ok(None) => return Err(CloseReason::HandshakeFailed),
            Err((error, mut alert)) => {
                tracing::debug!(%error, "no TLS hello");
                let mut told = Vec::new();
                // Writing to memory does not fail, and nobody waits for the rest.
                let _ = alert.write_all(&mut told);
                let _ = socket.try_write(&told);
                return Err(CloseReason::HandshakeFailed);
            }
        }
    }
}

fn failed(error: &io::Error) -> CloseReason {
    tracing::debug!(%error, "TLS handshake failed");
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => CloseReason::ClientClosed,
        _ => CloseReason::HandshakeFailed,
    }
}

/// Reads what is there.
struct ReadNow<'a>(&'a TcpStream);

impl io::Read for ReadNow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}
