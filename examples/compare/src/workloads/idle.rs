//! What a connection costs while nothing happens on it.

use std::{thread::sleep, time::Duration};

use serde::Serialize;

use super::{Figures, Plan, Section, requests};
use crate::{
    BoxError,
    contestants::{Contestant, Scope},
    load::{Generator, Load, at_rate},
};

/// How long the connections are left alone.
const QUIET: Duration = Duration::from_secs(2);
/// Requests a second while the connections are opened.
const RATE: f64 = 10_000.0;

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct IdleRow {
    pub peer: String,
    pub connections: usize,
    /// Resident bytes before the first connection.
    pub before: u64,
    /// Bytes for each connection: resident, and with pages shared with others counted in part.
    pub resident: f64,
    pub proportional: f64,
    /// CPU time for each second with all connections idle, in microseconds.
    pub idle_cpu: f64,
    /// Of the first request after the quiet, in microseconds.
    pub wake_p50: f64,
    pub wake_p99: f64,
    pub failures: u64,
    pub error: Option<String>,
}

pub(super) fn run(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let rows = plan.taking(Scope::Idle).into_iter().map(|contestant| {
        measure(plan, contestant).unwrap_or_else(|error| IdleRow {
            peer: contestant.name.clone(),
            error: Some(error.to_string()),
            ..IdleRow::default()
        })
    });
    Ok(Section {
        name,
        title: format!("{} idle connections", plan.idle_connections),
        what: format!(
            "Each connection sends one request and is then left alone for {} s; afterwards each sends another.",
            QUIET.as_secs()
        ),
        figures: Figures::Idle(rows.collect()),
    })
}

fn measure(plan: &Plan, contestant: &Contestant) -> Result<IdleRow, BoxError> {
    let server = contestant.start(&plan.cores, &plan.environment)?;
    // What is paid once, whatever the number of connections.
    let mut first = Load::closed(16, requests::hello());
    first.reconnect_after = 8;
    Generator::connect(server.address, first)?.run(Duration::from_millis(100))?;
    sleep(QUIET);
    let before = server.memory()?;

    let connections = plan.idle_connections;
    let mut load = Load::closed(connections, requests::hello());
    load.pace = at_rate(RATE);
    let mut generator = Generator::connect(server.address, load)?;
    // The connections take turns, so that each sends one request.
    let once = Duration::from_secs_f64((connections as f64 - 0.5) / RATE);
    let mut failures = generator.run(once)?.failed();
    sleep(QUIET);
    let after = server.memory()?;
    let cpu = server.cpu()?;
    sleep(Duration::from_secs(1));
    let (user, kernel) = server.cpu()?.since(cpu);
    let woken = generator.run(once)?;
    failures += woken.failed();
    let each = |before: u64, after: u64| (after as f64 - before as f64) / connections as f64;
    Ok(IdleRow {
        peer: contestant.name.clone(),
        connections,
        before: before.resident,
        resident: each(before.resident, after.resident),
        proportional: each(before.proportional, after.proportional),
        idle_cpu: user + kernel,
        wake_p50: woken.quantile(0.5),
        wake_p99: woken.quantile(0.99),
        failures,
        error: None,
    })
}
