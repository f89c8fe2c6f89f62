//! The latency distribution as a picture.

use std::fmt::Write;

use hdrhistogram::Histogram;

use super::report::{PERCENTILES, Report, name, time};

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 50.0;

/// Percentiles to the right, each nine as wide as the one before; latency upwards, logarithmic.
pub(super) fn latency(report: &Report, latency: &Histogram<u64>) -> String {
    let low = (latency.min().max(1_000) as f64).log10().floor();
    let high = (latency.max().max(10_000) as f64)
        .log10()
        .ceil()
        .max(low + 1.0);
    // As many nines as there are samples to fill them.
    let nines = (latency.len().max(10) as f64).log10().clamp(2.0, 6.0);
    let x = |quantile: f64| {
        let nine = if quantile >= 1.0 {
            nines
        } else {
            -(1.0 - quantile).log10()
        };
        LEFT + (nine / nines).min(1.0) * (WIDTH - LEFT - RIGHT)
    };
    let y = |nanos: f64| {
        let height = HEIGHT - TOP - BOTTOM;
        HEIGHT - BOTTOM - (nanos.max(1.0).log10() - low) / (high - low) * height
    };

    let text = |x: f64, y: f64, anchor: &str, text: &str| {
        format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>\n",
            escape(text)
        )
    };
    let mut body = text(LEFT, 24.0, "start", &report.title);
    for decade in low as i32..=high as i32 {
        let nanos = 10f64.powi(decade);
        let at = y(nanos);
        body += &text(LEFT - 8.0, at + 4.0, "end", &time(nanos));
        let _ = writeln!(
            body,
            "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{:.1}\"/>",
            WIDTH - RIGHT
        );
    }
    for percentile in PERCENTILES {
        let at = x(percentile / 100.0);
        if percentile < 100.0 && at >= WIDTH - RIGHT - 30.0 {
            continue;
        }
        body += &text(at, HEIGHT - BOTTOM + 20.0, "middle", &name(percentile));
        let _ = writeln!(
            body,
            "<path class=\"grid\" d=\"M{at:.1} {TOP}V{:.1}\"/>",
            HEIGHT - BOTTOM
        );
    }
    let mut line = String::new();
    for value in latency.iter_quantiles(20) {
        let quantile = value.quantile_iterated_to().min(1.0);
        let nanos = value
            .value_iterated_to()
            .min(latency.max())
            .max(latency.min()) as f64;
        let _ = write!(
            line,
            "{}{:.1} {:.1}",
            if line.is_empty() { "M" } else { "L" },
            x(quantile),
            y(nanos)
        );
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<style>.grid{{stroke:#ddd;fill:none}}.line{{stroke:#06c;stroke-width:2;fill:none}}\
         </style>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{body}<path class=\"line\" \
         d=\"{line}\"/>\n</svg>\n"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
