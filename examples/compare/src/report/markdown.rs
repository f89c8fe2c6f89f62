//! The report to read.

use std::fmt::{self, Write};

use super::Report;
use crate::{
    contestants::REFERENCE,
    measure::{Row, Spread, Turn, quotient, ratio},
    workloads::{
        AllocationRow, ComponentRow, Figures, IdleRow, Level, OverloadRow, RestartRow, Section,
    },
};

pub(super) fn report(report: &Report) -> Result<String, fmt::Error> {
    let mut out = String::new();
    let machine = &report.machine;
    writeln!(out, "# Stellane side by side, {}\n", machine.date)?;
    writeln!(
        out,
        "{} ({}), {} CPUs, {:.0} GiB, Linux {}; {}; Stellane {}. Load of the machine when it began: {}. \
         {} worker thread(s) for each server on core(s) {:?}, the load generator on core {:?}; \
         {} rounds of {} s in {} passes over all workloads; the whole run took {:.0} s. Reproduce it with\n\n```sh\n{}\n```\n",
        machine.cpu,
        machine.kind,
        machine.cpus,
        machine.memory_gib,
        machine.kernel,
        machine.rustc,
        machine.commit,
        machine.load,
        report.workers,
        report.cores.server,
        report.cores.load,
        report.rounds.count,
        report.rounds.seconds,
        report.rounds.passes,
        report.seconds,
        report.command,
    )?;
    writeln!(
        out,
        "Every answer's status and body were checked. Ratios are {REFERENCE}'s figure divided by the other's (where it does \
         not take part, that of the first), taken within each round: the median, and in brackets the least and the greatest. CPU is the server's \
         own, for each request. Where `busy` is well below 100 %, or `clients` near it, the load generator was the \
         limit, so that requests for each second say little and CPU says more.\n"
    )?;
    let present = report.contestants.iter().filter(|c| c.missing.is_none());
    let names: Vec<String> = present
        .map(|c| format!("{} {}", c.name, c.version))
        .collect();
    writeln!(out, "Servers: {}.\n", names.join(", "))?;
    if let Some(postgres) = &machine.postgres {
        writeln!(out, "Database: {postgres}.\n")?;
    }
    for contestant in &report.contestants {
        if let Some(why) = &contestant.missing {
            writeln!(out, "**Missing: {}**: {why}\n", contestant.name)?;
        }
    }
    for section in &report.sections {
        writeln!(out, "## {}\n\n{}\n", section.title, section.what)?;
        figures(&mut out, section)?;
        out.push('\n');
    }
    Ok(out)
}

fn figures(out: &mut String, section: &Section) -> fmt::Result {
    match &section.figures {
        Figures::Rates(rows) => rates(out, rows),
        Figures::Levels(levels) => levels.iter().try_for_each(|level| {
            writeln!(out, "### {}\n", level.level)?;
            rates(out, &level.rows)?;
            out.write_char('\n')?;
            let base = level.base.and_then(|base| levels.get(base));
            base.map_or(Ok(()), |base| growth(out, level, base))
        }),
        Figures::Idle(rows) => idle(out, rows),
        Figures::Components(rows) => components(out, rows),
        Figures::Allocations(rows) => allocations(out, rows),
        Figures::Overload(rows) => overload(out, rows),
        Figures::Restart(rows) => restart(out, rows),
        Figures::Missing(why) => writeln!(out, "**Not measured**: {why}"),
    }
}

fn rates(out: &mut String, rows: &[Row]) -> fmt::Result {
    writeln!(
        out,
        "| server | requests/s | ratio | CPU µs: user | kernel | ratio | busy | clients | p50 µs | p99 | p99.9 | failures |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|"
    )?;
    for row in rows {
        let figure = |value: fn(&Turn) -> f64, digits| number(row.median(value), digits);
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            row.peer,
            figure(|t| t.per_second, 0),
            spread(ratio(rows, row, |t| t.per_second)),
            figure(|t| t.user, 2),
            figure(|t| t.kernel, 2),
            spread(ratio(rows, row, Turn::cpu)),
            percent(row.median(|t| t.busy)),
            percent(row.median(|t| t.clients.unwrap_or(f64::NAN))),
            figure(|t| t.p50, 0),
            figure(|t| t.p99, 0),
            figure(|t| t.p999, 0),
            failures(row),
        )?;
    }
    // Axum's router served by us and by itself.
    let find = |name: &str| rows.iter().find(|row| row.peer == name);
    if let (Some(ours), Some(axum)) = (find("stellane-axum"), find("axum"))
        && let Some(cpu) = quotient(ours, axum, Turn::cpu)
    {
        writeln!(
            out,
            "\nCPU of stellane-axum by that of axum: {}.",
            spread(Some(cpu))
        )?;
    }
    Ok(())
}

/// What a request costs more than at another level.
fn growth(out: &mut String, level: &Level, base: &Level) -> fmt::Result {
    writeln!(
        out,
        "The same divided by the figures of {}, within each round:\n\n| server | CPU | p50 | p99 |\n|---|--:|--:|--:|",
        base.level
    )?;
    for (row, base) in level.rows.iter().zip(&base.rows) {
        let times = |value: fn(&Turn) -> f64| spread(quotient(row, base, value));
        let (cpu, p50, p99) = (times(Turn::cpu), times(|t| t.p50), times(|t| t.p99));
        writeln!(out, "| {} | {cpu} | {p50} | {p99} |", row.peer)?;
    }
    out.write_char('\n')
}

