//! What the guide's page `watching` says to look at is there when it happens: each row provoked.

use std::{net::SocketAddr, time::Duration};

use axum::{body::Bytes, extract::DefaultBodyLimit, routing::get as on_get, routing::post};
use serde_json::Value;
use stellane_core::{Runtime, config::Loader, runtime::waits_for};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

use crate::ask::{ask_at, get};

const MS: Duration = Duration::from_millis(1);

struct Watched {
    service: SocketAddr,
    admin: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Watched {
    async fn start(config: &str) -> Self {
        let config = Loader::new()
            .text("app.toml", config)
            .load()
            .expect("valid");
        let config = config.with(|config| config.server.admin_address = "127.0.0.1:0".to_owned());
        let app = axum::Router::new()
            .route("/hello", on_get(async || "hello"))
            .route(
                "/slow",
                on_get(async || waits_for("db", sleep(80 * MS)).await),
            )
            .route("/holds", on_get(async || sleep(600 * MS).await))
            .route("/stays", on_get(async || sleep(3000 * MS).await))
            .route("/computes", on_get(async || std::thread::sleep(120 * MS)))
            .route("/upload", post(async |body: Bytes| body.len().to_string()))
            .route("/download", on_get(async || vec![b'x'; 64 << 20]))
            .layer(DefaultBodyLimit::disable())
            .route_layer(stellane_core::metrics::RouteLabelLayer::axum());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = Runtime::builder()
            .config(config)
            .service(app)
            .background("outbox", |_| async {
                sleep(20 * MS).await;
                panic!("as asked")
            })
            .shutdown_signal(async {
                let _ = stopped.await;
            })
            .build()
            .expect("valid")
            .bind("127.0.0.1:0")
            .await
            .expect("binds");
        let (service, admin) = (server.local_addr(), server.admin_addr().expect("is on"));
        tokio::spawn(server.serve());
        Self {
            service,
            admin,
            stop: Some(stop),
        }
    }

    async fn page(&self, path: &str) -> String {
        let answer = get(self.admin, path).await;
        answer.split_once("\r\n\r\n").expect("a head").1.to_owned()
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.page(path).await).expect("JSON")
    }

    /// Looks until a page shows it: what is shown is a second old.
    async fn until(&self, what: &str, path: &str, shows: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..600 {
            let page = self.json(path).await;
            if shows(&page) {
                return page;
            }
            sleep(20 * MS).await;
        }
        panic!("{what}: {}", self.page(path).await);
    }

    async fn metric(&self, line: &str) -> f64 {
        let text = self.page("/metrics").await;
        let found = text
            .lines()
            .find_map(|of| of.strip_prefix(line)?.trim().parse().ok());
        found.unwrap_or_else(|| panic!("{line} in {text}"))
    }

