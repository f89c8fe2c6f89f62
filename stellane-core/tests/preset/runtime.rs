//! The preset serves any service: an axum router, our router, a plain `service_fn`; over a real socket.

use std::{convert::Infallible, time::Duration};

use crate::ask::{ask_at, get};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use stellane_core::{RequestBody, Runtime, RuntimeConfig, router::Router};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
};
use tower::{ServiceBuilder, service_fn};

fn config() -> RuntimeConfig {
    let mut config = RuntimeConfig::default();
    config.server.admin_address = "127.0.0.1:0".to_owned();
    config.server.max_body_bytes = 100;
    config.workers.min_workers = 1;
    config
}

/// Serves `$service`, asks for `/users/7`, drains, and returns the answer and the scrape.
macro_rules! served {
    ($service:expr) => {{
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = Runtime::builder()
            .config(config())
            .service($service)
            .shutdown_signal(async {
                let _ = stopped.await;
            })
            .build()
            .expect("builds");
        let bound = runtime.bind("127.0.0.1:0").await.expect("binds");
        let (address, admin) = (bound.local_addr(), bound.admin_addr().expect("on"));
        let serving = tokio::spawn(bound.serve());
        let answer = get(address, "/users/7").await;
        let metrics = get(admin, "/metrics").await;
        assert!(get(admin, "/readyz").await.starts_with("HTTP/1.1 200"));
        stop.send(()).expect("still serving");
        let report = serving.await.expect("no panic").expect("no error");
        assert_eq!((report.drain.aborted, report.drain.left), (0, 0));
        assert!(
            TcpStream::connect(address).await.is_err(),
            "no longer accepts"
        );
        (answer, metrics)
    }};
}

fn assert_counted(metrics: &str, route: &str) {
    let counted = metrics.lines().any(|line| {
        line.starts_with("http_server_request_duration_seconds_count")
            && line.contains(&format!("http_route=\"{route}\""))
            && line.ends_with(" 1")
    });
    assert!(counted, "{route} in {metrics}");
}

#[tokio::test]
async fn an_axum_router_is_served() {
    use axum::extract::Path;
    let (answer, metrics) = served!(
        axum::Router::new()
            .route(
                "/users/{id}",
                axum::routing::get(|Path(id): Path<u64>| async move { format!("user {id}") })
            )
            .route_layer(stellane_core::metrics::RouteLabelLayer::axum())
    );
    assert!(answer.ends_with("user 7"), "{answer}");
    assert_counted(&metrics, "/users/{id}");
}

#[tokio::test]
async fn our_router_is_served_and_labels_its_routes_by_itself() {
    use stellane_core::router::Path;
    let router = Router::builder()
        .get("/users/{id}", |Path(id): Path<u64>| async move {
            format!("user {id}")
        })
        .build()
        .expect("no conflicts");
    let (answer, metrics) = served!(router);
    assert!(answer.ends_with("user 7"), "{answer}");
    assert_counted(&metrics, "/users/{id}");
}

/// It is not known before it has answered.
#[tokio::test]
async fn our_router_names_its_routes_from_within_a_layer() {
    let router = Router::builder()
        .get("/users/{id}", async || "user 7")
        .build()
        .expect("no conflicts");
    let same = |request: Request<RequestBody>| request;
    let (answer, metrics) = served!(ServiceBuilder::new().map_request(same).service(router));
    assert!(answer.ends_with("user 7"), "{answer}");
    assert_counted(&metrics, "/users/{id}");
}

#[tokio::test]
async fn a_service_fn_is_served() {
    let (answer, metrics) = served!(service_fn(|request: Request<RequestBody>| async move {
        Ok::<_, Infallible>(Response::new(request.uri().path().to_owned()))
    }));
    assert!(answer.ends_with("/users/7"), "{answer}");
    assert_counted(&metrics, "_UNMATCHED");
}

#[tokio::test]
async fn a_request_ends_at_the_deadline_that_the_configuration_gives_it() {
    let mut config = config();
    config.overload.default_timeout = Duration::from_millis(20);
    let never = |_: Request<RequestBody>| {
        std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>()
    };
    let runtime = Runtime::builder()
        .config(config)
        .service(service_fn(never))
        .build()
        .expect("builds");
    let components = runtime.components().clone();
    let bound = runtime.bind("127.0.0.1:0").await.expect("binds");
    let address = bound.local_addr();
    let serving = tokio::spawn(bound.serve());
    let answer = get(address, "/").await;
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    assert_eq!(components.overload.stats().timed_out, 1);
    assert_eq!(components.limit.stats().in_flight, 0);
    serving.abort();
}

#[tokio::test]
async fn a_wrong_configuration_is_refused_before_anything_starts() {
    let mut config = config();
    config.workers.min_workers = 0;
    config.server.address = "here".to_owned();
    let service = service_fn(|_: Request<RequestBody>| async {
        Ok::<_, Infallible>(Response::new(String::new()))
    });
    let error = Runtime::builder()
        .config(config)
        .service(service)
        .build()
        .expect_err("wrong");
    let text = error.to_string();
    assert!(text.contains("`server.address`"), "{text}");
    assert!(text.contains("`workers.min_workers`"), "{text}");
}

#[tokio::test]
async fn routes_that_conflict_are_an_error_of_the_build() {
    let error = Runtime::builder()
        .config(config())
        .try_service_with(|_| Router::builder().get("/{", || async {}).build())
        .build()
        .expect_err("wrong");
    assert!(error.to_string().contains("/{"), "{error}");
}

