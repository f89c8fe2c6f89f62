//! The connections of one call of `serve`.

use std::{io, mem, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::OwnedSemaphorePermit,
    task::{JoinSet, yield_now},
    time::Instant,
};

#[cfg(feature = "tls")]
use crate::connection::{accept::handshake, transport::tls::TlsAcceptor};
use crate::connection::{
    accept::{
        proxied::PendingProxyHeaders,
        refuser::{Judgement, Refuser},
        room::{admit, refuse, refuse_at_once, wait_for_room},
    },
    error::ServeError,
    http_service::HttpService,
    policy::admission::RECLAIM,
    protocol::{
        http1::fast_path::refusal::Judged,
        task::{
            Task,
            connection::{FIRST_READ, Served},
        },
    },
    reason::CloseReason,
    spawn::spawn,
    table::{NoRoom, command::Command, owner::SocketOwner, record::Record},
    transport::{listener::balance::LoopHandle, parked::ParkedSocket, socket::Socket},
};

/// How long accepting rests when there are no more open files.
const REST: Duration = Duration::from_millis(50);

/// Newcomers of one call of `serve` that wait for room, or for their client to read that there is none.
pub(crate) type Lobby = JoinSet<()>;

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
    pub(crate) fn receive(
        &self,
        pending: &mut PendingProxyHeaders,
        lobby: &mut Lobby,
        offered: io::Result<(Socket, Option<SocketAddr>)>,
    ) {
        match offered {
            Ok((socket, peer)) => {
                if let Some((socket, peer)) = pending.receive(socket, peer) {
                    self.serve(lobby, socket, peer);
                }
            }
            Err(_) => self.served.shared.count_refused(CloseReason::IoError),
        }
    }

    /// Serves a connection in a task of its own, when there is room for it.
    pub(crate) fn serve(&self, lobby: &mut Lobby, socket: Socket, peer: Option<SocketAddr>) {
        if let (Socket::Tcp(socket), true) = (&socket, self.tell_nodelay) {
            // A socket that is gone already says so at its first read.
            let _ = socket.set_nodelay(true);
        }
        let shared = &self.served.shared;
        match admit(shared, peer, self.id) {
            Ok(record) => self.door().open(socket, record),
            Err(no_room) => match Arc::clone(&shared.admission.lobby).try_acquire_owned() {
                Ok(place) => {
                    let door = self.door();
                    lobby.spawn(door.knock(place, socket, peer, self.id, no_room));
                }
                Err(_) => {
                    let speaks_tls = self.door().speaks_tls(&socket);
                    refuse_at_once(shared, socket, speaks_tls);
                }
            },
        }
    }

    fn door(&self) -> Door<S> {
        Door {
            served: Arc::clone(&self.served),
            #[cfg(feature = "tls")]
            tls: self.tls.clone(),
        }
    }

    /// Refuses what parked connections at these places ask for, or gives them their tasks. Whether the next ones are to be
    /// read in [lots](crate::connection::protocol::lots).
    pub(crate) async fn unpark_some(
        &self,
        readable: io::Result<Vec<usize>>,
        refuser: &mut Refuser,
    ) -> Result<bool, ServeError> {
        let Served { shared, lots, .. } = &*self.served;
        let now = shared.clock.elapsed();
        let in_lots = lots.are_read(now);
        refuser.begin_lot(now, in_lots);
        let mut turn = shared.wakes.begin();
        for slot in readable.map_err(|source| ServeError { source })? {
            // Another connection may stand there by now; then there is nothing to read, which is fine.
            let record = shared.table.at(slot);
            let Some(record) = record.filter(|record| record.group() == self.id) else {
                continue;
            };
            match self.unpark(&record, refuser) {
                Unparked::Ended(reason) => shared.end(&record, reason),
                // It takes its place before the others are judged.
                Unparked::Resumed if in_lots => {
                    drop(turn);
                    yield_now().await;
                    turn = shared.wakes.begin();
                }
                Unparked::Resumed | Unparked::Stays => {}
            }
        }
        drop(turn);
        // So that these and others have a turn before the next ones.
        yield_now().await;
        let now = shared.clock.elapsed();
        if let Some(since) = refuser.end_lot(now, in_lots) {
            lots.note_read(since, now);
        }
        Ok(lots.are_read(now))
    }

    /// Refuses what a parked connection asks for, or gives it to a task of its own.
    fn unpark(&self, record: &Arc<Record>, refuser: &mut Refuser) -> Unparked {
        let mut buffer = [0; FIRST_READ];
        let mut owner = record.owner().lock();
        let socket = match &*owner {
            SocketOwner::Parked(socket) => socket,
            SocketOwner::Task(waker) => {
                // Its socket is watched here, or was.
                waker.wake_by_ref();
                return Unparked::Stays;
            }
        };
        let read = match socket.try_read(&mut buffer) {
            Ok(read) if read > 0 => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Unparked::Stays,
            ended => {
                *owner = SocketOwner::starting();
                self.served.lots.unpark(record);
                let reason = ended.map_or(CloseReason::IoError, |_| CloseReason::ClientClosed);
                return Unparked::Ended(reason);
            }
        };
        let SocketOwner::Parked(socket) = mem::replace(&mut *owner, SocketOwner::starting()) else {
            return Unparked::Stays;
        };
        // Whoever judges may ask about this connection.
        drop(owner);
        record.commands().forget();
        record.add_read(read);
        let Served { shared, lots, .. } = &*self.served;
        let age = || socket.age_of_bytes();
        if !refuser.reads_in_time() {
            shared.wakes.look_back(age);
        }
        let (pressed, read) = (lots.unpark(record), &buffer[..read]);
        let was_refused = pressed.is_some();
        let pressed = pressed.unwrap_or_default();
        let passed = match refuser.judge(&self.served, record, read, (&pressed, &age)) {
            Ok(Judgement::Refused(answer)) => {
                lots.park(record, pressed);
                return stay_parked(record, socket, answer);
            }
            Ok(Judgement::Passed) => true,
            Ok(Judgement::Unknown) => false,
            Err(reason) => return Unparked::Ended(reason),
        };
        let judged = Judged {
            pressed,
            passed,
            was_refused,
        };
        self.resume(record, socket, read, judged)
    }

    /// Gives it to a task, with what was read.
    fn resume(
        &self,
        record: &Arc<Record>,
        socket: ParkedSocket,
        read: &[u8],
        judged: Judged,
    ) -> Unparked {
        let Served {
            parked,
            lots,
            shared,
            ..
        } = &*self.served;
        let soon = judged.was_refused && lots.takes(shared.clock.elapsed());
        let Ok(socket) = parked.unpark(socket, soon) else {
            return Unparked::Ended(CloseReason::IoError);
        };
        let bytes = Bytes::copy_from_slice(read);
        let served = Arc::clone(&self.served);
        spawn(Task::resume(
            served,
            Arc::clone(record),
            socket,
            bytes,
            judged,
        ));
        Unparked::Resumed
    }

    /// Decides whether accepting goes on after an error, and until when it rests.
    pub(crate) fn survive(&self, error: io::Error) -> Result<Option<Instant>, ServeError> {
        use io::ErrorKind::{
            ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, WouldBlock,
        };
        self.served.shared.totals.count_accept_error();
        match error.kind() {
            // The client's doing, and over.
            ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted | WouldBlock => {
                Ok(None)
            }
            _ if out_of_resources(&error) => {
                self.served.shared.make_room(RECLAIM);
                tracing::warn!(%error, "can't accept, resting");
                Ok(Some(Instant::now() + REST))
            }
            _ => Err(ServeError { source: error }),
        }
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.served.shared.table.open_in(self.id) > 0
    }
}

