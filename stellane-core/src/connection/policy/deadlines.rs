//! Every timeout of a connection.

use crate::connection::{
    config::ConnectionConfig,
    policy::{
        drain::Drain,
        min_rates::MinRates,
        pressure::Patience,
        settings::LiveSettings,
        silence::Silence,
        spread::{around, part_of},
    },
    reason::CloseReason,
    state::ConnectionState,
    table::{clock::millis, command::Command, record::Record},
};

/// How long a closing connection waits for its client to end, or to send more, in milliseconds.
const LINGER: u64 = 1000;
/// The same for a client that may not have sent all of a body: those that write first read the answer after that.
const LINGER_FOR_A_BODY: u64 = 5000;
/// How much later than it says a connection is closed for being idle: a request may be on its way for as long.
const LATE: u64 = 1000;

/// The deadlines of one sweep, in milliseconds; `u64::MAX` is off.
#[derive(Debug)]
pub(crate) struct Deadlines {
    /// With those that are slow.
    patience: Patience,
    handshake: u64,
    idle: u64,
    half_close: u64,
    /// 0 is off.
    max_age: u64,
    /// How much older one gets at most.
    age_grace: u64,
    park: u64,
    /// How long a drain has been going on.
    drain: Option<u64>,
    drain_spread: u64,
    /// How long one that is to go may be without a request.
    drain_idle: u64,
    stop: Stop,
}

/// When nobody swept, and so nobody ran, the last time that this was so for long: the process was stopped, or its machine, or a
/// handler held its threads. It is no time that a client has let pass.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stop {
    began: u64,
    lasted: u64,
}

impl Stop {
    /// Sweeps further apart than this, which is ten of them.
    const LEAST: u64 = 1000;

    /// Of two sweeps one after the other, if it is one.
    pub(crate) fn between(before: u64, now: u64) -> Option<Self> {
        let lasted = now.saturating_sub(before);
        (lasted > Self::LEAST).then_some(Self {
            began: before,
            lasted,
        })
    }

    /// What has passed since, without it.
    fn leave_out(self, since: u64, now: u64) -> u64 {
        let stopped = if since <= self.began { self.lasted } else { 0 };
        now.saturating_sub(since).saturating_sub(stopped)
    }
}

/// How much older a connection is than it may be; `max_age` is in milliseconds, and off if it is 0.
pub(crate) fn older_by(max_age: u64, record: &Record, now: u64) -> Option<u64> {
    match max_age {
        0 => None,
        most => record.age(now).checked_sub(around(most, record.id())),
    }
}

/// What is to happen to a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Judgement {
    pub(crate) command: Command,
    /// Whether its next response is to be its last.
    pub(crate) close_after_response: bool,
}

impl Deadlines {
    /// Those at a time, with so much patience; `park_after` is how long a connection is idle before it is parked.
    pub(crate) fn of(
        config: &ConnectionConfig,
        settings: &LiveSettings,
        drain: &Drain,
        patience: Patience,
        park_after: u64,
        now: u64,
    ) -> Self {
        let late = if config.keep_alive_header { LATE } else { 0 };
        let or_never = |limit: u64| if limit == 0 { u64::MAX } else { limit };
        Self {
            patience,
            // Most of a handshake is our own work, and the wait for a place.
            #[cfg(feature = "tls")]
            handshake: or_never(millis(config.tls.handshake_timeout)),
            #[cfg(not(feature = "tls"))]
            handshake: u64::MAX,
            idle: or_never(settings.idle_timeout()).saturating_add(late),
            half_close: or_never(millis(config.half_close_grace)),
            max_age: millis(config.max_age),
            age_grace: or_never(millis(config.max_age_grace)),
            park: if config.park { park_after } else { u64::MAX },
            drain: drain.elapsed(now),
            drain_spread: drain.spread(),
            drain_idle: millis(config.drain_idle),
            stop: Stop::default(),
        }
    }

    /// The same after a stop.
    pub(crate) fn after(self, stop: Stop) -> Self {
        Self { stop, ..self }
    }

    #[cfg(feature = "http2")]
    pub(crate) fn patience(&self) -> Patience {
        self.patience
    }

