//! The chart: CPU time for each request, and memory for each idle connection.

use std::fmt::{self, Write};

use super::Report;
use crate::workloads::{Figures, Section};

const WIDTH: f64 = 760.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 120.0;
const BAR: f64 = 16.0;
const STEP: f64 = 23.0;

/// One bar: a name, its parts from left to right, and what is written beside it.
struct Bar {
    name: String,
    parts: Vec<f64>,
    label: String,
}

struct Panel {
    title: String,
    bars: Vec<Bar>,
}

pub(super) fn draw(report: &Report) -> Result<String, fmt::Error> {
    let panels: Vec<Panel> = report.sections.iter().filter_map(panel).collect();
    let height = |panel: &Panel| 44.0 + STEP * panel.bars.len() as f64;
    let total: f64 = panels.iter().map(height).sum::<f64>() + 30.0;
    let mut out = String::new();
    writeln!(
        out,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" width="{WIDTH}" height="{total}" font-family="system-ui, sans-serif" font-size="13">
<style>
  text {{ fill: #24292f }} .soft {{ fill: #6e7781 }} .page {{ fill: #ffffff }}
  .a {{ fill: #8c959f }} .b {{ fill: #d0d7de }} .ours .a {{ fill: #0969da }} .ours .b {{ fill: #9ec5f5 }}
  @media (prefers-color-scheme: dark) {{
    text {{ fill: #e6edf3 }} .soft {{ fill: #9198a1 }} .page {{ fill: #0d1117 }}
    .a {{ fill: #8b949e }} .b {{ fill: #484f58 }} .ours .a {{ fill: #4493f8 }} .ours .b {{ fill: #1f4f8f }}
  }}
</style>
<rect class="page" width="{WIDTH}" height="{total}"/>"##
    )?;
    let mut y = 8.0;
    for panel in &panels {
        writeln!(
            out,
            r#"<text x="12" y="{}" font-weight="600">{}</text>"#,
            y + 18.0,
            escape(&panel.title)
        )?;
        let longest = panel.bars.iter().map(|bar| bar.parts.iter().sum::<f64>());
        let scale = (WIDTH - LEFT - RIGHT) / longest.fold(f64::MIN_POSITIVE, f64::max);
        let mut top = y + 30.0;
        for bar in &panel.bars {
            draw_bar(&mut out, bar, top, scale)?;
            top += STEP;
        }
        y += height(panel);
    }
    writeln!(
        out,
        r#"<text class="soft" x="12" y="{}">{}, {}, {} worker thread(s) each; shorter is better</text>"#,
        total - 10.0,
        escape(&report.machine.date),
        escape(&report.machine.cpu),
        report.workers
    )?;
    out.push_str("</svg>\n");
    Ok(out)
}

fn draw_bar(out: &mut String, bar: &Bar, top: f64, scale: f64) -> fmt::Result {
    let ours = if bar.name.starts_with("stellane") {
        "ours"
    } else {
        ""
    };
    let middle = top + BAR / 2.0 + 4.5;
    writeln!(
        out,
        r#"<g class="{ours}"><text x="{}" y="{middle:.1}" text-anchor="end">{}</text>"#,
        LEFT - 8.0,
        escape(&bar.name)
    )?;
    let mut x = LEFT;
    for (part, class) in bar.parts.iter().zip(["a", "b"]) {
        let width = part * scale;
        writeln!(
            out,
            r#"<rect class="{class}" x="{x:.1}" y="{top:.1}" width="{width:.1}" height="{BAR}"/>"#
        )?;
        x += width;
    }
    writeln!(
        out,
        r#"<text class="soft" x="{:.1}" y="{middle:.1}">{}</text></g>"#,
        x + 6.0,
        escape(&bar.label)
    )
}

fn panel(section: &Section) -> Option<Panel> {
    let (what, mut bars) = match &section.figures {
        Figures::Rates(rows) => {
            let bars = rows.iter().filter_map(|row| {
                let (user, kernel) = (row.median(|t| t.user)?, row.median(|t| t.kernel)?);
                Some(Bar {
                    name: row.peer.clone(),
                    parts: vec![user, kernel],
                    label: format!("{user:.2} + {kernel:.2}"),
                })
            });
            (
                "server CPU µs for each request, user + kernel",
                bars.collect::<Vec<_>>(),
            )
        }
        Figures::Idle(rows) => {
            let bars = rows.iter().filter(|row| row.error.is_none()).map(|row| {
                let kilobytes = (row.resident / 1024.0).max(0.0);
                Bar {
                    name: row.peer.clone(),
                    parts: vec![kilobytes],
                    label: format!("{kilobytes:.2}"),
                }
            });
            ("KB for each connection", bars.collect())
        }
        _ => return None,
    };
    let sum = |bar: &Bar| bar.parts.iter().sum::<f64>();
    bars.sort_by(|a, b| sum(a).total_cmp(&sum(b)));
    (!bars.is_empty()).then(|| Panel {
        title: format!("{}: {what}", section.title),
        bars,
    })
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
