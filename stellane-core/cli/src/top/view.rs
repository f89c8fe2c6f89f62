use std::collections::VecDeque;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Style, Stylize},
    text::{Line, Span},
    widgets::{Block, Paragraph, Sparkline},
};

use super::{history::History, snapshot::Snapshot};

/// Draws everything; too small a terminal shows less.
pub(super) fn draw(frame: &mut Frame<'_>, history: &History) {
    let now = &history.now;
    let sections = sections(now);
    // A number that is cut is a wrong number: where the boxes are too narrow for any, there are lines.
    let wide = frame.area().width >= BOXES;
    let lines = match wide {
        true => Vec::new(),
        false => lines(&sections, frame.area().width),
    };
    let (course, tables) = match wide {
        true => (7, 8),
        false => (5, u16::try_from(lines.len()).unwrap_or(u16::MAX)),
    };
    let warnings = warnings(now);
    let [head, warned, requests, latency, tables, lists] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(u16::try_from(warnings.len()).unwrap_or(u16::MAX)),
        Constraint::Length(course),
        Constraint::Length(course),
        Constraint::Length(tables),
        Constraint::Fill(1),
    ])
    .areas(frame.area());

    frame.render_widget(Paragraph::new(warnings), warned);
    frame.render_widget(title(history), head);
    let course = Course {
        points: &history.requests,
        color: Color::Cyan,
        numbers: requests_line(now),
    };
    course.draw(frame, requests, "requests");
    let course = Course {
        points: &history.p99,
        color: Color::Yellow,
        numbers: latency_line(now),
    };
    course.draw(frame, latency, "latency (p99)");

    if wide {
        let columns = Layout::horizontal([Constraint::Fill(1); 5]).split(tables);
        for (area, (name, rows)) in columns.iter().zip(sections) {
            let lines: Vec<Line<'_>> = rows
                .into_iter()
                .map(|(label, value)| {
                    Line::from(vec![format!("{label:<12}").dim(), Span::raw(value)])
                })
                .collect();
            frame.render_widget(
                Paragraph::new(lines).block(Block::bordered().title(name)),
                *area,
            );
        }
    } else {
        frame.render_widget(Paragraph::new(lines), tables);
    }
    // Where there is no room for all, what was slow or refused is what one looks for, then the routes.
    let (kept, routes, tuned) = (kept(now), routes(now), tuning(now));
    let room = lists.height / LIST;
    let has_kept = !kept.is_empty();
    let shown = [
        ("routes, busiest first", routes, room > u16::from(has_kept)),
        (
            "requests of the last ten minutes: slowest, then refused, failed, left",
            kept,
            true,
        ),
        (
            "tuning, latest first",
            tuned,
            room > 1 + u16::from(has_kept),
        ),
    ];
    let shown: Vec<_> = shown
        .into_iter()
        .filter(|(_, lines, is_room)| *is_room && !lines.is_empty())
        .collect();
    let areas = Layout::vertical(vec![Constraint::Fill(1); shown.len()]).split(lists);
    for ((name, lines, _), area) in shown.into_iter().zip(areas.iter()) {
        frame.render_widget(
            Paragraph::new(lines).block(Block::bordered().title(name)),
            *area,
        );
    }
}

/// A list needs so many lines.
const LIST: u16 = 5;

/// What somebody should know now.
fn warnings(now: &Snapshot) -> Vec<Line<'static>> {
    let texts = now
        .list("warnings")
        .iter()
        .filter_map(serde_json::Value::as_str);
    texts
        .map(|text| format!("! {text}").yellow().into())
        .collect()
}

/// The busiest routes: what they do now.
fn routes(now: &Snapshot) -> Vec<Line<'static>> {
    let mut routes: Vec<_> = now.list("routes").iter().collect();
    let rate =
        |route: &serde_json::Value| route["now"]["requests_per_second"].as_f64().unwrap_or(0.0);
    routes.sort_by(|a, b| rate(b).total_cmp(&rate(a)));
    let line = |route: &&serde_json::Value| {
        let of = |key: &str| route["now"][key].as_f64();
        // There is none of no requests, and what is in the lowest bucket of a route is not known better.
        let latency = |key: &str| match of(key).filter(|took| *took > 0.0) {
            took if took.is_some() && took <= of("latency_least") => {
                format!("<{}", seconds(of("latency_least")))
            }
            took => seconds(took),
        };
        let failed = of("failed_per_second").unwrap_or(0.0) / rate(route).max(f64::MIN_POSITIVE);
        Line::from(vec![
            format!("{:>8} /s ", count(of("requests_per_second"))).bold(),
            format!(
                "{:>5.1} % failed  p50 {:>9}  p99 {:>9}  ",
                failed * 100.0,
                latency("latency_p50"),
                latency("latency_p99")
            )
            .into(),
            route["route"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
                .into(),
        ])
    };
    routes.iter().take(50).map(line).collect()
}

