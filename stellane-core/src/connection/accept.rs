use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{task::JoinSet, time::MissedTickBehavior};

use super::{
    CloseReason, ConnectionState, Listener, ServeError, WhenFull,
    entry::{Command, Entry},
    io::Socket,
    manager::{Shared, millis},
    service::HttpService,
    task::Task,
};

/// How often deadlines are looked at: every timeout is exact to this.
const SWEEP: Duration = Duration::from_millis(100);
/// How long accepting rests when there are no more open files.
const REST: Duration = Duration::from_millis(50);
/// How long a closing connection waits for its client to end, in milliseconds.
const LINGER: u64 = 1000;
/// How many idle connections make room at once when the limit is reached.
const RECLAIM: usize = 32;

pub(super) async fn serve_all<S: HttpService>(
    shared: Arc<Shared>,
    listeners: Vec<Listener>,
    service: S,
) -> Result<(), ServeError> {
    let mut loops = JoinSet::new();
    for listener in listeners {
        loops.spawn(serve(Arc::clone(&shared), listener, service.clone()));
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
    listener: Listener,
    service: S,
) -> Result<(), ServeError> {
    let group = Group {
        shared: Arc::clone(&shared),
        id: shared.next_group(),
        tell_nodelay: shared.config.nodelay && !listener.set_nodelay(),
    };
    let open = Open::new(&shared);
    let template = Arc::new(Mutex::new(service));
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
                    group.admit(socket, peer, &template).await;
                }
                Err(error) => group.survive(error).await?,
            },
            _ = sweep.tick() => shared.sweep(),
            () = &mut drain => break,
        }
    }
    // Clients whose handshake the system has already finished believe they are connected: take them too.
    while let Ok(Ok((socket, peer))) = tokio::time::timeout(Duration::ZERO, listener.accept()).await
    {
        group.admit(socket, peer, &template).await;
    }
    drop(listener);
    drop(open);
    while group.is_busy() {
        sweep.tick().await;
        shared.sweep();
    }
    Ok(())
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
struct Group {
    shared: Arc<Shared>,
    id: u16,
    /// Whether each connection is to be told not to hold small writes back.
    tell_nodelay: bool,
}

impl Group {
    async fn admit<S: HttpService>(
        &self,
        socket: Socket,
        peer: Option<SocketAddr>,
        template: &Arc<Mutex<S>>,
    ) {
        let shared = &self.shared;
        let knobs = &shared.knobs;
        if let (Socket::Tcp(socket), true) = (&socket, self.tell_nodelay) {
            // A socket that is gone already says so at its first read.
            let _ = socket.set_nodelay(true);
        }
        if !self.make_room().await {
            return refuse(shared, &socket);
        }
        let per_peer = knobs.max_connections_per_peer.load(Relaxed);
        match shared
            .table
            .insert(peer, self.id, shared.clock.now(), per_peer)
        {
            Some((slot, entry)) => {
                shared.count_accepted();
                tokio::spawn(Task::new(
                    socket,
                    Arc::clone(shared),
                    slot,
                    entry,
                    Arc::clone(template),
                ));
            }
            None => refuse(shared, &socket),
        }
    }

