//! `stellane top` against an admin service that answers, one that does not, and one that is not there.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    process::{Command, Output},
    thread,
};

fn admin(response: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 1024];
            let read = stream.read(&mut request).expect("reads");
            let answer = match &request[..read] {
                head if head.starts_with(b"GET /runtime.json HTTP/1.0\r\n") => response,
                head if head.starts_with(b"GET /paths ") => {
                    "HTTP/1.1 200 OK\r\n\r\n[\"/\",\"/events\",\"/metrics\",\"/config\"]"
                }
                head if head.starts_with(b"GET /metrics ") => "HTTP/1.1 200 OK\r\n\r\nup 1\n",
                head if head.starts_with(b"GET /readyz ") => "HTTP/1.1 503 Draining\r\n\r\n",
                _ => "HTTP/1.1 404 Not Found\r\n\r\n",
            };
            stream.write_all(answer.as_bytes()).expect("writes");
        }
    });
    address
}

fn top(arguments: &[&str]) -> (Option<i32>, String, String) {
    let command = Command::new(env!("CARGO_BIN_EXE_stellane"))
        .arg("top")
        .args(arguments)
        .output();
    let Output {
        status,
        stdout,
        stderr,
    } = command.expect("runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

const SAYS: &str = "HTTP/1.1 200 OK\r\n\r\n{\"requests_total\":7,\"shed_total\":{\"limit\":2},\"warnings\":[\"open files: 1000 of 1024\"]}";

#[test]
fn json_is_for_scripts_and_once_is_the_screen() {
    let address = admin(SAYS).to_string();
    let (status, said, _) = top(&["--json", &address]);
    let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(
        (status, &said["requests_total"], &said["ready"]),
        (Some(0), &7.into(), &false.into())
    );
    let (status, said, _) = top(&["--once", &address]);
    assert_eq!(status, Some(0));
    for part in [
        "not ready",
        "7 total",
        "! open files: 1000 of 1024",
        "shed        2",
    ] {
        assert!(said.contains(part), "{part} in\n{said}");
    }
}

#[test]
fn without_an_address_the_one_of_the_configuration_is_asked() {
    let port = admin(SAYS).port();
    let command = Command::new(env!("CARGO_BIN_EXE_stellane"))
        .args(["top", "--json"])
        .env("STELLANE__SERVER__ADMIN_ADDRESS", format!("0.0.0.0:{port}"))
        .output();
    assert_eq!(command.expect("runs").status.code(), Some(0));
}

#[test]
fn a_report_has_every_page_in_one_file() {
    let file = std::env::temp_dir().join(format!("stellane-report-{}.json", std::process::id()));
    let address = admin(SAYS).to_string();
    let command = Command::new(env!("CARGO_BIN_EXE_stellane"))
        .args(["report", &address, "-o"])
        .arg(&file)
        .output()
        .expect("runs");
    assert_eq!(command.status.code(), Some(0));
    let report = std::fs::read_to_string(&file).expect("written");
    std::fs::remove_file(&file).expect("there");
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(report["pages"]["/runtime.json"]["requests_total"], 7);
    // What is no JSON is there as text, and what is not there is left out.
    assert_eq!(report["pages"]["/metrics"], "up 1\n");
    assert!(report["pages"]["/config"].is_null());
}

#[test]
fn what_is_wrong_is_one_clear_error() {
    let nobody = TcpListener::bind("127.0.0.1:0")
        .expect("binds")
        .local_addr()
        .expect("bound");
    let not_found = admin("HTTP/1.1 404 Not Found\r\n\r\n");
    let page = admin("HTTP/1.1 200 OK\r\n\r\n<html>");
    let noise = admin("220 mail.example ESMTP\r\n");
    for (address, status, message) in [
        ("nowhere".to_owned(), 2, "expected HOST:PORT"),
        (nobody.to_string(), 1, "is the service running"),
        (
            not_found.to_string(),
            1,
            "status 404; is this the admin address",
        ),
        (page.to_string(), 1, "not JSON"),
        (noise.to_string(), 1, "not an HTTP response"),
    ] {
        let (code, _, said) = top(&["--once", &address]);
        assert_eq!(code, Some(status), "{said}");
        assert!(
            said.contains(message) && said.lines().count() == 1,
            "{said}"
        );
    }
    let address = admin("HTTP/1.1 200 OK\r\n\r\n{}").to_string();
    let (code, _, said) = top(&[&address]);
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("not a terminal: use --once or --json"),
        "{said}"
    );
}