    /// What is to happen to a connection now.
    pub(crate) fn judge(
        &self,
        record: &Record,
        now: u64,
        rates: &mut MinRates,
        silence: &mut Silence,
    ) -> Judgement {
        use CloseReason::{Drained, MaxAge, MaxAgeGrace, Reclaimed, SlowRead};
        use ConnectionState::{Closing, Handshake, Head, Idle, New, Parked};
        let only = |command| Judgement {
            command,
            close_after_response: false,
        };
        let stalled = record.answers().write_stalled();
        if stalled != 0 && self.stop.leave_out(stalled, now) >= self.patience.write {
            return only(Command::Close(SlowRead));
        }
        let state = record.state();
        if let Some(reason) = rates.judge(record, state, self.patience.rate_grace) {
            return only(Command::Close(reason));
        }
        let older_by = older_by(self.max_age, record, now);
        if older_by.is_some_and(|by| by >= self.age_grace) && state != Closing {
            return only(Command::Close(MaxAgeGrace));
        }
        let too_old = older_by.is_some();
        let has_come = |elapsed| elapsed >= part_of(self.drain_spread, record.id());
        let goes = match state {
            New | Idle | Parked | Head | Handshake if self.drain.is_some_and(has_come) => {
                Some(Drained)
            }
            New | Idle | Parked if too_old => Some(MaxAge),
            // HTTP/2 that was sent GOAWAY, or HTTP/1 that was asked to go when its head was sent already.
            Idle | Parked if record.flags().closes_after_response() => Some(Reclaimed),
            _ => None,
        };
        let command = match (goes, self.judge_wait(record, state, now)) {
            (None, command) => command,
            (_, Command::Close(reason)) if !reason.yields_to_a_request() => Command::Close(reason),
            (Some(reason), _) if silence.lasts(record, state, now) >= self.drain_idle => {
                Command::Close(reason)
            }
            // It is asked to go, and not yet to be closed.
            (_, Command::Close(reason)) if reason.yields_to_a_request() => Command::None,
            (_, command) => command,
        };
        Judgement {
            command,
            close_after_response: too_old,
        }
    }

