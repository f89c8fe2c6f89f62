//! A new process takes over while clients go on asking.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{Figures, Plan, Section, requests};
use crate::{
    BoxError,
    contestants::{Contestant, Scope},
    load::{Generator, Load, at_rate},
};

const RATE: f64 = 5000.0;
const DURATION: Duration = Duration::from_secs(4);

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct RestartRow {
    pub peer: String,
    pub answered: u64,
    /// Requests without a good answer, by what happened to them.
    pub lost: BTreeMap<String, u64>,
    /// The longest wait for an answer, in milliseconds.
    pub worst: f64,
    /// How long the old process took to end, in milliseconds; none if it had to be killed.
    pub ended: Option<f64>,
    pub error: Option<String>,
}

pub(super) fn run(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let rows = plan.taking(Scope::Hello).into_iter().map(|contestant| {
        measure(plan, contestant).unwrap_or_else(|error| RestartRow {
            peer: contestant.name.clone(),
            error: Some(error.to_string()),
            ..RestartRow::default()
        })
    });
    Ok(Section {
        name,
        title: "Restart under load".to_owned(),
        what: format!(
            "Hello at {RATE} requests a second on 64 connections. After one second a second process listens on the \
             same address (`SO_REUSEPORT`), and as soon as it does the first one gets SIGTERM. Clients do not repeat \
             what fails."
        ),
        figures: Figures::Restart(rows.collect()),
    })
}

fn measure(plan: &Plan, contestant: &Contestant) -> Result<RestartRow, BoxError> {
    let mut old = contestant.start(&plan.cores, &plan.environment)?;
    let address = old.address;
    let mut load = Load::closed(64, requests::hello());
    load.pace = at_rate(RATE);
    load.patience = Duration::from_secs(2);
    let mut generator = Generator::connect(address, load)?;
    let (answers, restarted) = thread::scope(|scope| {
        let restarting = scope.spawn(|| {
            thread::sleep(Duration::from_secs(1));
            let mut environment = plan.environment.clone();
            environment.push(("COMPARE_ADDRESS".to_owned(), address.to_string()));
            let new = contestant.start(&plan.cores, &environment)?;
            let told = Instant::now();
            old.terminate()?;
            let ended = old.ended(Duration::from_secs(6))?;
            let took = told.elapsed().as_secs_f64() * 1000.0;
            Ok::<_, BoxError>((new, ended.then_some(took)))
        });
        (generator.run(DURATION), restarting.join())
    });
    let (answers, restarted) = (answers?, restarted.map_err(|_| "the restart panicked")?);
    // It must live until the load has ended.
    let (_new, ended) = restarted?;
    Ok(RestartRow {
        peer: contestant.name.clone(),
        answered: answers.good,
        lost: answers.failures.clone(),
        worst: answers.latency.max() as f64 / 1e6,
        ended,
        error: None,
    })
}
