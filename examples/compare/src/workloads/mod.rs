//! What is done to the servers.

mod allocations;
mod components;
mod idle;
mod overload;
mod requests;
mod restart;

use std::sync::Arc;

use serde::Serialize;

pub(crate) use allocations::AllocationRow;
pub(crate) use components::ComponentRow;
pub(crate) use idle::IdleRow;
pub(crate) use overload::OverloadRow;
pub(crate) use restart::RestartRow;

use crate::{
    BoxError,
    contestants::{Contestant, Scope},
    load::{Exchange, Load, Pace, Speech, at_rate},
    measure::{Driver, Rounds, Row, levels, rounds},
    peers::work::MESSAGES,
    server::Cores,
    tls::CERTIFICATE,
};

/// All that a run is made of.
#[derive(Debug)]
pub(crate) struct Plan {
    pub contestants: Vec<Contestant>,
    pub cpus: usize,
    pub cores: Cores,
    pub rounds: Rounds,
    pub idle_connections: usize,
    /// Why there is no PostgreSQL.
    pub no_postgres: Option<String>,
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
    /// The same at several levels of something.
    Levels(Vec<Level>),
    Idle(Vec<IdleRow>),
    Components(Vec<ComponentRow>),
    Allocations(Vec<AllocationRow>),
    Overload(Vec<OverloadRow>),
    Restart(Vec<RestartRow>),
    /// It could not be measured here, and why.
    Missing(String),
}

impl Figures {
    /// Whether they are made of rounds, which passes share.
    pub(crate) fn has_rounds(&self) -> bool {
        matches!(self, Self::Rates(_) | Self::Levels(_))
    }

