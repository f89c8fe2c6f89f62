//! What a user of `Router` sees.

mod support;

use std::{convert::Infallible, sync::Arc};

use axum::{
    extract::{Query, State},
    response::IntoResponse,
};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use stellane_router::{
    Body, Json, Path, RouteLayer, RouteMatch, RouteTable, Router, RouterBuilder, SlashPolicy,
};
use support::{allow, call, get, now, request, send, text};
use tower::{Layer, Service, service_fn};

fn ok(body: &str) -> (StatusCode, String) {
    (StatusCode::OK, body.to_owned())
}

#[test]
fn most_specific_route_wins_in_any_order() {
    let add: [fn(RouterBuilder) -> RouterBuilder; 6] = [
        |b| b.get("/users/me", async || "me"),
        |b| b.get("/users/{id:u64}", async || "number"),
        |b| b.get("/users/{name}", async || "name"),
        |b| b.get("/users/{name}.json", async || "json"),
        |b| b.get("/users/{name}/posts", async || "posts"),
        |b| b.get("/{*rest}", async || "rest"),
    ];
    for shift in 0..add.len() {
        let builder =
            (0..add.len()).fold(Router::builder(), |b, i| add[(i + shift) % add.len()](b));
        let router = builder.build().unwrap();
        assert_eq!(get(&router, "/users/me"), ok("me"));
        assert_eq!(get(&router, "/users/mike"), ok("name"));
        assert_eq!(get(&router, "/users/7"), ok("number"));
        assert_eq!(get(&router, "/users/7.json"), ok("json"));
        assert_eq!(get(&router, "/users/me/posts"), ok("posts"));
        assert_eq!(get(&router, "/users/me/x"), ok("rest"));
        assert_eq!(get(&router, "/"), ok("rest"));
    }
}

#[test]
fn path_parameters_are_typed_and_a_bad_one_is_named() {
    #[derive(serde::Deserialize)]
    struct Place {
        x: i32,
        city: String,
        kind: Kind,
    }
    #[derive(Debug, serde::Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Big,
        Small,
    }
    let router = Router::builder()
        .get("/one/{id}", async |Path(id): Path<u64>| id.to_string())
        .get("/two/{a}/{b}", async |Path((a, b)): Path<(String, u8)>| {
            format!("{a}+{b}")
        })
        .get("/place/{city}/{x}/{kind}", async |Path(p): Path<Place>| {
            format!("{} {} {:?}", p.city, p.x, p.kind)
        })
        .get("/opt/{id}", async |Path(id): Path<Option<u8>>| {
            format!("{id:?}")
        })
        .get("/list/{a}/{b}", async |Path(all): Path<Vec<String>>| {
            all.join(" ")
        })
        .get("/wrong/{id}", async |Path((a, b)): Path<(u8, u8)>| {
            format!("{a}{b}")
        })
        .build()
        .unwrap();
    assert_eq!(
        get(&router, "/one/18446744073709551615"),
        ok("18446744073709551615")
    );
    assert_eq!(get(&router, "/two/a%20b%2Fc/255"), ok("a b/c+255"));
    assert_eq!(
        get(&router, "/place/K%C3%B6ln/-3/small"),
        ok("Köln -3 Small")
    );
    assert_eq!(get(&router, "/opt/7"), ok("Some(7)"));
    assert_eq!(get(&router, "/list/x/y"), ok("x y"));

    let bad = |uri: &str, words: &[&str]| {
        let (status, text) = get(&router, uri);
        assert_eq!(status, StatusCode::BAD_REQUEST, "{uri}");
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    };
    bad("/one/seven", &["`id`", "unsigned integer", "`seven`"]);
    bad("/two/a/256", &["`b`", "0 to 255"]);
    bad("/two/%FF/1", &["`a`", "UTF-8"]);
    bad("/place/x/3/medium", &["`kind`", "medium"]);
    assert_eq!(
        get(&router, "/wrong/1").0,
        StatusCode::INTERNAL_SERVER_ERROR
    );
}

