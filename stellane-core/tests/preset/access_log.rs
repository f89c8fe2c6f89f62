//! A line for each request, however it ends and whatever its client sends.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use http::{Request, Response};
use serde_json::Value;
use stellane_core::{
    Components, RequestBody, Runtime, RuntimeConfig,
    autotune::AlgorithmKind,
    config::{AccessLogField, LogFormat},
    logging::LogWriter,
    waits_for,
};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tower::service_fn;

use crate::{
    ask::{ask_at, get},
    log::Log,
    looks::holds_soon,
};

fn config() -> RuntimeConfig {
    let mut config = RuntimeConfig::default();
    config.server.admin_address = String::new();
    config.workers.min_workers = 1;
    config.access_log.enabled = true;
    config.limit.algorithm = AlgorithmKind::Fixed;
    (config.limit.initial, config.limit.min) = (1, 1);
    config.limit.max = 1;
    config.limit.max_wait = Duration::ZERO;
    config
}

async fn serve(config: RuntimeConfig) -> (SocketAddr, Components, Log) {
    let log = Log::default();
    let writer = LogWriter::new(log.clone(), |lost| format!("{lost} lost"));
    let service = service_fn(async |request: Request<RequestBody>| {
        stellane_core::metrics::label_route("/{what}");
        match request.uri().path() {
            "/hang" => std::future::pending().await,
            "/panic" => panic!("as asked"),
            "/db" => {
                let asked = tokio::time::sleep(Duration::from_millis(5));
                waits_for("db", asked).await;
            }
            _ => {}
        }
        Ok::<_, Infallible>(Response::new("hello".to_owned()))
    });
    let runtime = Runtime::builder()
        .config(config)
        .access_log_writer(writer.expect("a thread"))
        .service(service)
        .build()
        .expect("builds");
    let components = runtime.components().clone();
    let bound = runtime.bind("127.0.0.1:0").await.expect("binds");
    let address = bound.local_addr();
    tokio::spawn(bound.serve());
    (address, components, log)
}

/// So many lines, once they are written.
async fn lines(log: &Log, count: usize) -> Vec<String> {
    let written = holds_soon(async || log.text().lines().count() >= count).await;
    let text = log.text();
    assert!(written, "never {count} lines: {text}");
    assert!(text.ends_with('\n'), "{text:?}");
    text.lines().map(str::to_owned).collect()
}

