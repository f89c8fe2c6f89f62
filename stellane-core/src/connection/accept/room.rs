//! Room for one more connection, and what happens to one for which there is none.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::connection::{
    config::listen::WhenFull,
    lifecycle::{Shared, room::Waiting},
    protocol::http1::fast_path::date,
    reason::CloseReason,
    table::{NoRoom, record::Record},
    transport::socket::Socket,
};

/// How long a newcomer waits for a place.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long one that was refused may take to read why,
const LINGER: Duration = Duration::from_secs(1);
/// and how much it may send meanwhile.
const MAX_LINGER: usize = 64 << 10;

/// A record for one more connection. Those that wait for a place come first.
///
/// # Errors
/// There is no room for it.
pub(crate) fn admit(
    shared: &Shared,
    peer: Option<SocketAddr>,
    group: u16,
) -> Result<Arc<Record>, NoRoom> {
    match shared.waiting_room.waiting() {
        0 => shared.insert(peer, group),
        _ => Err(NoRoom::Full),
    }
}

/// Waits for a record, for up to a second, while others are asked to make room.
pub(crate) async fn wait_for_room(
    shared: &Shared,
    _waiting: Waiting,
    peer: Option<SocketAddr>,
    group: u16,
) -> Option<Arc<Record>> {
    let patience = tokio::time::sleep(PATIENCE);
    let mut patience = std::pin::pin!(patience);
    // For those behind it the sweep does that.
    if shared.waiting_room.waiting() == 1 {
        shared.make_room(1);
    }
    loop {
        tokio::select! {
            biased;
            () = shared.waiting_room.turn() => match shared.insert(peer, group) {
                Err(NoRoom::Full) => {}
                other => return other.ok(),
            },
            () = &mut patience => return shared.insert(peer, group).ok(),
        }
    }
}

/// Tells a client that there is no room, and why: in the protocol that it speaks.
fn refusal(speaks_tls: bool, heard: &[u8]) -> Vec<u8> {
    /// A fatal alert, `internal_error`.
    const ALERT: &[u8] = &[21, 3, 3, 0, 2, 2, 80];
    /// Empty SETTINGS, and GOAWAY that says that no stream was looked at.
    const GOAWAY: &[u8] = &[
        0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    if speaks_tls {
        return ALERT.to_vec();
    }
    if heard.starts_with(b"PRI * HTTP/2") {
        return GOAWAY.to_vec();
    }
    let head = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0";
    let mut head = head.as_bytes().to_vec();
    date::look();
    date::write_last(&mut head);
    head
}

/// Refuses a connection, and gives its client the time to read why.
pub(crate) async fn refuse(shared: &Shared, mut socket: Socket, speaks_tls: bool) {
    shared.count_refused(CloseReason::Refused);
    if shared.config.when_full == WhenFull::Close {
        return;
    }
    let telling = async {
        let mut buffer = [0; 4096];
        let mut heard = 0;
        // What it has said so far.
        tokio::select! {
            biased;
            read = socket.read(&mut buffer) => heard = read.unwrap_or(0),
            () = std::future::ready(()) => {}
        }
        let refusal = refusal(speaks_tls, &buffer[..heard]);
        if socket.write_all(&refusal).await.is_err() || socket.shutdown().await.is_err() {
            return;
        }
        while let Ok(read) = socket.read(&mut buffer).await {
            heard += read;
            if read == 0 || heard > MAX_LINGER {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, telling).await;
}

/// Refuses a connection at once, when too many are waiting already.
pub(crate) fn refuse_at_once(shared: &Shared, socket: Socket, speaks_tls: bool) {
    let mut refusing = std::pin::pin!(refuse(shared, socket, speaks_tls));
    // As far as it goes without waiting.
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let _ = refusing.as_mut().poll(&mut cx);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_in_the_protocol_of_the_client() {
        assert_eq!(refusal(true, b"\x16\x03\x01")[0], 21);
        assert_eq!(refusal(false, b"PRI * HTTP/2.0\r\n").len(), 26);
        for heard in ["", "GET / HTTP/1.1\r\n", "PRINT / HTTP/1.1\r\n"] {
            let refusal = String::from_utf8(refusal(false, heard.as_bytes())).expect("text");
            assert!(refusal.starts_with("HTTP/1.1 503 "), "{refusal}");
            assert!(refusal.contains("\r\ndate: ") && refusal.ends_with("\r\n\r\n"));
        }
    }
}
