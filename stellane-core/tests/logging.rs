//! What is logged: in a process of its own for each test, since there is one subscriber for each.
#![cfg(all(feature = "full", unix))]

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use serde_json::Value;
use stellane_core::{
    Runtime,
    config::LogConfig,
    logging::{self, LogWriter},
};

const MODE: &str = "STELLANE_TEST_LOGGING";
const PATIENCE: Duration = Duration::from_secs(60);

/// This test in another process, where `MODE` says what it does.
fn process(mode: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command
        .args(["--exact", "child", "--nocapture"])
        .env(MODE, mode);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The lines that it logs.
fn lines_of(mode: &str) -> Vec<String> {
    let output = process(mode).output().expect("runs");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(text.ends_with('\n'), "the last line is whole: {text:?}");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn child() {
    let Ok(mode) = std::env::var(MODE) else {
        return;
    };
    let config = LogConfig::default().with(|log| {
        log.max_line_bytes = 2000;
        log.redact = vec!["license".to_owned()];
        if mode == "json" {
            log.format = serde_json::from_str("\"json\"").expect("a format");
        }
        if mode == "full pipe" {
            log.max_line_bytes = 16 << 10;
        }
    });
    let log = logging::init(&config).expect("the first");
    match &*mode {
        "full pipe" => {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(serve_and_log(log));
        }
        "level" => {
            for wrong in ["degub", "lout", "info,hyper=degub", "=", "off,"] {
                if let Err(error) = log.set_level(wrong) {
                    tracing::info!("{wrong} is refused: {error}");
                }
            }
            for right in [
                "my_crate",
                "info,hyper=trace",
                "my::module=debug,warn",
                "INFO",
            ] {
                log.set_level(right).expect(right);
            }
            tracing::info!("{} is in force", log.level());
        }
        _ => log_all(),
    }
}

fn log_all() {
    let evil = "a\nWARN forged\r\u{1b}[31mred\u{7}\u{202e}\"quoted\"\\";
    let span = tracing::info_span!("request", path = evil, token = "hunter2-span");
    let _entered = span.enter();
    tracing::info!(user = evil, agent = %evil, "hello {evil}");
    tracing::info!(password = "hunter2-1", api_key = %"hunter2-2", licenseText = ?"hunter2-3", n = 7, passwd = 31_415_926, "secrets");
    tracing::info!(
        url = "redis://:hunter2-4@cache",
        "at postgres://app:hunter2-5@db?sslpassword=hunter2-6"
    );
    let error = std::io::Error::other("amqp://u:hunter2-7@queue");
    tracing::error!(error = &error as &dyn std::error::Error, "failed");
    tracing::info!(
        tokens = 4711,
        on = true,
        ratio = 0.5,
        none = f64::NAN,
        "numbers"
    );
    let message = "the second of the name";
    tracing::info!(message, level = "mine", "the first");
    tracing::info!(long = %"é".repeat(100_000), after = 1, "long");
    tracing::info!("{}", "x".repeat(100_000));
    tracing::debug!("not at this level");
}

#[test]
fn a_line_of_json_is_an_object_whatever_clients_send() {
    let lines = lines_of("json");
    assert_eq!(lines.len(), 8, "{lines:#?}");
    let events: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    for (line, event) in lines.iter().zip(&events) {
        assert!(line.len() < 3000, "{} bytes", line.len());
        assert!(!line.contains("hunter2"), "{line}");
        assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
        for key in ["timestamp", "level", "target", "message"] {
            assert!(event[key].is_string(), "{key} in {line}");
        }
    }
    let first = &events[0];
    assert_eq!(first["level"], "INFO");
    assert_eq!(first["target"], "logging");
    for text in [
        &first["user"],
        &first["agent"],
        &first["message"],
        &first["spans"][0],
    ] {
        let text = text.as_str().expect("text");
        assert!(
            text.contains(r"a\nWARN forged\r\u{1b}[31mred\u{7}\u{202e}"),
            "{text}"
        );
    }
    for key in ["password", "api_key", "licenseText", "passwd"] {
        assert_eq!(events[1][key], "<redacted>", "{key}");
    }
    assert_eq!(events[1]["n"], 7);
    assert_eq!(events[2]["url"], "redis://:<redacted>@cache");
    assert_eq!(events[3]["error"], "amqp://u:<redacted>@queue");
    let numbers = &events[4];
    assert_eq!(
        (&numbers["tokens"], &numbers["on"]),
        (&4711.into(), &true.into())
    );
    assert_eq!(
        (&numbers["ratio"], &numbers["none"]),
        (&0.5.into(), &"NaN".into())
    );
    let (message, level) = (&events[5]["message"], &events[5]["field_level"]);
    assert_eq!((message, level), (&"the first".into(), &"mine".into()));
    assert_eq!(events[5]["field_message"], "the second of the name");
}

#[test]
fn a_line_of_text_is_one_line_without_colours_where_there_is_no_terminal() {
    let lines = lines_of("text");
    assert_eq!(lines.len(), 8, "{lines:#?}");
    for line in &lines {
        assert!(line.len() <= 2000 + "…".len(), "{} bytes", line.len());
        assert!(!line.contains("hunter2"), "{line}");
        assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
        assert!(
            line.contains(" INFO ") || line.contains(" ERROR "),
            "{line}"
        );
    }
    assert!(
        lines[1].ends_with(
            r#"logging: secrets password=<redacted> api_key=<redacted> licenseText=<redacted> n=7 passwd=<redacted>"#
        ),
        "{}",
        lines[1]
    );
    assert!(
        lines[5].ends_with(r#"logging: the first message="the second of the name" level="mine""#),
        "{}",
        lines[5]
    );
    assert!(lines[7].ends_with("xxx…"));
}

#[test]
fn a_level_is_checked_as_that_of_the_configuration() {
    let lines = lines_of("level");
    let refused = |level: &str| {
        lines
            .iter()
            .any(|line| line.contains(&format!("{level} is refused")))
    };
    assert!(
        refused("degub") && refused("lout") && refused("info,hyper=degub"),
        "{lines:#?}"
    );
    assert!(lines[0].contains("did you mean `debug`?"), "{}", lines[0]);
    assert!(
        lines
            .last()
            .expect("some")
            .to_lowercase()
            .contains("info is in force"),
        "{lines:#?}"
    );
    for level in ["degub", "lout"] {
        let config = LogConfig::default().with(|log| log.level = level.to_owned());
        assert!(logging::init(&config).is_err(), "{level}");
    }
}

/// Serves until its standard input ends, and logs much more than a pipe takes.
async fn serve_and_log(log: logging::LogHandle) {
    let app = tower::service_fn(|_: http::Request<stellane_core::RequestBody>| async {
        for _ in 0..20 {
            tracing::info!("{}", "x".repeat(1000));
        }
        Ok::<_, std::convert::Infallible>(http::Response::new("hello".to_owned()))
    });
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        drop(end);
    });
    let config = stellane_core::config::RuntimeConfig::default()
        .with(|config| config.server.admin_address = "127.0.0.1:0".to_owned());
    let runtime = Runtime::builder()
        .config(config)
        .log_handle(log)
        .service(app);
    let runtime = runtime.shutdown_signal(async { drop(ended.await) });
    let bound = runtime
        .build()
        .expect("builds")
        .bind("127.0.0.1:0")
        .await
        .expect("binds");
    let admin = bound.admin_addr().expect("on");
    println!("serves {} {admin}", bound.local_addr());
    let report = bound.serve().await.expect("serves");
    println!("{}", report.is_clean());
}

struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn get(address: &str, path: &str) -> String {
    let mut socket = std::net::TcpStream::connect(address).expect("connects");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).expect("writes");
    let mut answer = String::new();
    socket
        .read_to_string(&mut answer)
        .expect("an answer in time");
    answer
}

