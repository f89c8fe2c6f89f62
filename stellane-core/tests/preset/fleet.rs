//! The section `[fleet]`: balancers hear how loaded the replica is, and calls made for a request how much time it has left.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, routing::get};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use stellane_core::{
    Components, Runtime, RuntimeConfig, RuntimeError,
    autotune::overload::Deadline,
    config::Loader,
    metrics::{OpenRcaService, RouteLabelLayer},
    runtime::RunReport,
};
use tokio::{net::TcpStream, sync::oneshot, task::JoinHandle};

use crate::ask::{ask_at, get as ask};

fn config(text: &str) -> RuntimeConfig {
    let config = Loader::new().text("app.toml", text).load().expect("valid");
    config.with(|config| config.server.admin_address = String::new())
}

struct Server {
    address: SocketAddr,
    components: Components,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Result<RunReport, RuntimeError>>,
}

async fn serve(text: &str) -> Server {
    let left = async || Deadline::current().is_some().to_string();
    let app = Router::new()
        .route("/", get(async || "hello"))
        .route("/left/{id}", get(left))
        .route_layer(RouteLabelLayer::axum());
    let (stop, stopped) = oneshot::channel();
    let runtime = Runtime::builder()
        .config(config(text))
        .load_reports(|reports, _| reports.named("queue", || Some(3.0)))
        .shutdown_signal(async { drop(stopped.await) })
        .service(app)
        .build()
        .expect("valid");
    let components = runtime.components().clone();
    let server = runtime.bind("127.0.0.1:0").await.expect("binds");
    let address = server.local_addr();
    let serving = tokio::spawn(server.serve());
    Server {
        address,
        components,
        stop,
        serving,
    }
}

/// The field of an answer, once there was a second of traffic.
async fn told(address: SocketAddr) -> String {
    let wait = async {
        loop {
            let answer = ask(address, "/").await;
            let field = answer
                .lines()
                .find_map(|line| line.strip_prefix("endpoint-load-metrics: "));
            if let Some(field) = field {
                return field.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(60), wait).await;
    told.expect("told")
}

#[tokio::test]
async fn answers_and_refusals_tell_the_load_when_that_is_asked_for() {
    let text = "[fleet]\nload_reports = \"answers\"\n[server]\nmax_body_bytes = 10";
    let server = serve(text).await;
    let address = server.address;
    assert!(
        !ask(address, "/").await.contains("endpoint-load-metrics"),
        "one request says nothing"
    );
    let field = told(address).await;
    for part in [
        "TEXT ",
        "application_utilization:",
        "cpu_utilization:",
        "rps_fractional:",
        "named_metrics.queue:3",
    ] {
        assert!(field.contains(part), "{part} in {field}");
    }
    let large =
        "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 11\r\n\r\nhello world";
    let refused = ask_at(address, large).await;
    assert!(
        refused.starts_with("HTTP/1.1 413 ") && refused.contains("endpoint-load-metrics: TEXT "),
        "{refused}"
    );
}

#[tokio::test]
async fn nothing_is_told_unless_it_is_asked_for() {
    let server = serve("[fleet]\nload_reports = \"streams\"").await;
    let address = server.address;
    // So long that it would be told.
    for _ in 0..150 {
        assert!(!ask(address, "/").await.contains("endpoint-load-metrics"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let off = serve("").await;
    let mut stream = stream(off.address).await;
    assert_eq!(stream.headers().get("grpc-status"), None);
    assert_eq!(stream.status(), 404, "{stream:?}");
    assert!(stream.body_mut().frame().await.is_none());
}

async fn stream(address: SocketAddr) -> http::Response<hyper::body::Incoming> {
    let io = TokioIo::new(TcpStream::connect(address).await.expect("connects"));
    let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
    let (mut client, connection) = shaken.expect("shakes hands");
    tokio::spawn(connection);
    let request = Request::post(format!("http://x{}", OpenRcaService::PATH))
        .header("content-type", "application/grpc")
        // A message that names no interval.
        .body(Full::<Bytes>::from(vec![0; 5]))
        .expect("valid");
    client.send_request(request).await.expect("an answer")
}

#[tokio::test]
async fn a_stream_of_reports_is_no_request_and_holds_up_no_drain() {
    let text = "[fleet]\nload_reports = \"both\"\nmin_report_interval = \"100ms\"\n[overload]\nmax_timeout = \"300ms\"";
    let server = serve(text).await;
    told(server.address).await;
    let mut body = stream(server.address).await.into_body();
    // Beyond the deadline of a request.
    for _ in 0..10 {
        let frame = body.frame().await.expect("goes on").expect("whole");
        let report = frame.into_data().expect("a report");
        assert!(
            report.windows(5).any(|bytes| bytes == b"queue"),
            "{report:?}"
        );
    }
    assert_eq!(server.components.limit.stats().in_flight, 0);
    let scrape = server.components.prometheus.render();
    assert!(!scrape.contains("OpenRcaService"), "{scrape}");
    server.stop.send(()).expect("serves");
    let end = loop {
        let frame = body.frame().await.expect("trailers").expect("whole");
        if let Ok(trailers) = frame.into_trailers() {
            break trailers;
        }
    };
    assert_eq!(end["grpc-status"], "14", "UNAVAILABLE: it may ask another");
    let report = server.serving.await.expect("no panic").expect("serves");
    assert!(report.is_clean(), "{report}");
}

#[tokio::test]
async fn calls_of_a_handler_know_its_deadline_when_that_is_asked_for() {
    let rates = "[rate_limit.a]\nrules = [\"100/s\"]\n";
    for (fleet, knows) in [
        ("", "false"),
        ("[fleet]\nhand_on_deadlines = true\n", "true"),
    ] {
        for rates in ["", rates] {
            let server = serve(&format!("{fleet}{rates}")).await;
            let head = "GET /left/7 HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-request-timeout-ms: 5000\r\n\r\n";
            let answer = ask_at(server.address, head).await;
            assert!(answer.ends_with(knows), "{fleet}{rates}: {answer}");
            let scrape = server.components.prometheus.render();
            assert!(scrape.contains(r#"http_route="/left/{id}""#), "{scrape}");
        }
    }
}

#[test]
fn what_is_no_report_is_an_error_that_says_what_is() {
    let load = |text: &str| {
        Loader::new()
            .text("app.toml", text)
            .load()
            .expect_err("wrong")
            .to_string()
    };
    let error = load("[fleet]\nload_reports = \"always\"");
    assert!(
        error.contains("answers") && error.contains("streams"),
        "{error}"
    );
    let error = load("[fleet]\nmin_report_interval = \"1ms\"");
    assert!(error.contains("expected at least 100ms"), "{error}");
}
