//! What the router answers by itself.

mod support;

use http::{Method, StatusCode, header};
use stellane_router::{Router, SlashPolicy};
use support::{allow, send, text};

#[test]
fn ignoring_a_slash_is_the_same_answer_for_every_method() {
    let build = |fallback: bool| {
        let builder = Router::builder()
            .slash(SlashPolicy::Ignore)
            .get("/a", async || "a");
        match fallback {
            true => builder.fallback(async || "fallback"),
            false => builder,
        }
        .build()
        .unwrap()
    };
    for router in [build(false), build(true)] {
        let mut answers = Vec::new();
        for path in ["/a", "/a/"] {
            let options = send(&router, Method::OPTIONS, path);
            assert_eq!(
                (options.status(), allow(&options)),
                (StatusCode::NO_CONTENT, "GET, HEAD, OPTIONS")
            );
            let post = send(&router, Method::POST, path);
            assert_eq!(
                (post.status(), allow(&post)),
                (StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD, OPTIONS")
            );
            let unknown = send(&router, Method::from_bytes(b"BREW").unwrap(), path);
            answers.push((unknown.status(), text(send(&router, Method::GET, path))));
        }
        assert_eq!(answers[0], answers[1]);
    }
}

#[test]
fn a_redirect_is_for_every_method_of_a_path_that_exists() {
    let router = Router::builder()
        .slash(SlashPolicy::Redirect)
        .get("/a", async || "a")
        .build()
        .unwrap();
    for method in [Method::GET, Method::OPTIONS, Method::POST] {
        let response = send(&router, method, "/a/?q=%7E");
        assert_eq!(response.status(), StatusCode::PERMANENT_REDIRECT);
        assert_eq!(response.headers()[header::LOCATION], "/a?q=%7E");
    }
}

#[test]
fn no_location_is_read_by_a_browser_as_another_site() {
    let router = Router::builder()
        .slash(SlashPolicy::Redirect)
        .get("/{x}", async || "")
        .get("//{x}", async || "")
        .get("/{x}/{y}", async || "")
        .build()
        .unwrap();
    for (path, expected) in [
        ("//evil.example/", "/evil.example"),
        ("/\\evil.example/", "/evil.example"),
        ("/%5Cevil.example/", "/%5Cevil.example"),
        ("/a\\b/c/", "/a%5Cb/c"),
    ] {
        let response = send(&router, Method::GET, path);
        let location = response.headers().get(header::LOCATION).expect(path);
        assert_eq!(location, expected, "{path}");
    }
}

#[test]
fn a_standard_method_that_is_not_registered_is_405_or_404_and_another_501() {
    let router = Router::builder().get("/a", async || "").build().unwrap();
    let status =
        |method: &[u8], path| send(&router, Method::from_bytes(method).unwrap(), path).status();
    assert_eq!(status(b"PATCH", "/a"), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(status(b"PATCH", "/b"), StatusCode::NOT_FOUND);
    assert_eq!(status(b"get", "/a"), StatusCode::NOT_IMPLEMENTED);
    assert_eq!(status(b"BREW", "/b"), StatusCode::NOT_IMPLEMENTED);
}

#[test]
fn a_target_that_is_no_path_goes_to_the_outermost_fallback() {
    let router = Router::builder()
        .get("/a", async || "")
        .nest("/b", Router::builder().fallback(async || "inner"))
        .fallback(async || "outer")
        .build()
        .unwrap();
    for (method, target) in [(Method::CONNECT, "host.example:443"), (Method::GET, "*")] {
        assert_eq!(text(send(&router, method, target)), "outer");
    }
    assert_eq!(
        send(&router, Method::OPTIONS, "*").status(),
        StatusCode::NO_CONTENT
    );
}
