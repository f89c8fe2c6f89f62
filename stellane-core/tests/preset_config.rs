//! The configuration of a service that runs: what is followed, what wins, and what is shown.
#![cfg(all(feature = "full", unix))]

#[path = "support/ask.rs"]
mod ask;

use std::{convert::Infallible, fs, net::SocketAddr, path::PathBuf, time::Duration};

use ask::get;
use http::{Request, Response};
use serde_json::Value;
use stellane_core::{
    RequestBody, Runtime,
    autotune::{TunerMode, names},
    config::{ConfigWatcher, Loader, LogConfig, RuntimeConfig},
    runtime::{Components, RuntimeBuilder},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A file that is gone at the end, whatever it has become.
struct TestFile(PathBuf);

impl TestFile {
    fn new(name: &str, text: &str) -> Self {
        let name = format!("stellane-config-{name}-{}.toml", std::process::id());
        let file = Self(std::env::temp_dir().join(name));
        fs::write(&file.0, text).expect("writes");
        file
    }

    /// All at once, as an editor does it.
    fn replace(&self, text: &str) {
        let new = self.0.with_extension("new");
        fs::write(&new, text).expect("writes");
        fs::rename(new, &self.0).expect("renames");
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
        let _ = fs::remove_file(&self.0);
    }
}

struct Served {
    components: Components,
    address: SocketAddr,
    admin: SocketAddr,
}

async fn serve(config: RuntimeConfig) -> Served {
    serve_with(Runtime::builder().config(config)).await
}

async fn serve_with(builder: RuntimeBuilder<()>) -> Served {
    let app = tower::service_fn(|_: Request<RequestBody>| async {
        Ok::<_, Infallible>(Response::new("hello".to_owned()))
    });
    let runtime = builder.service(app);
    let runtime = runtime.shutdown_signal(std::future::pending());
    let bound = runtime
        .build()
        .expect("builds")
        .bind("127.0.0.1:0")
        .await
        .expect("binds");
    let served = Served {
        components: bound.components().clone(),
        address: bound.local_addr(),
        admin: bound.admin_addr().expect("on"),
    };
    tokio::spawn(bound.serve());
    served
}

async fn shown(served: &Served) -> Value {
    page(served, "/config").await
}

async fn page(served: &Served, path: &str) -> Value {
    let answer = get(served.admin, path).await;
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    serde_json::from_str(body).expect("JSON")
}

/// Waits until this is so, and asks the service meanwhile.
async fn until(served: &Served, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !is_so().await {
            assert!(
                get(served.address, "/").await.ends_with("hello"),
                "requests go on"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect(what);
}

async fn failures(served: &Served) -> f64 {
    let metrics = get(served.admin, "/metrics").await;
    let line = "stellane_config_reload_failures_total ";
    let count = metrics.lines().find_map(|text| text.strip_prefix(line));
    count.map_or(0.0, |count| count.parse().expect("a number"))
}

/// Where a key has its value from.
fn place<'a>(shown: &'a Value, key: &str) -> &'a str {
    let mut list = shown["from"].as_array().expect("a list").iter();
    let one = list.find(|one| one["key"] == key);
    one.map_or("a default", |one| one["from"].as_str().expect("text"))
}

const ADMIN: &str = "[server]\nadmin_address = \"127.0.0.1:0\"\n";

#[tokio::test]
async fn the_loader_that_was_used_is_followed_and_what_the_program_has_set_stays() {
    let text = |idle: u32, most: u32| {
        format!("{ADMIN}[connection]\nidle_timeout = \"{idle}s\"\nmax_connections = {most}\n")
    };
    let file = TestFile::new("program", &text(30, 100));
    let config = Loader::new().file(&file.0).load().expect("valid");
    assert_eq!(config, config.clone());
    let config = config.with(|config| config.connection.idle_timeout = Duration::from_secs(7));
    let served = serve(config).await;
    file.replace(&text(50, 200));
    let connections = served.components.connections.clone();
    let is_new = async || connections.config().max_connections == 200;
    until(&served, "the file is followed", is_new).await;
    assert_eq!(connections.config().idle_timeout, Duration::from_secs(7));
    let shown = shown(&served).await;
    assert_eq!(shown["connection"]["max_connections"], 200);
    assert_eq!(place(&shown, "connection.idle_timeout"), "program");
}

#[tokio::test]
async fn what_is_in_force_is_shown_and_where_it_is_from() {
    let text = format!(
        "{ADMIN}admin_token = \"hunter2\"\n[connection]\nidle_timeout = \"30s\"\nmax_connections = 100\n\
         [workers]\nmin_workers = 4\nmax_workers = 8\n[tuner]\nmode = \"apply\"\ninterval = \"1m\"\n"
    );
    let file = TestFile::new("shown", &text);
    let loader = Loader::new().file(&file.0).env([
        ("STELLANE_ENV", "production"),
        ("STELLANE__CONNECTION__MAX_REQUESTS", "1000"),
    ]);
    let config = loader
        .load()
        .expect("valid")
        .with(|config| config.limit.max = 500);
    let served = serve(config).await;
    let Components {
        connections,
        workers,
        tuner,
        ..
    } = served.components.clone();
    let first = shown(&served).await;
    let path = file.0.display();
    for (section, key, value, from) in [
        (
            "server",
            "admin_token",
            Value::from("<redacted>"),
            format!("{path}:3"),
        ),
        (
            "connection",
            "idle_timeout",
            "30s".into(),
            format!("{path}:5"),
        ),
        (
            "connection",
            "max_requests",
            1000.into(),
            "environment STELLANE__CONNECTION__MAX_REQUESTS".into(),
        ),
        ("server", "drain_delay", "5s".into(), "profile".into()),
        ("limit", "max", 500.into(), "program".into()),
        (
            "connection",
            "max_connections",
            100.into(),
            format!("{path}:6"),
        ),
    ] {
        let key_of = format!("{section}.{key}");
        assert_eq!(first[section][key], value, "{key_of}");
        assert_eq!(place(&first, &key_of), from.as_str(), "{key_of}");
    }
    assert_eq!(place(&first, "connection.head_timeout"), "a default");

    // By a handle, by the tuner, and by a reload.
    for minute in 1..100 {
        tuner.tick(Duration::from_secs(60 * minute));
    }
    let history = tuner.history();
    let turned = history
        .iter()
        .rfind(|action| action.parameter == names::WORKERS_MIN);
    let turned = turned.expect("an idle service needs fewer workers");
    connections.set_max_connections(77);
    workers.set_max_workers(16);
    tuner.set_mode(TunerMode::Observe);
    file.replace(&text.replace("30s", "40s"));
    let is_new = async || connections.config().idle_timeout == Duration::from_secs(40);
    until(&served, "a reload", is_new).await;
    let second = shown(&served).await;
    assert_eq!(second["connection"]["max_connections"], 77);
    assert_eq!(place(&second, "connection.max_connections"), "program");
    assert_eq!(second["workers"]["max_workers"], 16);
    assert_eq!(place(&second, "workers.max_workers"), "program");
    assert_eq!(second["workers"]["min_workers"], turned.new_value as usize);
    assert_eq!(place(&second, "workers.min_workers"), "tuner");
    assert_eq!(second["connection"]["idle_timeout"], "40s");
    assert_eq!(
        place(&second, "connection.idle_timeout"),
        format!("{path}:5")
    );
    assert_eq!(second["tuner"]["mode"], "observe");
    assert!(!second.to_string().contains("hunter2"));
}

/// The status, and what is told.
async fn post(served: &Served, path: &str, body: &str) -> (String, String) {
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let answer = ask::ask_at(served.admin, &request).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
    (head[9..12].to_owned(), body.to_owned())
}

#[tokio::test]
async fn what_a_handle_has_turned_is_shown_with_its_new_value() {
    let log = stellane_core::logging::init(&LogConfig::default()).expect("the only one");
    let mut config = RuntimeConfig::default();
    config.server.admin_address = "127.0.0.1:0".to_owned();
    let served = serve_with(Runtime::builder().config(config).log_handle(log.clone())).await;
    let Components {
        connections,
        limit,
        pools,
        workers,
        tuner,
        ..
    } = served.components.clone();
    let before = shown(&served).await;
    assert_eq!(before["log"]["level"], LogConfig::default().level);
    assert_eq!(place(&before, "log.level"), "a default");
    assert_eq!(page(&served, "/log-level").await, before["log"]["level"]);

    connections.set_idle_timeout(Duration::from_secs(33));
    limit.set_min(3);
    limit.set_max(333);
    pools.set_retain_percent(33);
    pools.set_max_body_bytes(3333);
    workers.set_max_workers(30);
    workers.set_min_workers(13);
    workers.set_queue_size(3);
    assert_eq!(post(&served, "/log-level", "warn").await.0, "200");
    assert_eq!(
        post(&served, "/log-level", "no such=level=x").await.0,
        "400"
    );
    let (status, told) = post(&served, "/tuning/mode", " apply\n").await;
    assert_eq!(
        (status.as_str(), told.as_str()),
        ("200", "{\"mode\":\"apply\"}")
    );
    let (status, told) = post(&served, "/tuning/mode", "often").await;
    assert_eq!(status, "400");
    assert!(told.contains("observe, recommend or apply"), "{told}");
    assert_eq!(tuner.mode(), TunerMode::Apply);
    assert_eq!(log.level(), "warn");

    let after = shown(&served).await;
    for (section, key, value, from) in [
        ("connection", "idle_timeout", Value::from("33s"), "program"),
        ("limit", "min", 3.into(), "program"),
        ("limit", "max", 333.into(), "program"),
        ("pool", "retain_percent", 33.into(), "program"),
        ("pool", "max_body_bytes", 3333.into(), "program"),
        ("workers", "min_workers", 13.into(), "program"),
        ("workers", "max_workers", 30.into(), "program"),
        ("workers", "queue_size", 3.into(), "program"),
        ("tuner", "mode", "apply".into(), "program"),
        ("log", "level", "warn".into(), "/log-level"),
    ] {
        let key_of = format!("{section}.{key}");
        assert_ne!(before[section][key], value, "{key_of}");
        assert_eq!(after[section][key], value, "{key_of}");
        assert_eq!(place(&after, &key_of), from, "{key_of}");
    }
    assert_eq!(page(&served, "/log-level").await, "warn");
}

#[tokio::test]
async fn the_pages_of_tuning_and_connections_show_what_there_is() {
    let mut config = RuntimeConfig::default();
    config.server.admin_address = "127.0.0.1:0".to_owned();
    config.tuner.mode = TunerMode::Apply;
    config.tuner.interval = Duration::from_secs(60);
    (config.workers.min_workers, config.workers.max_workers) = (4, 8);
    let served = serve(config).await;
    let tuner = served.components.tuner.clone();
    for minute in 1..100 {
        tuner.tick(Duration::from_secs(60 * minute));
    }
    let page_of_tuning = page(&served, "/tuning").await;
    assert_eq!(page_of_tuning["mode"], "apply");
    let ticks = page_of_tuning["stats"]["ticks"].as_u64();
    assert!(ticks.is_some_and(|ticks| ticks >= 99), "{page_of_tuning}");
    let actions = page_of_tuning["actions"].as_array().expect("a list");
    let history = tuner.history();
    assert!(!actions.is_empty() && actions.len() <= history.len());
    for (action, done) in actions.iter().zip(&history) {
        assert_eq!(action["parameter"], *done.parameter);
        assert_eq!(action["old"], done.old_value);
        assert_eq!(action["new"], done.new_value);
        assert_eq!(action["new_value"], done.new_value);
    }

    let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut client = TcpStream::connect(served.address).await.expect("connects");
    for _ in 0..2 {
        client.write_all(request).await.expect("writes");
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello") {
            let read = client.read_buf(&mut answer).await.expect("reads");
            assert!(read > 0, "it ended");
        }
    }
    let waiting = async {
        loop {
            let page = page(&served, "/connections").await;
            if page["connections"][0]["state"] != "active" {
                return page;
            }
        }
    };
    let connections = tokio::time::timeout(PATIENCE, waiting).await.expect("idle");
    let one = &connections["connections"][0];
    assert_eq!(connections["total"], 1);
    let peer = client.local_addr().expect("connected").to_string();
    assert_eq!(one["peer"], peer.as_str());
    assert_eq!(one["requests"], 2);
    assert_eq!(one["bytes_read"], 2 * request.len());
    assert!(one["bytes_written"].as_u64() > one["bytes_read"].as_u64());
    assert!(one["age"].is_number());
    let is_known = ["idle", "parked"].map(Value::from).contains(&one["state"]);
    assert!(is_known, "{one}");
}