    /// Of `/requests`, that of a route.
    async fn kept(&self, kept_as: &str, route: &str) -> Value {
        let has = |one: &Value| one["kept_as"] == kept_as && one["route"] == route;
        let list = self
            .until(route, "/requests", |list| {
                list.as_array().into_iter().flatten().any(has)
            })
            .await;
        list.as_array()
            .into_iter()
            .flatten()
            .find(|one| has(one))
            .expect("found")
            .clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_slow_refused_or_held_a_thread_is_told_with_its_reason() {
    let limit = "[limit]\nalgorithm = \"fixed\"\ninitial = 2\nmin = 1\nmax = 2\nmax_wait = \"1ms\"\nhold = \"body\"";
    let watched = Watched::start(limit).await;
    // Slow, and one route: what it waited for, and what its own line says.
    get(watched.service, "/slow").await;
    let slow = watched.kept("slow", "/slow").await;
    assert!(
        slow["why"]
            .as_str()
            .expect("words")
            .contains("waited for db"),
        "{slow}"
    );
    let routes = watched
        .until("the route", "/routes", |list| {
            list.as_array()
                .into_iter()
                .flatten()
                .any(|route| route["route"] == "/slow")
        })
        .await;
    let route = routes
        .as_array()
        .into_iter()
        .flatten()
        .find(|route| route["route"] == "/slow");
    assert!(
        route.expect("found")["latency_avg"]
            .as_f64()
            .expect("a number")
            >= 0.08
    );
    // The CPU, or a handler that has the thread.
    get(watched.service, "/computes").await;
    let computes = watched.kept("slow", "/computes").await;
    assert!(
        computes["blocking"].as_f64().expect("a number") >= 0.1,
        "{computes}"
    );
    // Refused: who, why, and in the journal when it began.
    let service = watched.service;
    let asking = tokio::spawn(async move {
        loop {
            let ask = |_| tokio::spawn(get(service, "/holds"));
            for one in (0..8).map(ask).collect::<Vec<_>>() {
                one.await.expect("is answered");
            }
        }
    });
    // A rate is one of the last seconds, and those may be gone: it is asked for until the rate is seen.
    let state = watched
        .until("refusals", "/runtime.json", |now| {
            now["shed_per_second"].as_f64() > Some(0.0)
        })
        .await;
    asking.abort();
    assert!(
        state["warnings"][0]
            .as_str()
            .expect("words")
            .contains("are refused"),
        "{state}"
    );
    let refused = watched.json("/requests").await;
    let mut refused = refused.as_array().into_iter().flatten();
    assert!(refused.any(|one| one["kept_as"] == "refused"));
    let journal = |history: &Value, text: &str| {
        let events = history["events"].as_array();
        events.into_iter().flatten().any(|event| {
            event["text"]
                .as_str()
                .is_some_and(|said| said.contains(text))
        })
    };
    watched
        .until("the journal", "/history.json", |history| {
            journal(history, "refusing began")
        })
        .await;
    // Restarts: of a background task here; of the process by `stellane_uptime_seconds`.
    watched
        .until("the journal", "/history.json", |history| {
            journal(history, "outbox was started again")
        })
        .await;
    assert!(
        watched
            .metric("stellane_background_restarts_total{task=\"outbox\"}")
            .await
            >= 1.0
    );
    assert!(watched.metric("stellane_uptime_seconds").await > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_start_says_that_the_limit_is_open_and_nobody_is_refused() {
    let watched = Watched::start("").await;
    let asked: Vec<_> = (0..60)
        .map(|_| tokio::spawn(get(watched.service, "/stays")))
        .collect();
    let state = watched
        .until("sixty in flight", "/runtime.json", |now| {
            now["requests_in_flight"].as_u64() == Some(60)
        })
        .await;
    assert!(
        state["limit_state"]
            .as_str()
            .expect("words")
            .starts_with("open"),
        "{state}"
    );
    for one in asked {
        assert!(one.await.expect("is answered").starts_with("HTTP/1.1 200"));
    }
    let shed = watched.json("/runtime.json").await["shed_total"].clone();
    let mut shed = shed.as_object().into_iter().flatten();
    assert!(shed.all(|(_, n)| n == 0), "{shed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_a_tenant_a_peer_and_a_drain_that_does_not_end_are_told() {
    let config = r#"
        memory.budget = "1 GiB"
        server.drain_timeout = "30s"
        [rate_limit.tenants]
        key = "header:x-tenant"
        rules = ["1/h"]
    "#;
    let mut watched = Watched::start(config).await;
    // One peer: what it has sent, by its address. Memory: what bodies hold.
    let mut upload = TcpStream::connect(watched.service).await.expect("connects");
    let peer = upload.local_addr().expect("bound").to_string();
    let piece = vec![b'x'; 1 << 20];
    upload
        .write_all(b"POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 3145728\r\n\r\n")
        .await
        .expect("writes");
    upload.write_all(&piece).await.expect("writes");
    upload.write_all(&piece).await.expect("writes");
    let mebibyte = |n: f64| n >= 1_000_000.0;
    for _ in 0..500 {
        if mebibyte(watched.metric("stellane_memory_held_bytes").await) {
            break;
        }
        sleep(20 * MS).await;
    }
    assert!(mebibyte(watched.metric("stellane_memory_held_bytes").await));
    watched
        .until("what it has sent", "/connections", |list| {
            let mut list = list["connections"].as_array().into_iter().flatten();
            let its = list.find(|one| one["peer"] == peer.as_str());
            its.is_some_and(|its| its["bytes_read"].as_f64().is_some_and(mebibyte))
        })
        .await;
    upload.write_all(&piece).await.expect("writes");
    let mut answer = [0; 15];
    upload.read_exact(&mut answer).await.expect("reads");
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    // One tenant: its rate.
    for status in ["200", "429"] {
        let head = "GET /hello HTTP/1.1\r\nhost: x\r\nx-tenant: acme\r\nconnection: close\r\n\r\n";
        assert!(
            ask_at(watched.service, head)
                .await
                .starts_with(&format!("HTTP/1.1 {status}"))
        );
    }
    assert_eq!(
        watched
            .metric("stellane_rate_limit_refused_total{limit=\"tenants\"}")
            .await,
        1.0
    );
    // A drain that does not end: a client that does not read its answer.
    let mut download = TcpStream::connect(watched.service).await.expect("connects");
    let peer = download.local_addr().expect("bound").to_string();
    download
        .write_all(b"GET /download HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .expect("writes");
    download.readable().await.expect("an answer");
    let _ = watched.stop.take().expect("once").send(());
    let ready = watched
        .until("the drain", "/readyz?soft", |answer| {
            answer["ready"] == false
        })
        .await;
    assert!(
        !ready["reasons"].as_array().expect("a list").is_empty(),
        "{ready}"
    );
    let list = watched.json("/connections").await;
    let mut list = list["connections"].as_array().into_iter().flatten();
    let its = list
        .find(|one| one["peer"] == peer.as_str())
        .expect("is what is waited for");
    assert_eq!(its["state"], "active", "{its}");
    let events = watched.json("/history.json").await["events"].clone();
    let begins = |event: &Value| {
        let text = event["text"].as_str();
        text.is_some_and(|text| text.starts_with("draining"))
    };
    // What was started again after its panic may be told after it.
    let mut told = events.as_array().into_iter().flatten();
    assert!(told.any(begins), "{events}");
}