#[test]
fn escapes_are_decoded_once_and_never_separate() {
    let router = Router::builder()
        .get("/a/b", async || "two segments")
        .get("/{x}", async |Path(x): Path<String>| x)
        .get("/me", async || "me")
        .get("/caf\u{e9}/{x:u64}", async || "coffee")
        .build()
        .unwrap();
    assert_eq!(get(&router, "/a%2Fb"), ok("a/b"));
    assert_eq!(get(&router, "/a%2fb"), ok("a/b"));
    assert_eq!(get(&router, "/%2561"), ok("%61"), "decoded once");
    assert_eq!(
        get(&router, "/m%65"),
        ok("me"),
        "an unreserved character is itself"
    );
    assert_eq!(get(&router, "/caf%c3%a9/1"), ok("coffee"));
    for malformed in ["/%", "/%4", "/%zz", "/a/%g1/b"] {
        assert_eq!(
            get(&router, malformed).0,
            StatusCode::BAD_REQUEST,
            "{malformed}"
        );
    }
}

#[test]
fn methods_are_part_of_the_match() {
    let router = Router::builder()
        .get("/users/me", async || "me")
        .post("/users/{id}", async || "posted")
        .delete("/users/{id}", async || "deleted")
        .on(
            Method::from_bytes(b"PURGE").unwrap(),
            "/cache",
            async || "purged",
        )
        .any("/any", async || "any")
        .put("/any", async || "put")
        .build()
        .unwrap();
    let status = |method, uri| send(&router, method, uri).status();

    assert_eq!(text(send(&router, Method::POST, "/users/me")), "posted");
    let refused = send(&router, Method::PUT, "/users/me");
    assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(allow(&refused), "GET, HEAD, POST, DELETE, OPTIONS");
    assert_eq!(refused.body().route().unwrap().template(), "/users/me");

    let options = send(&router, Method::OPTIONS, "/users/7");
    assert_eq!(options.status(), StatusCode::NO_CONTENT);
    assert_eq!(allow(&options), "POST, DELETE, OPTIONS");
    let options = send(&router, Method::OPTIONS, "*");
    assert_eq!(
        allow(&options),
        "GET, HEAD, POST, PUT, DELETE, OPTIONS, PURGE"
    );

    let purge = || Method::from_bytes(b"PURGE").unwrap();
    assert_eq!(text(send(&router, purge(), "/cache")), "purged");
    assert_eq!(status(purge(), "/users/me"), StatusCode::METHOD_NOT_ALLOWED);
    let unknown = || Method::from_bytes(b"BREW").unwrap();
    assert_eq!(status(unknown(), "/users/me"), StatusCode::NOT_IMPLEMENTED);
    assert_eq!(status(unknown(), "/nowhere"), StatusCode::NOT_IMPLEMENTED);
    assert_eq!(text(send(&router, unknown(), "/any")), "any");
    assert_eq!(text(send(&router, Method::PUT, "/any")), "put");
    assert_eq!(
        status(Method::CONNECT, "example.com:80"),
        StatusCode::NOT_FOUND
    );
}

#[test]
fn head_is_get_without_the_body() {
    let router = Router::builder()
        .get("/", async || "hello")
        .build()
        .unwrap();
    let response = send(&router, Method::HEAD, "/");
    assert_eq!(response.headers()[header::CONTENT_LENGTH], "5");
    assert_eq!(text(response), "");
}

#[test]
fn slash_policy_decides_about_the_last_slash() {
    let build = |policy| {
        Router::builder()
            .slash(policy)
            .get("/a", async || "a")
            .get("/b/", async || "b")
            .get("/{x}/c", async |Path(x): Path<String>| x)
            .build()
            .unwrap()
    };
    let strict = build(SlashPolicy::Strict);
    assert_eq!(get(&strict, "/a/").0, StatusCode::NOT_FOUND);
    let redirect = build(SlashPolicy::Redirect);
    let response = send(&redirect, Method::GET, "/a/?q=1");
    assert_eq!(response.status(), StatusCode::PERMANENT_REDIRECT);
    assert_eq!(response.headers()[header::LOCATION], "/a?q=1");
    let response = send(&redirect, Method::GET, "/b");
    assert_eq!(response.headers()[header::LOCATION], "/b/");
    let evil = Router::builder()
        .slash(SlashPolicy::Redirect)
        .get("/{*x}", async || "")
        .build();
    assert_eq!(get(&evil.unwrap(), "//evil.example/").0, StatusCode::OK);
    let ignore = build(SlashPolicy::Ignore);
    assert_eq!(get(&ignore, "/a/"), ok("a"));
    assert_eq!(get(&ignore, "/b"), ok("b"));
    assert_eq!(get(&ignore, "/v%20w/c/"), ok("v w"));
}

