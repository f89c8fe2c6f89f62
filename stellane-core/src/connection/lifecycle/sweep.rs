//! The walk over all connections that finds those whose time is over, instead of a timer for each. It goes in pieces: ten
//! thousand that are looked at, parked or closed at once would keep requests waiting for a tenth of a second.

use std::sync::Arc;

#[cfg(feature = "http2")]
use crate::connection::policy::stream_rates;
use crate::connection::{
    config::ConnectionConfig,
    policy::{
        deadlines::{Deadlines, Stop},
        min_rates::MinRates,
        silence::Silence,
    },
    state::ConnectionState,
    table::{
        Table,
        clock::{SWEEP_INTERVAL, millis},
        command::Command,
        record::Record,
    },
};

/// So many connections are looked at before others have a turn,
const LOOKED_AT: usize = 512;
/// or as many as it takes to ask so many for something: to park one costs as much as a request or two.
const ASKED: usize = 32;

/// Where the sweep is on its walk.
#[derive(Debug)]
pub(crate) struct Sweep {
    rates: MinRates,
    silence: Silence,
    /// The place in the table that is next, until the walk is done.
    next: Option<usize>,
    /// Idle connections so far.
    idle: usize,
    /// When the last one began, so that several listeners do not sweep more often than one.
    began: u64,
    /// When the one before it did.
    #[cfg(feature = "http2")]
    began_before: u64,
    stop: Stop,
}

/// What came of a piece of the walk.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Who is to be asked for what, outside of the locks.
    pub(crate) commands: Vec<(Arc<Record>, Command)>,
    /// How many connections are idle, after the last piece.
    pub(crate) idle: Option<usize>,
}

impl Sweep {
    pub(crate) fn new(config: &ConnectionConfig) -> Self {
        Self {
            rates: MinRates::new(config),
            silence: Silence::default(),
            next: None,
            idle: 0,
            began: 0,
            #[cfg(feature = "http2")]
            began_before: 0,
            stop: Stop::default(),
        }
    }

    /// Begins a walk, unless one is under way; false if somebody else has just done so.
    pub(crate) fn begin(&mut self, now: u64) -> bool {
        if now < self.began + millis(SWEEP_INTERVAL) / 2 {
            return false;
        }
        if self.next.is_none() {
            self.next = Some(0);
            self.idle = 0;
            self.rates.begin_round(now);
            self.silence.begin_round();
            #[cfg(feature = "http2")]
            {
                self.began_before = self.began;
            }
        }
        if let Some(stop) = Stop::between(self.began, now) {
            self.stop = stop;
        }
        self.began = now;
        true
    }

    /// Looks at some of the connections, if a walk is under way.
    pub(crate) fn go_on(
        &mut self,
        table: &Table,
        deadlines: impl FnOnce() -> Deadlines,
        now: u64,
    ) -> Option<Piece> {
        let from = self.next?;
        let deadlines = deadlines().after(self.stop);
        // Connections look at their streams that wait when they are woken, which is not with each sweep.
        #[cfg(feature = "http2")]
        let wakes = {
            let interval = stream_rates::interval(deadlines.patience().rate_grace);
            self.began / interval != self.began_before / interval
        };
        let mut commands = Vec::new();
        self.next = table.visit(from, LOOKED_AT, |record| {
            self.idle += usize::from(matches!(
                record.state(),
                ConnectionState::Idle | ConnectionState::Parked
            ));
            #[cfg(feature = "http2")]
            if wakes && record.answers().have_waited() {
                record.owner().wake();
            }
            let judged = deadlines.judge(record, now, &mut self.rates, &mut self.silence);
            if judged.close_after_response && record.flags().close_after_response() {
                // One of HTTP/2 sends GOAWAY.
                record.owner().wake();
            }
            match judged.command {
                Command::None => {}
                Command::Park if record.is_parked_or_asked() => {}
                command => commands.push((Arc::clone(record), command)),
            }
            commands.len() < ASKED
        });
        let done = self.next.is_none();
        if done {
            self.rates.end_round();
            self.silence.end_round();
        }
        Some(Piece {
            commands,
            idle: done.then_some(self.idle),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{
        policy::{drain::Drain, pressure::Patience, settings::LiveSettings},
        table::Most,
    };

    /// Connections that are idle since 0, the pieces of a sweep at a time, and how many were asked in each.
    fn pieces(connections: usize, now: u64) -> Vec<usize> {
        let config = ConnectionConfig::default();
        let settings = LiveSettings::new(&config);
        let table = Table::default();
        for _ in 0..connections {
            let most = Most {
                all: 10_000,
                per_peer: 0,
            };
            let record = table.insert(None, 0, 0, most, || ()).expect("room");
            record.enter(ConnectionState::Idle, 0);
        }
        let mut sweep = Sweep::new(&config);
        assert!(sweep.begin(now) && !sweep.begin(now + 49));
        let mut asked = Vec::new();
        let drain = Drain::new();
        let (patience, park_after) = (Patience::at(0.0, &config), settings.park_after());
        let deadlines = || Deadlines::of(&config, &settings, &drain, patience, park_after, now);
        while let Some(piece) = sweep.go_on(&table, deadlines, now) {
            asked.push(piece.commands.len());
            assert!(piece.idle.is_none_or(|idle| idle == connections));
        }
        asked
    }

    #[test]
    fn it_looks_at_a_few_hundred_at_once_and_asks_a_few() {
        assert_eq!(pieces(0, 100), [0]);
        assert_eq!(pieces(1200, 100), [0, 0, 0]);
        assert_eq!(pieces(100, 2000), [ASKED, ASKED, ASKED, 4]);
    }
}
