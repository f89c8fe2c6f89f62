//! What a connection costs while nothing happens on it.

use std::{sync::Arc, thread::sleep, time::Duration};

use serde::Serialize;
use stellane_cli::load::Wire;

use super::{Figures, Plan, Section, requests};
use crate::{
    BoxError,
    contestants::{Contestant, Scope},
    load::{Generator, Load, Speech, at_rate},
    tls::CERTIFICATE,
};

/// How long the connections are left alone.
const QUIET: Duration = Duration::from_secs(2);

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

/// Who asks, and how: over HTTP/1 without TLS if nothing else is said.
struct Form<'a> {
    contestants: Vec<&'a Contestant>,
    connections: usize,
    /// Requests a second while the connections are opened.
    rate: f64,
    wire: Option<Arc<dyn Wire>>,
    environment: Vec<(String, String)>,
}

pub(super) fn run(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let form = Form {
        contestants: plan.taking(Scope::Idle),
        connections: plan.idle_connections,
        rate: 10_000.0,
        wire: None,
        environment: plan.environment.clone(),
    };
    Ok(section(name, "", plan, &form))
}

pub(super) fn http2(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let form = Form {
        contestants: plan.named(&super::HTTP2),
        connections: plan.idle_connections / 4,
        rate: 2000.0,
        wire: Some(Speech::http2()),
        environment: plan.environment.clone(),
    };
    Ok(section(name, " of HTTP/2", plan, &form))
}

pub(super) fn tls(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    encrypted(name, " of TLS", false, plan)
}

pub(super) fn tls_http2(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    encrypted(name, " of HTTP/2 over TLS", true, plan)
}

fn encrypted(
    name: &'static str,
    kind: &str,
    http2: bool,
    plan: &Plan,
) -> Result<Section, BoxError> {
    let folder = crate::tls::folder()?;
    let form = Form {
        contestants: plan.named(&super::TLS),
        connections: plan.idle_connections / 4,
        rate: 1000.0,
        wire: Some(Speech::tls(http2, &folder.join(CERTIFICATE))?),
        environment: plan.with("COMPARE_TLS", &folder.to_string_lossy()),
    };
    Ok(section(name, kind, plan, &form))
}

fn section(name: &'static str, kind: &str, plan: &Plan, form: &Form<'_>) -> Section {
    let rows = form.contestants.iter().map(|contestant| {
        measure(plan, form, contestant).unwrap_or_else(|error| IdleRow {
            peer: contestant.name.clone(),
            error: Some(error.to_string()),
            ..IdleRow::default()
        })
    });
    Section {
        name,
        title: format!("{} idle connections{kind}", form.connections),
        what: format!(
            "Each connection sends one request and is then left alone for {} s; afterwards each sends another.",
            QUIET.as_secs()
        ),
        figures: Figures::Idle(rows.collect()),
    }
}

fn measure(plan: &Plan, form: &Form<'_>, contestant: &Contestant) -> Result<IdleRow, BoxError> {
    let server = contestant.start(&plan.cores, &form.environment)?;
    // What is paid once, whatever the number of connections.
    let mut first = Load::closed(16, requests::hello());
    first.reconnect_after = 8;
    first.wire = form.wire.clone();
    Generator::connect(server.address, first)?.run(Duration::from_millis(100))?;
    sleep(QUIET);
    let before = server.memory()?;

    let connections = form.connections;
    let mut load = Load::closed(connections, requests::hello());
    load.pace = at_rate(form.rate);
    load.wire = form.wire.clone();
    let mut generator = Generator::connect(server.address, load)?;
    // The connections take turns, so that each sends one request.
    let once = Duration::from_secs_f64((connections as f64 - 0.5) / form.rate);
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
