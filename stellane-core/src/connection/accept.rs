use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    task::{JoinSet, yield_now},
    time::MissedTickBehavior,
};

#[cfg(feature = "tls")]
use super::tls;
use super::{
    CloseReason, Listener, ServeError, WhenFull,
    entry::{Command, Entry, Holder},
    herald::Heralds,
    io::Socket,
    listener::Seat,
    lot::Lot,
    service::HttpService,
    services::Services,
    shared::Shared,
    simple::refusal::Early,
    sweep::SWEEP,
    task::{FIRST_READ, Served, Task},
};

/// How long accepting rests when there are no more open files.
const REST: Duration = Duration::from_millis(50);
/// How many idle connections make room at once when the limit is reached.
const RECLAIM: usize = 32;
/// The group of connections that came by themselves.
const NO_LISTENER: u16 = u16::MAX;

pub(super) async fn serve_all<S: HttpService>(
    shared: Arc<Shared>,
    listeners: Vec<Listener>,
    service: S,
) -> Result<(), ServeError> {
    let mut loops = JoinSet::new();
    for listener in listeners {
        let services = Services::shared(service.clone());
        loops.spawn(serve(Arc::clone(&shared), listener, services));
    }
    drop(service);
    while let Some(ended) = loops.join_next().await {
        match ended {
            Ok(served) => served?,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is shutting down.
            Err(_) => {}
        }
    }
    Ok(())
}

pub(super) async fn serve<S: HttpService>(
    shared: Arc<Shared>,
    mut listener: Listener,
    services: Services<S>,
) -> Result<(), ServeError> {
    let open = Open::new(&shared);
    let (lot, mut attendant) = Lot::new().map_err(|source| ServeError { source })?;
    let id = shared.next_group();
    if let Some(keeper) = services.keeper() {
        shared.keepers.add(id, keeper);
    }
    let group = Group {
        served: Arc::new(Served {
            shared: Arc::clone(&shared),
            services,
            lot,
            early: listener.early.clone(),
        }),
        id,
        tell_nodelay: shared.config.nodelay && !listener.set_nodelay(),
        #[cfg(feature = "tls")]
        tls: listener.acceptor(),
    };
    let mut heralds = Heralds::new(&shared);
    let mut seat = listener.join(id);
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Whether the sweep is on its way.
    let mut sweeping = false;
    let mut drain = std::pin::pin!(shared.drain_begun());

    loop {
        let accept = async {
            shared.pace.wait().await;
            listener.accept().await
        };
        tokio::select! {
            accepted = accept => match accepted {
                Ok((socket, peer)) => {
                    shared.pace.take();
                    if let Some((socket, peer)) = group.keep(seat.as_ref(), socket, peer)
                        && let Some((socket, peer)) = heralds.receive(socket, peer)
                    {
                        group.admit(socket, peer).await;
                    }
                }
                Err(error) => group.survive(error).await?,
            },
            Some(handed) = handed(&mut seat) => group.receive(&mut heralds, handed).await,
            (socket, peer) = heralds.announced() => group.admit(socket, peer).await,
            readable = attendant.readable() => group.unpark_some(readable).await?,
            _ = sweep.tick() => sweeping = shared.sweep(),
            () = yield_now(), if sweeping => sweeping = shared.go_on(),
            () = &mut drain => break,
        }
    }
    // Clients whose handshake the system has already finished believe they are connected: take them too.
    while let Ok(Ok((socket, peer))) = tokio::time::timeout(Duration::ZERO, listener.accept()).await
    {
        if let Some((socket, peer)) = heralds.receive(socket, peer) {
            group.admit(socket, peer).await;
        }
    }
    if let Some(seat) = &mut seat {
        seat.close();
    }
    while let Some(socket) = handed(&mut seat).await {
        group.receive(&mut heralds, socket).await;
    }
    drop(listener);
    drop(open);
    while group.is_busy() {
        tokio::select! {
            (socket, peer) = heralds.announced() => group.admit(socket, peer).await,
            readable = attendant.readable() => group.unpark_some(readable).await?,
            _ = sweep.tick() => sweeping = shared.sweep(),
            () = yield_now(), if sweeping => sweeping = shared.go_on(),
        }
    }
    Ok(())
}

