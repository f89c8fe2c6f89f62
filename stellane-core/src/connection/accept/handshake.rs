//! One TLS handshake, off the accept loop.

use std::{io, sync::Arc};

use tokio::net::TcpStream;

use crate::connection::{
    lifecycle::Shared,
    reason::CloseReason,
    state::ConnectionState,
    table::record::Record,
    transport::{socket::Socket, tls::TlsAcceptor},
};

/// The socket once the handshake is done. Its deadline is the sweep's business.
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
    let Some(_place) = shared.admission.place_for_a_handshake().await else {
        return Err(CloseReason::Aborted);
    };
    let accepting = tokio_rustls::TlsAcceptor::from(acceptor.current()).accept(socket);
    // In a box of its own, or the wait for the client would take up as much.
    match Box::pin(accepting).await {
        Ok(stream) => {
            record.enter(ConnectionState::New, shared.clock.now());
            Ok(Socket::Tls(Box::new(stream)))
        }
        Err(error) => {
            tracing::debug!(%error, "TLS handshake failed");
            Err(match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                    CloseReason::ClientClosed
                }
                _ => CloseReason::HandshakeFailed,
            })
        }
    }
}
