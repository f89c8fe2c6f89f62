//! Runs every limiter through every overload scenario, and the default through what is no overload, and writes a report
//! with plots.
//!
//! ```text
//! cargo run --release -p stellane-examples --bin overload_simulator -- [directory] [seeds] [first seed]
//! ```
//!
//! The report is the same on every machine: `report.md`, and `plots.md` with one SVG per scenario, by default
//! in `target/overload` with 2 seeds. A change of an algorithm shows as a change of the report.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use stellane_autotune::AlgorithmKind::{Aimd, Fixed, Gradient2, Vegas};
use stellane_autotune::sim::{self, ColdStart, Contender, Honest, Run, Scenario, Table};

fn main() -> io::Result<()> {
    let mut args = env::args().skip(1);
    let directory = args
        .next()
        .map_or_else(|| PathBuf::from("target/overload"), PathBuf::from);
    let mut number = |or: u64| args.next().and_then(|n| n.parse().ok()).unwrap_or(or);
    let (count, first) = (number(2), number(1));
    let seeds: Vec<u64> = (first..first + count).collect();
    fs::create_dir_all(&directory)?;

    let sections = [
        overloads(&seeds),
        matrix(&seeds),
        services(&seeds),
        cold_starts(&seeds),
        hostile(&seeds),
    ];
    let mut report = format!(
        "# Overload in the simulator\n\nMade by `cargo run --release -p stellane-examples --bin overload_simulator -- \
         target/overload {count} {first}`, which also draws goodput and limit over time. A change of an algorithm changes \
         this file: review it.\n\nThe worst cell of each table, of the default with the signal of its machine, seeds {first} to {}:\n",
        first + count - 1
    );
    for section in &sections {
        let _ = writeln!(report, "- {}: {}.", section.title, section.worst);
    }
    for section in &sections {
        let _ = writeln!(report, "\n## {}\n\n{}", section.title, section.text);
    }
    fs::write(directory.join("report.md"), &report)?;
    println!("{report}");

    let mut plots = String::from("# Goodput and limit over time\n");
    for scenario in sim::scenarios() {
        plot(&directory, &scenario, &contenders())?;
        let _ = writeln!(plots, "\n## {0}\n\n![{0}]({0}.svg)", scenario.name);
    }
    fs::write(directory.join("plots.md"), plots)
}

struct Section {
    title: &'static str,
    worst: String,
    text: String,
}

fn contenders() -> Vec<(String, Contender)> {
    let contenders = [
        ("default", Contender::Default),
        ("gradient2", Contender::Kind(Gradient2, 20)),
        ("vegas", Contender::Kind(Vegas, 20)),
        ("aimd", Contender::Kind(Aimd, 20)),
        ("fixed 24", Contender::Kind(Fixed, 24)),
        ("no limit", Contender::NoLimit),
    ];
    contenders.map(|(name, c)| (name.to_owned(), c)).into()
}

/// Without what the machine says of itself.
fn deaf(scenario: &Scenario) -> Scenario {
    Scenario {
        signal: false,
        ..scenario.clone()
    }
}

fn overloads(seeds: &[u64]) -> Section {
    let scenarios = sim::scenarios();
    let mut table = Table::build(&scenarios, &contenders(), seeds);
    let deaf: Vec<Scenario> = scenarios.iter().map(deaf).collect();
    let alone = [("no signal".to_owned(), Contender::Default)];
    table.insert(1, Table::build(&deaf, &alone, seeds));

    let rows = &table.rows;
    let worst = rows
        .iter()
        .min_by(|a, b| a.cells[0].worst.total_cmp(&b.cells[0].worst));
    let lowest = rows
        .iter()
        .min_by(|a, b| a.cells[0].median.total_cmp(&b.cells[0].median));
    let mut medians: Vec<f64> = rows.iter().map(|row| row.cells[0].median).collect();
    medians.sort_by(f64::total_cmp);
    let worst = worst.zip(lowest).map(|(worst, lowest)| {
        format!(
            "`{}` at {:.1} % of the best fixed limit in its worst interval; the lowest median is {:.1} % (`{}`), that of \
             all {:.1} %",
            worst.scenario,
            100.0 * worst.cells[0].worst,
            100.0 * lowest.cells[0].median,
            lowest.scenario,
            100.0 * medians[medians.len() / 2]
        )
    });
    Section {
        title: "Overloads",
        worst: worst.unwrap_or_default(),
        text: format!(
            "Each cell: the worst and the median goodput over all intervals and {} seeds, in per cent of \
             what the best fixed limit reaches in that interval, and the highest p99 of what was \
             admitted. `no signal` is the default that hears nothing of its machine.\n\n{table}\n{NOTES}",
            seeds.len()
        ),
    }
}