    /// What follows from the time since the state began.
    fn judge_wait(&self, record: &Record, state: ConnectionState, now: u64) -> Command {
        use CloseReason::{
            Finished, FirstByteTimeout, HandshakeTimeout, HeadTimeout, IdleTimeout, SlowRead,
        };
        use ConnectionState::{Closing, HalfClosed, Handshake, Head, Idle, New, Parked, Queued};
        // For what a client is to do next. Who is closed for being idle loses nothing.
        let waited = match state {
            New | Head | Handshake | Queued | HalfClosed => {
                self.stop.leave_out(record.since(), now)
            }
            _ => now.saturating_sub(record.since()),
        };
        let linger = match record.had_body() {
            true => LINGER_FOR_A_BODY,
            false => LINGER,
        };
        match state {
            New if waited >= self.patience.first_byte => Command::Close(FirstByteTimeout),
            Handshake | Queued if waited >= self.handshake => Command::Close(HandshakeTimeout),
            Head if waited >= self.patience.head => Command::Close(HeadTimeout),
            // One of HTTP/2, which has not taken all of its answers, and doesn't.
            Idle if record.commands().is_close()
                && waited >= self.idle.saturating_add(self.patience.write) =>
            {
                Command::Close(SlowRead)
            }
            Idle | Parked if waited >= self.idle => Command::Close(IdleTimeout),
            // One that takes its answer slowly has the time of those that do.
            HalfClosed if waited >= self.half_close && record.answers().write_stalled() == 0 => {
                Command::Close(CloseReason::HalfClosed)
            }
            Closing if waited >= linger => Command::Close(Finished),
            New | Idle if waited >= self.park => Command::Park,
            _ => Command::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A connection that was accepted at 0 and has been in a state since `since`.
    fn record(state: ConnectionState, since: u64) -> Record {
        let record = Record::new(1, 0, None, false, 0, 0);
        record.enter(ConnectionState::Active, 0);
        if state == ConnectionState::Parked {
            record.enter(ConnectionState::Idle, since);
        }
        record.enter(state, since);
        record
    }

    fn minutes() -> ConnectionConfig {
        ConnectionConfig {
            first_byte_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(60),
            ..ConnectionConfig::default()
        }
    }

    fn judge(config: &ConnectionConfig, drain: &Drain, record: &Record, now: u64) -> Judgement {
        judge_at(0.0, config, drain, record, now)
    }

    /// At a level of pressure.
    fn judge_at(
        level: f64,
        config: &ConnectionConfig,
        drain: &Drain,
        record: &Record,
        now: u64,
    ) -> Judgement {
        let (settings, patience) = (LiveSettings::new(config), Patience::at(level, config));
        let park_after = settings.park_after();
        let deadlines = Deadlines::of(config, &settings, drain, patience, park_after, now);
        let (mut rates, mut silence) = (MinRates::new(config), Silence::default());
        deadlines.judge(record, now, &mut rates, &mut silence)
    }

    fn command(config: &ConnectionConfig, record: &Record, now: u64) -> Command {
        judge(config, &Drain::new(), record, now).command
    }

    #[test]
    fn each_state_has_its_deadline() {
        use CloseReason::{Finished, FirstByteTimeout, HeadTimeout, IdleTimeout};
        use Command::{Close, None, Park};
        use ConnectionState::{Active, Closing, HalfClosed, Head, Idle, New, Parked, Upgraded};
        let config = minutes();
        for (state, waited, expected) in [
            (New, 990, None),
            (New, 1000, Park),
            (New, 59_990, Park),
            (New, 60_000, Close(FirstByteTimeout)),
            (Head, 59_990, None),
            (Head, 60_000, Close(HeadTimeout)),
            (Idle, 990, None),
            (Idle, 1000, Park),
            (Idle, 59_990, Park),
            (Idle, 60_000, Close(IdleTimeout)),
            (Parked, 59_990, None),
            (Closing, 990, None),
            (Closing, 1000, Close(Finished)),
            (Active, 1_000_000, None),
            (HalfClosed, 4990, None),
            (HalfClosed, 5000, Close(CloseReason::HalfClosed)),
            (Upgraded, 1_000_000, None),
        ] {
            let record = record(state, 5000);
            let got = command(&config, &record, 5000 + waited);
            assert_eq!(got, expected, "{state:?} for {waited} ms");
        }
    }

    #[test]
    fn the_time_in_which_nobody_ran_is_no_clients() {
        use CloseReason::{FirstByteTimeout, HeadTimeout, IdleTimeout, SlowRead};
        use Command::{Close, None};
        use ConnectionState::{Active, HalfClosed, Head, Idle, New};
        let mut config = minutes();
        config.park = false;
        config.write_timeout = Duration::from_secs(60);
        assert!(Stop::between(0, 1000).is_none());
        let stop = Stop::between(6000, 200_000).expect("it is one");
        let later = 194_000;
        for (state, waited, expected) in [
            (New, later, None),
            (New, later + 60_000, Close(FirstByteTimeout)),
            (Head, later + 59_990, None),
            (Head, later + 60_000, Close(HeadTimeout)),
            (HalfClosed, later, None),
            (HalfClosed, later + 5000, Close(CloseReason::HalfClosed)),
            (Idle, later, Close(IdleTimeout)),
            (Active, later, None),
            (Active, later + 60_000, Close(SlowRead)),
        ] {
            let (record, now) = (record(state, 5000), 5000 + waited);
            if state == Active {
                record.answers().stall_write(5000);
            }
            let (settings, patience) = (LiveSettings::new(&config), Patience::at(0.0, &config));
            let drain = Drain::new();
            let deadlines = Deadlines::of(&config, &settings, &drain, patience, u64::MAX, now);
            let (mut rates, mut silence) = (MinRates::new(&config), Silence::default());
            let judged = deadlines.after(stop);
            let judged = judged.judge(&record, now, &mut rates, &mut silence);
            assert_eq!(judged.command, expected, "{state:?} for {waited} ms");
        }
    }

    #[test]
    fn who_has_ended_its_side_and_takes_an_answer_slowly_is_no_later_than_others() {
        let config = minutes();
        let record = record(ConnectionState::HalfClosed, 1000);
        record.answers().stall_write(1000);
        assert_eq!(command(&config, &record, 31_000), Command::None);
        record.add_written(1);
        let close = Command::Close(CloseReason::HalfClosed);
        assert_eq!(command(&config, &record, 31_000), close);
    }

    #[test]
    fn a_timeout_of_zero_is_off() {
        use ConnectionState::{Closing, Head, Idle, New};
        let config = ConnectionConfig {
            first_byte_timeout: Duration::ZERO,
            head_timeout: Duration::ZERO,
            idle_timeout: Duration::ZERO,
            write_timeout: Duration::ZERO,
            park: false,
            ..minutes()
        };
        for state in [New, Head, Idle] {
            let record = record(state, 0);
            record.answers().stall_write(0);
            assert_eq!(command(&config, &record, u64::MAX / 2), Command::None);
        }
        let closing = command(&config, &record(Closing, 0), LINGER);
        assert_eq!(closing, Command::Close(CloseReason::Finished));
    }

    #[test]
    fn who_is_told_how_long_it_may_be_idle_gets_a_second_more() {
        let config = ConnectionConfig {
            park: false,
            keep_alive_header: true,
            ..minutes()
        };
        let record = record(ConnectionState::Idle, 0);
        assert_eq!(command(&config, &record, 60_990), Command::None);
        let close = Command::Close(CloseReason::IdleTimeout);
        assert_eq!(command(&config, &record, 61_000), close);
    }

    #[test]
    fn a_client_that_takes_nothing_is_closed_whatever_the_state() {
        let config = minutes();
        for state in [ConnectionState::Active, ConnectionState::Idle] {
            let record = record(state, 1000);
            record.answers().stall_write(1000);
            let close = Command::Close(CloseReason::SlowRead);
            assert_ne!(command(&config, &record, 600_990), close);
            assert_eq!(command(&config, &record, 601_000), close);
        }
        // Asked to go for being idle, it has as long again to take its answers.
        let record = record(ConnectionState::Idle, 0);
        record
            .commands()
            .ask(Command::Close(CloseReason::IdleTimeout));
        let idle = Command::Close(CloseReason::IdleTimeout);
        assert_eq!(command(&config, &record, 659_990), idle);
        let slow = Command::Close(CloseReason::SlowRead);
        assert_eq!(command(&config, &record, 660_000), slow);
    }

    #[test]
    fn the_slow_may_take_less_and_less_as_places_or_memory_run_out_and_nobody_else() {
        use CloseReason::{FirstByteTimeout, HeadTimeout, SlowRead};
        use Command::{Close, None};
        use ConnectionState::{Active, Closing, Handshake, Head, Idle, New, Upgraded};
        let shrinking = ConnectionConfig {
            park: false,
            ..minutes()
        };
        let fixed = ConnectionConfig {
            min_timeout: Duration::ZERO,
            ..shrinking.clone()
        };
        // How long a connection has been in a state, or has taken nothing of its answer, and what comes of that at
        // rest, when three quarters of the places are held, and when all are.
        for (state, stalled, waited, rest, half, full) in [
            (New, false, 7740, None, None, Close(FirstByteTimeout)),
            (
                New,
                false,
                7750,
                None,
                Close(FirstByteTimeout),
                Close(FirstByteTimeout),
            ),
            (Head, false, 990, None, None, None),
            (
                Head,
                false,
                7750,
                None,
                Close(HeadTimeout),
                Close(HeadTimeout),
            ),
            (Active, true, 990, None, None, None),
            (Active, true, 24_490, None, None, Close(SlowRead)),
            (Active, true, 24_500, None, Close(SlowRead), Close(SlowRead)),
            (
                Upgraded,
                true,
                24_500,
                None,
                Close(SlowRead),
                Close(SlowRead),
            ),
            // It is the server that takes its time.
            (Active, false, 1_000_000, None, None, None),
            (Upgraded, false, 1_000_000, None, None, None),
            // Idle ones make room by themselves; a handshake is work of the server's.
            (Idle, false, 59_990, None, None, None),
            (Handshake, false, 9990, None, None, None),
            (Closing, false, 990, None, None, None),
        ] {
            let record = record(state, 5000);
            if stalled {
                record.answers().stall_write(5000);
            }
            for (level, expected) in [(0.0, rest), (0.5, half), (1.0, full)] {
                let drain = Drain::new();
                let got = judge_at(level, &shrinking, &drain, &record, 5000 + waited);
                assert_eq!(got.command, expected, "{state:?} for {waited} at {level}");
                let got = judge_at(level, &fixed, &drain, &record, 5000 + waited);
                assert_eq!(got.command, rest, "{state:?} for {waited}, fixed");
            }
        }
    }

    /// What is to happen at these times, of which the first is the first sweep; others are between them.
    fn over_time(
        config: &ConnectionConfig,
        drain: &Drain,
        record: &Record,
        times: &[u64],
    ) -> Vec<Command> {
        let (settings, patience) = (LiveSettings::new(config), Patience::at(0.0, config));
        let (mut rates, mut silence) = (MinRates::new(config), Silence::default());
        let mut judge = |now| {
            silence.begin_round();
            let park_after = settings.park_after();
            let deadlines = Deadlines::of(config, &settings, drain, patience, park_after, now);
            deadlines
                .judge(record, now, &mut rates, &mut silence)
                .command
        };
        let mut last = times[0];
        times
            .iter()
            .map(|now| {
                (last..*now).skip(1).step_by(100).for_each(|between| {
                    judge(between);
                });
                last = *now;
                judge(*now)
            })
            .collect()
    }

    #[test]
    fn an_old_connection_is_asked_to_go_and_closed_when_it_has_asked_for_nothing_since() {
        use Command::{Close, None};
        use ConnectionState::{Active, Head, Idle, New, Parked, Upgraded};
        let config = ConnectionConfig {
            max_age: Duration::from_secs(100),
            first_byte_timeout: Duration::from_secs(200),
            park: false,
            ..minutes()
        };
        let drain = Drain::new();
        let young = judge(&config, &drain, &record(Active, 0), 89_000);
        assert!(!young.close_after_response);
        let gone = Close(CloseReason::MaxAge);
        for (state, after) in [
            (Active, None),
            (Head, None),
            (Upgraded, None),
            (Idle, gone),
            (Parked, gone),
            (New, gone),
        ] {
            let record = record(state, 109_900);
            assert!(judge(&config, &drain, &record, 110_000).close_after_response);
            let got = over_time(&config, &drain, &record, &[110_000, 110_900, 111_000]);
            assert_eq!(got, [None, None, after], "{state:?}");
        }
    }

    #[test]
    fn what_is_open_on_an_old_connection_ends_after_the_grace() {
        use ConnectionState::{Active, Closing, Head, Upgraded};
        let mut config = ConnectionConfig {
            max_age: Duration::from_secs(100),
            max_age_grace: Duration::from_secs(20),
            head_timeout: Duration::ZERO,
            ..minutes()
        };
        let ended = Command::Close(CloseReason::MaxAgeGrace);
        for state in [Active, Head, Upgraded] {
            let record = record(state, 109_000);
            assert_eq!(command(&config, &record, 109_900), Command::None);
            assert_eq!(command(&config, &record, 130_000), ended, "{state:?}");
        }
        assert_ne!(command(&config, &record(Closing, 130_000), 130_000), ended);
        config.max_age_grace = Duration::ZERO;
        let record = record(Active, 0);
        assert_eq!(command(&config, &record, u64::MAX / 2), Command::None);
    }

    #[test]
    fn one_that_was_told_that_its_response_is_the_last_is_closed_if_no_request_follows() {
        let config = minutes();
        let record = record(ConnectionState::Idle, 5000);
        record.flags().close_after_response();
        let closed = Command::Close(CloseReason::Reclaimed);
        // The time that was idle before does not count.
        let got = over_time(&config, &Drain::new(), &record, &[65_000, 65_900, 66_000]);
        assert_eq!(got, [Command::None, Command::None, closed]);
    }

    #[test]
    fn a_drain_closes_what_asks_for_nothing_whatever_it_waits_for_and_leaves_the_busy() {
        use ConnectionState::{
            Active, Closing, Handshake, Head, Idle, New, Parked, Queued, Upgraded,
        };
        let config = ConnectionConfig {
            park: false,
            ..minutes()
        };
        let drain = Drain::new();
        drain.begin(10_000, 0);
        let drained = Command::Close(CloseReason::Drained);
        for state in [New, Idle, Parked, Head, Handshake] {
            let record = record(state, 10_000);
            let got = over_time(&config, &drain, &record, &[10_000, 10_990, 11_000]);
            assert_eq!(got, [Command::None, Command::None, drained], "{state:?}");
        }
        for state in [Active, Queued, Upgraded, Closing] {
            let record = record(state, 10_000);
            let got = over_time(&config, &drain, &record, &[10_000, 10_990]);
            assert_eq!(got, [Command::None, Command::None], "{state:?}");
        }
        // It comes to it later.
        let drain = Drain::new();
        drain.begin(10_000, 2000);
        let record = record(Idle, 0);
        let comes = 10_000 + part_of(2000, record.id());
        let got = over_time(
            &config,
            &drain,
            &record,
            &[10_000, comes, comes + 999, comes + 1000],
        );
        assert_eq!(got, [Command::None, Command::None, Command::None, drained]);
    }

    #[test]
    fn a_head_that_goes_on_is_left_alone_by_a_drain() {
        let config = ConnectionConfig {
            drain_idle: Duration::from_millis(150),
            ..minutes()
        };
        let drain = Drain::new();
        drain.begin(10_000, 0);
        let record = record(ConnectionState::Head, 10_000);
        let (settings, patience) = (LiveSettings::new(&config), Patience::at(0.0, &config));
        let (mut rates, mut silence) = (MinRates::new(&config), Silence::default());
        for now in (10_000..20_000).step_by(100) {
            record.add_read(1);
            silence.begin_round();
            let deadlines = Deadlines::of(&config, &settings, &drain, patience, 1000, now);
            let judged = deadlines.judge(&record, now, &mut rates, &mut silence);
            assert_eq!(judged.command, Command::None, "at {now}");
        }
    }
}
