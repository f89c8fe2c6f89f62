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

#[test]
fn once_prints_every_value_for_scripts() {
    let address =
        admin("HTTP/1.1 200 OK\r\n\r\n{\"requests_total\":7,\"shed_total\":{\"limit\":2}}");
    let (status, said, _) = top(&["--once", &address.to_string()]);
    assert_eq!(
        (status, said.as_str()),
        (
            Some(0),
            "ready: false\nrequests_total: 7\nshed_total.limit: 2\n"
        )
    );
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
    assert!(said.contains("not a terminal: use --once"), "{said}");
}