#[tokio::test]
async fn the_admin_token_guards_changes_and_is_never_shown() {
    let mut config = config();
    config.server.admin_token = "open sesame".to_owned();
    let (stop, stopped) = oneshot::channel::<()>();
    let service = service_fn(|_: Request<RequestBody>| async {
        Ok::<_, Infallible>(Response::new(String::new()))
    });
    let runtime = Runtime::builder()
        .config(config)
        .service(service)
        .shutdown_signal(async {
            let _ = stopped.await;
        });
    let bound = runtime
        .build()
        .expect("builds")
        .bind("127.0.0.1:0")
        .await
        .expect("binds");
    let admin = bound.admin_addr().expect("on");
    let serving = tokio::spawn(bound.serve());

    let shown = get(admin, "/config").await;
    assert!(
        shown.contains("admin_token") && !shown.contains("open sesame"),
        "{shown}"
    );
    for (header, status) in [
        ("", "401"),
        ("authorization: Bearer open sesame\r\n", "200"),
    ] {
        let request = format!(
            "POST /tuning/mode HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{header}\
             content-length: 5\r\n\r\napply"
        );
        let answer = ask_at(admin, &request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
    }
    assert!(get(admin, "/tuning").await.contains("\"mode\":\"apply\""));
    stop.send(()).expect("still serving");
    serving.await.expect("no panic").expect("no error");
}

#[tokio::test]
async fn an_ambiguous_request_is_refused_and_counted() {
    let runtime = Runtime::builder()
        .config(config())
        .service(service_fn(|_: Request<RequestBody>| async {
            Ok::<_, Infallible>(Response::new(String::new()))
        }))
        .build()
        .expect("builds");
    let rules = runtime.components().http1_rules.clone();
    let bound = runtime.bind("127.0.0.1:0").await.expect("binds");
    let (address, admin) = (bound.local_addr(), bound.admin_addr().expect("on"));
    let _serving = tokio::spawn(bound.serve());
    for request in ["GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nhost: x\n\r\n"] {
        let answer = ask_at(address, request).await;
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
    }
    assert_eq!(rules.stats().refused_total(), 1);
    let metrics = get(admin, "/metrics").await;
    assert!(
        metrics.contains(r#"http_response_status_code="400""#),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_wrong_certificate_is_told_before_anything_is_served() {
    let mut config = config();
    config.connection.tls.certificate = "/nowhere/server.pem".to_owned();
    let runtime = Runtime::builder()
        .config(config)
        .service(Router::builder().build().expect("no conflicts"))
        .build()
        .expect("builds");
    let error = runtime.bind("127.0.0.1:0").await.expect_err("no such file");
    assert!(error.to_string().contains("/nowhere/server.pem"), "{error}");
}

/// In a process whose limit is low.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_low_limit_of_open_files_is_raised() {
    const CHILD: &str = "STELLANE_TEST_FEW_FILES";
    let name = "runtime::a_low_limit_of_open_files_is_raised";
    if std::env::var_os(CHILD).is_none() {
        let outcome = std::process::Command::new("sh")
            .args(["-c", r#"ulimit -S -n 150; exec "$@""#, "sh"])
            .arg(std::env::current_exe().expect("a path"))
            .args(["--exact", name])
            .env(CHILD, "1")
            .output()
            .expect("runs");
        let said = String::from_utf8_lossy(&outcome.stdout);
        assert!(
            outcome.status.success() && said.contains("1 passed"),
            "{said}"
        );
        return;
    }
    let (_stop, stopped) = oneshot::channel::<()>();
    let runtime = Runtime::builder()
        .config(config())
        .service(service_fn(async |_: Request<RequestBody>| {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
        }))
        .shutdown_signal(async {
            let _ = stopped.await;
        })
        .build()
        .expect("builds");
    let bound = runtime.bind("127.0.0.1:0").await.expect("binds");
    let address = bound.local_addr();
    tokio::spawn(bound.serve());
    // Both ends are files of this process.
    let mut clients = Vec::new();
    for _ in 0..200 {
        let mut client = TcpStream::connect(address).await.expect("connects");
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .expect("writes");
        let mut answer = [0; 15];
        client.read_exact(&mut answer).await.expect("answers");
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        clients.push(client);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_holds_its_thread_is_named_in_the_log_once() {
    use tracing::instrument::WithSubscriber;

    let log = crate::log::Log::default();
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Arc::new(std::sync::Mutex::new(gate));
    let block = move || {
        let gate = gate.clone();
        async move {
            let _ = gate.lock().expect("no panic").recv();
        }
    };
    let router = Router::builder().get("/blocks/{id}", block);
    let router = router.build().expect("no conflicts");
    let runtime = Runtime::builder().config(config()).service(router);
    let runtime = runtime.shutdown_signal(std::future::pending());
    let bound = runtime.build().expect("builds").bind("127.0.0.1:0").await;
    let bound = bound.expect("binds");
    let address = bound.local_addr();
    tokio::spawn(bound.serve().with_subscriber(log.subscriber()));
    let held = tokio::spawn(async move { get(address, "/blocks/1").await });
    let told = || {
        let text = log.text();
        let lines = text
            .lines()
            .filter(|line| line.contains("has held a thread"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let is_told = async {
        while told().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let patience = Duration::from_secs(60);
    tokio::time::timeout(patience, is_told)
        .await
        .expect("is told");
    let line = told().remove(0);
    assert!(
        line.contains("/blocks/{id}") && line.contains("for 500ms"),
        "{line}"
    );
    // It is looked at again and again.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(told().len(), 1, "{:?}", told());
    drop(open);
    held.await.expect("no panic");
}