#[test]
fn slash_policy_is_that_of_the_innermost_scope_with_one() {
    let scope = || Router::builder().get("/a", async || "a");
    let router = Router::builder()
        .slash(SlashPolicy::Redirect)
        .nest("/as-outside", scope())
        .nest("/strict", scope().slash(SlashPolicy::Strict))
        .nest("/ignore", scope().slash(SlashPolicy::Ignore))
        .nest("/shared", scope().slash(SlashPolicy::Ignore))
        .build()
        .unwrap();
    let status = |path| send(&router, Method::GET, path).status();
    assert_eq!(status("/as-outside/a/"), StatusCode::PERMANENT_REDIRECT);
    assert_eq!(status("/strict/a/"), StatusCode::NOT_FOUND);
    assert_eq!(get(&router, "/ignore/a/"), ok("a"));
    // One template from two scopes: the most lenient decides, in whatever order they come.
    let post = || Router::builder().post("/a", async || "posted");
    let [first, second] = [false, true].map(|swap| {
        let (one, other) = (scope().slash(SlashPolicy::Ignore), post());
        let builder = Router::builder();
        match swap {
            false => builder.merge(one).merge(other),
            true => builder.merge(other).merge(one),
        }
        .build()
        .unwrap()
    });
    for router in [first, second] {
        assert_eq!(get(&router, "/a/"), ok("a"));
        let response = send(&router, Method::POST, "/a/");
        assert_eq!(response.status(), StatusCode::OK);
    }
}

#[test]
fn stats_count_what_the_router_answers_by_itself() {
    let inner = Router::builder().fallback(async || "none here");
    let router = Router::builder()
        .slash(SlashPolicy::Redirect)
        .get("/a", async || "a")
        .nest("/inner", inner)
        .build()
        .unwrap();
    let other = Method::from_bytes(b"BREW").unwrap();
    for (method, path) in [
        (Method::GET, "/a"),
        (Method::GET, "/a/"),
        (Method::POST, "/a"),
        (Method::OPTIONS, "/a"),
        (Method::GET, "/b"),
        (Method::GET, "/%zz"),
        (Method::GET, "/inner/x"),
        (other, "/a"),
    ] {
        send(&router, method, path);
    }
    let stats = router.stats();
    assert_eq!((stats.routes, stats.swaps), (1, 0));
    assert!(stats.table_bytes > 100, "{stats:?}");
    for count in [
        stats.bad_paths,
        stats.not_found,
        stats.fallbacks,
        stats.not_allowed,
        stats.not_implemented,
        stats.redirects,
        stats.options,
    ] {
        assert_eq!(count, 1, "{stats:?}");
    }
    let larger = Router::builder()
        .get("/a", async || "")
        .get("/b", async || "");
    let clone = router.clone();
    router.replace(&larger.build().unwrap());
    let after = clone.stats();
    assert_eq!((after.routes, after.swaps, after.not_found), (2, 1, 1));
    let bytes = |templates: &[&str]| RouteTable::new(templates).unwrap().bytes();
    assert!(bytes(&["/a", "/b/{c}"]) > bytes(&["/a"]));
}

#[test]
fn a_route_layer_counts_what_it_does_not_know() {
    let layer = RouteLayer::new(RouteTable::new(["/a"]).unwrap());
    let inner = service_fn(async |_: Request<support::NoBody>| Ok::<_, Infallible>(()));
    let mut service = layer.layer(inner);
    for path in ["/a", "/b"] {
        assert!(now(service.call(request(Method::GET, path))).is_ok());
    }
    layer.replace(RouteTable::new(["/a", "/b"]).unwrap());
    let stats = layer.stats();
    assert_eq!((stats.routes, stats.swaps, stats.unmatched), (2, 1, 1));
}

