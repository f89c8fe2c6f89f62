//! The deadlines: one walk over all connections, instead of a timer for each.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use super::{
    CloseReason, ConnectionState,
    entry::{Command, Entry},
    orders::Orders,
    rates::Round,
    shared::{Shared, millis},
};

/// How often deadlines are looked at: every timeout is exact to this.
pub(super) const SWEEP: Duration = Duration::from_millis(100);
/// How long a closing connection waits for its client to end, in milliseconds.
const LINGER: u64 = 1000;
/// How much later than it says a connection is closed for being idle: a request may be on its way for as long.
const LATE: u64 = 1000;

impl Shared {
    /// Looks at every connection's deadlines, unless another listener has just done so.
    pub(super) fn sweep(&self, orders: &mut Orders) {
        let now = self.tick();
        if self.take_sweep(now, millis(SWEEP) / 2) {
            self.look(now, orders);
            self.measure_speed(now);
            self.purge.end_wave(now);
            self.hysteresis.look(now);
        }
        self.purge.here();
    }

    fn look(&self, now: u64, orders: &mut Orders) {
        orders.clear();
        self.end_those_due();
        let limits = Limits::of(self, now);
        let mut rates = self.rates();
        let mut round = rates.round(now);
        let mut idle = 0;
        self.table.for_each(|entry| {
            idle += usize::from(matches!(
                entry.state(),
                ConnectionState::Idle | ConnectionState::Parked
            ));
            orders.add(entry, limits.judge(entry, now, &mut round));
        });
        drop(rates);
        let max_idle = self.knobs.max_idle_connections.load(Relaxed);
        if max_idle > 0 && idle > max_idle {
            self.reclaim(idle - max_idle);
        }
    }
}

/// The deadlines of one sweep, in milliseconds; `u64::MAX` is off.
struct Limits {
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

impl Limits {
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

    fn judge(&self, entry: &Entry, now: u64, rates: &mut Round<'_>) -> Command {
        use CloseReason::{
            Drained, Finished, FirstByteTimeout, HandshakeTimeout, HeadTimeout, IdleTimeout,
            MaxAge, SlowRead,
        };
        let stalled = entry.write_stalled();
        if stalled != 0 && now.saturating_sub(stalled) >= self.write {
            return Command::Close(SlowRead);
        }
        let state = entry.state();
        if let Some(reason) = rates.judge(entry, state) {
            return Command::Close(reason);
        }
        let waited = now.saturating_sub(entry.since());
        let between_requests = matches!(
            state,
            ConnectionState::New | ConnectionState::Idle | ConnectionState::Parked
        );
        let drained = |passed| passed >= part_of(self.drain_spread, entry.id);
        if between_requests && self.drained.is_some_and(drained) {
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
            ConnectionState::Handshake if waited >= self.handshake => {
                Command::Close(HandshakeTimeout)
            }
            ConnectionState::Head if waited >= self.head => Command::Close(HeadTimeout),
            // One of HTTP/2, which has not taken all of its answers, and doesn't.
            ConnectionState::Idle
                if entry.asked_to_close() && waited >= self.idle.saturating_add(self.write) =>
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
pub(super) fn part_of(span: u64, id: u64) -> u64 {
    // The golden ratio spreads consecutive numbers evenly.
    let parts = u128::from(id.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    ((u128::from(span) * parts) >> 64) as u64
}
