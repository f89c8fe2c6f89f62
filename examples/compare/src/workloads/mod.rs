//! What is done to the servers.

mod idle;
mod requests;

use serde::Serialize;

pub(crate) use idle::IdleRow;

use crate::{
    BoxError,
    contestants::{Contestant, Scope},
    load::{Load, Pace},
    measure::{Rounds, Row, rounds},
    server::Cores,
};

/// All that a run is made of.
#[derive(Debug)]
pub(crate) struct Plan {
    pub contestants: Vec<Contestant>,
    pub cores: Cores,
    pub rounds: Rounds,
    pub idle_connections: usize,
    /// Told to every server.
    pub environment: Vec<(String, String)>,
}

/// A workload and what it showed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Section {
    pub name: &'static str,
    pub title: String,
    pub what: String,
    pub figures: Figures,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Figures {
    Rates(Vec<Row>),
    Idle(Vec<IdleRow>),
}

/// A workload by its name.
#[derive(Debug)]
pub(crate) struct Workload {
    pub name: &'static str,
    pub quick: bool,
    run: fn(&'static str, &Plan) -> Result<Section, BoxError>,
}

const fn workload(
    name: &'static str,
    quick: bool,
    run: fn(&'static str, &Plan) -> Result<Section, BoxError>,
) -> Workload {
    Workload { name, quick, run }
}

pub(crate) const WORKLOADS: [Workload; 8] = [
    workload("hello", true, hello),
    workload("json", true, json),
    workload("idle", true, idle::run),
    workload("reconnect", false, reconnect),
    workload("pipelining", false, pipelining),
    workload("headers", false, headers),
    workload("upload", false, upload),
    workload("upload-to-disk", false, upload_to_disk),
];

impl Workload {
    pub(crate) fn run(&self, plan: &Plan) -> Result<Section, BoxError> {
        (self.run)(self.name, plan)
    }
}

impl Plan {
    pub(crate) fn taking(&self, scope: Scope) -> Vec<&Contestant> {
        let fits = |c: &&Contestant| c.missing.is_none() && c.scope >= scope;
        self.contestants.iter().filter(fits).collect()
    }

    fn rates(
        &self,
        (name, title, what): (&'static str, &str, &str),
        scope: Scope,
        load: &Load,
    ) -> Result<Section, BoxError> {
        let contestants = self.taking(scope);
        let rows = rounds(
            &contestants,
            load,
            self.rounds,
            &self.cores,
            &self.environment,
        );
        Ok(Section {
            name,
            title: title.to_owned(),
            what: what.to_owned(),
            figures: Figures::Rates(rows),
        })
    }
}

const CONNECTIONS: usize = 64;

fn hello(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let what = "`GET /hello` answered with 13 bytes of text, on 64 connections that stay open.";
    let load = Load::closed(CONNECTIONS, requests::hello());
    plan.rates((name, "Hello", what), Scope::Hello, &load)
}

fn json(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let what = "`GET /hello/{name}` answered with `{\"hello\":name}`, on 64 connections.";
    let load = Load::closed(CONNECTIONS, requests::json());
    plan.rates(
        (name, "JSON with a path parameter", what),
        Scope::All,
        &load,
    )
}

fn reconnect(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let what = "Hello, but every client closes its connection after 25 requests and opens another.";
    let mut load = Load::closed(CONNECTIONS, requests::hello());
    load.reconnect_after = 25;
    let title = "Reconnect every 25 requests";
    plan.rates((name, title, what), Scope::Hello, &load)
}

fn pipelining(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let what = "Hello, with 16 requests under way on each of 64 connections.";
    let mut load = Load::closed(CONNECTIONS, requests::pipelined(16));
    load.pace = Pace::Closed { pipeline: 16 };
    plan.rates((name, "Pipelining 16", what), Scope::Hello, &load)
}

fn headers(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let what = "Hello, with the 17 headers that a browser sends, cookies among them: about 1.2 KB.";
    let load = Load::closed(CONNECTIONS, requests::browser());
    plan.rates((name, "Browser-sized headers", what), Scope::Hello, &load)
}

fn upload(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let what = "1 MiB is posted and counted as it comes, on 8 connections.";
    let load = Load::closed(8, requests::upload("/upload"));
    plan.rates((name, "Upload of 1 MiB", what), Scope::All, &load)
}

fn upload_to_disk(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let what = "1 MiB is posted and written to a file as it comes, on 8 connections.";
    let load = Load::closed(8, requests::upload("/upload/disk"));
    plan.rates((name, "Upload of 1 MiB to disk", what), Scope::All, &load)
}
