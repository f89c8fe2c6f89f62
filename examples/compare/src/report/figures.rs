//! The table of `FIGURES.md`: one line for each server, from several workloads.

use std::{
    fmt::{self, Write},
    fs,
    path::Path,
};

use super::Report;
use crate::{
    BoxError, contestants,
    measure::{Row, Spread, Turn, quotient, ratio},
    workloads::Figures,
};

const BEGIN: &str = "<!-- compare: begin -->\n";
const END: &str = "<!-- compare: end -->";

/// Replaces what stands between the two marks of `FIGURES.md` by the table of the run in `folder`.
pub(crate) fn put_into_figures(folder: &Path) -> Result<(), BoxError> {
    let table = fs::read_to_string(folder.join("table.md"))?;
    let path = contestants::home().join("FIGURES.md");
    let page = fs::read_to_string(&path)?;
    let parts = page.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) = parts.ok_or("FIGURES.md has no marks for the table")?;
    Ok(fs::write(
        path,
        [before, BEGIN, &table, END, after].concat(),
    )?)
}

pub(super) fn table(report: &Report) -> Result<String, fmt::Error> {
    let mut out = String::new();
    writeln!(
        out,
        "Measured side by side on {} ({}, Linux {}; one core for the server, one for the clients) by `{}`:\n",
        report.machine.date, report.machine.cpu, report.machine.kernel, report.command,
    )?;
    writeln!(
        out,
        "| server | hello requests/s | CPU µs for each | its ratio | p99 µs | KB for each idle connection | \
         allocations: hello | JSON | good answers at 10 × overload | of long requests |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    )?;
    let figures = |name: &str| {
        let section = report.sections.iter().find(|section| section.name == name);
        section.map(|section| &section.figures)
    };
    let hello: &[Row] = match figures("hello") {
        Some(Figures::Rates(rows)) => rows,
        _ => &[],
    };
    let number = |value: Option<f64>, decimals: usize| {
        value.map_or(String::new(), |value| format!("{value:.decimals$}"))
    };
    for contestant in report.contestants.iter().filter(|c| c.missing.is_none()) {
        let name = &contestant.name;
        let row = hello.iter().find(|row| row.peer == *name);
        let of = |value: &dyn Fn(&Turn) -> f64| row?.median(value);
        let against = spread(row.and_then(|row| ratio(hello, row, Turn::cpu)));
        let idle = match figures("idle") {
            Some(Figures::Idle(rows)) => rows.iter().find(|row| row.peer == *name),
            _ => None,
        };
        let idle = idle.filter(|row| row.error.is_none());
        let allocations = match figures("allocations") {
            Some(Figures::Allocations(rows)) => rows.iter().find(|row| row.peer == *name),
            _ => None,
        };
        let overload = |section| {
            let rows = match figures(section) {
                Some(Figures::Overload(rows)) => rows.iter(),
                _ => [].iter(),
            };
            let mut good = rows.filter(|row| row.peer == *name && row.error.is_none());
            good.next().map_or(String::new(), |row| {
                format!("{:.0} %", row.goodput / row.capacity * 100.0)
            })
        };
        writeln!(
            out,
            "| {name} | {} | {} | {against} | {} | {} | {} | {} | {} | {} |",
            number(of(&|turn| turn.per_second), 0),
            number(of(&Turn::cpu), 2),
            number(of(&|turn| turn.p99), 0),
            number(idle.map(|row| row.resident / 1024.0), 2),
            number(allocations.and_then(|row| row.hello), 2),
            number(allocations.and_then(|row| row.json), 2),
            overload("overload"),
            overload("overload-long"),
        )?;
    }
    writeln!(
        out,
        "\nA ratio is the preset's CPU time divided by the other's, taken within each of {} rounds: the median, and \
         the least and the greatest.",
        report.rounds.count
    )?;
    around_theirs(&mut out, report)?;
    Ok(out)
}

/// What the servers cost that most programs have now, and the preset in their place.
fn around_theirs(out: &mut String, report: &Report) -> fmt::Result {
    writeln!(
        out,
        "\nCPU time of a request behind the preset, divided by that behind `axum::serve` (TLS: axum's example; gRPC: tonic's \
         server):\n\n| workload | our router | the same router |\n|---|--:|--:|"
    )?;
    for section in &report.sections {
        let Figures::Rates(rows) = &section.figures else {
            continue;
        };
        let find = |names: &[&str]| rows.iter().find(|row| names.contains(&row.peer.as_str()));
        let Some(theirs) = find(&["axum", "tonic"]) else {
            continue;
        };
        let by = |ours: Option<&Row>| spread(ours.and_then(|row| quotient(row, theirs, Turn::cpu)));
        let (own, same) = (
            by(find(&["stellane-preset"])),
            by(find(&["stellane-axum", "stellane-tonic"])),
        );
        writeln!(out, "| {} | {own} | {same} |", section.title)?;
    }
    Ok(())
}

fn spread(ratio: Option<Spread>) -> String {
    ratio.map_or(String::new(), |ratio| {
        format!(
            "{:.2} ({:.2}–{:.2})",
            ratio.median, ratio.least, ratio.greatest
        )
    })
}
