//! The live page in a real browser, under load: run with `cargo test -p stellane-metrics --test page -- --ignored`.
//!
//! Needs `node` and `chromium` (Debian's packages). `STELLANE_SCREENSHOTS=DIR` keeps the pictures.

#![cfg(all(feature = "admin", feature = "prometheus"))]

use std::{
    env,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

struct Server(Child, String);

impl Server {
    fn start(args: &[&str]) -> Self {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let build = ["build", "-p", "stellane-metrics", "--example", "live_page"];
        assert!(Command::new(cargo).args(build).status().unwrap().success());
        let tests = env::current_exe().unwrap();
        let example = tests
            .parent()
            .and_then(Path::parent)
            .unwrap()
            .join("examples/live_page");
        let mut child = Command::new(example)
            .args(args)
            .env("PORT", "0")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut address)
            .unwrap();
        Self(child, address.trim().to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn look(name: &str, server: &[&str], seconds: &str) {
    let server = Server::start(server);
    let pictures = env::var_os("STELLANE_SCREENSHOTS").map_or_else(env::temp_dir, PathBuf::from);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page.mjs");
    let output = Command::new("node")
        .arg(script)
        .args([&server.1, pictures.join(name).to_str().unwrap(), seconds])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
#[ignore = "needs chromium and node"]
fn the_page_shows_the_numbers_of_runtime_json_under_load_without_console_errors() {
    look("live-page", &[], "20");
}

#[test]
#[ignore = "needs chromium and node"]
fn the_page_reads_well_without_traffic() {
    look("quiet-page", &["quiet"], "3");
}
