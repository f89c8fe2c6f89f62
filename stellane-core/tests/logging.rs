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
use tracing::Instrument;

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
        "requests" => {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(serve_and_ask());
        }
        "spans" => log_within_spans(),
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

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0";

/// Serves one request with a parent, one whose parent is not sampled, and one without. Each has a line within it, and one
/// by a task that outlives it.
async fn serve_and_ask() {
    let (ended, ends) = tokio::sync::watch::channel(0);
    let (said, mut says) = tokio::sync::mpsc::unbounded_channel();
    let app = tower::service_fn(move |request: http::Request<stellane_core::RequestBody>| {
        let (mut ends, said) = (ends.clone(), said.clone());
        ends.mark_unchanged();
        async move {
            stellane_core::metrics::label_route("/{what}");
            let path = request.uri().path().to_owned();
            tracing::info!("within {path}");
            let outlives = async move {
                ends.changed().await.expect("told");
                tracing::info!("after {path}");
                said.send(()).expect("heard");
            };
            tokio::spawn(outlives.in_current_span());
            Ok::<_, std::convert::Infallible>(http::Response::new("hello".to_owned()))
        }
    });
    let config = stellane_core::config::RuntimeConfig::default().with(|config| {
        config.server.admin_address = String::new();
        config.workers.min_workers = 1;
        config.connection.connect_info = true;
        config.trace.enabled = true;
    });
    let runtime = Runtime::builder().config(config).service(app);
    let runtime = runtime.build().expect("builds");
    let bound = runtime.bind("127.0.0.1:0").await.expect("binds");
    let address = bound.local_addr().to_string();
    tokio::spawn(bound.serve());
    for (i, (path, parent)) in [
        (
            "/sampled?token=hunter2",
            format!("traceparent: {TRACEPARENT}1\r\n"),
        ),
        ("/unsampled", format!("traceparent: {TRACEPARENT}0\r\n")),
        ("/own", String::new()),
    ]
    .into_iter()
    .enumerate()
    {
        let more = format!("user-agent: tests of lines\r\n{parent}");
        let address = address.clone();
        let answer = tokio::task::spawn_blocking(move || ask(&address, path, &more));
        assert!(answer.await.expect("no panic").ends_with("hello"));
        ended.send(i + 1).expect("heard");
        says.recv().await.expect("said");
    }
}

#[test]
fn a_line_within_a_request_says_which_and_one_after_it_what_came_of_it() {
    let lines = lines_of("requests");
    let line = |message: &str| {
        let line = lines.iter().find(|line| line.ends_with(message));
        &**line.unwrap_or_else(|| panic!("no {message}: {lines:#?}"))
    };
    let known = |path: &str| {
        [
            r#"otel.name="GET" "#.to_owned(),
            r#"otel.kind="server" "#.to_owned(),
            r#"http.request.method="GET" "#.to_owned(),
            format!(r#"url.path="{path}" "#),
            r#"network.protocol.version="1.1" "#.to_owned(),
            r#"user_agent.original="tests of lines" "#.to_owned(),
            " network.peer.address=127.0.0.1 network.peer.port=".to_owned(),
        ]
    };
    let ids = [
        "trace_id=0af7651916cd43dd8448eb211c80319c",
        "parent_id=b7ad6b7169203331",
        "span_id=",
    ];
    for path in ["/sampled", "/own"] {
        let [within, after] = ["within", "after"].map(|what| line(&format!("{what} {path}")));
        for (line, is_after) in [(within, false), (after, true)] {
            assert!(line.contains(" INFO request{"), "{line}");
            assert!(line.contains("}: logging: "), "{line}");
            for field in known(path) {
                assert!(line.contains(&field), "{field} in {line}");
            }
            for (at, id) in ids.iter().enumerate() {
                let is_its = path == "/sampled" || at == 2;
                assert_eq!(line.contains(id), is_its, "{id} in {line}");
            }
            for field in [
                r#"http.route="/{what}""#,
                "otel.name=GET /{what}",
                "http.response.status_code=200",
                "http.response.body.size=5",
                r#"url.scheme="http""#,
            ] {
                assert_eq!(line.contains(field), is_after, "{field} in {line}");
            }
            assert!(
                !line.contains("stellane.") && !line.contains("hunter2"),
                "{line}"
            );
        }
    }
    // Without a span there is nothing to say.
    for message in ["within /unsampled", "after /unsampled"] {
        let line = line(message);
        assert!(
            line.ends_with(&format!(" INFO logging: {message}")),
            "{line}"
        );
    }
}

/// Shows itself by a line of its own.
struct Talks;

impl std::fmt::Debug for Talks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        tracing::info!("asked");
        f.write_str("talks")
    }
}

fn log_within_spans() {
    use tracing::field::Empty;
    let span = tracing::info_span!(
        "outer",
        n = -7,
        on = true,
        ratio = 0.5,
        none = f64::NAN,
        most = u128::MAX,
        big = u64::MAX,
        later = Empty,
        talks = Empty,
        error = Empty,
        password = Empty,
        long = Empty
    );
    span.in_scope(|| {
        tracing::info!("first");
        span.record("later", "two\nlines");
        tracing::info_span!("inner").in_scope(|| tracing::info!("second"));
        span.record("talks", tracing::field::debug(Talks));
        let error = std::io::Error::other("amqp://u:hunter2-1@queue");
        span.record("error", &error as &dyn std::error::Error);
        span.record("password", "hunter2-2");
        tracing::info!("third");
        // The secret stands across what a line takes.
        let long = format!(
            "{} amqp://u:hunter2{}@queue",
            "x".repeat(1600),
            "y".repeat(5000)
        );
        span.record("long", &*long);
        tracing::info!("fourth");
    });
    tracing::info!("outside");
}

#[test]
fn lines_show_what_is_recorded_of_their_spans_so_far() {
    let lines = lines_of("spans");
    let lines: Vec<_> = lines
        .iter()
        .map(|line| line.split_once(" INFO ").expect("a level").1)
        .collect();
    let first = format!(
        "outer{{n=-7 on=true ratio=0.5 none=NaN most={} big={}",
        u128::MAX,
        u64::MAX
    );
    let second = format!(r#"{first} later="two\nlines""#);
    let third = format!("{second} talks=talks error=amqp://u:<redacted>@queue password=<redacted>");
    assert_eq!(lines[0], format!("{first}}}: logging: first"));
    assert_eq!(lines[1], format!("{second}}}: inner: logging: second"));
    assert_eq!(lines[2], format!("{second}}}: logging: asked"));
    assert_eq!(lines[3], format!("{third}}}: logging: third"));
    assert!(
        lines[4].starts_with(&format!(r#"{third} long="xxx"#)),
        "{}",
        lines[4]
    );
    assert!(
        lines[4].contains("xxx amqp://u:<redacted>@queue"),
        "{}",
        lines[4]
    );
    assert!(!lines[4].contains("hunter2"), "{}", lines[4]);
    assert_eq!(lines[5], "logging: outside");
    assert_eq!(lines.len(), 6, "{lines:#?}");
}

struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn get(address: &str, path: &str) -> String {
    ask(address, path, "")
}

fn ask(address: &str, path: &str, more: &str) -> String {
    let mut socket = std::net::TcpStream::connect(address).expect("connects");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{more}connection: close\r\n\r\n");
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
