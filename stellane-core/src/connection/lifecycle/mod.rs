//! What all connections of a manager share, how each is reached, and how all of them end.

mod drain;
#[cfg(feature = "tls")]
pub(crate) mod handshakes;
pub(crate) mod memory;
pub(crate) mod quiet;
pub(crate) mod room;
pub(crate) mod sweep;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::connection::{
    config::ConnectionConfig,
    lifecycle::{
        memory::{Hook, MemoryRelease},
        quiet::Quiet,
        room::WaitingRoom,
        sweep::Sweep,
    },
    policy::{
        admission::{Admission, surplus},
        budgets::Budgets,
        deadlines::Deadlines,
        drain::{Drain, spread_of},
        forwarded::Forwarded,
        park_delay::ParkDelay,
        pressure::{Patience, Pressure},
        room::{Offer, Part, idle_since, part_in_making_room},
        settings::LiveSettings,
    },
    reason::CloseReason,
    stats::{ConnectionStats, DrainReport},
    table::{
        NoRoom, Table,
        clock::{Clock, SWEEP_INTERVAL, millis},
        command::Command,
        end_hooks::EndHooks,
        owner::SocketOwner,
        record::Record,
        totals::Totals,
    },
    woken::WakeClock,
};
#[cfg(feature = "tls")]
use crate::connection::{lifecycle::handshakes::HandshakePlaces, policy::admission::handshakes};
use crate::on_disconnect::Abandoned;

/// What the handle, the accept loops and the connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: ConnectionConfig,
    /// What `set_*()` changes.
    pub(crate) settings: LiveSettings,
    pub(crate) clock: Clock,
    pub(crate) table: Table,
    pub(crate) totals: Totals,
    pub(crate) admission: Admission,
    pub(crate) drain: Drain,
    /// Requests that go on without their clients.
    pub(crate) abandoned: Abandoned,
    /// How long each request may take in a drain.
    pub(crate) budgets: Budgets,
    pub(crate) forwarded: Forwarded,
    pub(crate) pressure: Pressure,
    pub(crate) quiet: Arc<Quiet>,
    pub(crate) waiting_room: Arc<WaitingRoom>,
    #[cfg(feature = "tls")]
    pub(crate) handshakes: Arc<HandshakePlaces>,
    pub(crate) memory: Arc<MemoryRelease>,
    pub(crate) end_hooks: EndHooks,
    /// What the tasks of connections note by when they are woken.
    pub(crate) wakes: WakeClock,
    /// Held by whom no listener accepted, and who sweeps for all such.
    pub(crate) sweeper: tokio::sync::Mutex<()>,
    park_delay: ParkDelay,
    sweep: Mutex<Sweep>,
}

impl Shared {
    pub(crate) fn new(config: ConnectionConfig, hook: Option<Hook>) -> Self {
        Self {
            settings: LiveSettings::new(&config),
            clock: Clock::new(),
            table: Table::default(),
            totals: Totals::default(),
            admission: Admission::new(&config),
            drain: Drain::new(),
            abandoned: Abandoned::new(config.max_abandoned),
            budgets: Budgets::default(),
            forwarded: Forwarded::of(&config.forwarded),
            pressure: Pressure::default(),
            quiet: Arc::default(),
            waiting_room: Arc::default(),
            #[cfg(feature = "tls")]
            handshakes: Arc::new(HandshakePlaces::new(handshakes(&config))),
            memory: Arc::new(MemoryRelease::new(hook)),
            end_hooks: EndHooks::default(),
            wakes: WakeClock::default(),
            sweeper: tokio::sync::Mutex::default(),
            park_delay: ParkDelay::default(),
            sweep: Mutex::new(Sweep::new(&config)),
            config,
        }
    }

    /// See [`ConnectionManager::stats`](crate::connection::ConnectionManager::stats).
    pub(crate) fn stats(&self) -> ConnectionStats {
        let park_after = Duration::from_millis(self.park_after());
        ConnectionStats {
            abandoned: self.abandoned.stats(),
            ..self.totals.stats(&self.table, park_after)
        }
    }

    /// How long a connection is idle now before it is parked, in milliseconds.
    fn park_after(&self) -> u64 {
        self.park_delay.wait(self.settings.park_after())
    }

