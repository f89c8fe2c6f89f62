//! Whether a second run says the same as the first.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{
    BoxError,
    measure::{Row, Spread, Turn, ratio},
};

/// What is compared, by its name.
type Measure = (&'static str, fn(&Turn) -> f64);

/// Compares every ratio of two runs: they agree where the spreads meet. An error names those that do not.
pub(crate) fn agree(first: &Path, second: &Path) -> Result<(), BoxError> {
    let [first, second] = [ratios(first)?, ratios(second)?];
    let mut apart = Vec::new();
    let mut compared = 0;
    for (what, a) in &first {
        let Some((_, b)) = second.iter().find(|(other, _)| other == what) else {
            continue;
        };
        compared += 1;
        if a.greatest < b.least || b.greatest < a.least {
            apart.push(format!(
                "{what}: {:.2} [{:.2}–{:.2}] and {:.2} [{:.2}–{:.2}]",
                a.median, a.least, a.greatest, b.median, b.least, b.greatest
            ));
        }
    }
    println!("{} of {compared} ratios agree", compared - apart.len());
    if apart.is_empty() {
        return Ok(());
    }
    Err(format!("these do not:\n{}", apart.join("\n")).into())
}

/// The ratios of a run by what they are of.
fn ratios(folder: &Path) -> Result<Vec<(String, Spread)>, BoxError> {
    let report: Value = serde_json::from_slice(&fs::read(folder.join("report.json"))?)?;
    let mut all = Vec::new();
    for section in report["sections"].as_array().into_iter().flatten() {
        let name = section["name"].as_str().unwrap_or_default();
        let figures = &section["figures"];
        if !figures["rates"].is_null() {
            add(name, &figures["rates"], &mut all)?;
        }
        for level in figures["levels"].as_array().into_iter().flatten() {
            let name = format!("{name}, {}", level["level"].as_str().unwrap_or_default());
            add(&name, &level["rows"], &mut all)?;
        }
    }
    Ok(all)
}

fn add(name: &str, rows: &Value, all: &mut Vec<(String, Spread)>) -> Result<(), BoxError> {
    let rows: Vec<Row> = serde_json::from_value(rows.clone())?;
    let measures: [Measure; 2] = [
        ("requests/s", |turn| turn.per_second),
        ("CPU", |turn| turn.user + turn.kernel),
    ];
    for row in &rows {
        for (what, value) in measures {
            if let Some(spread) = ratio(&rows, row, value) {
                all.push((format!("{name}, {}, {what}", row.peer), spread));
            }
        }
    }
    Ok(())
}