#[test]
fn redirect_never_leads_to_another_site() {
    let router = Router::builder()
        .slash(SlashPolicy::Redirect)
        .get("//{x}", async || "")
        .build()
        .unwrap();
    let response = send(&router, Method::GET, "//evil.example/");
    assert_eq!(response.headers()[header::LOCATION], "/evil.example");
}

#[test]
fn nested_scopes_keep_their_layers_and_fallbacks() {
    let tag = |name: &'static str| {
        tower::util::MapResponseLayer::new(move |mut response: Response<Body>| {
            let seen = response
                .headers()
                .get("x-tag")
                .map_or("", |v| v.to_str().unwrap());
            let value = format!("{name}{seen}");
            response
                .headers_mut()
                .insert("x-tag", value.parse().unwrap());
            response
        })
    };
    let deep = Router::builder()
        .get(
            "/{id}",
            async |Path((v, id)): Path<(u8, u8)>, found: RouteMatch| {
                format!("{v} {id} {}", found.template())
            },
        )
        .layer(tag("c"))
        .layer(tag("d"));
    let api = Router::builder()
        .get("/", async || "index")
        .nest("/deep/", deep)
        .fallback(async || (StatusCode::IM_A_TEAPOT, "api fallback"))
        .layer(tag("b"));
    let router = Router::builder()
        .get("/", async || "root")
        .nest("/v{version}", api)
        .fallback(async || "root fallback")
        .build()
        .unwrap();

    let tagged = |uri: &str| {
        let response = send(&router, Method::GET, uri);
        let tag = response
            .headers()
            .get("x-tag")
            .map(|v| v.to_str().unwrap().to_owned());
        (text(response), tag.unwrap_or_default())
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(tagged("/"), pair("root", ""));
    assert_eq!(tagged("/v1"), pair("index", "b"));
    assert_eq!(
        tagged("/v1/deep/7"),
        pair("1 7 /v{version}/deep/{id}", "bcd")
    );
    assert_eq!(tagged("/v1/nothing"), pair("api fallback", "b"));
    assert_eq!(tagged("/nothing"), pair("root fallback", ""));
}

#[test]
fn a_layer_that_wraps_the_body_keeps_the_parameters() {
    #[derive(Clone)]
    struct Boxing;
    impl<S: Clone> Layer<S> for Boxing {
        type Service = tower::util::MapRequest<S, fn(Request<Body>) -> Request<axum::body::Body>>;
        fn layer(&self, inner: S) -> Self::Service {
            tower::util::MapRequest::new(inner, |r| r.map(axum::body::Body::new))
        }
    }
    let router = Router::builder()
        .get("/{id}", async |Path(id): Path<u8>| id.to_string())
        .layer(Boxing)
        .build()
        .unwrap();
    assert_eq!(get(&router, "/7"), ok("7"));
}

#[test]
fn a_layer_may_rewrite_the_uri() {
    let rewrite = tower::util::MapRequestLayer::new(|mut request: Request<Body>| {
        *request.uri_mut() = "/".parse().unwrap();
        request
    });
    let router = Router::builder()
        .get("/{id}", async |Path(id): Path<String>| id)
        .layer(rewrite)
        .build()
        .unwrap();
    assert_eq!(get(&router, "/original"), ok("original"));
}

#[test]
fn hosts_have_routes_of_their_own() {
    let router = Router::builder()
        .get("/", async || "default")
        .get("/shared", async || "shared")
        .host(
            "api.example.com",
            Router::builder().get("/", async || "api"),
        )
        .host(
            "*.example.com",
            Router::builder().get("/", async || "wildcard"),
        )
        .host(
            "*.eu.example.com",
            Router::builder().get("/", async || "eu"),
        )
        .build()
        .unwrap();
    let at = |host: &str, path: &str| {
        let mut request = request(Method::GET, path);
        request
            .headers_mut()
            .insert(header::HOST, host.parse().unwrap());
        text(call(&router, request))
    };
    assert_eq!(at("api.example.com", "/"), "api");
    assert_eq!(at("API.Example.COM:8080", "/"), "api");
    assert_eq!(at("www.example.com.", "/"), "wildcard");
    assert_eq!(at("x.eu.example.com", "/"), "eu");
    assert_eq!(at("example.com", "/"), "default");
    assert_eq!(at("[::1]:80", "/"), "default");
    assert_eq!(at("api.example.com", "/shared"), "shared");
    assert_eq!(
        text(send(&router, Method::GET, "http://api.example.com/")),
        "api"
    );
    assert_eq!(text(send(&router, Method::GET, "/")), "default");
}