    /// Adds what a later pass showed.
    pub(crate) fn append(&mut self, later: Self) {
        let append = |rows: &mut [Row], later: Vec<Row>| {
            for (row, later) in rows.iter_mut().zip(later) {
                row.append(later);
            }
        };
        match (self, later) {
            (Self::Rates(rows), Self::Rates(later)) => append(rows, later),
            (Self::Levels(levels), Self::Levels(later)) => {
                for (level, later) in levels.iter_mut().zip(later) {
                    append(&mut level.rows, later.rows);
                }
            }
            _ => {}
        }
    }
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Level {
    pub level: String,
    pub rows: Vec<Row>,
    /// The place of the level, of the same rounds, that this one is compared with.
    #[serde(skip)]
    pub base: Option<usize>,
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

pub(crate) const WORKLOADS: [Workload; 34] = [
    workload("hello", true, hello),
    workload("json", true, json),
    workload("idle", true, idle::run),
    workload("allocations", true, allocations::run),
    workload("hello-wrk", false, hello_wrk),
    workload("latency", false, latency),
    workload("reconnect", false, reconnect),
    workload("one-each", false, one_each),
    workload("pipelining", false, pipelining),
    workload("headers", false, headers),
    workload("sqlite", false, sqlite),
    workload("postgres", false, postgres),
    workload("upload", false, upload),
    workload("upload-to-disk", false, upload_to_disk),
    workload("connections", false, connections),
    workload("workers", false, workers),
    workload("overload", false, overload::short),
    workload("overload-long", false, overload::long),
    workload("restart", false, restart::run),
    workload("http2-hello", true, http2_hello),
    workload("http2-single", false, http2_single),
    workload("http2-json", false, http2_json),
    workload("grpc-unary", true, grpc_unary),
    workload("grpc-deadline", false, grpc_deadline),
    workload("grpc-stream", false, grpc_stream),
    workload("tls-hello", false, tls_hello),
    workload("tls-http2", false, tls_http2),
    workload("tls-handshakes", false, tls_handshakes),
    workload("idle-tls", false, idle::tls),
    workload("idle-http2", false, idle::http2),
    workload("idle-tls-http2", false, idle::tls_http2),
    workload("logged", false, logged),
    workload("mixed", false, mixed),
    workload("components", false, components::run),
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
        let rows = self.rows(&self.taking(scope), Driver::ours(load), self.rounds);
        Ok(section((name, title, what), Figures::Rates(rows)))
    }

    fn rows(&self, contestants: &[&Contestant], driver: Driver<'_>, form: Rounds) -> Vec<Row> {
        rounds(contestants, driver, form, &self.cores, &self.environment)
    }

    /// Those of these names.
    fn named(&self, names: &[&str]) -> Vec<&Contestant> {
        let mut all = self.taking(Scope::Grpc);
        all.retain(|contestant| names.contains(&contestant.name.as_str()));
        all
    }

    /// The environment, with one variable more.
    fn with(&self, name: &str, value: &str) -> Vec<(String, String)> {
        let mut environment = self.environment.clone();
        environment.push((name.to_owned(), value.to_owned()));
        environment
    }

    /// For what is asked at several levels: a choice of servers, and fewer rounds.
    fn few(&self) -> (Vec<&Contestant>, Rounds) {
        const FEW: [&str; 5] = [
            "stellane-preset",
            "stellane-manager",
            "hyper",
            "axum",
            "net/http",
        ];
        let mut few = self.taking(Scope::All);
        few.retain(|contestant| FEW.contains(&contestant.name.as_str()));
        let count = self.rounds.count.min(7);
        (
            few,
            Rounds {
                count,
                ..self.rounds
            },
        )
    }
}

fn section((name, title, what): (&'static str, &str, &str), figures: Figures) -> Section {
    Section {
        name,
        title: title.to_owned(),
        what: what.to_owned(),
        figures,
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

fn one_each(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let what = "Hello, but every client opens a connection for each request and closes it when it is answered.";
    let mut load = Load::closed(CONNECTIONS, requests::hello());
    load.reconnect_after = 1;
    let title = "One request for each connection";
    plan.rates((name, title, what), Scope::Hello, &load)
}

/// Who speaks HTTP/2; axum's way to serve and ours, around the same router.
const HTTP2: [&str; 4] = [
    "stellane-preset",
    "stellane-axum",
    "stellane-manager",
    "axum",
];

fn http2(
    (name, title, what): (&'static str, &str, &str),
    plan: &Plan,
    mut load: Load,
    streams: usize,
) -> Section {
    load.wire = Some(Speech::http2());
    load.pace = Pace::Closed { pipeline: streams };
    let rows = plan.rows(&plan.named(&HTTP2), Driver::ours(&load), plan.rounds);
    section((name, title, what), Figures::Rates(rows))
}

fn http2_hello(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let what = "Hello over HTTP/2, with 16 streams under way on each of 16 connections.";
    let load = Load::closed(16, requests::hello());
    Ok(http2((name, "HTTP/2", what), plan, load, 16))
}

fn http2_single(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let what = "Hello over HTTP/2, with one stream under way on each of 64 connections.";
    let load = Load::closed(CONNECTIONS, requests::hello());
    let title = "HTTP/2, one stream for each connection";
    Ok(http2((name, title, what), plan, load, 1))
}

fn http2_json(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let what = "JSON with a path parameter over HTTP/2, with 16 streams under way on each of 16 connections.";
    let load = Load::closed(16, requests::json());
    Ok(http2((name, "HTTP/2, JSON", what), plan, load, 16))
}

fn grpc(
    (name, title, what): (&'static str, &str, &str),
    plan: &Plan,
    exchanges: Arc<[Exchange]>,
    streams: usize,
) -> Section {
    let mut load = Load::closed(16, exchanges);
    load.wire = Some(Speech::http2());
    load.pace = Pace::Closed { pipeline: streams };
    let both = plan.named(&["stellane-tonic", "tonic"]);
    let rows = plan.rows(&both, Driver::ours(&load), plan.rounds);
    section((name, title, what), Figures::Rates(rows))
}

fn grpc_unary(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let what = "A greeting by gRPC, with 16 calls under way on each of 16 connections.";
    let calls = requests::grpc("Say", "", 1);
    Ok(grpc((name, "gRPC", what), plan, calls, 16))
}

fn grpc_deadline(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let what = "The same, with a deadline of 5 s, as real clients send it.";
    let calls = requests::grpc("Say", "grpc-timeout: 5S\r\n", 1);
    Ok(grpc((name, "gRPC with deadlines", what), plan, calls, 16))
}

fn grpc_stream(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let what =
        "A stream of 100 greetings by gRPC, with 4 calls under way on each of 16 connections.";
    let calls = requests::grpc("SayOften", "", MESSAGES);
    Ok(grpc((name, "gRPC, streaming", what), plan, calls, 4))
}

/// Over TLS there are the preset and what axum's examples do.
const TLS: [&str; 3] = ["stellane-preset", "stellane-axum", "axum"];

fn tls(
    (name, title, what): (&'static str, &str, &str),
    plan: &Plan,
    mut load: Load,
    http2: bool,
) -> Result<Section, BoxError> {
    let folder = crate::tls::folder()?;
    load.wire = Some(Speech::tls(http2, &folder.join(CERTIFICATE))?);
    let environment = plan.with("COMPARE_TLS", &folder.to_string_lossy());
    let driver = Driver::ours(&load);
    let three = plan.named(&TLS);
    let rows = rounds(&three, driver, plan.rounds, &plan.cores, &environment);
    Ok(section((name, title, what), Figures::Rates(rows)))
}

fn tls_hello(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let what = "Hello over TLS 1.3, on 64 connections that stay open.";
    let load = Load::closed(CONNECTIONS, requests::hello());
    tls((name, "TLS", what), plan, load, false)
}

fn tls_http2(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let what =
        "Hello over TLS 1.3 and HTTP/2, with 16 streams under way on each of 16 connections.";
    let mut load = Load::closed(16, requests::hello());
    load.pace = Pace::Closed { pipeline: 16 };
    tls((name, "TLS, HTTP/2", what), plan, load, true)
}

fn tls_handshakes(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let what = "Hello over TLS 1.3 with a connection for each request and nothing resumed: whole handshakes a second, with a \
        key of ECDSA P-256.";
    let mut load = Load::closed(16, requests::hello());
    load.reconnect_after = 1;
    tls((name, "TLS handshakes", what), plan, load, false)
}

fn logged(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let what = "Hello on 64 connections with a line in JSON for each request on standard output: the preset's access log \
        (16 fields, written by a thread of its own), and tower-http's `TraceLayer` with `tracing-subscriber`.";
    let load = Load::closed(CONNECTIONS, requests::hello());
    let environment = plan.with("COMPARE_LOGS", "1");
    let driver = Driver::ours(&load);
    let three = plan.named(&TLS);
    let rows = rounds(&three, driver, plan.rounds, &plan.cores, &environment);
    let title = "Tracing and access log on";
    Ok(section((name, title, what), Figures::Rates(rows)))
}

fn mixed(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let what = "1600 requests a second side by side: of 16, ten are short (hello), two wait for 50 ms, two are streams of 10 \
        pieces within 50 ms, one is an upload and one a download of 1 MiB. Latencies are those of the short ones.";
    let (exchanges, short) = requests::mixed();
    let mut load = Load::closed(160, exchanges);
    load.pace = at_rate(1600.0);
    let driver = Driver::Ours {
        load: &load,
        timed: short,
    };
    // As long as it takes that each kind comes often.
    let form = Rounds {
        seconds: plan.rounds.seconds * 4.0,
        ..plan.rounds
    };
    let rows = plan.rows(&plan.named(&TLS), driver, form);
    Ok(section((name, "Mixed", what), Figures::Rates(rows)))
}

fn pipelining(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let what = "Hello, with 16 requests under way on each of 64 connections.";
    let mut load = Load::closed(CONNECTIONS, requests::pipelined(16));
    load.pace = Pace::Closed { pipeline: 16 };
    plan.rates((name, "Pipelining 16", what), Scope::Hello, &load)
}

fn headers(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let what = "Hello, with the 17 headers that a browser sends, cookies among them: 866 bytes.";
    let load = Load::closed(CONNECTIONS, requests::browser());
    plan.rates((name, "Browser-sized headers", what), Scope::Hello, &load)
}

fn upload(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let what = "1 MiB is posted and counted as it comes, on 8 connections.";
    let load = Load::closed(8, requests::upload("/upload"));
    plan.rates((name, "Upload of 1 MiB", what), Scope::Upload, &load)
}

fn upload_to_disk(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let what = "1 MiB is posted and written to a file as it comes, on 8 connections.";
    let load = Load::closed(8, requests::upload("/upload/disk"));
    plan.rates((name, "Upload of 1 MiB to disk", what), Scope::All, &load)
}

fn sqlite(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let what = "`GET /sqlite/{id}` reads one row by its key and answers with it as JSON, on 64 connections.";
    let load = Load::closed(CONNECTIONS, requests::users("sqlite"));
    plan.rates((name, "SQLite", what), Scope::All, &load)
}

fn postgres(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let what = "The same with PostgreSQL and at most 16 connections to it. The database shares the load \
        generator's core and is the limit; CPU tells what the servers add.";
    let about = (name, "PostgreSQL", what);
    if let Some(why) = &plan.no_postgres {
        return Ok(section(about, Figures::Missing(why.clone())));
    }
    let load = Load::closed(CONNECTIONS, requests::users("postgres"));
    plan.rates(about, Scope::All, &load)
}

fn hello_wrk(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let what = "Hello again, with wrk as a second opinion on our load generator. wrk does not compare bodies.";
    let about = (name, "Hello, measured with wrk", what);
    if std::process::Command::new("wrk")
        .arg("-v")
        .output()
        .is_err()
    {
        return Ok(section(
            about,
            Figures::Missing("wrk is not installed".to_owned()),
        ));
    }
    let driver = Driver::Wrk {
        path: "/hello",
        connections: CONNECTIONS,
    };
    let (few, form) = plan.few();
    Ok(section(
        about,
        Figures::Rates(plan.rows(&few, driver, form)),
    ))
}

fn latency(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let what = "JSON at 20 000 requests a second on 64 connections, whether or not the server keeps up; \
        latency counts from when a request was due.";
    let mut load = Load::closed(CONNECTIONS, requests::json());
    load.pace = at_rate(20_000.0);
    plan.rates((name, "Latency at a fixed rate", what), Scope::All, &load)
}

fn connections(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    const BASE: usize = 1000;
    let what = "JSON on more and more connections that are all in use: as fast as it goes, and at 20 000 \
        requests a second, so that latencies can be compared. Every round has all numbers of connections, each for as \
        long as the most of them need: 1 s at least.";
    let (few, form) = plan.few();
    let mut all = Vec::new();
    for rate in [None, Some(20_000.0)] {
        let level = |connections: usize| match rate {
            None => format!("{connections} connections, as fast as it goes"),
            Some(rate) => format!("{connections} connections, {rate} requests a second"),
        };
        let counts = [100, BASE, 5000, 10_000];
        let loads = counts.map(|connections| {
            let mut load = Load::closed(connections, requests::json());
            if let Some(rate) = rate {
                load.pace = at_rate(rate);
            }
            load
        });
        let drivers = loads.each_ref().map(Driver::ours);
        let rows = levels(&few, &drivers, form, &plan.cores, &plan.environment);
        // The second of them is `BASE`.
        let base = all.len() + 1;
        all.extend(counts.into_iter().zip(rows).map(|(count, rows)| Level {
            level: level(count),
            rows,
            base: (count > BASE).then_some(base),
        }));
    }
    Ok(section(
        (name, "Active connections", what),
        Figures::Levels(all),
    ))
}

fn workers(name: &'static str, plan: &Plan) -> Result<Section, BoxError> {
    let what = "JSON on 64 connections with one worker thread, and with two. Where there are only two cores \
        the load generator has to share the second one, so that only CPU can be compared.";
    let (few, _) = plan.few();
    let mut levels = Vec::new();
    for workers in [1, 2] {
        let environment = plan.with("COMPARE_WORKERS", &workers.to_string());
        let load = Load::closed(CONNECTIONS, requests::json());
        let cores = Cores::split(plan.cpus, workers);
        let rows = rounds(&few, Driver::ours(&load), plan.rounds, &cores, &environment);
        let level = format!("{workers} worker(s)");
        levels.push(Level {
            level,
            rows,
            base: None,
        });
    }
    Ok(section(
        (name, "Worker threads", what),
        Figures::Levels(levels),
    ))
}
