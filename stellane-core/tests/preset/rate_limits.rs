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
    let error = load("[rate_limit.a]\npaths = [\"/a\"]");
    assert!(
        error.contains("`rules` = 0 rules: expected 1 to 8"),
        "{error}"
    );
}