fn title(history: &History) -> Line<'_> {
    let state = match (
        &history.gone,
        history
            .now
            .value("ready")
            .and_then(serde_json::Value::as_bool),
    ) {
        (Some(error), _) => error.clone().red(),
        (None, Some(false)) => "not ready".yellow(),
        (None, _) => "ready".green(),
    };
    let up = history
        .now
        .number("uptime")
        .map_or(String::new(), |seconds| {
            let up = std::time::Duration::from_secs(seconds as u64);
            format!(
                "  up {}",
                humantime_serde::re::humantime::format_duration(up)
            )
        });
    let about = |key: &str| {
        history
            .now
            .value("about")
            .and_then(|about| about[key].as_str())
    };
    let name = [about("name"), about("version")]
        .into_iter()
        .flatten()
        .map(|text| format!("{text} "));
    Line::from(vec![
        "stellane top ".bold(),
        name.collect::<String>().into(),
        history.address.as_str().into(),
        "  ".into(),
        state,
        up.into(),
        "  q ends".dim(),
    ])
}

/// A line of numbers above their course.
struct Course<'a> {
    points: &'a VecDeque<u64>,
    color: Color,
    numbers: Rows,
}

impl Course<'_> {
    fn draw(&self, frame: &mut Frame<'_>, area: Rect, name: &str) {
        let block = Block::bordered().title(name.to_owned());
        let inner = block.inner(area);
        frame.render_widget(block, area);
        let [line, chart] =
            Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(inner);
        frame.render_widget(numbers(&self.numbers, line.width), line);
        // The newest at the right edge.
        let shown = self.points.len().min(chart.width as usize);
        let mut points = vec![0; chart.width as usize - shown];
        points.extend(self.points.iter().skip(self.points.len() - shown));
        let sparkline = Sparkline::default()
            .data(points)
            .style(Style::new().fg(self.color));
        frame.render_widget(sparkline, chart);
    }
}

fn requests_line(now: &Snapshot) -> Rows {
    vec![
        ("/s", count(now.number("requests_per_second"))),
        ("in flight", count(now.number("requests_in_flight"))),
        ("total", count(now.number("requests_total"))),
        ("failed", count(now.number("requests_failed_total"))),
        ("cancelled", count(now.number("requests_cancelled_total"))),
    ]
}

fn latency_line(now: &Snapshot) -> Rows {
    let latency = |path: &str| seconds(now.number(path));
    vec![
        ("p50", latency("latency_p50")),
        ("p90", latency("latency_p90")),
        ("p99", latency("latency_p99")),
        ("p99.9", latency("latency_p999")),
        ("mean", latency("latency_avg")),
    ]
}