/// The next connection from a loop that shares the listening socket; `None` if there is none to come.
async fn handed(seat: &mut Option<Seat>) -> Option<io::Result<(Socket, Option<SocketAddr>)>> {
    seat.as_mut()?.handed().await
}

/// Serves a connection that no listener of ours accepted.
pub(super) async fn serve_connection<S: HttpService>(
    shared: Arc<Shared>,
    socket: Socket,
    peer: Option<SocketAddr>,
    service: S,
) -> CloseReason {
    // There may be no listener to do it.
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    shared.sweep_all();
    let Some(entry) = shared.take_in(peer, NO_LISTENER).await else {
        shared.refuse(socket);
        return CloseReason::Refused;
    };
    let served = Arc::new(Served {
        shared: Arc::clone(&shared),
        services: Services::shared(service),
        lot: Lot::closed(),
        early: Early::default(),
    });
    let mut task = Task::new(served, Arc::clone(&entry), socket);
    std::future::poll_fn(|cx| {
        while sweep.poll_tick(cx).is_ready() {
            shared.sweep_all();
        }
        // The caller may poll it by another task than before.
        entry.hear_commands(cx.waker());
        Pin::new(&mut task).poll(cx)
    })
    .await;
    task.reason.unwrap_or(CloseReason::Aborted)
}

/// A listener that is open, until this is dropped.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.listener_opened();
        Self(Arc::clone(shared))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.listener_closed();
    }
}

/// The connections of one call of `serve`; closed when it is dropped.
struct Group<S: HttpService> {
    served: Arc<Served<S>>,
    id: u16,
    /// Whether each connection is to be told not to hold small writes back.
    tell_nodelay: bool,
    #[cfg(feature = "tls")]
    tls: Option<super::TlsAcceptor>,
}

impl<S: HttpService> Group<S> {
    /// A new connection, unless it went to another loop.
    fn keep(
        &self,
        seat: Option<&Seat>,
        socket: Socket,
        peer: Option<SocketAddr>,
    ) -> Option<(Socket, Option<SocketAddr>)> {
        let Some(seat) = seat else {
            return Some((socket, peer));
        };
        let shared = &self.served.shared;
        let kept = seat.hand_over(&shared.table, socket, peer);
        kept.unwrap_or_else(|_| {
            shared.count_refused(CloseReason::IoError);
            None
        })
    }

    /// Takes in a connection that another loop has accepted.
    async fn receive(
        &self,
        heralds: &mut Heralds,
        handed: io::Result<(Socket, Option<SocketAddr>)>,
    ) {
        match handed {
            Ok((socket, peer)) => {
                if let Some((socket, peer)) = heralds.receive(socket, peer) {
                    self.admit(socket, peer).await;
                }
            }
            Err(_) => self.served.shared.count_refused(CloseReason::IoError),
        }
    }

