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
    let [head, requests, latency, tables, actions] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(9),
        Constraint::Fill(1),
    ])
    .areas(frame.area());
    let now = &history.now;

    frame.render_widget(title(history), head);
    let course = Course {
        points: &history.requests,
        color: Color::Cyan,
    };
    course.draw(frame, requests, "requests", requests_line(now));
    let course = Course {
        points: &history.p99,
        color: Color::Yellow,
    };
    course.draw(frame, latency, "latency (p99)", latency_line(now));

    let columns = Layout::horizontal([Constraint::Fill(1); 5]).split(tables);
    for (area, (name, rows)) in columns.iter().zip(sections(now)) {
        let lines: Vec<Line<'_>> = rows
            .into_iter()
            .map(|(label, value)| Line::from(vec![format!("{label:<12}").dim(), Span::raw(value)]))
            .collect();
        frame.render_widget(
            Paragraph::new(lines).block(Block::bordered().title(name)),
            *area,
        );
    }
    let block = Block::bordered().title("tuning, latest first");
    frame.render_widget(Paragraph::new(tuning(now)).block(block), actions);
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
    Line::from(vec![
        "stellane top ".bold(),
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
}

impl Course<'_> {
    fn draw(&self, frame: &mut Frame<'_>, area: Rect, name: &str, numbers: Line<'_>) {
        let block = Block::bordered().title(name.to_owned());
        let inner = block.inner(area);
        frame.render_widget(block, area);
        let [line, chart] =
            Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(inner);
        frame.render_widget(numbers, line);
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

fn requests_line(now: &Snapshot) -> Line<'static> {
    numbers([
        ("/s", count(now.number("requests_per_second"))),
        ("in flight", count(now.number("requests_in_flight"))),
        ("total", count(now.number("requests_total"))),
        ("failed", count(now.number("requests_failed_total"))),
        ("cancelled", count(now.number("requests_cancelled_total"))),
    ])
}

fn latency_line(now: &Snapshot) -> Line<'static> {
    let latency = |path: &str| seconds(now.number(path));
    numbers([
        ("mean", latency("latency_avg")),
        ("p50", latency("latency_p50")),
        ("p90", latency("latency_p90")),
        ("p99", latency("latency_p99")),
        ("p99.9", latency("latency_p999")),
    ])
}

fn numbers(pairs: [(&'static str, String); 5]) -> Line<'static> {
    let spans = pairs
        .into_iter()
        .flat_map(|(label, value)| [value.bold(), " ".into(), label.dim(), "   ".into()]);
    Line::from(spans.collect::<Vec<_>>())
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
                ("in flight", n("requests_in_flight")),
                ("shed", count(now.sum("shed_total"))),
                ("tuned", count(now.sum("tuning_actions_total"))),
                ("interned", n("interner_entries")),
            ],
        ),
    ]
}

/// The tuner's actions, if the service tells them.
fn tuning(now: &Snapshot) -> Vec<Line<'static>> {
    let text = |action: &serde_json::Value, key: &str| match &action[key] {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    let actions = now
        .value("tuning.actions")
        .and_then(serde_json::Value::as_array);
    actions
        .into_iter()
        .flatten()
        .rev()
        .map(|action| {
            Line::from(vec![
                text(action, "parameter").bold(),
                format!(
                    " {} -> {}  ",
                    text(action, "old_value"),
                    text(action, "new_value")
                )
                .into(),
                text(action, "reason").dim(),
            ])
        })
        .collect()
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
        let mut history = History::new(
            "127.0.0.1:9090",
            Snapshot::new(json!({
                "uptime": 61.5, "requests_per_second": 12345.6, "requests_in_flight": 7, "latency_p99": 0.0021,
                "connections_parked": 1500, "rss": 52428800, "shed_total": { "limit": 3, "queue": 4 },
                "tuning": { "actions": [{ "parameter": "limit", "old_value": 20, "new_value": 24, "reason": "latency is flat" }] },
            })),
        );
        let shown = screen(&history, 120, 32);
        for part in [
            "up 1m 1s",
            "12.3k /s",
            "7 in flight",
            "2.10 ms p99",
            "1500",
            "50.0 MiB",
            "shed        7",
            "limit 20 -> 24",
        ] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
        history.push(Err("connection refused".to_owned()));
        assert!(screen(&history, 120, 32).contains("connection refused"));
    }

    #[test]
    fn a_tiny_terminal_and_an_empty_snapshot_are_no_panic() {
        let history = History::new("a:1", Snapshot::default());
        for (width, height) in [(1, 1), (10, 3), (200, 60)] {
            let _ = screen(&history, width, height);
        }
    }
}
