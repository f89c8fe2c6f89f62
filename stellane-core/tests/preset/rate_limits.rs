//! Rates by the configuration: whoever exceeds his is told so, and nobody else notices.

use stellane_core::{Runtime, RuntimeConfig, config::Loader};

use crate::ask::ask_at;

fn config(text: &str) -> RuntimeConfig {
    let config = Loader::new().text("app.toml", text).load().expect("valid");
    config.with(|config| config.server.admin_address = "127.0.0.1:0".to_owned())
}

#[tokio::test]
async fn rates_by_address_header_and_route_hold_and_are_counted() {
    let config = config(
        r#"
        [connection.forwarded]
        header = "x_forwarded_for"
        trusted = ["127.0.0.1"]
        [rate_limit.clients]
        rules = ["4/h"]
        [rate_limit.keys]
        key = "header:x-api-key"
        rules = ["2/h"]
        [rate_limit.logins]
        rules = ["1/h"]
        paths = ["/login"]
        methods = ["POST"]
        "#,
    );
    let app = axum::Router::new()
        .route("/", axum::routing::get(async || "hello"))
        .route(
            "/login",
            axum::routing::get(async || "form").post(async || "in"),
        );
    let runtime = Runtime::builder()
        .config(config)
        .service(app)
        .build()
        .expect("valid");
    let components = runtime.components().clone();
    let server = runtime.bind("127.0.0.1:0").await.expect("binds");
    let address = server.local_addr();
    tokio::spawn(server.serve());
    let ask = async |line: &str, peer: &str, key: &str| {
        let head = format!(
            "{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-forwarded-for: {peer}\r\n{key}\r\n"
        );
        let answer = ask_at(address, &head).await;
        answer
            .split(' ')
            .nth(1)
            .expect(&answer)
            .parse::<u16>()
            .expect(&answer)
    };
    // By address: of IPv6 by its network.
    for number in 1..=4 {
        assert_eq!(ask("GET /", &format!("2001:db8::{number}"), "").await, 200);
    }
    assert_eq!(ask("GET /", "2001:db8::5", "").await, 429);
    assert_eq!(ask("GET /", "2001:db8:0:1::5", "").await, 200);
    // By header, whatever the address.
    for number in 1..=2 {
        assert_eq!(
            ask("GET /", &format!("192.0.2.{number}"), "x-api-key: a\r\n").await,
            200
        );
    }
    assert_eq!(ask("GET /", "192.0.2.3", "x-api-key: a\r\n").await, 429);
    assert_eq!(ask("GET /", "192.0.2.3", "x-api-key: b\r\n").await, 200);
    // By route and method.
    assert_eq!(
        ask("POST /login", "192.0.2.9", "content-length: 0\r\n").await,
        200
    );
    assert_eq!(
        ask("POST /login/", "192.0.2.9", "content-length: 0\r\n").await,
        429
    );
    assert_eq!(ask("GET /login", "192.0.2.9", "").await, 200);

    let text = components.prometheus.render();
    for line in [
        r#"stellane_rate_limit_refused_total{limit="clients"} 1"#,
        r#"stellane_rate_limit_refused_total{limit="keys"} 1"#,
        r#"stellane_rate_limit_refused_total{limit="logins"} 1"#,
        r#"stellane_rate_limit_allowed_total{limit="logins"} 1"#,
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    // What a rate refuses is a request like any other in the metrics, and no overload.
    assert!(
        text.contains(r#"http_response_status_code="429""#),
        "{text}"
    );
    assert_eq!(components.limit.stats().shed, 0);
}

#[test]
fn what_is_no_rate_is_an_error_that_says_what_is() {
    let load = |text: &str| {
        let errors = Loader::new()
            .text("app.toml", text)
            .load()
            .expect_err("wrong");
        errors.to_string()
    };
    let error = load("[rate_limit.a]\nrules = [\"10 per second\"]");
    assert!(
        error.contains("`10 per second` is no rate") && error.contains("`1000/h`"),
        "{error}"
    );
    let error = load("[rate_limit.a]\nkey = \"cookie:a\"\nrules = [\"10/s\"]");
    assert!(
        error.contains("expected `peer` or `header:NAME`"),
        "{error}"
    );
    #[cfg(not(feature = "redis"))]
    {
        let error = load("[rate_limit.a]\nrules = [\"1/s\"]\nshared = \"redis://cache\"");
        assert!(error.contains("needs the feature `redis`"), "{error}");
    }
    let error = load("[rate_limit.a]\npaths = [\"/a\"]");
    assert!(
        error.contains("`rules` = 0 rules: expected 1 to 8"),
        "{error}"
    );
}

/// By a store in this test that lets in three requests of each key, whoever asks.
#[cfg(feature = "redis")]
mod shared {
    use std::{
        collections::HashMap,
        io::{BufRead, BufReader, Read, Write},
        net::{SocketAddr, TcpListener, TcpStream},
        sync::{Arc, Mutex},
        time::Duration,
    };

    use super::{ask_at, config};
    use stellane_core::{Runtime, config::Loader};

    type Keys = Arc<Mutex<HashMap<String, u64>>>;

    fn store() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("bound");
        let keys = Keys::default();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let (keys, socket) = (keys.clone(), socket.expect("a socket"));
                std::thread::spawn(move || serve(socket, &keys));
            }
        });
        address
    }

    /// Until the connection ends.
    fn serve(mut socket: TcpStream, keys: &Keys) -> Option<()> {
        socket.set_nodelay(true).ok()?;
        let mut reader = BufReader::new(socket.try_clone().ok()?);
        let number = |reader: &mut BufReader<TcpStream>| {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            line.trim().get(1..)?.parse::<usize>().ok()
        };
        loop {
            let mut words = Vec::new();
            for _ in 0..number(&mut reader)? {
                let mut word = vec![0; number(&mut reader)? + 2];
                reader.read_exact(&mut word).ok()?;
                words.push(String::from_utf8(word).ok()?.trim_end().to_owned());
            }
            let words: Vec<&str> = words.iter().map(|word| &**word).collect();
            let answer = match *words {
                ["SCRIPT", "LOAD", script] if script.contains("tolerance") => {
                    "$4\r\ntake\r\n".to_owned()
                }
                ["SCRIPT", ..] => "$8\r\nreplicas\r\n".to_owned(),
                ["EVALSHA", "take", _, key, count, ..] => {
                    let mut keys = keys.lock().expect("not poisoned");
                    let taken = keys.entry(key.to_owned()).or_default();
                    let allowed = count.parse::<u64>().ok()?.min(3 - *taken);
                    *taken += allowed;
                    let ahead = (1 - allowed.min(1)) * 9_000_000_000;
                    format!("*2\r\n:{allowed}\r\n:{ahead}\r\n")
                }
                _ => ":2\r\n".to_owned(),
            };
            socket.write_all(answer.as_bytes()).ok()?;
        }
    }

    async fn replica(store: &str, without: &str) -> (SocketAddr, stellane_core::Components) {
        let text = format!(
            r#"
            [rate_limit.keys]
            key = "header:x-api-key"
            rules = ["3/h"]
            shared = "{store}"
            without_store = "{without}"
            [rate_limit.alone]
            rules = ["20/h"]
            "#
        );
        let app = axum::Router::new().route("/", axum::routing::get(async || "hello"));
        let runtime = Runtime::builder().config(config(&text)).service(app);
        let runtime = runtime.build().expect("valid");
        let components = runtime.components().clone();
        let server = runtime.bind("127.0.0.1:0").await.expect("binds");
        let address = server.local_addr();
        tokio::spawn(server.serve());
        (address, components)
    }

    async fn ask(address: SocketAddr, key: &str) -> String {
        let head =
            format!("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-api-key: {key}\r\n\r\n");
        ask_at(address, &head).await
    }

    #[tokio::test]
    async fn replicas_share_a_rate_and_count_what_they_ask() {
        // A store that answers late, for want of a CPU, is away: then it has decided nothing.
        for _ in 0..50 {
            if share_a_rate().await {
                return;
            }
        }
        panic!("the store has always been late");
    }

    /// Whether the store answered in time.
    async fn share_a_rate() -> bool {
        let store = format!("redis://{}", store());
        let (first, components) = replica(&store, "whole").await;
        let (second, others) = replica(&store, "whole").await;
        for components in [&components, &others] {
            let line = r#"stellane_rate_stores{state="there"} 1"#;
            let wait = async {
                while !components.prometheus.render().contains(line) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let waited = tokio::time::timeout(Duration::from_secs(60), wait).await;
            waited.expect("the store is there");
        }
        let mut statuses = Vec::new();
        for address in [first, second, first, second, first] {
            let answer = ask(address, "ada").await;
            statuses.push(answer.split(' ').nth(1).expect("a status").to_owned());
        }
        let bob = ask(second, "bob").await;
        let (text, other) = (components.prometheus.render(), others.prometheus.render());
        for line in [
            "stellane_rate_store_failures_total 0",
            r#"stellane_rate_limit_without_store_total{limit="keys"} 0"#,
        ] {
            if !text.contains(line) || !other.contains(line) {
                return false;
            }
        }
        assert_eq!(statuses, ["200", "200", "200", "429", "429"]);
        assert!(bob.contains(" 200 "));
        for line in [
            r#"stellane_rate_limit_allowed_total{limit="keys"} 2"#,
            r#"stellane_rate_limit_refused_total{limit="keys"} 1"#,
            r#"stellane_rate_limit_allowed_total{limit="alone"} 3"#,
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        true
    }

    #[tokio::test]
    async fn without_a_store_nobody_is_refused_unless_that_was_asked_for() {
        let nobody = TcpListener::bind("127.0.0.1:0").expect("binds");
        let nobody = format!("redis://{}", nobody.local_addr().expect("bound"));
        let (open, components) = replica(&nobody, "whole").await;
        let (closed, _) = replica(&nobody, "refuse").await;
        assert!(ask(open, "ada").await.contains(" 200 "));
        let refused = ask(closed, "ada").await;
        assert!(refused.contains(" 503 "), "{refused}");
        assert!(refused.contains("retry-after: 1"), "{refused}");
        let text = components.prometheus.render();
        let line = r#"stellane_rate_limit_without_store_total{limit="keys"} 1"#;
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn what_is_no_store_is_told_without_its_password() {
        let text = "[rate_limit.a]\nrules = [\"1/s\"]\nshared = \"http://:hunter2@cache\"";
        let errors = Loader::new().text("app.toml", text).load();
        let errors = errors.expect_err("wrong").to_string();
        assert!(
            errors.contains("`shared`") && errors.contains("redis://"),
            "{errors}"
        );
        assert!(!errors.contains("hunter2"), "{errors}");
        let config = config(&text.replace("http", "redis"));
        assert!(!format!("{config:?}{config}").contains("hunter2"));
    }
}
