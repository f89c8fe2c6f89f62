//! Turns: every server is asked in every round, there and back again, so that what changes on the machine
//! meets all of them alike. Ratios are taken within a round.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    BoxError,
    contestants::{Contestant, REFERENCE},
    load::{Answers, Generator, Load, wrk},
    server::{Cores, Server},
};

/// One server's figures in one round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Turn {
    pub per_second: f64,
    /// Microseconds.
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    /// The server's CPU time for each good answer, in microseconds.
    pub user: f64,
    pub kernel: f64,
    /// How much of its cores' time the server used: below about 0.95 the load generator was the limit.
    pub busy: f64,
    /// How much of its core's time the load generator used, in the closed loop: above about 0.95 it may have been the
    /// limit although the server was busy.
    #[serde(default)]
    pub clients: Option<f64>,
    pub failures: BTreeMap<String, u64>,
    pub good: u64,
}

/// The median of several values, with the least and the greatest.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Spread {
    pub median: f64,
    pub least: f64,
    pub greatest: f64,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() {
            0 => return None,
            n if n % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
            _ => values[middle],
        };
        Some(Self {
            median,
            least: values[0],
            greatest: values[values.len() - 1],
        })
    }
}

/// One server in one workload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    pub peer: String,
    pub turns: Vec<Turn>,
    /// Why there are no turns, or fewer.
    pub error: Option<String>,
}

impl Row {
    pub(crate) fn median(&self, value: impl Fn(&Turn) -> f64) -> Option<f64> {
        Spread::of(self.turns.iter().map(value)).map(|spread| spread.median)
    }

    /// Adds the turns of a later pass. After an error there are none: turns of one round have one place in all rows.
    pub(crate) fn append(&mut self, later: Self) {
        if self.error.is_none() {
            self.turns.extend(later.turns);
            self.error = later.error;
        }
    }

    pub(crate) fn failures(&self) -> BTreeMap<&str, u64> {
        let mut sum = BTreeMap::new();
        for (what, count) in self.turns.iter().flat_map(|turn| &turn.failures) {
            *sum.entry(what.as_str()).or_default() += count;
        }
        sum
    }
}

/// What is measured of the reference, divided by the same of `row`, round by round.
pub(crate) fn ratio(rows: &[Row], row: &Row, value: impl Fn(&Turn) -> f64) -> Option<Spread> {
    let reference = rows.iter().find(|row| row.peer == REFERENCE);
    // Where it does not take part, its like is the first.
    let reference = reference.or(rows.first().filter(|row| row.peer.starts_with("stellane-")))?;
    quotient(reference, row, value)
}

/// What is measured in one row, divided by the same in another, round by round.
pub(crate) fn quotient(a: &Row, b: &Row, value: impl Fn(&Turn) -> f64) -> Option<Spread> {
    let rounds = a.turns.iter().zip(&b.turns);
    Spread::of(rounds.map(|(a, b)| value(a) / value(b)))
}

/// How long and how often.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Rounds {
    pub count: usize,
    /// Seconds of each turn.
    pub seconds: f64,
    /// A run goes so many times over all workloads, with a part of the rounds each time: what changes on the machine
    /// within minutes then shows in every workload's range.
    pub passes: usize,
    #[serde(skip)]
    pub pass: usize,
}

impl Rounds {
    fn of_this_pass(&self) -> Range<usize> {
        let until = |passes| self.count * passes / self.passes;
        until(self.pass)..until(self.pass + 1)
    }
}

/// How fast first requests are sent, for each second. The slowest open loop is not slower.
const FIRST_RATE: f64 = 20_000.0;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Driver<'a> {
    Ours {
        load: &'a Load,
        /// Latencies are those of so many of its exchanges, the first.
        timed: usize,
    },
    Wrk {
        path: &'a str,
        connections: usize,
    },
}

impl<'a> Driver<'a> {
    pub(crate) fn ours(load: &'a Load) -> Self {
        let timed = load.exchanges.len();
        Self::Ours { load, timed }
    }

    /// How long a turn is at least: long enough for several requests on each connection.
    fn least(&self) -> Duration {
        match self {
            Self::Ours { load, .. } => 2 * once(load),
            Self::Wrk { .. } => Duration::ZERO,
        }
    }
}

/// How long it takes to use each connection once.
fn once(load: &Load) -> Duration {
    Duration::from_secs_f64(load.connections as f64 / FIRST_RATE)
}