#[tokio::test]
async fn a_file_that_is_none_is_an_error_and_nothing_else() {
    let file = TestFile::new("odd", ADMIN);
    let served = serve(Loader::new().file(&file.0).load().expect("valid")).await;
    let mut failed = 0.0;
    let mut fails = async |what: &str| {
        until(&served, what, async || failures(&served).await > failed).await;
        failed = failures(&served).await;
    };
    file.replace(&format!("{ADMIN}{}", "# a long line\n".repeat(750_000)));
    fails("ten megabytes").await;
    file.replace(&format!("{ADMIN}{}", "a".repeat(1_000_000)));
    fails("a megabyte of nonsense").await;
    file.replace("");
    fails("an empty file").await;
    fs::remove_file(&file.0).expect("removes");
    let made = std::process::Command::new("mkfifo").arg(&file.0).status();
    assert!(made.expect("mkfifo").success());
    fails("a FIFO").await;
    fs::remove_file(&file.0).expect("removes");
    fs::create_dir(&file.0).expect("a folder");
    fails("a folder").await;
    fs::remove_dir(&file.0).expect("removes");
    fails("nothing").await;
    let mode = served.components.connections.config();
    assert_eq!(
        mode.max_connections,
        RuntimeConfig::default().connection.max_connections
    );
    // And all is well again.
    fs::write(
        &file.0,
        format!("{ADMIN}[connection]\nmax_connections = 123\n"),
    )
    .expect("writes");
    let connections = served.components.connections.clone();
    let is_new = async || connections.config().max_connections == 123;
    until(&served, "a file", is_new).await;
}

