//! Paths made from templates, names of routes, and the routes as OpenAPI lists them.

mod support;

use http::Method;
use stellane_router::{Link, Problem, RouteMatch, RouteTable, Router, UrlError};
use support::{get, grammar};

#[test]
fn a_path_is_read_back_as_the_values_it_was_made_of() {
    let echo = async |found: RouteMatch| {
        let params = found.params();
        let values = params
            .iter()
            .map(|(name, _)| params.decoded(name).unwrap().unwrap().into_owned());
        format!("{} {:?}", found.template(), values.collect::<Vec<_>>())
    };
    let router = Router::builder()
        .get("/a/{x}", echo)
        .name("segment")
        .get("/b/{*x}", echo)
        .name("rest")
        .get("/c/{x}.{y}", echo)
        .name("infix")
        .get("/d|{{/{+x}/-/{y:u64}", echo)
        .name("wild")
        .get("/e/{x:one(new york|a%7Cb)}/{y:len(1..2)}", echo)
        .name("constrained")
        .build()
        .unwrap();
    let routes = router.table();
    let check = |url: Result<String, UrlError>, expected: &str, template: &str, values: &[&str]| {
        let url = url.unwrap();
        assert_eq!(url, expected);
        assert_eq!(get(&router, &url).1, format!("{template} {values:?}"));
    };
    for value in [
        "a",
        "a b",
        "a/b",
        "%2F",
        "\u{e9}\u{65e5}",
        "a|b",
        "a:b?c#d",
        "{",
        "...",
        "a\u{0}",
    ] {
        let url = routes.url("segment", (value,)).unwrap();
        assert_eq!(
            get(&router, &url).1,
            format!("/a/{{x}} {:?}", [value]),
            "{url}"
        );
    }
    check(
        routes.url("rest", ("a b//c/",)),
        "/b/a%20b//c/",
        "/b/{*x}",
        &["a b//c/"],
    );
    check(routes.url("rest", ("",)), "/b/", "/b/{*x}", &[""]);
    check(
        routes.url("infix", ("a.b", 'c')),
        "/c/a.b.c",
        "/c/{x}.{y}",
        &["a.b", "c"],
    );
    check(
        routes.url("wild", ("g/h", 7)),
        "/d%7C%7B/g/h/-/7",
        "/d|{{/{+x}/-/{y:u64}",
        &["g/h", "7"],
    );
    check(
        routes.url("constrained", ("new york", "\u{e9}\u{e9}")),
        "/e/new%20york/%C3%A9%C3%A9",
        "/e/{x:one(new york|a%7Cb)}/{y:len(1..2)}",
        &["new york", "\u{e9}\u{e9}"],
    );
}

