//! The live page of the main job in a real browser: `cargo test -p stellane-examples --test live_page -- --ignored`.
//!
//! Needs `node` and `chromium` (or what `CHROMIUM` names). `STELLANE_SCREENSHOTS=DIR` keeps the pictures.

use std::{
    env,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn look(name: &str, seconds: &str, with_load: bool) {
    let mut server = Command::new(env!("CARGO_BIN_EXE_full_stack"))
        .env("STELLANE__SERVER__ADDRESS", "127.0.0.1:0")
        .env("STELLANE__SERVER__ADMIN_ADDRESS", "127.0.0.1:0")
        .env("STELLANE_LOG_LEVEL", "off")
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let stdout = BufReader::new(server.stdout.take().expect("piped"));
    let (pid, _server) = (server.id().to_string(), Server(server));
    let mut lines = stdout.lines().map(|line| line.expect("readable"));
    let mut url_of = |what: &str| {
        let line = lines
            .find(|line| line.starts_with(what))
            .expect("it says where it is");
        let (_, rest) = line.split_once("http://").expect("a URL");
        let host = rest.split(['/', ' ']).next().expect("a host");
        format!("http://{host}")
    };
    let (service, admin) = (url_of("service"), url_of("admin") + "/");
    let pictures = env::var_os("STELLANE_SCREENSHOTS").map_or_else(env::temp_dir, PathBuf::from);
    let pictures = pictures.join(name).display().to_string();
    let mut node = Command::new("node");
    node.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/live_page.mjs"))
        .args([&admin, &pictures, seconds]);
    if with_load {
        node.args([&service, &pid]);
    }
    let output = node.output().expect("node is there");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[test]
#[ignore = "needs chromium and node"]
fn the_page_shows_the_numbers_of_runtime_json_under_load_without_console_errors() {
    look("live-page", "20", true);
}

#[test]
#[ignore = "needs chromium and node"]
fn the_page_reads_well_without_traffic() {
    look("quiet-page", "3", false);
}
