//! The state behind a manager's handle: what it counts, and how it reaches every connection.

pub(crate) mod memory;
pub(crate) mod sweep;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::watch;

use crate::connection::{
    accept,
    config::ConnectionConfig,
    lifecycle::{
        memory::{Hook, MemoryRelease},
        sweep::{SWEEP, Sweep, part_of},
    },
    policy::{accept_rate::AcceptRate, park_delay::ParkDelay},
    protocol::service_source::EndHooks,
    reason::CloseReason,
    state::ConnectionState,
    stats::{ConnectionStats, DrainReport},
    table::{
        Clock, Table,
        record::{Command, Record, SocketOwner},
        throughput::Throughput,
    },
};

/// What the handle, the accept loops and the connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) table: Table,
    pub(crate) clock: Clock,
    pub(crate) settings: LiveSettings,
    pub(crate) config: ConnectionConfig,
    pub(crate) pace: AcceptRate,
    /// How many connections the limit of open files has room for.
    pub(crate) file_limit: usize,
    #[cfg(feature = "tls")]
    pub(crate) handshakes: tokio::sync::Semaphore,
    pub(crate) purge: Arc<MemoryRelease>,
    pub(crate) park_delay: ParkDelay,
    pub(crate) http1: hyper::server::conn::http1::Builder,
    #[cfg(feature = "http2")]
    pub(crate) http2: hyper::server::conn::http2::Builder<
        crate::connection::protocol::http2::streams::StreamExecutor,
    >,
    open: AtomicUsize,
    accepted: AtomicU64,
    accept_errors: AtomicU64,
    ended: [AtomicU64; CloseReason::ALL.len()],
    /// Of connections that have ended; the live ones are added when asked.
    ended_requests: AtomicU64,
    ended_read: AtomicU64,
    ended_written: AtomicU64,
    cancelled: AtomicU64,
    unparked: AtomicU64,
    drain: watch::Sender<bool>,
    /// The same as a flag, since every response asks.
    draining: AtomicBool,
    /// When the drain began, on the coarse clock.
    drain_began: AtomicU64,
    /// Over how many milliseconds this drain spreads its closing.
    drain_spread: AtomicU64,
    walk: Mutex<Sweep>,
    speed: Mutex<Throughput>,
    /// When the last sweep was, so that several listeners do not sweep more often than one.
    swept: AtomicU64,
    groups: AtomicU16,
    pub(crate) end_hooks: EndHooks,
    /// Listeners that are open.
    listeners: AtomicUsize,
    /// Woken when a connection ends or a listener closes.
    quiet: tokio::sync::Notify,
    epoch: tokio::time::Instant,
}

