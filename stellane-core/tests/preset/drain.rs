//! How long a drain of the preset waits for each request, by configuration.

use std::{convert::Infallible, process::Termination, time::Duration};

use http::{Request, Response};
use stellane_core::{RequestBody, Runtime, RuntimeConfig, config::Loader};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, oneshot},
};
use tower::service_fn;

const CONFIG: &str = r#"
    [server]
    admin_address = ""
    drain_timeout = "100ms"
    [server.drain_classes.generation]
    timeout = "10m"
    paths = ["/v1/{model}/generate"]
    methods = ["POST"]
    [server.drain_classes.chat]
    timeout = "5m"
    grpc = ["llm.v1.Chat"]
    [server.drain_classes.changes]
    timeout = "1m"
    methods = ["PATCH"]
"#;

fn load(text: &str) -> RuntimeConfig {
    Loader::new().text("app.toml", text).load().expect("loads")
}

#[test]
fn with_its_delay_the_drain_ends_before_kubernetes_kills() {
    let limit = Duration::from_secs(30);
    for config in [RuntimeConfig::default(), RuntimeConfig::production()] {
        assert!(config.server.grace_period() <= limit, "{:?}", config.server);
    }
    let classes = load(CONFIG).server.grace_period();
    assert_eq!(
        classes,
        Duration::from_secs(605),
        "the longest class, and 5 s"
    );
}

#[test]
fn a_class_that_nothing_is_of_or_that_lasts_for_ever_is_refused() {
    for (class, told) in [
        ("timeout = \"1m\"", "expected `paths`, `methods` or `grpc`"),
        ("timeout = \"10h\"\npaths = [\"/\"]", "0s to 9 hours"),
    ] {
        let text = format!("[server.drain_classes.x]\n{class}");
        let errors = Loader::new().text("app.toml", text).load().unwrap_err();
        assert!(errors.to_string().contains(told), "{errors}");
    }
}

/// Whether each of these requests, which takes a second, is answered in a drain that waits for a tenth of that.
async fn answered(requests: &[(&str, &str)]) -> (Vec<bool>, bool) {
    let begun = std::sync::Arc::new(Notify::new());
    let service = {
        let begun = begun.clone();
        service_fn(move |_: Request<RequestBody>| {
            begun.notify_one();
            async {
                tokio::time::sleep(Duration::from_secs(2)).await;
                Ok::<_, Infallible>(Response::new("done".to_owned()))
            }
        })
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let bound = Runtime::builder()
        .config(load(CONFIG))
        .service(service)
        .shutdown_signal(async { drop(stopped.await) })
        .build()
        .expect("builds")
        .bind("127.0.0.1:0")
        .await
        .expect("binds");
    let address = bound.local_addr();
    let serving = tokio::spawn(bound.serve());
    let mut streams = Vec::new();
    for (method, path) in requests {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("writes");
        begun.notified().await;
        streams.push(stream);
    }
    stop.send(()).expect("serves");
    let report = serving.await.expect("no panic").expect("serves");
    let mut answered = Vec::new();
    for mut stream in streams {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answered.push(answer.ends_with(b"done"));
    }
    let cut = answered.iter().filter(|answered| !**answered).count();
    assert_eq!(report.drain.aborted, cut as u64, "{report}");
    (answered, report.report() == std::process::ExitCode::SUCCESS)
}

#[tokio::test]
async fn requests_of_a_class_have_its_time_and_others_that_of_the_drain() {
    let (answered, success) = answered(&[
        ("POST", "/v1/large/generate"),
        ("POST", "/llm.v1.Chat/Ask"),
        ("PATCH", "/users/1"),
        ("GET", "/v1/large/generate"),
        ("POST", "/users/1"),
    ])
    .await;
    assert_eq!(answered, [true, true, true, false, false]);
    assert!(!success, "something was cut");
}

#[tokio::test]
async fn a_drain_that_cuts_nothing_is_a_success() {
    let (answered, success) = answered(&[("PATCH", "/users/1")]).await;
    assert!(answered == [true] && success);
}
