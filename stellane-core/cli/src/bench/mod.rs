//! `stellane bench`: a load generator that does not flatter.
//!
//! With `--rate` requests are due at fixed times whether or not the server keeps up, and each latency
//! is counted from the moment its request was due: a server that stalls for a second is charged for
//! every request that waited, not only for the few that were on their way (coordinated omission).
//! Without it each connection sends as fast as it is answered, which measures throughput only.

use std::{path::PathBuf, time::Duration};

use super::{Failure, duration, print};

mod load;
mod report;
mod svg;
mod target;

pub(super) use self::report::time;

/// Measure the throughput and the latency of an HTTP/1.1 service.
#[derive(Debug, clap::Args)]
pub(super) struct Bench {
    /// What to request, such as http://127.0.0.1:3000/path (plain HTTP only).
    url: String,
    /// Requests due per second in all (open loop). Without it: as many as the server answers (closed
    /// loop), whose latencies say nothing about a service that is not saturated.
    #[arg(short, long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Connections that are kept open. Too few make requests wait for one, which counts as latency.
    #[arg(short, long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// For how long requests are sent.
    #[arg(short, long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// Threads of the load generator; half of the CPUs when left out.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// When a request counts as failed, from when it was due.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// The request method.
    #[arg(short = 'X', long, value_name = "NAME", default_value = "GET")]
    method: String,
    /// A request header; may be repeated.
    #[arg(short = 'H', long, value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// The request body.
    #[arg(short, long, value_name = "TEXT")]
    body: Option<String>,
    /// Write the latency distribution as an SVG to this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

impl Bench {
    pub(super) fn run(self) -> Result<(), Failure> {
        let target =
            target::Target::new(&self.url, &self.method, &self.header, self.body.as_deref())
                .map_err(Failure::input)?;
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let connections = self.connections as usize;
        let plan = load::Plan {
            target,
            rate: self.rate,
            connections,
            threads: self
                .threads
                .map_or((cpus / 2).max(1), usize::from)
                .min(connections),
            duration: self.duration,
            timeout: self.timeout,
        };
        let result = load::run(&plan).map_err(Failure::new)?;
        let report = report::Report::new(&plan, &result);
        if let Some(path) = &self.svg {
            let svg = svg::latency(&report, &result.latency);
            std::fs::write(path, svg)
                .map_err(|error| Failure::new(format_args!("{}: {error}", path.display())))?;
        }
        if self.json {
            print(format_args!("{:#}\n", report.json()))?;
        } else {
            print(&report)?;
        }
        if result.responses() == 0 {
            return Err(Failure::new(format_args!(
                "no request to {} was answered",
                self.url
            )));
        }
        Ok(())
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && rate <= 1e8 => Ok(rate),
        _ => Err("expected requests per second, above 0 and up to 100000000".to_owned()),
    }
}