#[test]
fn a_standard_error_that_nobody_reads_stops_nothing_and_what_is_lost_is_counted() {
    let mut child = Ends(process("full pipe").spawn().expect("runs"));
    let (said, says) = mpsc::channel();
    let stdout = BufReader::new(child.0.stdout.take().expect("a pipe"));
    std::thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            let _ = said.send(line);
        }
    });
    let next = |what: &str| loop {
        let line: String = says
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("no {what}"));
        if line.contains(what) {
            break line;
        }
    };
    let line = next("serves ");
    let mut addresses = line.split("serves ").nth(1).expect("addresses").split(' ');
    let (service, admin) = (
        addresses.next().expect("one"),
        addresses.next().expect("two"),
    );
    // 4 MB of lines, where the pipe takes 64 KiB and the queue 1 MiB.
    for _ in 0..200 {
        assert!(get(service, "/").ends_with("hello"));
    }
    let metrics = get(admin, "/metrics");
    let lost = metrics
        .lines()
        .find_map(|line| line.strip_prefix("stellane_log_lines_lost_total "));
    let lost: f64 = lost.expect("exported").parse().expect("a number");
    assert!((1000.0..4000.0).contains(&lost), "{lost} of 4000");

    // It ends, and says so, with nobody reading.
    drop(child.0.stdin.take());
    next("true");
    let status = child.0.wait().expect("ends");
    assert!(status.success(), "{status}");
}

#[test]
fn what_finds_no_room_is_told_where_it_is_missing() {
    /// Takes what it is allowed to.
    struct Gate(mpsc::Receiver<()>, mpsc::Sender<Vec<u8>>);
    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.0.recv();
            let _ = self.1.send(bytes.to_vec());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (open, gate) = mpsc::channel();
    let (written, writes) = mpsc::channel();
    let log = LogWriter::new(Gate(gate, written), |lost| format!("{lost} lost")).expect("a thread");
    log.line(b"first");
    let line = [b'x'; 1023];
    let mut given = 1;
    while log.lost() < 5 {
        log.line(&line);
        given += 1;
    }
    assert!(!log.flush(Duration::ZERO), "it is held");
    drop(open);
    assert!(log.flush(PATIENCE));
    log.line(b"after\n");
    assert!(log.flush(PATIENCE));
    let text = String::from_utf8(writes.try_iter().flatten().collect()).expect("text");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines.len(),
        given - 5 + 2,
        "all others, one about the lost, one after"
    );
    assert_eq!(lines[0], "first");
    assert_eq!(lines[lines.len() - 2..], ["5 lost", "after"]);
    assert_eq!(log.lost(), 5);
}

#[test]
fn a_writer_that_fails_loses_lines_and_goes_on() {
    struct Fails(u32);
    impl Write for Fails {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += 1;
            match self.0 {
                1 => Err(std::io::ErrorKind::BrokenPipe.into()),
                2 => Err(std::io::ErrorKind::WouldBlock.into()),
                3 => Err(std::io::ErrorKind::Interrupted.into()),
                4 => Ok(1),
                _ => Ok(bytes.len()),
            }
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = LogWriter::new(Fails(0), |lost| format!("{lost} lost")).expect("a thread");
    log.line(b"lost");
    assert!(log.flush(PATIENCE));
    assert_eq!(log.lost(), 1);
    log.line(b"written in the end");
    assert!(log.flush(PATIENCE));
    assert_eq!(log.lost(), 1);
}