#[test]
fn a_path_that_would_be_another_is_refused() {
    let routes = Router::builder()
        .get("/a/{x}", async || "")
        .name("segment")
        .get("/b/{+x}", async || "")
        .name("rest")
        .get("/c/{x}.{y}", async || "")
        .name("infix")
        .get("/e/{w}/{x:u64}", async || "")
        .name("number")
        .get("/f/{+x}/-/{*y}", async || "")
        .name("wild")
        .build()
        .unwrap()
        .table();
    let value = |result: Result<String, UrlError>| match result.unwrap_err() {
        UrlError::Value {
            parameter, value, ..
        } => format!("{parameter}={value}"),
        other => panic!("{other}"),
    };
    assert_eq!(value(routes.url("segment", ("",))), "x=");
    assert_eq!(value(routes.url("infix", ("a", "b.c"))), "x=a");
    assert_eq!(value(routes.url("number", ("a", "seven"))), "x=seven");
    assert_eq!(value(routes.url("wild", ("a/-/b", "c"))), "x=a/-/b");
    for (result, text) in [
        (routes.url("segment", ("..",)), "`/a/..`"),
        (routes.url("rest", ("a/./b",)), "`/b/a/./b`"),
        (routes.url("rest", ("",)), "`/b/`"),
        (routes.url("segments", (1,)), "no route is named `segments`"),
        (routes.url("infix", (1,)), "has 2 parameters, got 1"),
        (routes.url("segment", ()), "has 1 parameters, got 0"),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
    let link: Result<Link<(u8, u8)>, _> = routes.link("segment");
    assert!(matches!(
        link,
        Err(UrlError::Count {
            parameters: 1,
            values: 2,
            ..
        })
    ));
    let link: Link<(u8, u8)> = routes.link("infix").unwrap();
    assert_eq!(link.clone().url((1, 2)).unwrap(), "/c/1.2");
}

#[test]
fn whatever_a_path_is_made_of_it_is_read_back() {
    let mut grammar = grammar::Grammar::new(&grammar::KINDS);
    let mut rng = grammar::random();
    let values = [
        "a", "b", "7", "a.b", "-", "x y", "\u{e9}", "a/b", "", "%41", "a-b.c", ".", "|",
    ];
    let mut made = 0;
    for _ in 0..grammar::cases() / 10 {
        let template = grammar.templates().swap_remove(0);
        let router = Router::builder()
            .get(&template, async || "")
            .name("it")
            .build()
            .unwrap();
        let mut value = || rng.choice(values).unwrap();
        let given = [value(), value(), value(), value()];
        let routes = router.table();
        let url = match routes.routes().next().unwrap().params().len() {
            0 => routes.url("it", ()),
            1 => routes.url("it", (given[0],)),
            2 => routes.url("it", (given[0], given[1])),
            3 => routes.url("it", (given[0], given[1], given[2])),
            4 => routes.url("it", (given[0], given[1], given[2], given[3])),
            _ => continue,
        };
        let Ok(url) = url else { continue };
        let found = routes
            .find(&url)
            .unwrap_or_else(|| panic!("{url} of {template}"));
        let params = found.params();
        for ((name, _), given) in params.iter().zip(given) {
            assert_eq!(
                params.decoded(name).unwrap().unwrap(),
                given,
                "{url} of {template}"
            );
        }
        assert!(url.parse::<http::Uri>().is_ok(), "{url}");
        made += 1;
    }
    assert!(made > grammar::cases() / 100, "only {made} were made");
}

#[test]
fn a_name_belongs_to_one_template() {
    let users = || {
        Router::builder()
            .get("/{id}", async || "")
            .name("user")
            .post("/{id}", async || "")
            .name("user")
    };
    let router = Router::builder().nest("/users", users()).build().unwrap();
    assert_eq!(router.table().url("user", (7,)).unwrap(), "/users/7");
    let info = &router.routes()[0];
    assert_eq!(info.names().collect::<Vec<_>>(), ["user"]);
    let report = Router::builder()
        .nest("/a", users())
        .nest("/b", users())
        .build()
        .unwrap_err();
    assert!(
        matches!(report.problems(), [Problem::Name { name, .. }] if name == "user"),
        "{report}"
    );
    for nothing in [
        Router::builder().name("early").get("/a", async || ""),
        Router::builder().nest("/a", users()).name("late"),
    ] {
        let report = nothing.build().unwrap_err();
        assert!(
            matches!(report.problems(), [Problem::Name { .. }]),
            "{report}"
        );
    }
    let both = Router::builder()
        .on([Method::GET, Method::PUT], "/a/{x}", async || "")
        .name("a")
        .build()
        .unwrap();
    assert_eq!(both.table().url("a", ("x",)).unwrap(), "/a/x");
}

#[test]
fn routes_are_listed_as_openapi_has_them() {
    let router = Router::builder()
        .on(
            [Method::GET, Method::DELETE],
            "/users/{id:u64}",
            async || "",
        )
        .name("user")
        .get(
            "/v{version:one(1|2)}/{day:date}/{word:alpha}.{code:len(2..8)}",
            async || "",
        )
        .any("/files/{*path}", async || "")
        .host(
            "api.example",
            Router::builder().get("/{*ns}/-/{id:uuid}", async || ""),
        )
        .build()
        .unwrap();
    let list = serde_json::to_value(router.table().openapi()).unwrap();
    let parameter = |name: &str, schema| serde_json::json!({"name": name, "in": "path", "required": true, "schema": schema});
    let string = serde_json::json!({"type": "string"});
    assert_eq!(
        list,
        serde_json::json!([
            {"path": "/files/{path}", "methods": [], "host": null, "name": null,
             "parameters": [parameter("path", string.clone())]},
            {"path": "/users/{id}", "methods": ["get", "delete"], "host": null, "name": "user", "parameters": [
                parameter("id", serde_json::json!({"type": "integer", "minimum": 0, "maximum": u64::MAX}))]},
            {"path": "/v{version}/{day}/{word}.{code}", "methods": ["get"], "host": null, "name": null, "parameters": [
                parameter("version", serde_json::json!({"type": "string", "enum": ["1", "2"]})),
                parameter("day", serde_json::json!({"type": "string", "format": "date"})),
                parameter("word", serde_json::json!({"type": "string", "pattern": "^[A-Za-z]+$"})),
                parameter("code", serde_json::json!({"type": "string", "minLength": 2, "maxLength": 8}))]},
            {"path": "/{ns}/-/{id}", "methods": ["get"], "host": "api.example", "name": null, "parameters": [
                parameter("ns", string), parameter("id", serde_json::json!({"type": "string", "format": "uuid"}))]},
        ])
    );
    assert!(
        RouteTable::new(["/a"]).unwrap().openapi()[0]
            .parameters
            .is_empty()
    );
}