const NOTES: &str = "\
The service has 16 cores and loses 5 % per core's worth of excess concurrency; work is exponential with a mean
of 10 ms unless the scenario says otherwise, so its capacity is 1600 per second. An answer is good
within 100 ms (300 ms with pauses, 150 ms with the slow dependency, 300 ms over the links of 100 ms, 500 ms over the
one that jitters, 60 ms in the deadline storm, 1 s with few requests). The first 5 s after each step are not judged (1 s
for the spike, 3 s for the two storms): cold starts have a table of their own. `fixed 24` is close to the best fixed limit
of the healthy service: it shows what tuning by hand reaches until something changes.";

fn matrix(seeds: &[u64]) -> Section {
    let cells = Honest::matrix();
    let mut text = format!(
        "Requests that no service refuses that can do them all: {} cells of open load, closed loops, and closed loops that \
         think as long as they wait; latencies from 1 ms to 60 s; fixed, exponential, one in ten twenty times as long, and \
         half of them a fiftieth of the mean; 5 to 1000 in flight. What is refused, of how many, in how many cells, and the worst \
         of them.\n\n| | refused | cells | the worst cell |\n|---|---|---|---|\n",
        cells.len()
    );
    let mut first = None;
    for (name, contender, signal) in [
        ("default", Contender::Default, true),
        ("no signal", Contender::Default, false),
        ("gradient2", Contender::Kind(Gradient2, 20), false),
        ("vegas", Contender::Kind(Vegas, 20), false),
    ] {
        let (mut refused, mut asked, mut bad) = (0, 0, 0);
        let mut worst = (0.0, String::from("none"));
        for cell in &cells {
            let scenario = Scenario {
                signal,
                ..cell.scenario()
            };
            // The comparators refuse enough with one.
            let seeds = if contender.is_default() {
                seeds
            } else {
                &seeds[..1]
            };
            let runs = seeds
                .iter()
                .map(|seed| sim::run(&scenario, &contender, *seed));
            let (mut r, mut a) = (0, 0);
            for run in runs {
                (r, a) = (r + run.refused, a + run.arrived);
            }
            (refused, asked) = (refused + r, asked + a);
            bad += u32::from(r > 0);
            let part = 100.0 * r as f64 / a.max(1) as f64;
            if part > worst.0 {
                worst = (part, format!("{cell}: {part:.2} %"));
            }
        }
        let part = 100.0 * refused as f64 / asked as f64;
        let _ = writeln!(
            text,
            "| {name} | {part:.4} % of {:.1} million | {bad} | {} |",
            asked as f64 / 1e6,
            worst.1
        );
        first.get_or_insert(if refused == 0 {
            format!(
                "none of {:.1} million requests is refused",
                asked as f64 / 1e6
            )
        } else {
            worst.1
        });
    }
    Section {
        title: "Honest loads",
        worst: first.unwrap_or_default(),
        text,
    }
}

