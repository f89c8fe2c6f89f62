//! The connections of one call of `serve`.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::task::yield_now;

#[cfg(feature = "tls")]
use crate::connection::{accept::handshake, transport::tls::TlsAcceptor};
use crate::connection::{
    accept::{
        proxied::PendingProxyHeaders,
        room::{admit, refuse},
    },
    error::ServeError,
    http_service::HttpService,
    policy::admission::RECLAIM,
    protocol::task::{FIRST_READ, Task, connection::Served},
    reason::CloseReason,
    table::{command::Command, owner::SocketOwner, record::Record},
    transport::{listener::balance::LoopHandle, socket::Socket},
};

/// How long accepting rests when there are no more open files.
const REST: Duration = Duration::from_millis(50);

/// The connections of one call of `serve`; closed when it is dropped.
pub(crate) struct Group<S: HttpService> {
    pub(crate) served: Arc<Served<S>>,
    pub(crate) id: u16,
    /// Whether each connection is to be told not to hold small writes back.
    pub(crate) tell_nodelay: bool,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<TlsAcceptor>,
}

impl<S: HttpService> Group<S> {
    /// A new connection, unless it went to another loop.
    pub(crate) fn keep(
        &self,
        loop_handle: Option<&LoopHandle>,
        socket: Socket,
        peer: Option<SocketAddr>,
    ) -> Option<(Socket, Option<SocketAddr>)> {
        let Some(loop_handle) = loop_handle else {
            return Some((socket, peer));
        };
        let shared = &self.served.shared;
        let kept = loop_handle.offer(|group| shared.table.open_in(group), socket, peer);
        kept.unwrap_or_else(|_| {
            shared.count_refused(CloseReason::IoError);
            None
        })
    }

    /// Takes in a connection that another loop has accepted.
    pub(crate) async fn receive(
        &self,
        pending: &mut PendingProxyHeaders,
        offered: io::Result<(Socket, Option<SocketAddr>)>,
    ) {
        match offered {
            Ok((socket, peer)) => {
                if let Some((socket, peer)) = pending.receive(socket, peer) {
                    self.serve(socket, peer).await;
                }
            }
            Err(_) => self.served.shared.count_refused(CloseReason::IoError),
        }
    }

    /// Serves a connection in a task of its own, if there is room for it.
    pub(crate) async fn serve(&self, socket: Socket, peer: Option<SocketAddr>) {
        let shared = &self.served.shared;
        if let (Socket::Tcp(socket), true) = (&socket, self.tell_nodelay) {
            // A socket that is gone already says so at its first read.
            let _ = socket.set_nodelay(true);
        }
        let Some(record) = admit(shared, peer, self.id).await else {
            return self.refuse(socket);
        };
        let served = Arc::clone(&self.served);
        #[cfg(feature = "tls")]
        let socket = match (socket, &self.tls) {
            (Socket::Tcp(socket), Some(acceptor)) => {
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(shared));
                let opening = handshake::handshake(acceptor, socket, shared, Arc::clone(&record));
                tokio::spawn(Task::opening(served, record, Box::pin(opening)));
                return;
            }
            (socket, _) => socket,
        };
        tokio::spawn(Task::new(served, record, socket));
    }

    fn refuse(&self, socket: Socket) {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            // Plain text would be no answer, and a handshake is what a full server can't afford.
            return self.served.shared.count_refused(CloseReason::Refused);
        }
        refuse(&self.served.shared, socket);
    }

    /// Gives parked connections at these places their tasks.
    pub(crate) async fn unpark_some(
        &self,
        readable: io::Result<Vec<usize>>,
    ) -> Result<(), ServeError> {
        for slot in readable.map_err(|source| ServeError { source })? {
            // Another connection may stand there by now; then there is nothing to read, which is fine.
            if let Some(record) = self.served.shared.table.at(slot)
                && record.group() == self.id
                && let Some(reason) = self.unpark(&record)
            {
                self.served.shared.end(&record, reason);
            }
        }
        // So that these and others have a turn before the next ones.
        yield_now().await;
        Ok(())
    }

    /// Gives a parked connection that has something to read to a task of its own, or tells how it ended.
    fn unpark(&self, record: &Arc<Record>) -> Option<CloseReason> {
        let mut buffer = [0; FIRST_READ];
        let mut owner = record.owner().lock();
        let SocketOwner::Parked(socket) = &*owner else {
            return None;
        };
        let reason = match socket.try_read(&mut buffer) {
            Ok(0) => CloseReason::ClientClosed,
            Ok(read) => {
                let SocketOwner::Parked(socket) =
                    std::mem::replace(&mut *owner, SocketOwner::starting())
                else {
                    return None;
                };
                drop(owner);
                record.commands().forget();
                record.add_read(read);
                let socket = match self.served.parked.unpark(socket) {
                    Ok(socket) => socket,
                    Err(_) => return Some(CloseReason::IoError),
                };
                let bytes = Bytes::copy_from_slice(&buffer[..read]);
                let served = Arc::clone(&self.served);
                tokio::spawn(Task::resume(served, Arc::clone(record), socket, bytes));
                return None;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(_) => CloseReason::IoError,
        };
        *owner = SocketOwner::starting();
        Some(reason)
    }

    /// Decides whether accepting goes on after an error.
    pub(crate) async fn survive(&self, error: io::Error) -> Result<(), ServeError> {
        use io::ErrorKind::{
            ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, WouldBlock,
        };
        self.served.shared.totals.count_accept_error();
        match error.kind() {
            // The client's doing, and over.
            ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted | WouldBlock => {
                Ok(())
            }
            _ if out_of_resources(&error) => {
                let reclaimed = self.served.shared.reclaim(RECLAIM);
                tracing::warn!(%error, reclaimed, "can't accept, resting");
                tokio::time::sleep(REST).await;
                Ok(())
            }
            _ => Err(ServeError { source: error }),
        }
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.served.shared.table.open_in(self.id) > 0
    }
}

impl<S: HttpService> Drop for Group<S> {
    fn drop(&mut self) {
        let group = self.id;
        self.served.shared.command_each(|record| {
            if record.group() == group {
                Command::Close(CloseReason::Aborted)
            } else {
                Command::None
            }
        });
    }
}

/// `EMFILE`, `ENFILE`, `ENOBUFS` and `ENOMEM`: they pass.
fn out_of_resources(error: &io::Error) -> bool {
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    const ENOMEM: i32 = 12;
    const ENOBUFS: i32 = if cfg!(target_os = "linux") { 105 } else { 55 };
    matches!(
        error.raw_os_error(),
        Some(EMFILE | ENFILE | ENOMEM | ENOBUFS)
    )
}