    /// How long slow clients may take now.
    pub(crate) fn patience(&self) -> Patience {
        Patience::at(self.pressure.level(), &self.config)
    }

    /// A parked connection comes back, which was parked for the time that it was idle or not.
    pub(crate) fn count_unparked(&self, record: &Record, by_time: bool) {
        self.totals.count_unparked();
        if by_time {
            let idle = self.clock.now().saturating_sub(record.since());
            self.park_delay.came_back(idle, self.settings.park_after());
        }
    }

    /// A connection that was accepted and ended before it had a record.
    pub(crate) fn count_refused(&self, reason: CloseReason) {
        self.table.unseen(|| self.totals.count_refused(reason));
    }

    /// Whether this is the last request that its connection may have.
    pub(crate) fn is_last(&self, request: u64) -> bool {
        self.config.max_requests > 0 && request >= self.config.max_requests
    }

    /// Whether the drain has come to this connection: its next response is its last.
    pub(crate) fn drains(&self, record: &Record) -> bool {
        self.drain.has_come_to(record.id(), || self.clock.now())
    }

    /// See [`ConnectionManager::drain`](crate::connection::ConnectionManager::drain).
    pub(crate) async fn drain(&self, deadline: Duration) -> DrainReport {
        let (before, abandoned_before) = (self.totals.closed(), self.abandoned.stats());
        // The listeners close before the first response says "close": a client that comes back at once
        // must be refused, not taken into a queue that nobody empties.
        self.drain.announce();
        let closed = || self.quiet.listeners() == 0;
        self.quiet.wait_until(closed).await;
        let spread = spread_of(&self.config, self.totals.open(), deadline);
        self.drain.limit(millis(deadline));
        self.drain.begin(self.clock.tick(), spread);
        self.tell_those_that_drain();
        self.end_in_time().await;
        let (after, abandoned) = (self.totals.closed(), self.abandoned.stats());
        let aborted = CloseReason::Aborted as usize;
        DrainReport {
            closed: after.iter().sum::<u64>() - before.iter().sum::<u64>(),
            aborted: after[aborted] - before[aborted],
            farewells: self.drain.farewells(),
            left: self.totals.open(),
            abandoned: abandoned.running + abandoned.ended_since(&abandoned_before),
            abandoned_stopped: abandoned.running + abandoned.stopped_total
                - abandoned_before.stopped_total,
        }
    }

    /// Tells connections that the drain has come to them; without anything to do they would not notice.
    fn tell_those_that_drain(&self) {
        if !self.drain.has_begun() {
            return;
        }
        self.table.for_each(|record| {
            if self.drains(record) && record.flags().close_after_response() {
                record.owner().wake();
            }
        });
    }

    /// Begins to look at every connection's deadlines, unless another listener has just done so. Whether
    /// [`continue_sweep`](Self::continue_sweep) is to be called, when others have had a turn.
    pub(crate) fn sweep(&self) -> bool {
        let now = self.clock.tick();
        if self.lock_sweep().begin(now) {
            self.tell_those_that_drain();
            self.totals.measure(&self.table, now);
            self.memory.end_round(now);
            self.park_delay.look(now);
            self.let_in();
        }
        self.memory.release_here();
        self.continue_sweep()
    }

    /// Looks at some of the connections; whether there are more.
    pub(crate) fn continue_sweep(&self) -> bool {
        let now = self.clock.now();
        let deadlines = || {
            // Anew for each piece: no more of the slow go than make enough room.
            let most = self.admission.most(&self.settings).all;
            self.pressure.measure(self.totals.open(), most);
            let (patience, park_after) = (self.patience(), self.park_after());
            let (config, settings) = (&self.config, &self.settings);
            Deadlines::of(config, settings, &self.drain, patience, park_after, now)
        };
        // Its own statement: commands are given outside of the locks, since an end takes the table's.
        let piece = self.lock_sweep().go_on(&self.table, deadlines, now);
        let Some(piece) = piece else {
            return false;
        };
        for (record, command) in piece.commands {
            self.command(&record, command);
        }
        if let Some(idle) = piece.idle {
            self.pressure.set_idle(idle);
            self.reclaim(surplus(idle, &self.settings));
        }
        piece.idle.is_none()
    }