/// The first of them that fit, each whole.
fn numbers(pairs: &[(&'static str, String)], width: u16) -> Line<'static> {
    let mut left = usize::from(width);
    let mut spans = Vec::new();
    for (label, value) in pairs {
        let takes = Span::raw(value).width() + 1 + label.len();
        if takes > left {
            break;
        }
        left = left.saturating_sub(takes + 3);
        spans.extend([value.clone().bold(), " ".into(), label.dim(), "   ".into()]);
    }
    Line::from(spans)
}

/// From so many columns on five boxes side by side hold their numbers.
const BOXES: u16 = 115;

/// The boxes as lines, with as many of their numbers on each as fit whole.
fn lines(sections: &[(&'static str, Rows); 5], width: u16) -> Vec<Line<'static>> {
    const NAME: usize = 13;
    let width = usize::from(width);
    let indent = if width < 40 { 0 } else { NAME };
    let mut lines = Vec::new();
    for (name, rows) in sections {
        let mut line = vec![format!("{name:<NAME$}").bold()];
        let mut left = width.saturating_sub(NAME);
        for (label, value) in rows {
            let takes = Span::raw(value).width() + label.len() + 1;
            if takes > left {
                lines.push(Line::from(std::mem::take(&mut line)));
                line.push(" ".repeat(indent).into());
                left = width.saturating_sub(indent);
            }
            left = left.saturating_sub(takes + 2);
            let value = Span::raw(value.clone());
            line.extend([label.dim(), " ".into(), value, "  ".into()]);
        }
        lines.push(Line::from(line));
    }
    lines
}

type Rows = Vec<(&'static str, String)>;

fn sections(now: &Snapshot) -> [(&'static str, Rows); 5] {
    let n = |path: &str| count(now.number(path));
    let b = |path: &str| bytes(now.number(path));
    [
        (
            "connections",
            vec![
                ("active", n("connections_active")),
                ("idle", n("connections_idle")),
                ("parked", n("connections_parked")),
                ("upgraded", n("connections_upgraded")),
                ("per second", n("connections_per_second")),
                ("closed", count(now.sum("connections_closed_total"))),
            ],
        ),
        (
            "workers",
            vec![
                ("active", n("workers_active")),
                ("idle", n("workers_idle")),
                ("queue", n("queue_depth")),
                ("wait p99", seconds(now.number("queue_wait_p99"))),
                ("stolen", n("jobs_stolen_total")),
            ],
        ),
        (
            "machine",
            vec![
                (
                    "cpu",
                    now.number("cpu_usage")
                        .map_or("-".to_owned(), |n| format!("{:.0} %", n * 100.0)),
                ),
                (
                    "busy",
                    now.number("tokio_busy_ratio")
                        .map_or("-".to_owned(), |n| format!("{:.0} %", n * 100.0)),
                ),
                ("tasks", n("tokio_alive_tasks")),
                ("run queue", n("tokio_queue_depth")),
                ("threads", n("threads")),
                ("open files", n("open_fds")),
            ],
        ),
        (
            "memory",
            vec![
                ("rss", b("rss")),
                ("heap", b("heap_size")),
                ("pooled", b("pool_retained_bytes")),
                ("pool hits", n("pool_hits")),
                ("misses", n("pool_misses")),
                ("trims", n("memory_trims")),
            ],
        ),
        (
            "limits",
            vec![
                ("limit", n("limit")),
                ("running", n("limit_in_flight")),
                ("waiting", n("limit_waiting")),
                ("shed", count(now.sum("shed_total"))),
                ("tuned", count(now.sum("tuning_actions_total"))),
            ],
        ),
    ]
}

/// The requests that the service has kept, each with what took most of its time.
fn kept(now: &Snapshot) -> Vec<Line<'static>> {
    let line = |request: &serde_json::Value| {
        let text = |key: &str| request[key].as_str().unwrap_or_default().to_owned();
        let route = request["route"].as_str().unwrap_or("no route");
        Line::from(vec![
            format!("{:>9} ", seconds(request["duration"].as_f64())).bold(),
            format!("{} {} {route}  ", request["status"], text("method")).into(),
            text("why").dim(),
        ])
    };
    // The slowest come first, then each of the others.
    let slow = |request: &&serde_json::Value| request["kept_as"] == "slow";
    let all = || now.list("requests").iter();
    let slowest = all().filter(slow).take(6);
    let others = all().filter(|request| !slow(request)).take(12);
    slowest.chain(others).map(line).collect()
}

/// The tuner's actions, if the service tells them.
fn tuning(now: &Snapshot) -> Vec<Line<'static>> {
    let text = |action: &serde_json::Value, key: &str| match &action[key] {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    now.list("tuning.actions")
        .iter()
        .rev()
        .map(|action| {
            Line::from(vec![
                text(action, "parameter").bold(),
                format!(
                    " {} → {}  ",
                    whole(&action["old_value"]),
                    whole(&action["new_value"])
                )
                .into(),
                text(action, "reason").dim(),
            ])
        })
        .collect()
}

/// A value of a knob, without the `.0` of a float that is a whole number.
fn whole(value: &serde_json::Value) -> String {
    match value.as_f64() {
        Some(number) => number.to_string(),
        None => value.to_string(),
    }
}

fn count(number: Option<f64>) -> String {
    match number {
        None => "-".to_owned(),
        Some(n) if n >= 1e9 => format!("{:.2}G", n / 1e9),
        Some(n) if n >= 1e6 => format!("{:.2}M", n / 1e6),
        Some(n) if n >= 1e4 => format!("{:.1}k", n / 1e3),
        Some(n) => format!("{n:.0}"),
    }
}

fn bytes(number: Option<f64>) -> String {
    number.map_or("-".to_owned(), |n| {
        bytesize::ByteSize::b(n as u64).to_string()
    })
}

fn seconds(number: Option<f64>) -> String {
    number.map_or("-".to_owned(), |n| crate::bench::time(n * 1e9))
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};
    use serde_json::json;

    use super::*;

    fn screen(history: &History, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal.draw(|frame| draw(frame, history)).expect("draws");
        terminal.backend().to_string()
    }

    #[test]
    fn the_numbers_of_the_service_are_on_the_screen() {
        let mut history = History::from_now_on(
            "127.0.0.1:9090",
            Snapshot::new(json!({
                "uptime": 61.5, "requests_per_second": 12345.6, "requests_in_flight": 7, "latency_p99": 0.0021,
                "connections_parked": 1500, "rss": 52428800, "shed_total": { "limit": 3, "queue": 4 },
                "requests": [{ "kept_as": "slow", "duration": 0.312, "status": 200, "method": "GET", "route": "/orders/{id}",
                    "why": "87 % of the time it waited for db" }],
                "warnings": ["572.0 requests a second are refused; limit: limiting at 28"],
                "about": { "name": "orders", "version": "1.4.2" },
                "routes": [{ "route": "/idle", "now": null },
                    { "route": "/hello", "now": { "requests_per_second": 812.4, "failed_per_second": 81.2, "latency_p50": 0.0001, "latency_p99": 0.002, "latency_least": 0.0001 } }],
                "tuning": { "actions": [{ "parameter": "limit", "old_value": 20.0, "new_value": 24, "reason": "latency is flat" }] },
            })),
        );
        let shown = screen(&history, 120, 40);
        for part in [
            "up 1m 1s",
            "12.3k /s",
            "7 in flight",
            "2.10 ms p99",
            "1500",
            "50.0 MiB",
            "shed        7",
            "limit 20 → 24",
            "! 572.0 requests a second are refused",
            "stellane top orders 1.4.2 127.0.0.1:9090",
            "812 /s  10.0 % failed  p50 <100.0 µs  p99   2.00 ms  /hello",
            "312.00 ms 200 GET /orders/{id}  87 % of the time it waited for db",
        ] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
        history.push(Err("connection refused".to_owned()));
        assert!(screen(&history, 120, 32).contains("connection refused"));
    }

    /// No number is cut to another one, however few columns there are.
    #[test]
    fn every_number_is_whole_or_not_there_at_any_width() {
        let json = json!({
            "uptime": 61.5, "requests_per_second": 812.4, "requests_in_flight": 7, "requests_total": 1_203_114,
            "requests_failed_total": 9025, "requests_cancelled_total": 63,
            "latency_avg": 0.123_456, "latency_p50": 0.100_123, "latency_p90": 0.200_123,
            "latency_p99": 0.321_123, "latency_p999": 0.912_345,
            "connections_closed_total": { "idle": 163 }, "queue_wait_p99": 0.000_35, "rss": 22_649_241,
            "shed_total": { "limit": 11_500 }, "limit": 28, "limit_in_flight": 27, "limit_waiting": 72,
        });
        let history = History::from_now_on("127.0.0.1:9090", Snapshot::new(json));
        let shown = screen(&history, 80, 24);
        for part in [
            "shed 11.5k",
            "closed 163",
            "rss 21.6 MiB",
            "wait p99 350",
            "waiting 72",
            "ms p99.9",
        ] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
        for width in 24..150 {
            let shown = screen(&history, width, 60);
            for (label, value) in [("shed", "11.5k"), ("closed", "163"), ("rss", "21.6 MiB")] {
                let named = format!("{label} ");
                let mut found = shown.match_indices(&named);
                let whole = found.all(|(at, _)| {
                    let rest = shown[at + label.len()..].trim_start();
                    rest.starts_with(value)
                });
                assert!(
                    whole && shown.contains(value),
                    "{label} at {width}:\n{shown}"
                );
            }
        }
    }

    #[test]
    fn a_tiny_terminal_and_an_empty_snapshot_are_no_panic() {
        let history = History::from_now_on("a:1", Snapshot::default());
        for (width, height) in [(1, 1), (10, 3), (200, 60)] {
            let _ = screen(&history, width, height);
        }
    }
}
