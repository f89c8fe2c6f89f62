//! The command `stellane`: `cargo install stellane-cli`.
//!
//! | command | what it does |
//! |---|---|
//! | `stellane check FILE` | validates a configuration file and names every mistake |
//! | `stellane config` | prints the configuration in force here; `--default` the commented defaults, `--schema` a JSON Schema |
//! | `stellane dev` | builds, runs, watches and restarts a service; nobody is refused meanwhile |
//! | `stellane top` | shows a running service in the terminal |
//! | `stellane report` | writes all that a service says of itself to one file, for whoever helps |
//! | `stellane bench URL` | measures throughput, or latency under a given rate, honestly |
//!
//! Exit status: 0 done, 1 failed, 2 the arguments or the input are wrong.

use std::{fmt, io::Write, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use stellane_core::config::{Loader, REFERENCE};

mod admin;
mod bench;
mod dev;
mod report;
mod schema;
mod top;

fn main() -> ExitCode {
    let result = match Stellane::parse().command {
        Command::Check(args) => args.run(),
        Command::Config(args) => args.run(),
        Command::Bench(args) => args.run(),
        Command::Dev(args) => args.run(),
        Command::Report(args) => args.run(),
        Command::Top(args) => args.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit_code()
        }
    }
}

/// Check, configure, develop, watch and measure Stellane services.
#[derive(Debug, Parser)]
#[command(name = "stellane", version, max_term_width = 80)]
struct Stellane {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(Check),
    Config(Config),
    Bench(bench::Bench),
    Dev(dev::Dev),
    Report(report::Report),
    Top(top::Top),
}

/// Validate a configuration file; exit status 2 and every mistake if it is wrong.
#[derive(Debug, clap::Args)]
struct Check {
    /// The TOML file.
    file: PathBuf,
    /// Lay the `STELLANE_*` variables of this environment over it, as a service started here would.
    #[arg(long)]
    env: bool,
}

impl Check {
    fn run(self) -> Result<(), Failure> {
        let loader = if self.env {
            Loader::from_process()
        } else {
            Loader::new()
        };
        loader.file(&self.file).load().map_err(Failure::input)?;
        print(format_args!("{}: valid\n", self.file.display()))
    }
}

/// Print the configuration that a service started here would have.
#[derive(Debug, clap::Args)]
struct Config {
    /// Read this TOML file instead of the one that `STELLANE_CONFIG` names.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["default", "schema"])]
    file: Option<PathBuf>,
    /// Print every key with its default and its meaning: the start of a new configuration file.
    #[arg(long, conflicts_with = "schema")]
    default: bool,
    /// Print a JSON Schema of the configuration file, for editors.
    #[arg(long)]
    schema: bool,
}

impl Config {
    fn run(self) -> Result<(), Failure> {
        if self.default {
            return print(REFERENCE);
        }
        if self.schema {
            return print(format_args!("{:#}\n", schema::json_schema()));
        }
        let mut loader = Loader::from_process();
        if let Some(file) = self.file {
            loader = loader.file(file);
        }
        let config = loader.load().map_err(Failure::input)?;
        print(config)
    }
}

/// Why a command ended without success: one message, and the exit status.
#[derive(Debug)]
struct Failure {
    message: String,
    bad_input: bool,
}

impl Failure {
    /// The command could not do its work: exit status 1.
    fn new(cause: impl fmt::Display) -> Self {
        Self {
            message: cause.to_string(),
            bad_input: false,
        }
    }

    /// The arguments or what they name are wrong: exit status 2.
    fn input(cause: impl fmt::Display) -> Self {
        Self {
            message: cause.to_string(),
            bad_input: true,
        }
    }

    fn exit_code(&self) -> ExitCode {
        ExitCode::from(if self.bad_input { 2 } else { 1 })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Parses an argument such as `10s`.
fn duration(text: &str) -> Result<Duration, String> {
    match text.parse::<humantime_serde::re::humantime::Duration>() {
        Ok(duration) if duration.as_millis() > 0 => Ok(duration.into()),
        _ => Err("expected a duration, such as 10s, 500ms or 2m".to_owned()),
    }
}

/// Writes to standard output; a reader that has gone away (`| head`) is not a failure.
fn print(text: impl fmt::Display) -> Result<(), Failure> {
    match write!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::new(error)),
        _ => Ok(()),
    }
}