#[test]
fn extractors_and_replies_of_axum_work() {
    #[derive(serde::Deserialize, serde::Serialize)]
    struct Item {
        name: String,
    }
    let router = Router::builder()
        .with_state("state")
        .get(
            "/s",
            async |State(s): State<&'static str>, headers: HeaderMap| {
                format!("{s} {}", headers.len())
            },
        )
        .get(
            "/q/{x}",
            async |Path(x): Path<u8>, Query(q): Query<Vec<(String, String)>>| {
                (
                    StatusCode::ACCEPTED,
                    [("x-q", q[0].1.clone())],
                    x.to_string(),
                )
                    .into_response()
            },
        )
        .post("/axum", async |axum::Json(item): axum::Json<Item>| {
            axum::Json(item)
        })
        .post("/own", async |Json(item): Json<Item>| {
            (StatusCode::CREATED, Json(item))
        })
        .post(
            "/try",
            async |body: String| -> Result<Json<usize>, StatusCode> {
                body.parse().map(Json).map_err(|_| StatusCode::CONFLICT)
            },
        )
        .build()
        .unwrap();
    assert_eq!(get(&router, "/s"), ok("state 0"));
    let response = send(&router, Method::GET, "/q/7?a=b");
    assert_eq!(
        (response.status(), &response.headers()["x-q"]),
        (StatusCode::ACCEPTED, &"b".parse().unwrap())
    );

    let post = |uri: &str, kind: &str, body: &str| {
        let request = Request::post(uri).header("content-type", kind);
        let response = call(
            &router,
            request
                .body(http_body_util::Full::from(body.to_owned()))
                .unwrap(),
        );
        (response.status().as_u16(), text(response))
    };
    let item = r#"{"name":"x"}"#;
    assert_eq!(
        post("/axum", "application/json", item),
        (200, item.to_owned())
    );
    assert_eq!(
        post("/own", "application/vnd.x+json; charset=utf-8", item),
        (201, item.to_owned())
    );
    assert_eq!(post("/own", "text/plain", item).0, 415);
    assert_eq!(post("/own", "application/json", "{").0, 400);
    assert_eq!(post("/own", "application/json", "{}").0, 422);
    assert_eq!(post("/try", "text/plain", "42"), (200, "42".to_owned()));
    assert_eq!(post("/try", "text/plain", "x").0, 409);
}

#[test]
fn any_tower_service_is_an_endpoint_and_sees_the_match() {
    let service = service_fn(async |request: Request<Body>| {
        let found = request.body().route_match().unwrap();
        let text = format!("{} {:?}", found.template(), found.params().get("x"));
        Ok::<_, Infallible>(Response::new(http_body_util::Full::<bytes::Bytes>::from(
            text,
        )))
    });
    let router = Router::builder()
        .route(Method::GET, "/{x}", service)
        .build()
        .unwrap();
    assert_eq!(get(&router, "/y"), ok("/{x} Some(\"y\")"));
}

#[test]
fn the_response_carries_its_route() {
    let router = Router::builder()
        .get("/users/{id}", async || "")
        .build()
        .unwrap();
    let response = send(&router, Method::GET, "/users/7");
    assert_eq!(response.body().route().unwrap().template(), "/users/{id}");
    assert!(
        send(&router, Method::GET, "/nothing")
            .body()
            .route()
            .is_none()
    );
}