    async fn admit(&self, socket: Socket, peer: Option<SocketAddr>) {
        let shared = &self.served.shared;
        if let (Socket::Tcp(socket), true) = (&socket, self.tell_nodelay) {
            // A socket that is gone already says so at its first read.
            let _ = socket.set_nodelay(true);
        }
        let Some(entry) = shared.take_in(peer, self.id).await else {
            return self.refuse(socket);
        };
        let served = Arc::clone(&self.served);
        #[cfg(feature = "tls")]
        let socket = match (socket, &self.tls) {
            (Socket::Tcp(socket), Some(acceptor)) => {
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(shared));
                let opening = tls::handshake(acceptor, socket, shared, Arc::clone(&entry));
                tokio::spawn(Task::opening(served, entry, Box::pin(opening)));
                return;
            }
            (socket, _) => socket,
        };
        tokio::spawn(Task::new(served, entry, socket));
    }

    fn refuse(&self, socket: Socket) {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            // Plain text would be no answer, and a handshake is what a full server can't afford.
            return self.served.shared.count_refused(CloseReason::Refused);
        }
        self.served.shared.refuse(socket);
    }

    async fn unpark_some(&self, readable: io::Result<Vec<usize>>) -> Result<(), ServeError> {
        for slot in readable.map_err(|source| ServeError { source })? {
            // Another connection may stand there by now; then there is nothing to read, which is fine.
            if let Some(entry) = self.served.shared.table.at(slot)
                && entry.group == self.id
                && let Some(reason) = self.unpark(&entry)
            {
                self.served.shared.end(&entry, reason);
            }
        }
        // So that these and others have a turn before the next ones.
        yield_now().await;
        Ok(())
    }

    /// Gives a parked connection that has something to read to a task of its own, or tells how it ended.
    fn unpark(&self, entry: &Arc<Entry>) -> Option<CloseReason> {
        let mut buffer = [0; FIRST_READ];
        let mut holder = entry.holder();
        let Holder::Lot(socket) = &*holder else {
            return None;
        };
        let reason = match socket.try_read(&mut buffer) {
            Ok(0) => CloseReason::ClientClosed,
            Ok(read) => {
                let Holder::Lot(socket) = std::mem::replace(&mut *holder, Holder::starting())
                else {
                    return None;
                };
                drop(holder);
                entry.forget_command();
                entry.add_read(read);
                let socket = match self.served.lot.unpark(socket) {
                    Ok(socket) => socket,
                    Err(_) => return Some(CloseReason::IoError),
                };
                let bytes = Bytes::copy_from_slice(&buffer[..read]);
                let served = Arc::clone(&self.served);
                tokio::spawn(Task::resume(served, Arc::clone(entry), socket, bytes));
                return None;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(_) => CloseReason::IoError,
        };
        *holder = Holder::starting();
        Some(reason)
    }

    /// Decides whether accepting goes on after an error.
    async fn survive(&self, error: io::Error) -> Result<(), ServeError> {
        use io::ErrorKind::{
            ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, WouldBlock,
        };
        self.served.shared.count_accept_error();
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

    fn is_busy(&self) -> bool {
        self.served.shared.table.open_in(self.id) > 0
    }
}

impl<S: HttpService> Drop for Group<S> {
    fn drop(&mut self) {
        let group = self.id;
        self.served.shared.command_each(|entry| {
            if entry.group == group {
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

impl Shared {
    /// A record for one more connection, if there is room for it.
    async fn take_in(&self, peer: Option<SocketAddr>, group: u16) -> Option<Arc<Entry>> {
        if !self.make_room().await {
            return None;
        }
        let per_peer = self.knobs.max_connections_per_peer.load(Relaxed);
        let now = self.clock.now();
        self.table
            .insert(peer, group, now, per_peer, || self.count_accepted())
    }

    /// Whether there is room for one more connection, after closing idle ones if need be.
    async fn make_room(&self) -> bool {
        let full = || self.open() >= self.most_connections();
        if !full() {
            return true;
        }
        if self.reclaim(RECLAIM) > 0 {
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
    fn refuse(&self, mut socket: Socket) {
        self.count_refused(CloseReason::Refused);
        if self.config.when_full == WhenFull::Respond {
            socket.try_write(
                b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            );
        }
    }

    /// How many connections there may be: as configured, and no more than the limit of open files has room
    /// for besides the reserve.
    fn most_connections(&self) -> usize {
        match self.knobs.max_connections.load(Relaxed) {
            0 => self.file_limit,
            max => max.min(self.file_limit),
        }
    }
}

/// How many files connections may open.
#[cfg(unix)]
pub(super) fn file_limit(reserve: usize) -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let files = limit.current.map_or(usize::MAX, |files| {
        usize::try_from(files).unwrap_or(usize::MAX)
    });
    // However few there are, the service answers somebody.
    files.saturating_sub(reserve).max(1)
}

/// How many files connections may open.
#[cfg(not(unix))]
pub(super) fn file_limit(_: usize) -> usize {
    usize::MAX
}
