//! The main job, started as a user would, over real sockets.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// A started main job; killed when dropped.
struct Server {
    child: Child,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Server {
    fn start(env: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_full_stack"))
            .env("STELLANE__SERVER__ADDRESS", "127.0.0.1:0")
            .env("STELLANE__SERVER__ADMIN_ADDRESS", "127.0.0.1:0")
            .env("STELLANE_LOG_LEVEL", "off")
            .envs(env.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut find = |prefix: &str| -> SocketAddr {
            let line = lines
                .by_ref()
                .map(|line| line.expect("readable"))
                .find(|line| line.contains(prefix))
                .expect("the tour names its addresses");
            let (_, rest) = line.split_once("http://").expect("a URL");
            rest.split('/')
                .next()
                .expect("a host")
                .trim()
                .parse()
                .expect("an address")
        };
        let address = find("service");
        let admin = find("admin");
        Self {
            child,
            address,
            admin,
        }
    }

    fn get(&self, path: &str) -> (u16, String) {
        request(
            self.address,
            &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
        )
    }

    fn admin(&self, path: &str) -> (u16, String) {
        request(
            self.admin,
            &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"),
        )
    }

    /// Waits until an admin page says `text`: what it shows is a quarter of a second old.
    fn eventually(&self, page: &str, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let (_, shown) = self.admin(page);
            if shown.contains(text) {
                return;
            }
            assert!(Instant::now() < deadline, "no {text} in {shown}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn terminate(&self) {
        let killed = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        assert!(killed.expect("kill runs").success());
    }

    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(40);
        loop {
            if let Some(status) = self.child.try_wait().expect("waits") {
                return status;
            }
            assert!(Instant::now() < deadline, "did not end");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

/// One exchange on a connection of its own: the status, and all that follows the head.
fn request(address: SocketAddr, text: &str) -> (u16, String) {
    let mut stream = connect(address).expect("connects");
    stream.write_all(text.as_bytes()).expect("writes");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("reads");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .expect("a status");
    (status, body.to_owned())
}

/// Reads one response with a `content-length`: whether the server will close after it.
fn read_response(reader: &mut BufReader<TcpStream>) -> std::io::Result<bool> {
    let mut length = 0;
    let mut close = false;
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let lower = line.trim_end().to_ascii_lowercase();
        if lower.is_empty() {
            break;
        }
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        close |= lower == "connection: close";
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(close)
}

#[test]
fn every_route_answers() {
    let server = Server::start(&[]);
    assert_eq!(server.get("/hello"), (200, "Hello, world!".to_owned()));
    assert_eq!(
        server.get("/hello/Ada"),
        (200, r#"{"hello":"Ada"}"#.to_owned())
    );
    assert_eq!(
        server.get("/primes/1000").1,
        r#"{"below":1000,"primes":168}"#
    );
    let (status, user) = server.get("/users/7");
    assert_eq!(
        (status, user.contains("\"name\":\"user 7\"")),
        (200, true),
        "{user}"
    );
    assert_eq!(server.get("/users/99999999").0, 404);
    assert_eq!(server.get("/users/seven").0, 400);
    assert_eq!(server.get("/nowhere").0, 404);

    let upload = "POST /upload HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n\
                  5\r\nhello\r\n3\r\nyou\r\n0\r\n\r\n";
    assert_eq!(
        request(server.address, upload),
        (200, r#"{"received_bytes":8}"#.to_owned())
    );
}

#[test]
fn events_stream_until_the_client_leaves() {
    let server = Server::start(&[]);
    let mut stream = connect(server.address).expect("connects");
    stream
        .write_all(b"GET /events HTTP/1.1\r\nhost: x\r\n\r\n")
        .expect("writes");
    let events = BufReader::new(stream).lines().map_while(Result::ok);
    assert_eq!(
        events
            .filter(|line| line.starts_with("data:"))
            .take(3)
            .count(),
        3
    );
}

#[test]
fn the_admin_address_shows_metrics_and_probes() {
    let server = Server::start(&[]);
    assert_eq!(server.get("/hello").0, 200);
    assert_eq!(server.admin("/healthz").0, 200);
    assert_eq!(server.admin("/readyz").0, 200);
    let (status, metrics) = server.admin("/metrics");
    assert_eq!(status, 200);
    let hello = metrics.lines().find(|l| {
        l.starts_with("http_server_request_duration_seconds_count") && l.contains("/hello")
    });
    assert!(hello.is_some_and(|line| line.ends_with(" 1")), "{metrics}");
}

#[test]
fn a_body_over_the_limit_is_413() {
    let server = Server::start(&[("STELLANE__SERVER__MAX_BODY_BYTES", "10")]);
    let head = "POST /upload HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
    let announced = format!("{head}content-length: 11\r\n\r\nhello world");
    assert_eq!(request(server.address, &announced).0, 413);
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n");
    assert_eq!(request(server.address, &chunked).0, 413);
    let fits = format!("{head}content-length: 10\r\n\r\nhello worl");
    assert_eq!(request(server.address, &fits).0, 200);
}

#[test]
fn a_panic_costs_its_own_request_only() {
    let server = Server::start(&[]);
    let mut stream = connect(server.address).expect("connects");
    stream
        .write_all(b"GET /panic HTTP/1.1\r\nhost: x\r\n\r\n")
        .expect("writes");
    let mut reader = BufReader::new(stream.try_clone().expect("clones"));
    let mut status = String::new();
    reader.read_line(&mut status).expect("reads");
    assert_eq!(status, "HTTP/1.1 500 Internal Server Error\r\n");
    assert!(
        !read_response(&mut reader).expect("the rest"),
        "the connection lives on"
    );
    stream
        .write_all(b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n")
        .expect("writes");
    read_response(&mut reader).expect("the same connection answers");
    server.eventually("/metrics", "\nstellane_handler_panics_total 1\n");
}

#[test]
fn a_client_that_leaves_is_counted_as_cancelled() {
    // One that has only ended its side is waited for.
    let server = Server::start(&[("STELLANE__CONNECTION__HALF_CLOSE_GRACE", "100ms")]);
    let mut stream = connect(server.address).expect("connects");
    stream
        .write_all(b"GET /sleep HTTP/1.1\r\nhost: x\r\n\r\n")
        .expect("writes");
    thread::sleep(Duration::from_millis(200));
    drop(stream);
    server.eventually("/runtime.json", "\"requests_cancelled_total\":1");
}

/// Clients that keep their connections, count what they sent whole and what came back, and reconnect
/// when told to close.
#[test]
fn sigterm_under_load_loses_no_request() {
    let mut server = Server::start(&[]);
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicU64::new(0));
    let lost = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..32)
        .map(|_| {
            let (address, stop) = (server.address, stop.clone());
            let (answered, lost) = (answered.clone(), lost.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // Refused once the server has stopped accepting: nothing was sent, nothing is lost.
                    let Ok(mut stream) = connect(address) else {
                        return;
                    };
                    let mut reader = BufReader::new(stream.try_clone().expect("clones"));
                    loop {
                        if stream
                            .write_all(b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n")
                            .is_err()
                        {
                            lost.fetch_add(1, Ordering::Relaxed);
                            break;
                        }
                        match read_response(&mut reader) {
                            Ok(close) => {
                                answered.fetch_add(1, Ordering::Relaxed);
                                if close {
                                    break;
                                }
                            }
                            Err(_) => {
                                lost.fetch_add(1, Ordering::Relaxed);
                                break;
                            }
                        }
                    }
                }
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(700));
    server.terminate();
    let status = server.wait();
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("no client panics");
    }
    assert!(status.success(), "{status}");
    assert!(answered.load(Ordering::Relaxed) > 1000, "there was load");
    assert_eq!(
        lost.load(Ordering::Relaxed),
        0,
        "of {}",
        answered.load(Ordering::Relaxed)
    );
}

/// Starts the main job with something wrong; it must say so in one line and end with 2.
fn refused(env: &[(&str, &str)], args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_full_stack"))
        .env("STELLANE__SERVER__ADDRESS", "127.0.0.1:0")
        .env("STELLANE__SERVER__ADMIN_ADDRESS", "127.0.0.1:0")
        .env("RUST_BACKTRACE", "1")
        .envs(env.iter().copied())
        .args(args)
        .output()
        .expect("runs");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(
        !stderr.contains("panicked") && !stderr.contains("backtrace"),
        "{stderr}"
    );
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr
}

#[test]
fn a_port_in_use_is_one_clear_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = taken.local_addr().expect("an address").to_string();
    let error = refused(&[("STELLANE__SERVER__ADDRESS", &address)], &[]);
    assert!(
        error.contains("server.address") && error.contains(&address),
        "{error}"
    );
    assert!(error.contains("in use"), "{error}");
}

#[test]
fn bad_settings_name_the_key_the_value_and_what_is_valid() {
    let error = refused(&[("STELLANE__SERVER__ADDRESS", "localhost")], &[]);
    assert!(
        error.contains("`localhost` is not an address: expected HOST:PORT"),
        "{error}"
    );
    let error = refused(&[("STELLANE__WORKERS__MIN_WORKER", "3")], &[]);
    assert!(
        error.contains("workers.min_worker") && error.contains("did you mean `min_workers`?"),
        "{error}"
    );
    let error = refused(&[("STELLANE__WORKERS__MIN_WORKERS", "0")], &[]);
    assert!(
        error.contains("workers.min_workers") && error.contains("expected"),
        "{error}"
    );
}