#[test]
fn routes_can_be_replaced_while_a_request_is_under_way() {
    let router = Router::builder()
        .get("/", async || {
            std::future::poll_fn({
                let mut polled = false;
                move |cx| {
                    cx.waker().wake_by_ref();
                    if std::mem::replace(&mut polled, true) {
                        std::task::Poll::Ready(())
                    } else {
                        std::task::Poll::Pending
                    }
                }
            })
            .await;
            "old".to_owned()
        })
        .build()
        .unwrap();
    let clone = router.clone();
    let mut under_way = Box::pin(Service::call(
        &mut router.clone(),
        request(Method::GET, "/"),
    ));
    let cx = &mut std::task::Context::from_waker(std::task::Waker::noop());
    assert!(under_way.as_mut().poll(cx).is_pending());
    clone.replace(&Router::builder().get("/", async || "new").build().unwrap());
    assert_eq!(get(&router, "/"), ok("new"));
    let Ok(response) = now(under_way);
    assert_eq!(text(response), "old");
}

#[test]
fn a_clone_that_has_served_takes_the_new_routes_and_lets_go_of_the_old() {
    let held = Arc::new(());
    let alive = Arc::downgrade(&held);
    let old = move || {
        let _held = Arc::clone(&held);
        async { "old" }
    };
    let router = Router::builder().get("/", old).build().unwrap();
    let mut clone = router.clone();
    let mut serve = || {
        let Ok(response) = now(clone.call(request(Method::GET, "/")));
        text(response)
    };
    assert_eq!([serve(), serve()], ["old", "old"]);
    for text in ["new", "newer"] {
        router.replace(
            &Router::builder()
                .get("/", move || async move { text })
                .build()
                .unwrap(),
        );
        assert_eq!([serve(), serve()], [text, text]);
    }
    assert!(alive.upgrade().is_none());
}

#[test]
fn a_panic_in_a_handler_leaves_the_router_sound() {
    let router = Router::builder()
        .get("/panic", async |Path(()): Path<()>| -> &'static str {
            panic!("on purpose")
        })
        .get("/{x}", async |Path(x): Path<String>| x)
        .build()
        .unwrap();
    for _ in 0..100 {
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            send(&router, Method::GET, "/panic")
        }));
        assert!(panicked.is_err());
        assert_eq!(get(&router, "/fine"), ok("fine"));
    }
}

use std::future::Future;

#[test]
fn the_longest_path_a_uri_can_hold_is_matched() {
    let router = Router::builder()
        .get(
            "/{a}-{b}/{*rest}",
            async |Path((a, b, _)): Path<(String, String, String)>| {
                format!("{} {}", a.len(), b.len())
            },
        )
        .get("/{+rest}", async |Path(rest): Path<String>| {
            rest.len().to_string()
        })
        .build()
        .unwrap();
    let long = "x".repeat(65_000);
    assert_eq!(get(&router, &format!("/{long}")), ok("65000"));
    assert_eq!(get(&router, &format!("/{long}-y/z")), ok("65000 1"));
    assert_eq!(
        get(&router, &format!("/{}", "/".repeat(65_000))),
        ok("65000")
    );
}

#[test]
fn every_problem_is_reported_at_once() {
    let report = Router::builder()
        .get("no-slash", async || "")
        .get("/a/{x", async || "")
        .get("/b/{x}{y}", async || "")
        .get("/c/{x:u65}", async || "")
        .get("/d/{x}", async || "")
        .get("/d/{y}", async || "")
        .get("/e/{x}-{y}", async || "")
        .get("/e/{x}.{y}", async || "")
        .get("/f", async || "")
        .get("/f", async || "")
        .host("a b", Router::builder().get("/", async || ""))
        .get("/g/{x:one(a|b)}", async || "")
        .get("/g/a", async || "")
        .get("/g/b", async || "")
        .build()
        .unwrap_err();
    let text = report.to_string();
    for expected in [
        "`no-slash`, byte 0",
        "`/a/{x`, byte 3",
        "`/b/{x}{y}`, byte 7",
        "unknown constraint `u65`",
        "`/d/{x}` and `/d/{y}` both match",
        "`/e/{x}-{y}` and `/e/{x}.{y}` both match",
        "registered twice",
        "host `a b`",
        "`/g/{x:one(a|b)}` never answers",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
}
