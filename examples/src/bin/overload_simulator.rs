//! Runs every limiter through every overload scenario and writes a report with plots.
//!
//! ```text
//! cargo run -p stellane-examples --bin overload_simulator -- [directory] [seeds]
//! ```
//!
//! The report is the same on every machine: `report.md` and one SVG per scenario, by default
//! in `target/overload` with 2 seeds. A change of an algorithm shows as a change of the report.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use stellane_autotune::AlgorithmKind::{Adaptive, Aimd, Fixed, Gradient2, Vegas};
use stellane_autotune::sim::{self, Contender, Run, Scenario, Table};

fn main() -> io::Result<()> {
    let mut args = env::args().skip(1);
    let directory = args
        .next()
        .map_or_else(|| PathBuf::from("target/overload"), PathBuf::from);
    let seeds: u64 = args
        .next()
        .and_then(|seeds| seeds.parse().ok())
        .unwrap_or(2);
    fs::create_dir_all(&directory)?;

    let contenders: Vec<(String, Contender)> = [
        ("adaptive", Contender::Kind(Adaptive, 20)),
        ("gradient2", Contender::Kind(Gradient2, 20)),
        ("vegas", Contender::Kind(Vegas, 20)),
        ("aimd", Contender::Kind(Aimd, 20)),
        ("fixed 24", Contender::Kind(Fixed, 24)),
        ("no limit", Contender::NoLimit),
    ]
    .map(|(name, contender)| (name.to_owned(), contender))
    .into();
    let seeds: Vec<u64> = (1..=seeds).collect();
    let scenarios = sim::scenarios();
    let table = Table::build(&scenarios, &contenders, &seeds);

    let mut report = String::from("# Overload: limiters against the best fixed limit\n\n");
    let _ = writeln!(
        report,
        "Each cell: the worst and the median goodput over all intervals and {} seeds, in per cent of \
         what the best fixed limit reaches in that interval, and the highest p99 of what was \
         admitted.\n\n{table}",
        seeds.len()
    );
    for scenario in &scenarios {
        plot(&directory, scenario, &contenders)?;
        let _ = writeln!(report, "\n## {0}\n\n![{0}]({0}.svg)", scenario.name);
    }
    fs::write(directory.join("report.md"), &report)?;
    println!(
        "{table}\nwritten to {}",
        directory.join("report.md").display()
    );
    Ok(())
}

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 150.0;
const COLORS: [&str; 6] = ["#0a7", "#c60", "#36c", "#909", "#888", "#c22"];

/// Two panels over time: goodput per half second, and the limit.
fn plot(
    directory: &Path,
    scenario: &Scenario,
    contenders: &[(String, Contender)],
) -> io::Result<()> {
    let runs: Vec<Run> = contenders
        .iter()
        .map(|(_, c)| sim::run(scenario, c, 1))
        .collect();
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {}" font-family="sans-serif" font-size="11">"#,
        2.0 * HEIGHT + 70.0
    );
    let goodputs: Vec<Vec<(f64, f64)>> = runs
        .iter()
        .map(|run| {
            let halves = (0..(2.0 * scenario.duration) as u32).map(|half| f64::from(half) / 2.0);
            halves.map(|at| (at, run.goodput(at, at + 0.5))).collect()
        })
        .collect();
    let limits: Vec<Vec<(f64, f64)>> = runs
        .iter()
        .zip(contenders)
        .map(|(run, (_, contender))| match contender {
            Contender::NoLimit => Vec::new(),
            _ => run
                .samples
                .iter()
                .map(|s| (s.at, f64::from(s.limit)))
                .collect(),
        })
        .collect();
    panel(
        &mut svg,
        25.0,
        "answers in time per second",
        &goodputs,
        scenario.duration,
    );
    panel(
        &mut svg,
        HEIGHT + 55.0,
        "limit (logarithmic)",
        &logarithmic(&limits),
        scenario.duration,
    );
    for (index, ((name, _), color)) in contenders.iter().zip(COLORS).enumerate() {
        let x = 300.0 + 80.0 * index as f64;
        let _ = write!(svg, r#"<text x="{x}" y="18" fill="{color}">{name}</text>"#);
    }
    svg.push_str("</svg>\n");
    fs::write(directory.join(format!("{}.svg", scenario.name)), svg)
}

fn logarithmic(lines: &[Vec<(f64, f64)>]) -> Vec<Vec<(f64, f64)>> {
    let log = |line: &Vec<(f64, f64)>| line.iter().map(|(x, y)| (*x, y.max(1.0).ln())).collect();
    lines.iter().map(log).collect()
}

fn panel(svg: &mut String, top: f64, title: &str, lines: &[Vec<(f64, f64)>], duration: f64) {
    let highest = lines.iter().flatten().map(|(_, y)| *y).fold(1e-9, f64::max);
    let _ = write!(
        svg,
        r##"<rect x="0" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#ccc"/><text x="4" y="{}">{title}</text>"##,
        top - 7.0
    );
    for (line, color) in lines.iter().zip(COLORS) {
        let points: Vec<String> = line
            .iter()
            .map(|(x, y)| {
                let (x, y) = (
                    x / duration * WIDTH,
                    top + HEIGHT - y / highest * (HEIGHT - 5.0),
                );
                format!("{x:.1},{y:.1}")
            })
            .collect();
        let _ = write!(
            svg,
            r#"<polyline fill="none" stroke="{color}" points="{}"/>"#,
            points.join(" ")
        );
    }
}