fn services(seeds: &[u64]) -> Section {
    let mut text = String::from(
        "What is not full either: slow handlers, a route that fails, and others beside 320 requests per second: streams, slow clients \
         in both directions, seats. What is refused of all who asked, over all seeds.\n\n\
         | | default | no signal |\n|---|---|---|\n",
    );
    let mut worst = (0, String::from("nobody is refused anything"));
    for scenario in sim::honest_services() {
        let _ = write!(text, "| {} |", scenario.name);
        for heard in [scenario.clone(), deaf(&scenario)] {
            let (mut refused, mut asked) = (0, 0);
            for seed in seeds {
                let run = sim::run(&heard, &Contender::Default, *seed);
                refused += run.refused + run.others.1;
                asked += run.arrived + run.others.0;
            }
            let _ = write!(text, " {refused} of {asked} |");
            if heard.signal && refused > worst.0 {
                worst = (refused, format!("{}: {refused} of {asked}", heard.name));
            }
        }
        text.push('\n');
    }
    Section {
        title: "Honest services",
        worst: worst.1,
        text,
    }
}

fn cold_starts(seeds: &[u64]) -> Section {
    let mut text = String::from(
        "Judged from the first millisecond: seconds until goodput is at 90 % of a fixed limit that is right, for good; the goodput that \
         is lost of the first five seconds (forty where a request takes 1 s), in seconds; the most in flight. The worst of all \
         seeds.\n\n| | default | no signal |\n|---|---|---|\n",
    );
    let mut worst = (0.0, String::new());
    for factor in [1.2, 2.0, 10.0] {
        for cold in ColdStart::services(factor) {
            let name = format!("{factor} x, {}", cold.scenario.name);
            let _ = write!(text, "| {name} |");
            for signal in [true, false] {
                let mut cold = cold.clone();
                cold.scenario.signal &= signal;
                let (mut recovery, mut lost, mut peak) = (0.0_f64, 0.0_f64, 0);
                for seed in seeds {
                    let right =
                        sim::run(&cold.scenario, &Contender::Kind(Fixed, cold.right), *seed);
                    let end = cold.scenario.duration;
                    let best = right.goodput(0.5 * end, end);
                    let run = sim::run(&cold.scenario, &Contender::Default, *seed);
                    recovery = recovery.max(cold.recovery(&run, best));
                    let first = 5.0 * cold.slowness;
                    lost = lost.max((1.0 - run.goodput(0.0, first) / best) * first);
                    peak = peak.max(run.peak);
                }
                let _ = write!(text, " {recovery:.1} s, {lost:.1} s, {peak} |");
                if signal && recovery > worst.0 {
                    worst = (recovery, format!("{name}: {recovery:.1} s"));
                }
            }
            text.push('\n');
        }
    }
    Section {
        title: "Cold starts",
        worst: worst.1.replace("inf s", "never within a minute"),
        text: text.replace("inf s", "never"),
    }
}

fn hostile(seeds: &[u64]) -> Section {
    let mut text = String::from(
        "Others beside a load: goodput of the load from 5 to 10 s, from 10 to 15, and from 20 to 40, in per cent of the load or of the 1580 per \
         second that can be done. The last bytes of the uploads come at 10 s, of all within one millisecond; until then their places \
         are lent. The worst of all seeds.\n\n| | default | no signal |\n|---|---|---|\n",
    );
    let mut worst = (f64::INFINITY, String::new());
    for scenario in sim::hostile() {
        let _ = write!(text, "| {} |", scenario.name);
        for heard in [scenario.clone(), deaf(&scenario)] {
            let most = (heard.load)(0.0).min(1580.0);
            let mut parts = [f64::INFINITY; 3];
            for seed in seeds {
                let run = sim::run(&heard, &Contender::Default, *seed);
                for (part, (from, to)) in
                    parts
                        .iter_mut()
                        .zip([(5.0, 10.0), (10.0, 15.0), (20.0, 40.0)])
                {
                    *part = part.min(100.0 * run.goodput(from, to) / most);
                }
            }
            let _ = write!(
                text,
                " {:.0} / {:.0} / {:.0} |",
                parts[0], parts[1], parts[2]
            );
            if heard.signal && parts[2] < worst.0 {
                worst = (
                    parts[2],
                    format!("{}: {:.0} % from 20 s on", heard.name, parts[2]),
                );
            }
        }
        text.push('\n');
    }
    Section {
        title: "Streams and returns",
        worst: worst.1,
        text,
    }
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
