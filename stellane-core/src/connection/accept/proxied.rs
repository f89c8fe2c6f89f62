//! Connections that wait to be announced: a trusted proxy says first whose they are.

use std::{net::SocketAddr, sync::Arc};

use tokio::task::JoinSet;

use crate::connection::{
    lifecycle::{Shared, quiet::Outside},
    reason::CloseReason,
    transport::{
        proxy_protocol::{self, Trust, Verdict},
        socket::Socket,
    },
};

/// How many connections may wait for their PROXY header: trusted proxies send it at once.
const MOST_PENDING: usize = 4096;

/// A connection whose client is known, and what stands for it until it is in the table.
type Known = (Socket, Option<SocketAddr>, Outside);

/// Connections of proxies that have not said yet whose they are.
pub(crate) struct PendingProxyHeaders {
    shared: Arc<Shared>,
    trust: Trust,
    waiting: JoinSet<Option<Known>>,
}

impl PendingProxyHeaders {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            trust: Trust::new(&shared.config.proxy_protocol),
            waiting: JoinSet::new(),
        }
    }

    /// Gives the connection back if it speaks for itself.
    pub(crate) fn receive(
        &mut self,
        mut socket: Socket,
        peer: Option<SocketAddr>,
    ) -> Option<(Socket, Option<SocketAddr>)> {
        let shared = Arc::clone(&self.shared);
        match self.trust.judge(peer) {
            Verdict::Direct => return Some((socket, peer)),
            Verdict::Refused => shared.count_refused(CloseReason::Refused),
            Verdict::Header if self.waiting.len() >= MOST_PENDING => {
                shared.count_refused(CloseReason::Refused);
            }
            Verdict::Header => {
                let outside = shared.quiet.wait_outside();
                self.waiting.spawn(async move {
                    let config = &shared.config;
                    // In a drain it has as long as others without a request.
                    let drained = async {
                        shared.drain.announced().await;
                        tokio::time::sleep(config.drain_idle).await;
                    };
                    let header = proxy_protocol::read_header(&mut socket);
                    let reason = tokio::select! {
                        header = header => match header {
                            Ok(proxied) => return Some((socket, proxied.or(peer), outside)),
                            Err(_) => CloseReason::ProxyHeader,
                        },
                        () = tokio::time::sleep(config.proxy_protocol.timeout) => {
                            CloseReason::ProxyHeader
                        }
                        () = drained => CloseReason::Drained,
                    };
                    tracing::debug!(?peer, "no PROXY header");
                    shared.count_refused(reason);
                    None
                });
            }
        }
        None
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The next connection whose client is known.
    pub(crate) async fn next(&mut self) -> Known {
        loop {
            match self.waiting.join_next().await {
                Some(Ok(Some(known))) => return known,
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }
}
