//! The figures are true: what was sent whole is no cancelled request, whatever makes the body and whatever stands around
//! it, and a call of gRPC has a code however it ends.

use std::{convert::Infallible, net::SocketAddr, path::PathBuf, time::Duration};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use stellane_core::{Components, RequestBody, Runtime, RuntimeConfig, metrics::HttpStats};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tower::{ServiceBuilder, service_fn};
use tower_http::{
    compression::CompressionLayer, services::ServeDir, timeout::TimeoutLayer, trace::TraceLayer,
};

use crate::{ask::ask_at, looks::in_time};

const SIZE: usize = 300_000;

/// A folder with one file, which ends with its owner.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("stellane-figures-{}-{name}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        let text: Vec<u8> = (0..SIZE).map(|n| b'a' + (n % 23) as u8).collect();
        std::fs::write(folder.join("file.txt"), text).expect("a file");
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn config() -> RuntimeConfig {
    let mut config = RuntimeConfig::default();
    config.server.admin_address = String::new();
    config.workers.min_workers = 1;
    config
}

macro_rules! serve {
    ($service:expr) => {{
        let runtime = Runtime::builder()
            .config(config())
            .service($service)
            .build()
            .expect("builds");
        let components = runtime.components().clone();
        let bound = runtime.bind("127.0.0.1:0").await.expect("binds");
        let address = bound.local_addr();
        tokio::spawn(bound.serve());
        (address, components)
    }};
}

/// The counts, once so many requests have ended.
async fn ended(components: &Components, requests: u64) -> HttpStats {
    let counted = async {
        loop {
            let stats = components.metrics.stats();
            if stats.requests_total >= requests && stats.requests_in_flight == 0 {
                return stats;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let counted = in_time(counted).await;
    counted.unwrap_or_else(|| panic!("never {requests}: {:?}", components.metrics.stats()))
}

/// A method, a path, headers, and the status of the answer.
type Question = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
    u16,
);

/// What clients ask of a folder.
const QUESTIONS: [Question; 8] = [
    ("GET", "/file.txt", &[], 200),
    ("HEAD", "/file.txt", &[], 200),
    ("GET", "/file.txt", &[("range", "bytes=10-99999")], 206),
    ("GET", "/file.txt", &[("range", "bytes=900000-")], 416),
    (
        "GET",
        "/file.txt",
        &[("if-modified-since", "Fri, 31 Dec 2100 23:59:59 GMT")],
        304,
    ),
    ("GET", "/file.txt", &[("accept-encoding", "gzip")], 200),
    ("HEAD", "/file.txt", &[("accept-encoding", "gzip")], 200),
    ("GET", "/nothing.txt", &[], 404),
];

/// Asks all of them over HTTP/1.1, over HTTP/1.0 and over HTTP/2, and reads all answers to their ends; how many there were.
async fn ask_all(address: SocketAddr) -> u64 {
    let mut asked = 0;
    for (method, path, headers, status) in QUESTIONS {
        let headers: String = headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        for version in ["1.1", "1.0"] {
            let head = format!(
                "{method} {path} HTTP/{version}\r\nhost: a\r\nconnection: close\r\n{headers}\r\n"
            );
            let answer = ask_at(address, &head).await;
            let found = answer.split(' ').nth(1).unwrap_or_default();
            assert_eq!(found, status.to_string(), "{head}");
            asked += 1;
        }
    }
    let io = TokioIo::new(TcpStream::connect(address).await.expect("connects"));
    let connecting = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
    let (mut client, connection) = connecting.await.expect("HTTP/2");
    tokio::spawn(connection);
    for (method, path, headers, status) in QUESTIONS {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{address}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::<Bytes>::new()).expect("valid");
        let answer = client.send_request(request).await.expect("an answer");
        assert_eq!(answer.status(), status, "{method} {path} {headers:?}");
        answer.into_body().collect().await.expect("whole");
        asked += 1;
    }
    asked
}

/// Leaves in the middle of an answer.
async fn leave(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let head = b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n";
    stream.write_all(head).await.expect("writes");
    stream.read_exact(&mut [0; 1000]).await.expect("an answer");
}

/// A body without an end.
async fn endless() -> axum::body::Body {
    let piece = || async { Some((Ok::<_, Infallible>(Bytes::from(vec![b'x'; 10_000])), ())) };
    axum::body::Body::from_stream(futures_util::stream::unfold((), move |()| piece()))
}

#[tokio::test]
async fn all_that_a_folder_is_asked_for_is_complete_when_it_was_sent_behind_any_wrapper() {
    let folder = Folder::new("wrappers");
    let around = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http())
        .layer(CompressionLayer::new());
    let within =
        TimeoutLayer::with_status_code(http::StatusCode::REQUEST_TIMEOUT, Duration::from_secs(60));
    let app = axum::Router::new()
        .route("/endless", axum::routing::get(endless))
        .fallback_service(ServeDir::new(&folder.0))
        .layer(within)
        .layer(around);
    let (address, components) = serve!(app);
    let asked = ask_all(address).await;
    let stats = ended(&components, asked).await;
    let bad = (stats.requests_cancelled_total, stats.requests_failed_total);
    assert_eq!((stats.requests_total, bad), (asked, (0, 0)), "{stats:?}");

    // And one that was not is told apart.
    leave(address).await;
    let stats = ended(&components, asked + 1).await;
    assert_eq!(stats.requests_cancelled_total, 1, "{stats:?}");
}

