//! Who is refused: honest and hostile clients over real sockets, against every way to serve, with a bystander beside each.
//!
//! ```text
//! cargo run --release -p stellane-examples --bin admission_sockets -- --short preset/ axum/stalled
//! ```
//!
//! An argument chooses the rows whose `server/row` contains it; none takes them all, an hour. `--short` makes all times a
//! tenth. It fails if an honest request or the bystander was refused, or if refusals take too much of the server's CPU in
//! the overload. There the first CPU is the server's and the others are its clients' (by `taskset`). Everything happens on
//! the loopback interface, and all servers start cold.

#[path = "../../../stellane-core/tests/support/admission/mod.rs"]
mod admission;

use std::{io::Write, process::ExitCode};

use admission::{BoxError, HONEST, HOSTILE, Load, OVERLOAD, Report, SERVERS, Scale};

#[derive(Clone, Copy, PartialEq)]
enum Judge {
    Honest,
    Hostile,
    Overload,
}

#[tokio::main]
async fn main() -> ExitCode {
    match compare().await {
        Ok(0) => ExitCode::SUCCESS,
        Ok(bad) => {
            eprintln!("{bad} rows are not as they should be");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

async fn compare() -> Result<usize, BoxError> {
    let (options, names): (Vec<_>, Vec<_>) = std::env::args()
        .skip(1)
        .partition(|argument| argument.starts_with('-'));
    let scale = match options.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Scale(1),
        ["--short"] => Scale(10),
        _ => return Err("usage: admission_sockets [--short] [part of SERVER/ROW]...".into()),
    };
    let chosen = |server: &str, row: &str| {
        let full = format!("{server}/{row}");
        names.is_empty() || names.iter().any(|name| full.contains(name.as_str()))
    };
    let rows = [
        (HONEST, Judge::Honest),
        (HOSTILE, Judge::Hostile),
        (OVERLOAD, Judge::Overload),
    ];
    println!(
        "| server | row | requests | refused | failed | bystander | its p99 | in flight | most, lent, aside, waiting | limited | grew by | |\n\
         |---|---|--:|--:|--:|---|--:|--:|--:|---|--:|---|"
    );
    let mut bad = 0;
    for kind in SERVERS {
        for (rows, judge) in rows {
            for (row, load) in rows.iter().filter(|(row, _)| chosen(kind.name, row)) {
                let can = match load {
                    // Alone in axum the limit has no connections to tell apart.
                    Load::Greedy => kind.knows_connections(),
                    Load::Overload { .. } => kind.hears_the_machine(),
                    _ => true,
                };
                if !can {
                    continue;
                }
                let report = admission::run(kind.name, *load, scale).await?;
                let faults = match judge {
                    Judge::Honest => report.faults_if_honest(),
                    Judge::Hostile => report.faults_if_hostile(),
                    Judge::Overload => report.load.missed.clone(),
                };
                bad += usize::from(!faults.is_empty());
                print(kind.name, row, &report, &faults)?;
            }
        }
    }
    Ok(bad)
}

fn print(server: &str, row: &str, report: &Report, faults: &[String]) -> Result<(), BoxError> {
    let (load, held) = (&report.load, &report.held);
    let answers: Vec<_> = report
        .bystander
        .iter()
        .map(|(answer, count)| format!("{count} × {answer}"))
        .collect();
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "| {} | {} | {} | {} | {} | {} | {:.0} ms | {:.0} | {} | {} | {:.1} MB | {} {} |",
        server,
        row,
        load.requests,
        load.refused,
        load.failed,
        answers.join(", "),
        report.bystander_p99.as_secs_f64() * 1000.0,
        held.mean_in_flight,
        [held.in_flight, held.lent, held.aside, held.waiting]
            .map(|n| n.to_string())
            .join(", "),
        held.evidence.first().map_or("never", String::as_str),
        held.bytes as f64 / 1e6,
        load.note,
        match faults {
            [] => "ok".to_owned(),
            _ => format!("**not ok**: {}", faults.join("; ")),
        },
    )?;
    out.flush()?;
    Ok(())
}
