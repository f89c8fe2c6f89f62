//! What a connection is doing, and how it is shown.

use std::{net::SocketAddr, time::Duration};

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum ConnectionState {
    /// Accepted; nothing was sent yet. Held as cheaply as a parked one.
    New,
    /// Between two requests, ready at once.
    Idle,
    /// Between two requests, taken apart until bytes arrive.
    Parked,
    /// A part of a request head has arrived.
    Head,
    /// A request is being served.
    Active,
    /// All is said; what the client still sends is read and dropped, so that it can read the answer.
    Closing,
    /// In its TLS handshake, and the client's turn.
    Handshake,
    /// In its TLS handshake, which waits for its turn to be computed.
    Queued,
    /// Handed over to another protocol.
    Upgraded,
    /// The client has ended its side, and a request of its is being served.
    HalfClosed,
}

impl ConnectionState {
    const ALL: [Self; 10] = [
        Self::New,
        Self::Idle,
        Self::Parked,
        Self::Head,
        Self::Active,
        Self::Closing,
        Self::Handshake,
        Self::Queued,
        Self::Upgraded,
        Self::HalfClosed,
    ];

    /// The reverse of `self as u8`.
    pub(crate) fn from_u8(n: u8) -> Self {
        Self::ALL
            .get(usize::from(n))
            .copied()
            .unwrap_or(Self::Active)
    }
}

/// A connection as [`ConnectionManager::list`](crate::connection::ConnectionManager::list) shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// Names it to [`ConnectionManager::close`](crate::connection::ConnectionManager::close).
    pub id: u64,
    /// The client's address; `None` for Unix sockets.
    pub peer: Option<SocketAddr>,
    /// What it is doing.
    pub state: ConnectionState,
    /// Time since it was accepted.
    pub age: Duration,
    /// Requests begun on it.
    pub requests: u64,
    /// Bytes read from the socket.
    pub bytes_read: u64,
    /// Bytes written to the socket.
    pub bytes_written: u64,
}
