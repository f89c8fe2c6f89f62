//! Each workload in small: it runs, every answer is right, and the report has a row for each server.
//!
//! `cargo test --manifest-path examples/compare/Cargo.toml`

use std::{fs, process::Command};

use serde_json::Value;

const HTTP1: &[&str] = &[
    "stellane-preset",
    "stellane-axum",
    "stellane-manager",
    "hyper",
    "axum",
    "xitca-web",
];
const AROUND_AXUM: &[&str] = &["stellane-preset", "stellane-axum", "axum"];
const HTTP2: &[&str] = &[
    "stellane-preset",
    "stellane-axum",
    "stellane-manager",
    "axum",
];
const GRPC: &[&str] = &["stellane-tonic", "tonic"];

/// What a workload showed of servers, with one short turn of each.
fn rows(workload: &str, peers: &[&str]) -> Vec<Value> {
    let folder = std::env::temp_dir().join(format!("compare-{workload}-{}", std::process::id()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_stellane-compare"));
    command.args([
        "--only",
        workload,
        "--rounds",
        "1",
        "--seconds",
        "0.02",
        "--idle",
        "64",
    ]);
    if !peers.is_empty() {
        command.args(["--peers", &peers.join(",")]);
    }
    let output = command.arg("--out").arg(&folder).output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{workload}: {said}");
    let report = fs::read_to_string(folder.join("report.json")).expect("written");
    let text = fs::read_to_string(folder.join("report.md")).expect("written");
    let table = fs::read_to_string(folder.join("table.md")).expect("written");
    fs::remove_dir_all(folder).expect("removes");
    let mut report: Value = serde_json::from_str(&report).expect("JSON");
    let title = report["sections"][0]["title"].to_string();
    let figures = report["sections"][0]["figures"]
        .as_object_mut()
        .expect("figures");
    let (kind, figures) = figures.iter_mut().next().expect("of one kind");
    let beside_theirs = format!("| {} | ", title.trim_matches('"'));
    assert_eq!(
        table.contains(&beside_theirs),
        kind == "rates",
        "{workload}: {table}"
    );
    let rows: Vec<Value> = figures
        .as_array()
        .cloned()
        .unwrap_or_else(|| panic!("{figures}"));
    for row in &rows {
        let name = row["peer"]
            .as_str()
            .or(row["name"].as_str())
            .expect("a name");
        assert!(text.contains(&format!("| {name} |")), "{workload}: {text}");
    }
    rows
}

fn rates(workload: &str, peers: &[&str]) {
    let rows = rows(workload, peers);
    let names: Vec<_> = rows
        .iter()
        .map(|row| row["peer"].as_str().expect("a name"))
        .collect();
    assert_eq!(names, peers, "{workload}");
    for row in rows {
        assert_eq!(row["error"], Value::Null, "{workload}: {row}");
        let turn = &row["turns"][0];
        assert!(
            turn["good"].as_u64().is_some_and(|good| good > 0),
            "{workload}: {row}"
        );
        assert_eq!(turn["failures"], serde_json::json!({}), "{workload}: {row}");
        assert!(turn["user"].as_f64().is_some(), "{workload}: {row}");
    }
}

/// One after the other, as all use the same cores and the same certificate.
#[test]
fn every_workload_runs_and_every_answer_is_right() {
    for workload in ["hello", "reconnect", "one-each", "headers", "pipelining"] {
        rates(workload, HTTP1);
    }
    for workload in ["http2-hello", "http2-single", "http2-json"] {
        rates(workload, HTTP2);
    }
    for workload in ["grpc-unary", "grpc-deadline", "grpc-stream"] {
        rates(workload, GRPC);
    }
    for workload in [
        "json",
        "upload",
        "tls-hello",
        "tls-http2",
        "tls-handshakes",
        "logged",
        "mixed",
    ] {
        rates(workload, AROUND_AXUM);
    }
    for (workload, peers) in [
        ("idle", HTTP1),
        ("idle-http2", HTTP2),
        ("idle-tls", AROUND_AXUM),
        ("idle-tls-http2", AROUND_AXUM),
    ] {
        let rows = rows(workload, peers);
        assert_eq!(rows.len(), peers.len(), "{workload}");
        for row in rows {
            assert_eq!(row["error"], Value::Null, "{workload}: {row}");
            assert_eq!(row["failures"], 0, "{workload}: {row}");
        }
    }
    for row in rows("components", &[]) {
        for figure in ["one", "two", "efficiency"] {
            let median = row[figure]["median"].as_f64();
            assert!(median.is_some_and(|median| median > 0.0), "{row}");
        }
    }
    for row in rows("allocations", AROUND_AXUM) {
        assert!(row["hello"].as_f64().is_some(), "{row}");
    }
}
