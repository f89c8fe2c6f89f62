//! Connections of one listening socket, dealt out among the loops that accept from it.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::{net::TcpStream, sync::mpsc};

use crate::connection::transport::socket::Socket;

/// The loops that accept from one socket. Without it, the loop that is woken first takes what comes, and a few
/// connections that stay for long may all be on one core.
#[derive(Debug, Default)]
pub(crate) struct LoopBalance {
    loops: Mutex<Vec<Arc<Loop>>>,
}

#[derive(Debug)]
struct Loop {
    group: u16,
    inbox: mpsc::UnboundedSender<Offered>,
    /// Offered and not received yet.
    coming: AtomicUsize,
}

type Offered = (std::net::TcpStream, Option<SocketAddr>);

/// The place of one loop; it is given up when it is dropped.
#[derive(Debug)]
pub(crate) struct LoopHandle {
    balance: Arc<LoopBalance>,
    own: Arc<Loop>,
    inbox: mpsc::UnboundedReceiver<Offered>,
}

impl LoopBalance {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Loop>>> {
        self.loops.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The loop that serves this group of connections joins in.
    pub(crate) fn join(self: Arc<Self>, group: u16) -> LoopHandle {
        let (sender, inbox) = mpsc::unbounded_channel();
        let own = Arc::new(Loop {
            group,
            inbox: sender,
            coming: AtomicUsize::new(0),
        });
        self.lock().push(Arc::clone(&own));
        LoopHandle {
            balance: self,
            own,
            inbox,
        }
    }
}

impl Loop {
    fn load(&self, open_in: &impl Fn(u16) -> usize) -> usize {
        open_in(self.group) + self.coming.load(Relaxed)
    }
}

impl LoopHandle {
    /// Gives a new connection to the loop that has the fewest, unless this one has hardly more. `open_in` tells how
    /// many connections a group has.
    ///
    /// # Errors
    /// The socket is lost.
    pub(crate) fn offer(
        &self,
        open_in: impl Fn(u16) -> usize,
        socket: Socket,
        peer: Option<SocketAddr>,
    ) -> io::Result<Option<(Socket, Option<SocketAddr>)>> {
        let other = {
            let loops = self.balance.lock();
            let least = loops.iter().map(|other| (other.load(&open_in), other));
            match least.min_by_key(|(load, _)| *load) {
                Some((least, other)) if self.own.load(&open_in) > least + least / 8 => {
                    Arc::clone(other)
                }
                _ => return Ok(Some((socket, peer))),
            }
        };
        let Socket::Tcp(socket) = socket else {
            return Ok(Some((socket, peer)));
        };
        other.coming.fetch_add(1, Relaxed);
        let Err(refused) = other.inbox.send((socket.into_std()?, peer)) else {
            return Ok(None);
        };
        // It has ended meanwhile.
        let (socket, peer) = refused.0;
        Ok(Some((Socket::Tcp(TcpStream::from_std(socket)?), peer)))
    }

    /// The next connection from another loop; `None` after [`close`](Self::close), when there are no more.
    ///
    /// # Errors
    /// The socket is lost.
    pub(crate) async fn receive(&mut self) -> Option<io::Result<(Socket, Option<SocketAddr>)>> {
        let (socket, peer) = self.inbox.recv().await?;
        self.own.coming.fetch_sub(1, Relaxed);
        Some(TcpStream::from_std(socket).map(|socket| (Socket::Tcp(socket), peer)))
    }

    /// Takes no more from others; what they have handed over already is still to be received.
    pub(crate) fn close(&mut self) {
        self.inbox.close();
    }
}

impl Drop for LoopHandle {
    fn drop(&mut self) {
        self.balance
            .lock()
            .retain(|other| !Arc::ptr_eq(other, &self.own));
    }
}