fn parsed(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[tokio::test]
async fn answered_refused_failed_and_abandoned_requests_have_a_line_each() {
    let (address, components, log) = serve(config()).await;
    get(address, "/a").await;
    get(address, "/panic").await;
    ask_at(address, "HEAD /a HTTP/1.0\r\n\r\n").await;
    lines(&log, 3).await;
    let mut client = TcpStream::connect(address).await.expect("connects");
    let local = client.local_addr().expect("bound");
    let head = b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n";
    client.write_all(head).await.expect("writes");
    while components.limit.stats().in_flight == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(get(address, "/a").await.starts_with("HTTP/1.1 503"));
    lines(&log, 4).await;
    drop(client);
    let lines = lines(&log, 5).await;
    let told: Vec<Value> = lines.iter().map(|line| parsed(line)).collect();
    for (line, (status, end, route)) in told.iter().zip([
        (200, "complete", Some("/{what}")),
        (500, "complete", Some("/{what}")),
        (200, "complete", Some("/{what}")),
        (503, "complete", None),
        (499, "cancelled", Some("/{what}")),
    ]) {
        assert_eq!(line["status"], status, "{line}");
        assert_eq!(line["end"], end, "{line}");
        assert_eq!(line.get("route").and_then(Value::as_str), route, "{line}");
        assert!(line["duration_seconds"].is_number(), "{line}");
    }
    assert_eq!(told[0]["response_bytes"], 5);
    assert_eq!(
        (&told[2]["method"], &told[2]["version"]),
        (&"HEAD".into(), &"1.0".into())
    );
    assert_eq!(told[4]["peer"], local.to_string());
    assert!(told[4].get("head_seconds").is_none());
}

#[tokio::test]
async fn what_clients_send_is_escaped_and_cut_and_begins_no_line() {
    for format in [LogFormat::Json, LogFormat::Text] {
        let mut config = config();
        config.access_log.format = format;
        config.access_log.max_value_bytes = 40;
        config.access_log.fields = vec![
            AccessLogField::Method,
            AccessLogField::Path,
            AccessLogField::Query,
            AccessLogField::UserAgent,
            AccessLogField::Referer,
        ];
        let (address, _, log) = serve(config).await;
        let long = "x".repeat(5000);
        // What ends no line and is no control character may be in a field.
        let mut head =
            b"GET /a\"b?token=secret&b=1 HTTP/1.1\r\nhost: a\r\nconnection: close\r\nuser-agent: "
                .to_vec();
        head.extend(b"\t\\ \xff\xfe end=\"1\" \xe2\x80\xae\r\nreferer: ");
        head.extend(long.as_bytes());
        head.extend(b"\r\n\r\n");
        let mut client = TcpStream::connect(address).await.expect("connects");
        client.write_all(&head).await.expect("writes");
        let mut answer = Vec::new();
        let read = tokio::io::AsyncReadExt::read_to_end(&mut client, &mut answer);
        read.await.expect("reads");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let lines = lines(&log, 1).await;
        let line = &lines[0];
        assert!(line.len() < 400, "{line}");
        assert!(
            line.chars().all(|c| !c.is_control() && c != '\u{202e}'),
            "{line:?}"
        );
        assert!(!line.contains("secret"), "{line}");
        assert!(line.contains("xxx…"), "{line}");
        // The quotes of a client end no text of ours.
        assert!(line.contains("end=\\\"1\\\""), "{line}");
        assert!(line.contains("/a\\\"b"), "{line}");
        if format == LogFormat::Json {
            let parsed = parsed(line);
            let agent = parsed["user_agent"].as_str().expect("there");
            assert!(agent.contains("end=\"1\""), "{agent}");
            assert!(parsed.get("end").is_none(), "{line}");
        }
        // A control character is none of a field: the request is refused before it is one, and begins no line.
        let control = "GET /a HTTP/1.1\r\nhost: a\r\nconnection: close\r\nuser-agent: \u{1b}]0;t\u{7}\r\n\r\n";
        let refused = ask_at(address, control).await;
        assert!(refused.starts_with("HTTP/1.1 400"), "{refused}");
        assert!(!log.text().contains('\u{1b}'));
    }
}

#[tokio::test]
async fn fields_come_in_their_order_and_tell_where_the_time_went() {
    let mut config = config();
    config.access_log.format = LogFormat::Text;
    config.access_log.fields = vec![
        AccessLogField::Status,
        AccessLogField::Path,
        AccessLogField::Timing,
    ];
    let (address, _, log) = serve(config).await;
    get(address, "/db?secret=1").await;
    let lines = lines(&log, 1).await;
    let line = &lines[0];
    assert!(
        line.starts_with("status=200 path=/db timing_db=0.0"),
        "{line}"
    );
    assert!(line.contains(" timing_computing=0.0") || line.contains(" timing_blocking=0.0"));
    // The connection was woken, and has read the head.
    assert!(line.contains(" timing_before_call=0.0"), "{line}");
    assert!(!line.contains("secret"), "{line}");
}

#[tokio::test]
async fn there_is_none_by_default() {
    let mut config = config();
    config.access_log.enabled = false;
    let (address, _, log) = serve(config).await;
    assert!(get(address, "/a").await.ends_with("hello"));
    assert_eq!(log.text(), "");
}

#[cfg(feature = "http-layers")]
#[tokio::test]
async fn what_stands_outside_of_the_preset_is_seen_too() {
    let mut config = config();
    config.http.csrf.enabled = true;
    config.http.request_id.enabled = true;
    let (address, _, log) = serve(config).await;
    let head = "POST /a HTTP/1.1\r\nhost: a\r\nconnection: close\r\nsec-fetch-site: cross-site\r\n\
                origin: https://b\r\ncontent-length: 0\r\n\r\n";
    let answer = ask_at(address, head).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let lines = lines(&log, 1).await;
    let line = parsed(&lines[0]);
    assert_eq!(line["status"], 403);
    // The id that the answer has.
    let id = line["request_id"].as_str().expect("an id");
    assert!(answer.contains(id), "{id} in {answer}");
}