/// What becomes of a parked connection that has something to read.
enum Unparked {
    Stays,
    /// It has a task.
    Resumed,
    Ended(CloseReason),
}

/// Sends an answer, and has the connection wait for its next request where it is.
fn stay_parked(record: &Record, socket: ParkedSocket, answer: &[u8]) -> Unparked {
    match socket.try_write(answer) {
        Ok(written) if written == answer.len() => record.add_written(written),
        // There is room for more than that, unless its client has left many answers unread.
        Ok(_) => return Unparked::Ended(CloseReason::SlowRead),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Unparked::Ended(CloseReason::SlowRead);
        }
        Err(_) => return Unparked::Ended(CloseReason::IoError),
    }
    let mut owner = record.owner().lock();
    if let Command::Close(reason) = record.commands().take() {
        return Unparked::Ended(reason);
    }
    *owner = SocketOwner::Parked(socket);
    Unparked::Stays
}

/// What takes connections of a group in.
struct Door<S: HttpService> {
    served: Arc<Served<S>>,
    #[cfg(feature = "tls")]
    tls: Option<TlsAcceptor>,
}

impl<S: HttpService> Door<S> {
    /// Serves a connection in a task of its own.
    fn open(self, socket: Socket, record: Arc<Record>) {
        let served = self.served;
        #[cfg(feature = "tls")]
        let socket = match (socket, self.tls) {
            (Socket::Tcp(socket), Some(acceptor)) => {
                let shared = Arc::clone(&served.shared);
                let opening = handshake::handshake(acceptor, socket, shared, Arc::clone(&record));
                spawn(Task::opening(served, record, Box::pin(opening)));
                return;
            }
            (socket, _) => socket,
        };
        spawn(Task::new(served, record, socket));
    }

    fn speaks_tls(&self, socket: &Socket) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_some() && matches!(socket, Socket::Tcp(_));
        #[cfg(not(feature = "tls"))]
        {
            let _ = socket;
            false
        }
    }

    /// Waits for room and serves a connection, or tells its client that there is none.
    fn knock(
        self,
        place: OwnedSemaphorePermit,
        socket: Socket,
        peer: Option<SocketAddr>,
        group: u16,
        no_room: NoRoom,
    ) -> impl Future<Output = ()> + Send + 'static {
        let shared = Arc::clone(&self.served.shared);
        // Counted at once: those that come later are behind it, and a drain waits for it.
        let outside = shared.quiet.wait_outside();
        let waiting = (no_room == NoRoom::Full).then(|| shared.waiting_room.enter());
        async move {
            let _place = place;
            if let Some(waiting) = waiting
                && let Some(record) = wait_for_room(&shared, waiting, peer, group).await
            {
                return self.open(socket, record);
            }
            drop(outside);
            let speaks_tls = self.speaks_tls(&socket);
            refuse(&shared, socket, speaks_tls).await;
        }
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