    /// Whether there is room for one more connection, after closing idle ones if need be.
    async fn make_room(&self) -> bool {
        let shared = &self.shared;
        let full = || shared.open() >= shared.most_connections();
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

    /// Decides whether accepting goes on after an error.
    async fn survive(&self, error: io::Error) -> Result<(), ServeError> {
        use io::ErrorKind::{
            ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, WouldBlock,
        };
        self.shared.count_accept_error();
        match error.kind() {
            // The client's doing, and over.
            ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted | WouldBlock => {
                Ok(())
            }
            _ if out_of_resources(&error) => {
                let reclaimed = self.shared.reclaim(RECLAIM);
                tracing::warn!(%error, reclaimed, "can't accept, resting");
                tokio::time::sleep(REST).await;
                Ok(())
            }
            _ => Err(ServeError { source: error }),
        }
    }

    fn is_busy(&self) -> bool {
        let mut busy = false;
        self.shared
            .table
            .for_each(|entry| busy |= entry.group == self.id);
        busy
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.shared.table.for_each(|entry| {
            if entry.group == self.id {
                entry.command(Command::Close(CloseReason::Aborted));
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

/// Says 503, unless it is to be silent, as far as the socket takes it at once, and closes.
fn refuse(shared: &Shared, socket: &Socket) {
    shared.count_refused();
    if shared.config.when_full == WhenFull::Close {
        return;
    }
    let _ = socket.try_write(
        b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
    );
}

impl Shared {
    /// How many connections there may be: as configured, and no more than the limit of open files has room
    /// for besides the reserve.
    fn most_connections(&self) -> usize {
        match self.knobs.max_connections.load(Relaxed) {
            0 => self.file_limit,
            max => max.min(self.file_limit),
        }
    }

    /// Looks at every connection's deadlines.
    pub(super) fn sweep(&self) {
        let now = self.tick();
        let interval = millis(SWEEP) / 2;
        if !self.take_sweep(now, interval) {
            return;
        }
        let limits = Limits::of(self, now);
        let mut idle = 0;
        self.table.for_each(|entry| {
            idle += usize::from(matches!(
                entry.state(),
                ConnectionState::Idle | ConnectionState::Parked
            ));
            let command = limits.judge(entry, now);
            if command != Command::None {
                entry.command(command);
            }
        });
        let max_idle = self.knobs.max_idle_connections.load(Relaxed);
        if max_idle > 0 && idle > max_idle {
            self.reclaim(idle - max_idle);
        }
        self.purge(now);
    }
}

/// The deadlines of one sweep, in milliseconds; `u64::MAX` is off.
struct Limits {
    first_byte: u64,
    head: u64,
    idle: u64,
    write: u64,
    max_age: u64,
    park: u64,
    /// Idle connections end now.
    drained: bool,
}

impl Limits {
    fn of(shared: &Shared, now: u64) -> Self {
        let config = &shared.config;
        let or_never = |limit: u64| if limit == 0 { u64::MAX } else { limit };
        Self {
            first_byte: or_never(millis(config.first_byte_timeout)),
            head: or_never(millis(config.head_timeout)),
            idle: or_never(shared.knobs.idle_timeout.load(Relaxed)),
            write: or_never(millis(config.write_timeout)),
            max_age: or_never(millis(config.max_age)),
            park: if config.park {
                shared.knobs.park_after.load(Relaxed)
            } else {
                u64::MAX
            },
            drained: shared
                .drain_elapsed(now)
                .is_some_and(|ms| ms >= millis(config.drain_idle)),
        }
    }

    fn judge(&self, entry: &Entry, now: u64) -> Command {
        use CloseReason::{
            Drained, Finished, FirstByteTimeout, HeadTimeout, IdleTimeout, MaxAge, SlowRead,
        };
        let stalled = entry.write_stalled();
        if stalled != 0 && now.saturating_sub(stalled) >= self.write {
            return Command::Close(SlowRead);
        }
        let state = entry.state();
        let waited = now.saturating_sub(entry.since());
        let between_requests = matches!(
            state,
            ConnectionState::New | ConnectionState::Idle | ConnectionState::Parked
        );
        if self.drained && between_requests {
            return Command::Close(Drained);
        }
        if self.max_age < u64::MAX && entry.age(now) >= spread(self.max_age, entry.id) {
            entry.retire.store(true, Relaxed);
            if between_requests {
                return Command::Close(MaxAge);
            }
        }
        match state {
            ConnectionState::New if waited >= self.first_byte => Command::Close(FirstByteTimeout),
            ConnectionState::Head if waited >= self.head => Command::Close(HeadTimeout),
            ConnectionState::Idle | ConnectionState::Parked if waited >= self.idle => {
                Command::Close(IdleTimeout)
            }
            ConnectionState::Closing if waited >= LINGER => Command::Close(Finished),
            ConnectionState::Idle if waited >= self.park => Command::Park,
            _ => Command::None,
        }
    }
}

/// `age` give or take a tenth, the same for the same connection.
fn spread(age: u64, id: u64) -> u64 {
    // The golden ratio spreads consecutive numbers evenly.
    let parts = u128::from(id.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let fifth = u128::from(age / 5);
    age - age / 10 + ((fifth * parts) >> 64) as u64
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
