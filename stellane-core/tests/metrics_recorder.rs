//! Whose recorder of the `metrics` facade it is. Alone in its file: a process has one.
#![cfg(feature = "full")]

use std::{convert::Infallible, net::SocketAddr};

use http::{Request, Response};
use stellane_core::{
    Components, RequestBody, Runtime, RuntimeConfig, RuntimeError,
    metrics::{metrics, prometheus},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tower::service_fn;

async fn scrape(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let request = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("reads");
    answer
}

fn runtime(install: bool) -> Result<Runtime<impl stellane_core::App>, RuntimeError> {
    let config = RuntimeConfig::default().with(|config| {
        config.server.admin_address = "127.0.0.1:0".to_owned();
    });
    let app = service_fn(|_: Request<RequestBody>| async {
        Ok::<_, Infallible>(Response::new("hello".to_owned()))
    });
    let builder = Runtime::builder().config(config).service(app);
    match install {
        true => builder.install_recorder().build(),
        false => builder.build(),
    }
}

#[tokio::test]
async fn it_is_taken_by_who_asks_for_it_and_then_shows_both() {
    let _unasked = runtime(false).expect("builds");
    // Nobody has taken it.
    let asked = runtime(true).expect("builds");
    metrics::counter!("orders_total").increment(3);
    let bound = asked.bind("127.0.0.1:0").await.expect("binds");
    let admin = bound.admin_addr().expect("on");
    let serving = tokio::spawn(bound.serve());
    let text = scrape(admin).await;
    for line in [
        "\norders_total 3\n",
        "\nstellane_ready 1\n",
        "\nstellane_concurrency_limit ",
    ] {
        assert!(text.contains(line), "{line:?} in {text}");
    }
    serving.abort();
    let error = runtime(true).map(drop).expect_err("there is one");
    assert!(error.to_string().contains("FacadePublisher"), "{error}");
}

#[tokio::test]
async fn ours_are_published_into_one_of_the_programs_own() {
    let components = Components::new(&RuntimeConfig::default()).expect("valid");
    // Any recorder; this one can be read.
    let own = prometheus().build().expect("builds");
    metrics::with_local_recorder(&own.recorder(), || {
        metrics::counter!("orders_total").increment(3);
        components.publisher().publish();
    });
    let text = own.render();
    for line in [
        "\norders_total 3\n",
        "\nstellane_concurrency_limit ",
        "\nstellane_handler_panics_total 0\n",
    ] {
        assert!(text.contains(line), "{line:?} in {text}");
    }
}