#[tokio::test]
async fn a_file_that_is_being_written_is_never_half_in_force() {
    let whole = |most: u32| {
        format!(
            "{ADMIN}[connection]\nmax_connections = {most}\nidle_timeout = \"{most}s\"\n[pool]\n"
        )
    };
    let file = TestFile::new("written", &whole(100));
    let watcher = ConfigWatcher::new(Loader::new().file(&file.0)).expect("valid");
    let mut seen = watcher.subscribe();
    tokio::spawn(watcher.clone().run(|_| {}));
    let text = whole(200);
    for end in (0..=text.len()).step_by(7) {
        fs::write(&file.0, &text[..end]).expect("writes");
        tokio::time::sleep(Duration::from_millis(30)).await;
        let config = watcher.config();
        let pair = (
            config.connection.max_connections,
            config.connection.idle_timeout.as_secs(),
        );
        // Where the machine stands still for long, what was written so far is what there is.
        assert!(pair.0 >= 100 && pair.1 >= 60, "{pair:?}");
    }
    fs::write(&file.0, &text).expect("writes");
    let is_whole = async {
        while watcher.config().connection.max_connections != 200 {
            seen.changed().await.expect("open");
        }
    };
    tokio::time::timeout(PATIENCE, is_whole)
        .await
        .expect("the whole file");
    assert_eq!(
        watcher.config().connection.idle_timeout,
        Duration::from_secs(200)
    );
}

#[test]
fn a_file_full_of_mistakes_is_read_in_linear_time_and_the_first_hundred_are_told() {
    for line in ["x = 1\n", "x\n", "[x]\n", "a.b = \"c\"\n"] {
        let lines = 300_000 / (line.len() + 6);
        let text: String = (0..lines)
            .map(|n| line.replace('x', &format!("x{n:06}")))
            .collect();
        let text = text.replace("a.b", "limit.classes.b");
        let errors = Loader::new()
            .text("long.toml", text)
            .load()
            .expect_err("wrong");
        assert!(
            errors.problems().len() <= 101,
            "{}",
            errors.problems().len()
        );
        assert!(errors.to_string().len() < 400_000);
    }
    let valid: String = (0..20_000).map(|n| format!("c{n} = 0.00001\n")).collect();
    let config = Loader::new()
        .text("long.toml", format!("[limit.classes]\n{valid}"))
        .load();
    drop(config);
}