    /// Whether some sweeps were left out.
    pub(crate) fn is_sweep_late(&self) -> bool {
        millis(self.clock.elapsed()) > self.clock.now() + 3 * millis(SWEEP_INTERVAL)
    }

    /// A whole sweep at once.
    pub(crate) fn sweep_all(&self) {
        let mut more = self.sweep();
        while more {
            more = self.continue_sweep();
        }
    }

    fn lock_sweep(&self) -> MutexGuard<'_, Sweep> {
        self.sweep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection ended.
    pub(crate) fn end(&self, record: &Record, reason: CloseReason) {
        self.table
            .remove(record, || self.totals.count_end(record, reason));
        self.end_hooks.run(record);
        // What is left may go on for long, and needs little.
        if self.drain.has_begun() {
            self.memory.count_freed();
        }
        self.waiting_room.give();
        self.quiet.look();
    }

    /// An upgraded connection ended, by itself or because it was told to.
    pub(crate) fn end_upgraded(&self, record: &Record) {
        let reason = match record.commands().take() {
            Command::Close(reason) => reason,
            Command::Park | Command::None => CloseReason::Upgraded,
        };
        self.end(record, reason);
    }

    /// A record for one more connection.
    ///
    /// # Errors
    /// There is no room for it.
    pub(crate) fn insert(
        &self,
        peer: Option<SocketAddr>,
        group: u16,
    ) -> Result<Arc<Record>, NoRoom> {
        let most = self.admission.most(&self.settings);
        let count = || self.totals.count_accepted();
        let now = self.clock.now();
        self.table.insert(peer, group, now, most, count)
    }

    /// Closes up to `count` connections that nobody loses a request by, those that have been idle longest first; how many
    /// were asked.
    pub(crate) fn reclaim(&self, count: usize) -> usize {
        if count == 0 {
            return 0;
        }
        let now = self.clock.now();
        let idle = |record: &Record| idle_since(record, &self.config, now);
        let idlest = self.table.least(count, idle);
        for (_, record) in &idlest {
            self.command(record, Command::Close(CloseReason::Reclaimed));
        }
        idlest.len()
    }

    /// Makes room for `count` connections, those included that were asked before: see [`Offer`].
    pub(crate) fn make_room(&self, count: usize) {
        let now = self.clock.now();
        let mut leaving = 0;
        let offers = self.table.least(count, |record| {
            match part_in_making_room(record, &self.config, now) {
                Part::Offers(offer) => return Some(offer),
                Part::Leaves => leaving += 1,
                Part::None => {}
            }
            None
        });
        for (offer, record) in offers.into_iter().take(count.saturating_sub(leaving)) {
            match offer {
                Offer::Idle(_) => self.command(&record, Command::Close(CloseReason::Reclaimed)),
                Offer::Lingering(_) => {
                    self.command(&record, Command::Close(CloseReason::Finished));
                }
                Offer::Unfinished(_, reason) => self.command(&record, Command::Close(reason)),
                Offer::Pausing(_) | Offer::Busy(_) => {
                    if record.flags().close_after_response() {
                        record.owner().wake();
                    }
                }
            }
        }
    }

    /// Lets newcomers in if there are places, and makes room for the others.
    fn let_in(&self) {
        let waiting = self.waiting_room.waiting();
        if waiting == 0 {
            return;
        }
        let most = self.admission.most(&self.settings).all;
        let free = most.saturating_sub(self.totals.open()).min(waiting);
        (0..free).for_each(|_| self.waiting_room.give());
        self.make_room(waiting - free);
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
    fn command(&self, record: &Record, command: Command) {
        let mut owner = record.owner().lock();
        match (&*owner, command) {
            (SocketOwner::Parked(socket), Command::Close(reason)) => {
                if reason.yields_to_a_request() && socket.has_bytes() {
                    // The client was faster; the poller has noticed.
                    return;
                }
                *owner = SocketOwner::starting();
                drop(owner);
                self.end(record, reason);
            }
            (SocketOwner::Parked(_), _) => {}
            (SocketOwner::Task(waker), command) => {
                if record.commands().ask(command) {
                    waker.wake_by_ref();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
