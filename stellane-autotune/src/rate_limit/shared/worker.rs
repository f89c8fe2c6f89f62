//! The thread that talks to the store.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc,
        atomic::Ordering::{Relaxed, SeqCst},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use redis::{Client, Cmd, Connection, RedisError, RedisResult};

use super::{question::Ask, state::State};
use crate::{clock::mix, rate_limit::table::Told};

pub(super) struct Worker {
    client: Client,
    timeout: Duration,
    state: Arc<State>,
    /// By which the store knows this replica.
    replica: u64,
    /// How often in a row the store was away.
    failures: u32,
}

/// A connection, and the names by which the store knows the scripts.
struct Store {
    connection: Connection,
    take: String,
    replicas: String,
}

/// A sign of life, and a look whether the store is there, when nobody asks.
const BEAT: Duration = Duration::from_secs(1);
/// So many questions go together at most: the store takes a millisecond for them.
const BATCH: usize = 64;
/// For resolving, connecting and logging in. Nobody waits for it.
const CONNECT: Duration = Duration::from_secs(1);

impl Worker {
    pub(super) fn new(client: Client, timeout: Duration, state: Arc<State>, replica: u64) -> Self {
        Self {
            client,
            timeout,
            state,
            replica,
            failures: 0,
        }
    }

    /// Until nobody can ask any more.
    pub(super) fn run(mut self, questions: &Receiver<Ask>) {
        let mut away: Option<Instant> = None;
        loop {
            let error = match self.connect() {
                Ok(store) => {
                    self.tell_back(&mut away);
                    match self.serve(store, questions) {
                        Ok(()) => return,
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            self.state.is_there.store(false, SeqCst);
            self.state.failures.fetch_add(1, Relaxed);
            self.tell_away(&mut away, &error);
            // Who asks now is not answered, nor is who asked and was not yet.
            let pause = self.pause();
            let until = Instant::now() + pause;
            loop {
                match questions.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    Ok(ask) => drop(ask),
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        }
    }

    /// A tenth of a second after the first failure, then twice as long each time up to a second; not all replicas at once.
    fn pause(&mut self) -> Duration {
        let longest = Duration::from_millis(100 << self.failures.min(4)).min(BEAT);
        self.failures += 1;
        let random = mix(self.replica ^ u64::from(self.failures)) % 256;
        longest * 3 / 4 + longest * u32::try_from(random).unwrap_or(0) / 1024
    }

    fn connect(&mut self) -> RedisResult<Store> {
        let mut connection = self.client.get_connection_with_timeout(CONNECT)?;
        connection.set_write_timeout(Some(self.timeout))?;
        let load = |script: &str| {
            let mut command = redis::cmd("SCRIPT");
            command.arg("LOAD").arg(script);
            command
        };
        let scripts = [
            load(include_str!("take.lua")),
            load(include_str!("replicas.lua")),
        ];
        let mut names = self.exchange(&mut connection, &scripts)?.into_iter();
        let mut name =
            || redis::from_redis_value::<String>(names.next().unwrap_or(redis::Value::Nil));
        let mut store = Store {
            take: name()?,
            replicas: name()?,
            connection,
        };
        // Nobody asks before it has taken a change.
        self.beat(&mut store)?;
        Ok(store)
    }

    /// Answers what is asked, until the store is away or nobody can ask any more.
    fn serve(&mut self, mut store: Store, questions: &Receiver<Ask>) -> RedisResult<()> {
        let began = Instant::now();
        let mut beat = began + BEAT;
        let mut batch = Vec::with_capacity(BATCH);
        self.state.is_there.store(true, SeqCst);
        loop {
            let now = Instant::now();
            if now >= beat {
                self.beat(&mut store)?;
                // Long enough to say that it is well.
                self.failures = 0;
                beat = now + BEAT;
            }
            match questions.recv_timeout(beat.saturating_duration_since(now)) {
                Ok(ask) => batch.push(ask),
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            batch.extend(questions.try_iter().take(BATCH - 1));
            // More are asked than the store can answer: who has waited for long enough goes on without.
            batch.retain(|ask: &Ask| ask.since.elapsed() < self.timeout);
            self.answer(&mut store, batch.drain(..))?;
        }
    }

    fn beat(&self, store: &mut Store) -> RedisResult<()> {
        let mut command = redis::cmd("EVALSHA");
        let name = format!("{}:replicas", self.state.prefix);
        command
            .arg(&store.replicas)
            .arg(1)
            .arg(name)
            .arg(self.replica);
        let answers = self.exchange(&mut store.connection, &[command])?;
        for replicas in answers {
            let replicas = redis::from_redis_value(replicas)?;
            self.state.replicas.store(replicas, Relaxed);
        }
        Ok(())
    }

    fn answer(&self, store: &mut Store, asks: impl Iterator<Item = Ask>) -> RedisResult<()> {
        // Those of one key and cost are one question.
        let mut questions: Vec<Vec<Ask>> = Vec::new();
        let mut places = HashMap::new();
        for ask in asks {
            let whose = (Arc::as_ptr(&ask.rate), ask.key, ask.cost);
            let place = *places.entry(whose).or_insert(questions.len());
            match questions.get_mut(place) {
                Some(question) => question.push(ask),
                None => questions.push(vec![ask]),
            }
        }
        let command = |question: &Vec<Ask>| {
            let mut command = redis::cmd("EVALSHA");
            command.arg(&store.take).arg(1);
            if let [Ask { rate, key, .. }, ..] = &**question {
                command.arg(rate.name_of(*key));
            }
            let cost = question.first().map_or(1, |ask| ask.cost);
            let debt: u64 = question
                .iter()
                .map(|ask| u64::from(ask.debt.requests))
                .sum();
            let age = question.iter().map(|ask| ask.debt.age).max().unwrap_or(0);
            let others = self.state.replicas.load(Relaxed).saturating_sub(1);
            let lease = question.first().map_or(0, |ask| ask.rate.lease());
            let late = u64::from(others) * u64::from(lease);
            command.arg(question.len()).arg(cost).arg(debt);
            command.arg(micros(age)).arg(late);
            for pace in question.first().iter().flat_map(|ask| ask.rate.paces()) {
                command
                    .arg(micros(pace.interval))
                    .arg(micros(pace.tolerance));
            }
            command
        };
        let commands: Vec<_> = questions.iter().map(command).collect();
        let answers = self.exchange(&mut store.connection, &commands)?;
        for (question, answer) in questions.into_iter().zip(answers) {
            let answer: Vec<i64> = redis::from_redis_value(answer)?;
            let answer: Result<Vec<_>, _> = answer.into_iter().map(u64::try_from).collect();
            let answer = answer.unwrap_or_default();
            let Some((&allowed, ahead)) = answer.split_first() else {
                return Err(io::Error::from(io::ErrorKind::InvalidData).into());
            };
            let nanos: Vec<_> = ahead
                .iter()
                .map(|micros| micros.saturating_mul(1000))
                .collect();
            let Some(Ask {
                rate, key, cost, ..
            }) = question.first()
            else {
                continue;
            };
            let told = Told {
                cost: (*cost).into(),
                asked: question.len() as u64,
                allowed: allowed.min(question.len() as u64),
                ahead: &nanos,
                lease: rate.lease(),
            };
            let (left, limited) = rate.told(*key, told);
            for (place, ask) in (0..).zip(question) {
                // Whoever asked may have left meanwhile.
                let _ = match place < told.allowed {
                    true => ask.answer.send(Ok(left)),
                    false => ask.answer.send(Err(limited)),
                };
            }
        }
        Ok(())
    }

    /// One round trip, within the time. An error of the server is one of all: what it refuses it refuses for longer.
    fn exchange(
        &self,
        connection: &mut Connection,
        commands: &[Cmd],
    ) -> RedisResult<Vec<redis::Value>> {
        let deadline = Instant::now() + self.timeout;
        let bytes: Vec<u8> = commands.iter().flat_map(Cmd::get_packed_command).collect();
        connection.send_packed_command(&bytes)?;
        let mut answers = Vec::with_capacity(commands.len());
        for _ in commands {
            let left = deadline.saturating_duration_since(Instant::now());
            // Zero would mean for ever.
            connection.set_read_timeout(Some(left.max(Duration::from_micros(1))))?;
            answers.push(connection.recv_response()?.extract_error()?);
        }
        self.state.trips.fetch_add(1, Relaxed);
        Ok(answers)
    }

    fn tell_away(&self, away: &mut Option<Instant>, error: &RedisError) {
        if away.is_some() {
            return;
        }
        *away = Some(Instant::now());
        #[cfg(feature = "tracing")]
        tracing::warn!(
            target: "stellane::rates",
            store = %self.client.get_connection_info().addr(),
            %error,
            "the store of shared rates is away: each replica keeps them by itself"
        );
        #[cfg(not(feature = "tracing"))]
        let _ = error;
    }

    fn tell_back(&self, away: &mut Option<Instant>) {
        let Some(since) = away.take() else { return };
        #[cfg(feature = "tracing")]
        tracing::info!(
            target: "stellane::rates",
            after = ?since.elapsed(),
            "the store of shared rates is back"
        );
        #[cfg(not(feature = "tracing"))]
        let _ = since;
    }
}

/// Of nanoseconds, as the script reads them.
fn micros(nanos: u64) -> String {
    format!("{}.{:03}", nanos / 1000, nanos % 1000)
}
