//! The deadlines: one walk over all connections, instead of a timer for each. It goes in pieces: ten thousand that are
//! looked at, parked or closed at once would keep requests waiting for a tenth of a second.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use crate::connection::{
    config::ConnectionConfig,
    lifecycle::{Shared, millis},
    policy::min_rates::MinRates,
    reason::CloseReason,
    state::ConnectionState,
    table::record::{Command, Record},
};

/// How often deadlines are looked at: every timeout is exact to this.
pub(crate) const SWEEP: Duration = Duration::from_millis(100);
/// How long a closing connection waits for its client to end, in milliseconds.
const LINGER: u64 = 1000;
/// How much later than it says a connection is closed for being idle: a request may be on its way for as long.
const LATE: u64 = 1000;

/// So many connections are looked at before others have a turn,
const LOOKED_AT: usize = 512;
/// or as many as it takes to ask so many for something: to park one costs as much as a request or two.
const ASKED: usize = 32;

/// Where the sweep is on its walk over the connections.
#[derive(Debug)]
pub(crate) struct Sweep {
    rates: MinRates,
    /// The place in the table that is next, until the walk is done.
    next: Option<usize>,
    /// Idle connections so far.
    idle: usize,
}

impl Sweep {
    pub(crate) fn new(config: &ConnectionConfig) -> Self {
        Self {
            rates: MinRates::new(config),
            next: None,
            idle: 0,
        }
    }

    fn begin(&mut self, now: u64) {
        if self.next.is_none() {
            self.next = Some(0);
            self.idle = 0;
            self.rates.begin_round(now);
        }
    }
}

impl Shared {
    /// Begins to look at every connection's deadlines, unless another listener has just done so. Whether
    /// [`continue_sweep`](Self::continue_sweep) is to be called, when others have had a turn.
    pub(crate) fn sweep(&self) -> bool {
        let now = self.tick();
        if self.take_sweep(now, millis(SWEEP) / 2) {
            self.end_those_due();
            self.measure_speed(now);
            self.purge.end_wave(now);
            self.park_delay.look(now);
            self.walk().begin(now);
        }
        self.purge.here();
        self.continue_sweep()
    }

    /// Looks at some of the connections; whether there are more.
    pub(crate) fn continue_sweep(&self) -> bool {
        let mut walk = self.walk();
        let Sweep { rates, next, idle } = &mut *walk;
        let Some(from) = *next else {
            return false;
        };
        let now = self.clock.now();
        let limits = Deadlines::of(self, now);
        let mut commands = Vec::new();
        *next = self.table.visit(from, LOOKED_AT, |record| {
            *idle += usize::from(matches!(
                record.state(),
                ConnectionState::Idle | ConnectionState::Parked
            ));
            match limits.judge(record, now, rates) {
                Command::None => {}
                Command::Park if record.is_parked_or_asked() => {}
                command => commands.push((Arc::clone(record), command)),
            }
            commands.len() < ASKED
        });
        let more = next.is_some();
        if !more {
            rates.end_round();
        }
        let idle = *idle;
        drop(walk);
        // Outside of the locks, since an end takes the table's.
        for (record, command) in commands {
            self.command(&record, command);
        }
        let max_idle = self.settings.max_idle_connections.load(Relaxed);
        if !more && max_idle > 0 && idle > max_idle {
            self.reclaim(idle - max_idle);
        }
        more
    }

    /// A whole sweep at once.
    pub(crate) fn sweep_all(&self) {
        let mut more = self.sweep();
        while more {
            more = self.continue_sweep();
        }
    }
}

/// The deadlines of one sweep, in milliseconds; `u64::MAX` is off.
struct Deadlines {
    first_byte: u64,
    handshake: u64,
    head: u64,
    idle: u64,
    write: u64,
    max_age: u64,
    park: u64,
    /// How long ago the moment passed at which the first connections are closed for being idle in a drain.
    drained: Option<u64>,
    drain_spread: u64,
}

impl Deadlines {
    fn of(shared: &Shared, now: u64) -> Self {
        let config = &shared.config;
        let late = if config.keep_alive_header { LATE } else { 0 };
        let or_never = |limit: u64| if limit == 0 { u64::MAX } else { limit };
        Self {
            first_byte: or_never(millis(config.first_byte_timeout)),
            #[cfg(feature = "tls")]
            handshake: or_never(millis(config.tls.handshake_timeout)),
            #[cfg(not(feature = "tls"))]
            handshake: u64::MAX,
            head: or_never(millis(config.head_timeout)),
            idle: or_never(shared.idle_timeout()).saturating_add(late),
            write: or_never(millis(config.write_timeout)),
            max_age: or_never(millis(config.max_age)),
            park: if config.park {
                shared.park_after()
            } else {
                u64::MAX
            },
            drained: shared
                .drain_elapsed(now)
                .and_then(|elapsed| elapsed.checked_sub(millis(config.drain_idle))),
            drain_spread: shared.drain_spread(),
        }
    }

    fn judge(&self, record: &Record, now: u64, rates: &mut MinRates) -> Command {
        use CloseReason::{
            Drained, Finished, FirstByteTimeout, HandshakeTimeout, HeadTimeout, IdleTimeout,
            MaxAge, SlowRead,
        };
        let stalled = record.write_stalled();
        if stalled != 0 && now.saturating_sub(stalled) >= self.write {
            return Command::Close(SlowRead);
        }
        let state = record.state();
        if let Some(reason) = rates.judge(record, state) {
            return Command::Close(reason);
        }
        let waited = now.saturating_sub(record.since());
        let between_requests = matches!(
            state,
            ConnectionState::New | ConnectionState::Idle | ConnectionState::Parked
        );
        let drained = |passed| passed >= part_of(self.drain_spread, record.id);
        if between_requests && self.drained.is_some_and(drained) {
            return Command::Close(Drained);
        }
        if self.max_age < u64::MAX && record.age(now) >= spread(self.max_age, record.id) {
            record.close_after_response();
            if between_requests {
                return Command::Close(MaxAge);
            }
        }
        match state {
            ConnectionState::New if waited >= self.first_byte => Command::Close(FirstByteTimeout),
            ConnectionState::Handshake if waited >= self.handshake => {
                Command::Close(HandshakeTimeout)
            }
            ConnectionState::Head if waited >= self.head => Command::Close(HeadTimeout),
            // One of HTTP/2, which has not taken all of its answers, and doesn't.
            ConnectionState::Idle
                if record.asked_to_close() && waited >= self.idle.saturating_add(self.write) =>
            {
                Command::Close(SlowRead)
            }
            ConnectionState::Idle | ConnectionState::Parked if waited >= self.idle => {
                Command::Close(IdleTimeout)
            }
            ConnectionState::Closing if waited >= LINGER => Command::Close(Finished),
            ConnectionState::New | ConnectionState::Idle if waited >= self.park => Command::Park,
            _ => Command::None,
        }
    }
}

/// `age` give or take a tenth, the same for the same connection.
fn spread(age: u64, id: u64) -> u64 {
    age - age / 10 + part_of(age / 5, id)
}

/// The place of a connection within `span`, always the same.
pub(crate) fn part_of(span: u64, id: u64) -> u64 {
    // The golden ratio spreads consecutive numbers evenly.
    let parts = u128::from(id.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    ((u128::from(span) * parts) >> 64) as u64
}