/// The settings that can be changed while serving, in milliseconds where they are times.
#[derive(Debug)]
pub(crate) struct LiveSettings {
    pub(crate) max_connections: AtomicUsize,
    pub(crate) max_connections_per_peer: AtomicUsize,
    pub(crate) max_idle_connections: AtomicUsize,
    pub(crate) max_accepts_per_second: AtomicU32,
    pub(crate) idle_timeout: AtomicU64,
    pub(crate) park_after: AtomicU64,
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Shared {
    pub(crate) fn new(config: ConnectionConfig, purge: Option<Hook>) -> Self {
        let epoch = tokio::time::Instant::now();
        let walk = Sweep::new(&config);
        let mut http1 = hyper::server::conn::http1::Builder::new();
        // Deadlines are the sweep's business.
        http1
            .header_read_timeout(None)
            .max_header_size(config.max_head_bytes)
            .max_buf_size(config.max_head_bytes.max(config.read_buffer_bytes))
            .pipeline_flush(false);
        #[cfg(feature = "http2")]
        let http2 = crate::connection::protocol::http2::builder(&config.http2);
        Self {
            table: Table::default(),
            clock: Clock::default(),
            settings: LiveSettings {
                max_connections: AtomicUsize::new(config.max_connections),
                max_connections_per_peer: AtomicUsize::new(config.max_connections_per_peer),
                max_idle_connections: AtomicUsize::new(config.max_idle_connections),
                max_accepts_per_second: AtomicU32::new(config.max_accepts_per_second),
                idle_timeout: AtomicU64::new(millis(config.idle_timeout)),
                park_after: AtomicU64::new(millis(config.park_after)),
            },
            pace: AcceptRate::new(config.max_accepts_per_second),
            file_limit: accept::file_limit(config.reserve_files),
            #[cfg(feature = "tls")]
            handshakes: accept::handshake::places(&config.tls),
            config,
            purge: Arc::new(MemoryRelease::new(purge)),
            park_delay: ParkDelay::default(),
            http1,
            #[cfg(feature = "http2")]
            http2,
            open: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            accept_errors: AtomicU64::new(0),
            ended: std::array::from_fn(|_| AtomicU64::new(0)),
            ended_requests: AtomicU64::new(0),
            ended_read: AtomicU64::new(0),
            ended_written: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            unparked: AtomicU64::new(0),
            drain: watch::Sender::new(false),
            draining: AtomicBool::new(false),
            drain_began: AtomicU64::new(0),
            drain_spread: AtomicU64::new(0),
            walk: Mutex::new(walk),
            speed: Mutex::default(),
            swept: AtomicU64::new(0),
            groups: AtomicU16::new(0),
            end_hooks: EndHooks::default(),
            listeners: AtomicUsize::new(0),
            quiet: tokio::sync::Notify::new(),
            epoch,
        }
    }

    /// See [`ConnectionManager::drain`](crate::connection::ConnectionManager::drain).
    pub(crate) async fn drain(&self, deadline: Duration) -> DrainReport {
        let before = self.ended();
        // The listeners close before the first response says "close": a client that comes back at once
        // must be refused, not taken into a queue that nobody empties.
        self.drain.send_replace(true);
        self.quiet_when(|this| this.listeners.load(Relaxed) == 0)
            .await;
        self.drain_spread.store(self.spread(deadline), Relaxed);
        self.drain_began.store(self.tick(), Relaxed);
        self.draining.store(true, Relaxed);
        self.end_those_due();
        let drained = self.quiet_when(|this| this.open.load(Relaxed) == 0);
        if tokio::time::timeout(deadline, drained).await.is_err() {
            self.command_each(|_| Command::Close(CloseReason::Aborted));
            // Each ends at its next poll; a handler that blocks its thread is not waited for.
            let gone = async {
                while self.open.load(Relaxed) > 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let _ = tokio::time::timeout(Duration::from_secs(1), gone).await;
        }
        let after = self.ended();
        let count = |reason: CloseReason| after[reason as usize] - before[reason as usize];
        DrainReport {
            closed: after.iter().sum::<u64>() - before.iter().sum::<u64>(),
            aborted: count(CloseReason::Aborted),
            left: self.open.load(Relaxed),
        }
    }

    /// See [`ConnectionManager::stats`](crate::connection::ConnectionManager::stats).
    pub(crate) fn stats(&self) -> ConnectionStats {
        let mut open = ConnectionStats::default();
        let ended = || ConnectionStats {
            accepted_total: self.accepted.load(Relaxed),
            accept_errors_total: self.accept_errors.load(Relaxed),
            closed_total: self.ended(),
            requests_total: self.ended_requests.load(Relaxed),
            requests_cancelled_total: self.cancelled.load(Relaxed),
            unparked_total: self.unparked.load(Relaxed),
            park_after: Duration::from_millis(self.park_after()),
            bytes_read_total: self.ended_read.load(Relaxed),
            bytes_written_total: self.ended_written.load(Relaxed),
            ..ConnectionStats::default()
        };
        let ended = self.table.for_each_after(ended, |record| {
            open.open += 1;
            match record.state() {
                ConnectionState::New => open.new += 1,
                ConnectionState::Idle => open.idle += 1,
                ConnectionState::Parked => open.parked += 1,
                ConnectionState::Handshake
                | ConnectionState::Head
                | ConnectionState::Active
                | ConnectionState::Upgraded
                | ConnectionState::Closing => {
                    open.active += 1;
                }
            }
            open.requests_in_flight += u64::from(record.in_flight());
            open.requests_total += record.requests();
            let (read, written) = record.bytes();
            open.bytes_read_total += read;
            open.bytes_written_total += written;
        });
        ConnectionStats {
            requests_total: ended.requests_total + open.requests_total,
            bytes_read_total: ended.bytes_read_total + open.bytes_read_total,
            bytes_written_total: ended.bytes_written_total + open.bytes_written_total,
            open: open.open,
            new: open.new,
            idle: open.idle,
            parked: open.parked,
            active: open.active,
            requests_in_flight: open.requests_in_flight,
            ..ended
        }
        .with(*self.speed())
    }

    fn speed(&self) -> MutexGuard<'_, Throughput> {
        self.speed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Measures how fast it goes, if a second has passed since the last time.
    pub(crate) fn measure_speed(&self, now: u64) {
        if self.speed().is_due(now) {
            let stats = self.stats();
            self.speed().measure(now, &stats);
        }
    }

    pub(crate) fn draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Whether the drain has come to this connection: its next response is its last.
    pub(crate) fn ends(&self, record: &Record) -> bool {
        self.draining() && self.ends_by(record, self.clock.now())
    }

    #[cold]
    fn ends_by(&self, record: &Record, now: u64) -> bool {
        let elapsed = now.saturating_sub(self.drain_began.load(Relaxed));
        elapsed >= part_of(self.drain_spread(), record.id)
    }

    /// Tells connections that the drain has come to them; without anything to do they would not notice.
    pub(crate) fn end_those_due(&self) {
        if !self.draining() {
            return;
        }
        self.table.for_each(|record| {
            if self.ends(record) && record.close_after_response() {
                record.wake();
            }
        });
    }

    pub(crate) fn drain_spread(&self) -> u64 {
        self.drain_spread.load(Relaxed)
    }

    /// How long a drain that has to end within `deadline` may take for its closing.
    fn spread(&self, deadline: Duration) -> u64 {
        /// So many reconnect at once without doing harm.
        const MANY: u64 = 1000;
        let open = (self.open() as u64).min(MANY);
        let room = deadline.saturating_sub(self.config.drain_idle) / 2;
        let spread = millis(self.config.drain_spread) * open / MANY;
        match spread.min(millis(room)) {
            // The sweep is no more exact than that.
            short if short < millis(SWEEP) => 0,
            spread => spread,
        }
    }

    /// In milliseconds; `0` is off.
    pub(crate) fn idle_timeout(&self) -> u64 {
        self.settings.idle_timeout.load(Relaxed)
    }

    pub(crate) fn walk(&self) -> MutexGuard<'_, Sweep> {
        self.walk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the drain has been going on, in milliseconds.
    pub(crate) fn drain_elapsed(&self, now: u64) -> Option<u64> {
        self.draining()
            .then(|| now.saturating_sub(self.drain_began.load(Relaxed)))
    }

    /// Waits until `holds`, which may change when a connection ends or a listener closes.
    async fn quiet_when(&self, holds: impl Fn(&Self) -> bool) {
        loop {
            let quiet = self.quiet.notified();
            if holds(self) {
                return;
            }
            quiet.await;
        }
    }

    pub(crate) fn listener_opened(&self) {
        self.listeners.fetch_add(1, Relaxed);
    }

    pub(crate) fn listener_closed(&self) {
        self.listeners.fetch_sub(1, Relaxed);
        self.quiet.notify_waiters();
    }

    pub(crate) fn next_group(&self) -> u16 {
        self.groups.fetch_add(1, Relaxed)
    }

    /// True if nobody has swept for `interval` milliseconds; then the caller does.
    pub(crate) fn take_sweep(&self, now: u64, interval: u64) -> bool {
        let last = self.swept.load(Relaxed);
        now >= last + interval
            && self
                .swept
                .compare_exchange(last, now, Relaxed, Relaxed)
                .is_ok()
    }

    pub(crate) fn drain_begun(&self) -> impl Future<Output = ()> + Send + Sync + use<> {
        let mut drain = self.drain.subscribe();
        async move {
            // An error means that the manager is gone, which is the end of serving as well.
            let _ = drain.wait_for(|draining| *draining).await;
        }
    }

    pub(crate) fn is_last(&self, request: u64) -> bool {
        self.config.max_requests > 0 && request >= self.config.max_requests
    }

    pub(crate) fn count_cancelled(&self) {
        self.cancelled.fetch_add(1, Relaxed);
    }

    /// How long a connection is idle now before it is parked, in milliseconds.
    pub(crate) fn park_after(&self) -> u64 {
        self.park_delay.wait(self.settings.park_after.load(Relaxed))
    }

    /// A parked connection comes back.
    pub(crate) fn count_unparked(&self, record: &Record) {
        self.unparked.fetch_add(1, Relaxed);
        let idle = self.clock.now().saturating_sub(record.since());
        self.park_delay
            .came_back(idle, self.settings.park_after.load(Relaxed));
    }

    pub(crate) fn count_accept_error(&self) {
        self.accept_errors.fetch_add(1, Relaxed);
    }

    /// To be called where nobody sees the table, so that what was accepted is open or has ended at all times.
    pub(crate) fn count_accepted(&self) {
        self.accepted.fetch_add(1, Relaxed);
        self.open.fetch_add(1, Relaxed);
    }

    /// A connection that was accepted and ended before it had a record.
    pub(crate) fn count_refused(&self, reason: CloseReason) {
        self.table.unseen(|| {
            self.accepted.fetch_add(1, Relaxed);
            self.ended[reason as usize].fetch_add(1, Relaxed);
        });
    }

    pub(crate) fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// A connection ended.
    pub(crate) fn end(&self, record: &Record, reason: CloseReason) {
        self.table.remove(record, || {
            let (read, written) = record.bytes();
            self.ended_requests.fetch_add(record.requests(), Relaxed);
            self.ended_read.fetch_add(read, Relaxed);
            self.ended_written.fetch_add(written, Relaxed);
            self.ended[reason as usize].fetch_add(1, Relaxed);
            self.open.fetch_sub(1, Relaxed);
        });
        self.end_hooks.forget(record);
        self.quiet.notify_waiters();
    }

    /// An upgraded connection ended, by itself or because it was told to.
    pub(crate) fn end_upgraded(&self, record: &Record) {
        let reason = match record.take_command() {
            Command::Close(reason) => reason,
            Command::Park | Command::None => CloseReason::Upgraded,
        };
        self.end(record, reason);
    }

    pub(crate) fn reclaim(&self, count: usize) -> usize {
        let idlest = self.table.idlest(count);
        for record in &idlest {
            self.command(record, Command::Close(CloseReason::Reclaimed));
        }
        idlest.len()
    }

    /// Gives each connection the command that `judge` finds for it.
    pub(crate) fn command_each(&self, mut judge: impl FnMut(&Record) -> Command) {
        let mut commands = Vec::new();
        self.table.for_each(|record| match judge(record) {
            Command::None => {}
            command => commands.push((Arc::clone(record), command)),
        });
        // Outside of the table's lock, since an end takes it.
        for (record, command) in commands {
            self.command(&record, command);
        }
    }

    /// Asks a connection's task for something. A parked connection has none: it is closed here.
    pub(crate) fn command(&self, record: &Record, command: Command) {
        let mut owner = record.socket_owner();
        match (&*owner, command) {
            (SocketOwner::Parked(socket), Command::Close(reason)) => {
                if reason.yields_to_a_request() && socket.has_bytes() {
                    // The client was faster; the lot has noticed.
                    return;
                }
                *owner = SocketOwner::starting();
                drop(owner);
                self.end(record, reason);
            }
            (SocketOwner::Parked(_), _) => {}
            (SocketOwner::Task(waker), command) => {
                if record.set_command(command) {
                    waker.wake_by_ref();
                }
            }
        }
    }

    /// Moves the coarse clock on.
    pub(crate) fn tick(&self) -> u64 {
        self.clock.set(millis(self.epoch.elapsed()));
        self.clock.now()
    }

    fn ended(&self) -> [u64; CloseReason::ALL.len()] {
        std::array::from_fn(|i| self.ended[i].load(Relaxed))
    }
}