#[tokio::test]
async fn all_that_a_folder_is_asked_for_is_complete_when_it_was_sent_by_itself() {
    let folder = Folder::new("alone");
    let (address, components) = serve!(ServeDir::new(&folder.0));
    let asked = ask_all(address).await;
    let stats = ended(&components, asked).await;
    let bad = (stats.requests_cancelled_total, stats.requests_failed_total);
    assert_eq!((stats.requests_total, bad), (asked, (0, 0)), "{stats:?}");
}

/// The labels of what has ended.
fn series(components: &Components) -> Vec<String> {
    let scrape = components.prometheus.render();
    let counts = scrape
        .lines()
        .filter(|line| line.starts_with("http_server_request_duration_seconds_count"));
    counts.map(str::to_owned).collect()
}

#[tokio::test]
async fn a_call_of_grpc_has_a_code_when_its_client_leaves_and_when_its_time_is_over() {
    let (address, components) = serve!(service_fn(async |_: Request<RequestBody>| {
        std::future::pending::<()>().await;
        Ok::<_, Infallible>(Response::new(String::new()))
    }));
    let io = TokioIo::new(TcpStream::connect(address).await.expect("connects"));
    let connecting = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
    let (mut client, connection) = connecting.await.expect("HTTP/2");
    tokio::spawn(connection);
    let call = |timeout: &str| {
        Request::post(format!("http://{address}/shop.Orders/List"))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header("grpc-timeout", timeout)
            .body(Empty::<Bytes>::new())
            .expect("valid")
    };
    let answer = client.send_request(call("20m")).await.expect("an answer");
    assert_eq!(answer.headers()["grpc-status"], "4");
    answer.into_body().collect().await.expect("whole");
    ended(&components, 1).await;

    let mut waiting = Box::pin(client.send_request(call("1H")));
    let begun = async {
        while components.metrics.stats().requests_in_flight == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        answer = &mut waiting => panic!("answered: {answer:?}"),
        () = begun => {}
    }
    drop(waiting);
    ended(&components, 2).await;
    let series = series(&components);
    for code in ["DEADLINE_EXCEEDED", "CANCELLED"] {
        let label = format!("rpc_response_status_code=\"{code}\"");
        let told = series.iter().filter(|line| line.contains(&label)).count();
        assert_eq!(told, 1, "{code} in {series:#?}");
    }
}
