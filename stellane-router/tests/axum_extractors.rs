//! axum's own `Path`, `RawPathParams` and `MatchedPath` in our handlers.

mod support;

use std::collections::HashMap;

use axum::extract::{MatchedPath, OriginalUri, Path, RawPathParams, rejection::PathRejection};
use http::{Method, StatusCode};
use serde::Deserialize;
use stellane_router::{Problem, Router, RouterBuilder};
use support::{call, get, request, text};

fn ok(router: &Router, path: &str) -> String {
    let (status, body) = get(router, path);
    assert_eq!(status, StatusCode::OK, "{path}: {body}");
    body
}

#[derive(Deserialize)]
struct Item {
    user: String,
    item: u32,
}

#[test]
fn path_reads_one_many_named_and_all_parameters() {
    let items = Router::builder()
        .get("/one/{id}", async |Path(id): Path<u64>| id.to_string())
        .get(
            "/{user}/{item}",
            async |Path((user, item)): Path<(String, u32)>| format!("{user} {item}"),
        )
        .post(
            "/{user}/{item}",
            async |Path(Item { user, item }): Path<Item>| format!("{user}:{item}"),
        );
    let map = async |Path(all): Path<HashMap<String, String>>| {
        let mut all: Vec<_> = all.into_iter().collect();
        all.sort();
        format!("{all:?}")
    };
    let router = Router::builder()
        .nest("/v/{version}", Router::builder().get("/{name}", map))
        .nest("/items", items)
        .build()
        .unwrap();
    assert_eq!(ok(&router, "/items/one/7"), "7");
    assert_eq!(ok(&router, "/items/ann/3"), "ann 3");
    let response = call(&router, request(Method::POST, "/items/bo%20b/4"));
    assert_eq!(text(response), "bo b:4");
    assert_eq!(
        ok(&router, "/v/2/a%2Fb"),
        r#"[("name", "a/b"), ("version", "2")]"#
    );
}

#[test]
fn path_reads_constraints_infixes_and_the_rest() {
    let router = Router::builder()
        .get("/files/{+path}", async |Path(path): Path<String>| path)
        .get(
            "/{name}.{ext}",
            async |Path((name, ext)): Path<(String, String)>| format!("{name} {ext}"),
        )
        .get(
            "/{+groups}/-/issues/{id:u32}",
            async |Path((groups, id)): Path<(String, u32)>| format!("{groups} {id}"),
        )
        .build()
        .unwrap();
    assert_eq!(ok(&router, "/files/a/b%20c//d/"), "a/b c//d/");
    assert_eq!(ok(&router, "/logo.png"), "logo png");
    assert_eq!(ok(&router, "/a/b/-/issues/9"), "a/b 9");
}

#[test]
fn failures_are_those_of_axum() {
    let router = Router::builder()
        .get("/{id}", async |Path(_): Path<u32>| "")
        .get(
            "/may/{id}",
            async |path: Result<Path<u32>, PathRejection>| {
                path.map_or_else(|rejection| rejection.body_text(), |Path(id)| id.to_string())
            },
        )
        .get("/none", async |Path(_): Path<u32>| "")
        .build()
        .unwrap();
    assert_eq!(get(&router, "/x").0, StatusCode::BAD_REQUEST);
    assert_eq!(get(&router, "/%FF").0, StatusCode::BAD_REQUEST);
    assert_eq!(ok(&router, "/may/12"), "12");
    assert!(ok(&router, "/may/x").contains("Cannot parse"));
    assert_eq!(get(&router, "/none").0, StatusCode::INTERNAL_SERVER_ERROR);
}

#[test]
fn matched_path_is_the_whole_template() {
    let matched =
        async |path: MatchedPath, OriginalUri(uri): OriginalUri| format!("{} {uri}", path.as_str());
    let scope = Router::builder()
        .get("/{id:u64}", matched)
        .get("/of/{+rest}", matched)
        .fallback(async |path: Option<MatchedPath>| format!("{}", path.is_none()));
    let router = Router::builder()
        .nest("/users", scope)
        .get("/", matched)
        .get("/all/{*rest}", matched)
        .get("/é", matched)
        .build()
        .unwrap();
    assert_eq!(ok(&router, "/users/7?a=b"), "/users/{id:u64} /users/7?a=b");
    assert_eq!(
        ok(&router, "/users/of/a/b"),
        "/users/of/{+rest} /users/of/a/b"
    );
    assert_eq!(ok(&router, "/"), "/ /");
    assert_eq!(ok(&router, "/all/a/b"), "/all/{*rest} /all/a/b");
    assert_eq!(ok(&router, "/%C3%A9"), "/é /%C3%A9");
    assert_eq!(ok(&router, "/users/x/y"), "true");
}

/// In axum a parameter at the end is never empty.
#[test]
fn a_parameter_may_be_empty() {
    let path = async |Path(path): Path<String>| format!("<{path}>");
    let router = Router::builder()
        .get("/files/{*rest}", path)
        .post("/posted/{*rest}", async || "")
        .method_not_allowed_fallback(path)
        .nest(
            "/{*groups}/-",
            Router::builder().get("/x", path).fallback(path),
        )
        .build()
        .unwrap();
    assert_eq!(ok(&router, "/files/"), "<>");
    assert_eq!(ok(&router, "/files//a/"), "</a/>");
    assert_eq!(ok(&router, "/posted/"), "<>");
    assert_eq!(ok(&router, "//-/x"), "<>");
    assert_eq!(ok(&router, "//-/y"), "<>");
    assert_eq!(ok(&router, "/a/b/-/y"), "<a/b>");
}

#[test]
fn a_fallback_has_the_parameters_of_its_prefix() {
    let scope = Router::builder()
        .get("/known", async || "")
        .fallback(async |Path(tenant): Path<String>| tenant);
    let router = Router::builder()
        .nest("/t/{tenant}", scope)
        .build()
        .unwrap();
    assert_eq!(ok(&router, "/t/acme/what/ever"), "acme");
}

#[test]
fn raw_parameters_are_decoded_and_in_order() {
    let raw = async |params: RawPathParams| {
        let pair = |(name, value)| format!("{name}={value}");
        params.iter().map(pair).collect::<Vec<_>>().join("&")
    };
    let router = Router::builder().get("/{b}/{a}", raw).build().unwrap();
    assert_eq!(ok(&router, "/1/%32"), "b=1&a=2");
}

#[test]
fn what_axum_cannot_have_is_refused_when_built() {
    let refused = |router: RouterBuilder| {
        let Err(report) = router.build() else {
            panic!("it is built");
        };
        assert!(
            matches!(report.problems(), [Problem::Extractor { .. }]),
            "{report}"
        );
        report.to_string()
    };
    let matched = async |_: MatchedPath| "";
    for template in ["/{a}.{b}", "/{*some}/end", "/{{x}}", "/a b"] {
        let told = refused(Router::builder().get(template, matched));
        assert!(told.contains("RouteMatch"), "{told}");
    }
}
