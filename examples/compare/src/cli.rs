//! The command line.

use std::{path::PathBuf, time::Instant};

use crate::{
    BoxError, contestants,
    databases::{self, Postgres},
    machine::Machine,
    measure::Rounds,
    report::{self, Report},
    server::{Cores, pin},
    workloads::{Plan, Section, WORKLOADS, Workload},
};

const USAGE: &str = "usage: stellane-compare [--quick] [options]

  --quick            fewer workloads and shorter turns: under 3 minutes
  --all              all workloads, also with --quick
  --only A,B         only these workloads
  --peers A,B        only these servers
  --rounds N         turns of each server in each workload (15; quick: 5)
  --seconds S        length of a turn (0.25)
  --workers N        threads, and cores, of each server (1)
  --idle N           idle connections; over TLS and HTTP/2 a quarter of them (10 000)
  --other PROGRAM    another build of this program, whose stellane servers take part as NAME@other: what a change costs
  --out FOLDER       where the results go (results/DATE-FORM beside the sources)

       stellane-compare --agree FOLDER FOLDER   whether two runs agree within their spreads
       stellane-compare --figures FOLDER        puts the table of a run into FIGURES.md";

#[derive(Debug, Default)]
struct Options {
    quick: bool,
    all: bool,
    only: Option<Vec<String>>,
    peers: Option<Vec<String>>,
    rounds: Option<usize>,
    seconds: Option<f64>,
    workers: Option<usize>,
    idle: Option<usize>,
    other: Option<PathBuf>,
    out: Option<PathBuf>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, BoxError> {
        let mut options = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || {
                arguments
                    .next()
                    .ok_or(format!("{argument}: a value is missing"))
            };
            let list = |value: &str| value.split(',').map(str::to_owned).collect();
            match argument.as_str() {
                "--quick" => options.quick = true,
                "--all" => options.all = true,
                "--only" => options.only = Some(list(value()?)),
                "--peers" => options.peers = Some(list(value()?)),
                "--rounds" => options.rounds = Some(value()?.parse()?),
                "--seconds" => options.seconds = Some(value()?.parse()?),
                "--workers" => options.workers = Some(value()?.parse()?),
                "--idle" => options.idle = Some(value()?.parse()?),
                "--other" => options.other = Some(value()?.into()),
                "--out" => options.out = Some(value()?.into()),
                other => return Err(format!("{other} is not known\n{USAGE}").into()),
            }
        }
        Ok(options)
    }

    fn workloads(&self) -> Result<Vec<&'static Workload>, BoxError> {
        let Some(only) = &self.only else {
            let fits = |workload: &&Workload| workload.quick || self.all || !self.quick;
            return Ok(WORKLOADS.iter().filter(fits).collect());
        };
        let known = || WORKLOADS.map(|workload| workload.name).join(", ");
        only.iter()
            .map(|name| {
                let found = WORKLOADS.iter().find(|workload| workload.name == name);
                Ok(found.ok_or_else(|| format!("no workload {name}; there are {}", known()))?)
            })
            .collect()
    }
}

pub(crate) fn run(arguments: &[String]) -> Result<(), BoxError> {
    if arguments.iter().any(|argument| argument == "--help") {
        println!("{USAGE}");
        return Ok(());
    }
    match arguments {
        [agree, first, second] if agree == "--agree" => {
            return report::agree(first.as_ref(), second.as_ref());
        }
        [figures, folder] if figures == "--figures" => {
            return report::put_into_figures(folder.as_ref());
        }
        _ => {}
    }
    let options = Options::parse(arguments)?;
    let workloads = options.workloads()?;
    let machine = Machine::describe();
    let form = if options.quick { "quick" } else { "standard" };

    let contestants = contestants::all(options.peers.as_deref(), options.other.as_deref())?;
    for contestant in &contestants {
        if let Some(why) = &contestant.missing {
            eprintln!("{} is missing: {why}", contestant.name);
        }
    }
    let workers = options.workers.unwrap_or(1);
    let started = Instant::now();
    // Before this process is pinned: afterwards it would seem to have no other core.
    let cores = Cores::split(machine.cpus, workers);
    pin(&cores.load)?;
    let mut environment = vec![
        ("COMPARE_WORKERS".to_owned(), workers.to_string()),
        (
            "COMPARE_SQLITE".to_owned(),
            databases::sqlite()?.to_string_lossy().into_owned(),
        ),
    ];
    let uses_postgres = workloads.iter().any(|workload| workload.name == "postgres");
    let postgres = uses_postgres.then(Postgres::start).transpose();
    if let Ok(Some(postgres)) = &postgres {
        environment.push(("COMPARE_POSTGRES".to_owned(), postgres.url.clone()));
    }
    let uploads = std::env::temp_dir().to_string_lossy().into_owned();
    environment.push(("COMPARE_UPLOADS".to_owned(), uploads));
    let count = options.rounds.unwrap_or(if options.quick { 5 } else { 15 });
    let passes = if options.quick { 1 } else { 3 };
    let mut plan = Plan {
        contestants,
        cpus: machine.cpus,
        cores,
        rounds: Rounds {
            count,
            seconds: options.seconds.unwrap_or(0.25),
            passes: count.clamp(1, passes),
            pass: 0,
        },
        idle_connections: options.idle.unwrap_or(10_000),
        no_postgres: postgres.as_ref().err().map(ToString::to_string),
        environment,
    };

    let mut sections: Vec<Section> = Vec::new();
    for pass in 0..plan.rounds.passes {
        plan.rounds.pass = pass;
        for (at, workload) in workloads.iter().enumerate() {
            if pass > 0 && !sections[at].figures.has_rounds() {
                continue;
            }
            let since = started.elapsed().as_secs_f64();
            eprintln!("[{since:>4.0} s] {}", workload.name);
            let section = workload.run(&plan)?;
            match sections.get_mut(at) {
                Some(first) => first.figures.append(section.figures),
                None => sections.push(section),
            }
        }
    }
    let mut machine = machine;
    if let Ok(Some(postgres)) = &postgres {
        machine.postgres = Some(postgres.version.clone());
    }
    let report = Report {
        form: form.to_owned(),
        command: command(arguments),
        seconds: started.elapsed().as_secs_f64(),
        rounds: plan.rounds,
        workers,
        cores: plan.cores.clone(),
        machine,
        contestants: plan.contestants,
        sections,
    };
    let out = options.out.unwrap_or_else(|| {
        let folder = format!("{}-{form}", report.machine.date);
        contestants::home().join("results").join(folder)
    });
    report.write(&out)?;
    eprintln!("[{:>4.0} s] {}", report.seconds, out.display());
    Ok(())
}

/// What reproduces the run.
fn command(arguments: &[String]) -> String {
    let base = "cargo run --release --manifest-path examples/compare/Cargo.toml";
    if arguments.is_empty() {
        return base.to_owned();
    }
    format!("{base} -- {}", arguments.join(" "))
}
