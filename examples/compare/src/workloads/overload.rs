//! Ten times as many requests as the server can answer.

use std::time::Duration;

use serde::Serialize;

use super::{Figures, Plan, Section, requests};
use crate::{
    BoxError,
    contestants::{Contestant, Scope},
    load::{Generator, Load, at_rate},
};

/// With so many the capacity is measured.
const CLIENTS: usize = 8;
const CONNECTIONS: usize = 1000;
const TIMES: f64 = 10.0;
const SENDING: Duration = Duration::from_secs(5);
/// When a client gives up.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct OverloadRow {
    pub peer: String,
    /// Answers a second with as many clients as it likes best.
    pub capacity: f64,
    pub offered: f64,
    /// Good answers a second that came in time.
    pub goodput: f64,
    /// Of those, in microseconds.
    pub p50: f64,
    pub p99: f64,
    /// Requests a second that were refused with 503 or 429.
    pub refused: f64,
    /// Requests a second whose client gave up, or that failed otherwise.
    pub lost: f64,
    pub error: Option<String>,
}

/// Of short requests: to refuse nine of them costs about as much as to serve one.
pub(super) fn short(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    run(name, "Overload", (20_000, 2262), plan)
}

/// Of long requests, for which an overload of CPU is what one thinks of first.
pub(super) fn long(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    run(name, "Overload with long requests", (200_000, 17_984), plan)
}

/// `work` is the number below which primes are counted, and how many there are.
fn run(
    name: &'static str,
    title: &str,
    work: (u32, u32),
    plan: &Plan,
) -> Result<Section, BoxError> {
    let rows = plan.taking(Scope::All).into_iter().map(|contestant| {
        measure(plan, contestant, work).unwrap_or_else(|error| OverloadRow {
            peer: contestant.name.clone(),
            error: Some(error.to_string()),
            ..OverloadRow::default()
        })
    });
    Ok(Section {
        name,
        title: title.to_owned(),
        what: format!(
            "`GET /cpu/{}` counts primes. First the capacity: answers a second for {CLIENTS} clients. Then \
             {TIMES} times as many requests are sent in an open loop on {CONNECTIONS} connections; a client that has \
             no answer after {PATIENCE:?} closes its connection and comes again.",
            work.0
        ),
        figures: Figures::Overload(rows.collect()),
    })
}

fn measure(
    plan: &Plan,
    contestant: &Contestant,
    (below, primes): (u32, u32),
) -> Result<OverloadRow, BoxError> {
    let server = contestant.start(&plan.cores, &plan.environment)?;
    let mut load = Load::closed(CLIENTS, requests::cpu(below, primes));
    let capacity = Generator::connect(server.address, load.clone())?
        .run(Duration::from_secs(1))?
        .per_second();
    let offered = capacity * TIMES;
    load.connections = CONNECTIONS;
    load.pace = at_rate(offered);
    load.patience = PATIENCE;
    let mut generator = Generator::connect(server.address, load)?;
    generator.accepted = &[503, 429];
    let answers = generator.run(SENDING)?;
    let seconds = answers.elapsed.as_secs_f64();
    let refused: u64 = answers.statuses.values().sum();
    Ok(OverloadRow {
        peer: contestant.name.clone(),
        capacity,
        offered,
        goodput: answers.per_second(),
        p50: answers.quantile(0.5),
        p99: answers.quantile(0.99),
        refused: refused as f64 / seconds,
        lost: answers.failed() as f64 / seconds,
        error: None,
    })
}