fn failures(row: &Row) -> String {
    let mut all: Vec<String> = row
        .failures()
        .iter()
        .map(|(what, count)| format!("{count} {what}"))
        .collect();
    all.extend(row.error.clone());
    all.join(", ")
}

fn idle(out: &mut String, rows: &[IdleRow]) -> fmt::Result {
    writeln!(
        out,
        "| server | KB for each connection (resident) | (proportional) | MB before | idle CPU ms/s | \
         first request afterwards: p50 µs | p99 | failures |\n|---|--:|--:|--:|--:|--:|--:|---|"
    )?;
    for row in rows {
        if let Some(error) = &row.error {
            writeln!(out, "| {} | | | | | | | {error} |", row.peer)?;
            continue;
        }
        writeln!(
            out,
            "| {} | {:.2} | {:.2} | {:.1} | {:.2} | {:.0} | {:.0} | {} |",
            row.peer,
            row.resident / 1024.0,
            row.proportional / 1024.0,
            row.before as f64 / f64::from(1 << 20),
            row.idle_cpu / 1000.0,
            row.wake_p50,
            row.wake_p99,
            if row.failures > 0 {
                row.failures.to_string()
            } else {
                String::new()
            },
        )?;
    }
    Ok(())
}

fn components(out: &mut String, rows: &[ComponentRow]) -> fmt::Result {
    writeln!(
        out,
        "| component | ns with one thread | with two | of twice as much |\n|---|--:|--:|--:|"
    )?;
    for row in rows {
        writeln!(
            out,
            "| {} | {:.1} | {:.1} | {} |",
            row.name,
            row.one.median,
            row.two.median,
            spread(Some(row.efficiency)),
        )?;
    }
    Ok(())
}

fn allocations(out: &mut String, rows: &[AllocationRow]) -> fmt::Result {
    writeln!(out, "| server | hello | JSON |\n|---|--:|--:|")?;
    for row in rows {
        let (hello, json) = (number(row.hello, 2), number(row.json, 2));
        writeln!(out, "| {} | {hello} | {json} |", row.peer)?;
    }
    Ok(())
}

fn overload(out: &mut String, rows: &[OverloadRow]) -> fmt::Result {
    writeln!(
        out,
        "| server | capacity/s | offered/s | good answers/s | of capacity | p50 ms | p99 ms | refused/s | lost/s | |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|---|"
    )?;
    for row in rows {
        let rate = |value: f64| number(Some(value), 0);
        writeln!(
            out,
            "| {} | {} | {} | {} | {:.0} % | {:.0} | {:.0} | {} | {} | {} |",
            row.peer,
            rate(row.capacity),
            rate(row.offered),
            rate(row.goodput),
            row.goodput / row.capacity * 100.0,
            row.p50 / 1000.0,
            row.p99 / 1000.0,
            rate(row.refused),
            rate(row.lost),
            row.error.as_deref().unwrap_or(""),
        )?;
    }
    Ok(())
}

fn restart(out: &mut String, rows: &[RestartRow]) -> fmt::Result {
    writeln!(
        out,
        "| server | answered | lost | longest wait ms | old process ended after ms |\n|---|--:|---|--:|--:|"
    )?;
    for row in rows {
        if let Some(error) = &row.error {
            writeln!(out, "| {} | | {error} | | |", row.peer)?;
            continue;
        }
        let lost = row
            .lost
            .iter()
            .map(|(what, count)| format!("{count} {what}"));
        let lost: Vec<String> = lost.collect();
        let ended = row
            .ended
            .map_or("killed".to_owned(), |ms| format!("{ms:.0}"));
        let lost = if lost.is_empty() {
            "0".to_owned()
        } else {
            lost.join(", ")
        };
        let answered = number(Some(row.answered as f64), 0);
        writeln!(
            out,
            "| {} | {answered} | {lost} | {:.1} | {ended} |",
            row.peer, row.worst
        )?;
    }
    Ok(())
}

/// With thousands set apart where there are any.
fn number(value: Option<f64>, digits: usize) -> String {
    let Some(value) = value else {
        return String::new();
    };
    let text = format!("{value:.digits$}");
    let whole = text.find('.').unwrap_or(text.len());
    let mut out = String::new();
    for (place, digit) in text.chars().enumerate() {
        if place > 0 && place < whole && (whole - place) % 3 == 0 && whole > 4 {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

fn percent(value: Option<f64>) -> String {
    value.map_or(String::new(), |value| format!("{:.0} %", value * 100.0))
}

fn spread(value: Option<Spread>) -> String {
    let Some(Spread {
        median,
        least,
        greatest,
    }) = value
    else {
        return String::new();
    };
    if least == greatest {
        return format!("{median:.2}");
    }
    format!("{median:.2} [{least:.2}–{greatest:.2}]")
}