/// Asks each contestant in turn.
pub(crate) fn rounds(
    contestants: &[&Contestant],
    driver: Driver<'_>,
    rounds: Rounds,
    cores: &Cores,
    environment: &[(String, String)],
) -> Vec<Row> {
    let levels = levels(contestants, &[driver], rounds, cores, environment);
    levels.into_iter().flatten().collect()
}

/// Asks each contestant in turn, at each of the levels in every round, so that levels can be compared as well: the
/// rows of each level.
pub(crate) fn levels(
    contestants: &[&Contestant],
    levels: &[Driver<'_>],
    rounds: Rounds,
    cores: &Cores,
    environment: &[(String, String)],
) -> Vec<Vec<Row>> {
    let mut rows = vec![Vec::new(); levels.len()];
    let mut servers = Vec::new();
    for contestant in contestants {
        let started = contestant.start(cores, environment).and_then(|server| {
            // Not counted: caches, allocators and branch predictors warm up.
            let warm = Duration::from_secs_f64((rounds.seconds / 2.0).min(0.5));
            for driver in levels {
                turn(&server, *driver, warm, cores)?;
            }
            Ok(server)
        });
        let error = started.as_ref().err().map(ToString::to_string);
        servers.push(started.ok());
        for rows in &mut rows {
            rows.push(Row {
                peer: contestant.name.clone(),
                turns: Vec::new(),
                error: error.clone(),
            });
        }
    }
    // As long at each level: the longer a turn, the more likely is a pause of the machine in it.
    let duration = levels
        .iter()
        .map(|driver| driver.least())
        .fold(Duration::from_secs_f64(rounds.seconds), Duration::max);
    for round in rounds.of_this_pass() {
        let mut order: Vec<(usize, usize)> = (0..levels.len())
            .flat_map(|level| (0..servers.len()).map(move |server| (server, level)))
            .collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for (number, level) in order {
            let Some(server) = &servers[number] else {
                continue;
            };
            let row = &mut rows[level][number];
            match turn(server, levels[level], duration, cores) {
                Ok(turn) => row.turns.push(turn),
                Err(error) => {
                    row.error = Some(error.to_string());
                    servers[number] = None;
                }
            }
        }
    }
    rows
}

fn turn(
    server: &Server,
    driver: Driver<'_>,
    duration: Duration,
    cores: &Cores,
) -> Result<Turn, BoxError> {
    let turn = match driver {
        Driver::Ours { load, timed } => {
            let mut generator = Generator::connect(server.address, load.clone())?;
            generator.timed = timed;
            // Each connection is used before it counts: what the first request on a connection costs is not
            // what a request costs.
            generator.run(once(load))?;
            let before = server.cpu()?;
            let answers = generator.run(duration)?;
            let cpu = server.cpu()?.since(before);
            drop(generator);
            if load.connections > 1000 {
                // The server is still closing them; the next one's turn would pay for it.
                std::thread::sleep(Duration::from_millis(300));
            }
            Turn::new(&answers, cpu, cores)
        }
        Driver::Wrk { path, connections } => {
            let before = server.cpu()?;
            let (answers, counted) = wrk::run(server, path, connections, duration)?;
            let cpu = server.cpu()?.since(before);
            Turn {
                p50: counted.p50,
                p99: counted.p99,
                p999: counted.p999,
                ..Turn::new(&answers, cpu, cores)
            }
        }
    };
    if turn.good == 0 {
        return Err(format!("no good answer: {:?}", turn.failures).into());
    }
    Ok(turn)
}

impl Turn {
    pub(crate) fn new(answers: &Answers, (user, kernel): (f64, f64), cores: &Cores) -> Self {
        let each = |micros: f64| micros / answers.good as f64;
        let available = answers.elapsed.as_micros() as f64 * cores.server.len() as f64;
        Self {
            per_second: answers.per_second(),
            p50: answers.quantile(0.5),
            p99: answers.quantile(0.99),
            p999: answers.quantile(0.999),
            user: each(user),
            kernel: each(kernel),
            busy: (user + kernel) / available,
            clients: answers.busy,
            failures: answers.failures.clone(),
            good: answers.good,
        }
    }

    pub(crate) fn cpu(&self) -> f64 {
        self.user + self.kernel
    }
}
