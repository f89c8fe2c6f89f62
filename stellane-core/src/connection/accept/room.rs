//! Room for one more connection.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use crate::connection::{
    config::listen::WhenFull, lifecycle::Shared, policy::admission::RECLAIM, reason::CloseReason,
    table::record::Record, transport::socket::Socket,
};

/// A record for one more connection, if there is room for it.
pub(crate) async fn admit(
    shared: &Shared,
    peer: Option<SocketAddr>,
    group: u16,
) -> Option<Arc<Record>> {
    if !reclaim_for_one(shared).await {
        return None;
    }
    let per_peer = shared.settings.max_connections_per_peer();
    let count = || shared.totals.count_accepted();
    shared
        .table
        .insert(peer, group, shared.clock.now(), per_peer, count)
}

/// Whether there is room for one more connection, after closing idle ones if need be.
async fn reclaim_for_one(shared: &Shared) -> bool {
    let full = || {
        let open = shared.totals.open();
        shared.admission.is_full(open, &shared.settings)
    };
    if !full() {
        return true;
    }
    if shared.reclaim(RECLAIM) > 0 {
        // They end when their tasks are polled: at once, unless the process is very busy.
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            if !full() {
                return true;
            }
        }
    }
    false
}

/// Says 503 as far as the socket takes it at once, unless it is to be silent, and closes.
pub(crate) fn refuse(shared: &Shared, mut socket: Socket) {
    shared.count_refused(CloseReason::Refused);
    if shared.config.when_full == WhenFull::Respond {
        socket.try_write(
            b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        );
    }
}
