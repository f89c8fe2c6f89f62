//! Which sets of routes build, and which of their routes answers.

mod support;

use http::{Method, StatusCode};
use stellane_router::{Problem, RouteTable, Router};
use support::{get, send};

fn table(templates: &[&str]) -> RouteTable {
    RouteTable::new(templates).unwrap_or_else(|report| panic!("{templates:?}: {report}"))
}

/// The template that answers and the values it takes.
fn found(table: &RouteTable, path: &str) -> String {
    let Some(found) = table.find(path) else {
        return "-".to_owned();
    };
    let values: Vec<&str> = found.params().iter().map(|(_, value)| value).collect();
    format!("{} {}", found.template(), values.join(" "))
}

#[test]
fn a_wider_route_beside_a_narrower_one_builds_and_gets_what_the_narrower_leaves() {
    let uuid = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    let other = "00000000-10b1-426f-9247-bb680e5fe0c8";
    let literal = format!("/{uuid}");
    for (narrow, wide, path) in [
        ("/{code:len(2..8)}", "/{slug}", "/a-long-slug"),
        ("/{word:alpha}", "/{code:len(2..8)}", "/42"),
        ("/www", "/{x:len(3..3)}", "/abc"),
        (&literal, "/{x:uuid}", &format!("/{other}")),
        ("/{x:alnum}", "/{x:len(1..64)}", "/a-b"),
        ("/{x:u32}", "/{x:u64}", "/4294967296"),
        ("/{x:u64}", "/{x:i64}", "/-1"),
        ("/{x:u64}", "/{x:hex}", "/ff"),
        ("/{x:one(a|b)}", "/{x:alpha}", "/c"),
        ("/{x:date}", "/{x:len(1..64)}", "/2026-02-31"),
        ("/x/{+rest}", "/x/{*rest}", "/x/"),
        ("/a", "/{x:one(a|b)}", "/b"),
        ("/{x}.json", "/{x}", "/a.xml"),
        ("/{x}-{y}", "/{x}", "/a"),
    ] {
        let table = table(&[wide, narrow]);
        let answer = found(&table, path);
        assert!(answer.starts_with(&format!("{wide} ")), "{path}: {answer}");
    }
}

#[test]
fn a_route_never_answers_only_where_that_is_so_for_all_paths() {
    for (templates, in_vain) in [
        (&["/{x:one(a|b)}", "/a", "/b"][..], "/{x:one(a|b)}"),
        (
            &["/g/{x:one(a|b)}/c", "/g/a/c", "/g/b/{+rest}"],
            "/g/{x:one(a|b)}/c",
        ),
        (
            &["/{x:one(me)}/{page:u64}", "/me/{page}"],
            "/{x:one(me)}/{page:u64}",
        ),
        (
            &["/{x:one(me)}/{*rest}", "/me/{*rest}"],
            "/{x:one(me)}/{*rest}",
        ),
        (&["/a/{*rest}", "/a/{+rest}", "/a/"], "/a/{*rest}"),
        (
            &["/{x:one(p|q)}.{y:one(r)}", "/p.r", "/q.r"],
            "/{x:one(p|q)}.{y:one(r)}",
        ),
        (&["/{a}.{b:one(x)}", "/{a}.x"], "/{a}.{b:one(x)}"),
    ] {
        let report = RouteTable::new(templates).unwrap_err();
        let [
            Problem::Unreachable {
                template, example, ..
            },
        ] = report.problems()
        else {
            panic!("{templates:?}: {report}");
        };
        assert_eq!(template, in_vain);
        assert!(table(&[template]).find(example).is_some(), "{report}");
    }
    for reached in [
        &["/{x:one(a|b)}", "/a"][..],
        &["/a/{*rest}", "/a/{+rest}"],
        &["/{x:one(me)}/{page}", "/me/{page:u64}"],
        &["/{x:one(a|b)}/{y:one(c|d)}", "/a/c", "/b/d", "/a/d"],
    ] {
        table(reached);
    }
}

#[test]
fn what_is_only_likely_is_a_warning() {
    let options: Vec<String> = (0..100).map(|i| format!("o{i}")).collect();
    let mut templates = vec![format!("/{{x:one({})}}", options.join("|"))];
    templates.extend(options.iter().map(|o| format!("/{o}")));
    let table = RouteTable::new(&templates).unwrap();
    assert!(
        matches!(table.warnings(), [Problem::Unreachable { template, .. }] if *template == templates[0]),
        "{:?}",
        table.warnings()
    );
}

#[test]
fn literals_of_any_length_are_told_apart() {
    let text = "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz";
    for len in 1..text.len() {
        let (literal, last) = (&text[..len], len - 1);
        for before in ["/", "/x/", "/{id}/", "/{id}-", "/{*ns}/"] {
            let template = format!("{before}{literal}");
            let table = table(&[&template, "/else/where"]);
            let path = |end: &str| {
                let before = before.replace(['{', '}', '*'], "");
                format!("{before}{end}")
            };
            let found = |end: &str| table.find(&path(end)).is_some();
            assert!(found(literal), "{template}");
            for other in [&text[..last], &text[..=len], &format!("{}_", &text[..last])] {
                assert!(!found(other), "{other} by {template}");
            }
        }
    }
    let longest = format!("/{{id}}/{}", "x".repeat(60_000));
    assert!(table(&[&longest]).find(&longest).is_some());
}

#[test]
fn a_route_is_only_in_vain_for_the_methods_it_has() {
    let report = Router::builder()
        .get("/{x:one(a)}", async || "")
        .get("/a", async || "")
        .build()
        .unwrap_err();
    assert!(
        matches!(report.problems(), [Problem::Unreachable { .. }]),
        "{report}"
    );
    let router = Router::builder()
        .get("/{x:one(a)}", async || "")
        .post("/{x:one(a)}", async || "posted")
        .get("/a", async || "")
        .build()
        .unwrap();
    assert_eq!(send(&router, Method::POST, "/a").status(), StatusCode::OK);
}

/// From GitHub's REST description.
#[test]
fn parameters_have_their_own_names_for_each_method() {
    use stellane_router::RouteMatch;
    let named = async |found: RouteMatch| {
        let params: Vec<String> = found
            .params()
            .iter()
            .map(|(n, v)| format!("{n}={v}"))
            .collect();
        format!("{} {}", found.template(), params.join(" "))
    };
    let router = Router::builder()
        .delete("/orgs/{org}/attestations/{attestation_id}", named)
        .get("/orgs/{org}/attestations/{subject_digest}", named)
        .get("/orgs/{org}/attestations", named)
        .get("/users/{id}", named)
        .post("/users/{name}", named)
        .any("/users/{whoever}", named)
        .head("/users/{name}", named)
        .build()
        .unwrap();
    let at = |method, path: &str| support::text(send(&router, method, path));
    assert_eq!(
        at(Method::DELETE, "/orgs/o/attestations/7"),
        "/orgs/{org}/attestations/{attestation_id} org=o attestation_id=7"
    );
    assert_eq!(
        at(Method::GET, "/orgs/o/attestations/sha"),
        "/orgs/{org}/attestations/{subject_digest} org=o subject_digest=sha"
    );
    assert_eq!(at(Method::GET, "/users/7"), "/users/{id} id=7");
    assert_eq!(at(Method::POST, "/users/7"), "/users/{name} name=7");
    assert_eq!(at(Method::PUT, "/users/7"), "/users/{whoever} whoever=7");
    let route = |method, path| {
        send(&router, method, path)
            .into_body()
            .route()
            .unwrap()
            .template()
            .to_owned()
    };
    assert_eq!(route(Method::HEAD, "/users/7"), "/users/{name}");
    assert_eq!(
        route(Method::HEAD, "/orgs/o/attestations/7"),
        "/orgs/{org}/attestations/{subject_digest}"
    );
    let refused = send(&router, Method::PUT, "/orgs/o/attestations/7");
    assert_eq!(support::allow(&refused), "GET, HEAD, DELETE, OPTIONS");
    assert_eq!(router.routes().len(), 6);
}

#[test]
fn one_method_under_two_names_is_a_conflict() {
    let report = Router::builder()
        .get("/users/{id}", async || "")
        .post("/users/{name}", async || "")
        .get("/users/{name}", async || "")
        .build()
        .unwrap_err();
    let [
        Problem::Conflict {
            first,
            second,
            example,
            ..
        },
    ] = report.problems()
    else {
        panic!("{report}");
    };
    assert_eq!((&**first, &**second), ("/users/{id}", "/users/{name}"));
    assert!(table(&[first]).find(example).is_some());
}

/// Excerpts of public descriptions that name one place differently for different methods.
#[test]
fn public_descriptions_build_as_they_are() {
    let sets: [&[(&str, &str)]; 4] = [
        // Jira: by method, and with more below.
        &[
            ("GET", "/rest/api/3/issue/{issueIdOrKey}/comment/{id}"),
            ("PUT", "/rest/api/3/issue/{issueIdOrKey}/comment/{id}"),
            (
                "GET",
                "/rest/api/3/workflow/{workflowId}/project/{projectId}/issueTypeUsages",
            ),
            ("DELETE", "/rest/api/3/workflow/{entityId}"),
            ("GET", "/rest/api/3/priorityscheme/{schemeId}"),
            ("PUT", "/rest/api/3/priorityscheme/{id}"),
            (
                "GET",
                "/rest/api/3/priorityscheme/{priorityschemeId}/projects",
            ),
        ],
        // Google: custom verbs after a colon, and names that are whole resource paths.
        &[
            ("GET", "/v1/{name}"),
            ("PATCH", "/v1/{resourceName}"),
            ("POST", "/v1/{name}:cancel"),
            ("POST", "/v1/{resource}:setIamPolicy"),
            ("GET", "/v1/{resource}:getIamPolicy"),
            ("GET", "/v1/{+parent}/operations"),
            ("POST", "/v1/{+parent}/operations"),
        ],
        // Kubernetes: the same place below a namespace and without.
        &[
            ("GET", "/api/v1/namespaces/{name}"),
            ("DELETE", "/api/v1/namespaces/{namespace}"),
            ("GET", "/api/v1/namespaces/{namespace}/pods/{name}"),
            (
                "POST",
                "/api/v1/namespaces/{namespace}/pods/{name}/proxy/{*path}",
            ),
            ("GET", "/api/v1/watch/namespaces/{namespace}/pods"),
        ],
        // GitLab: namespaces of any depth before a separator.
        &[
            ("GET", "/{*namespace_id}/{project_id}/-/issues"),
            ("GET", "/{*namespace_id}/{project_id}/-/issues/{id}"),
            ("GET", "/{*namespace_id}/{project_id}/-/blob/{*id}"),
            (
                "GET",
                "/{*namespace_id}/{project_id}/-/refs/{*id}/logs_tree/{*path}",
            ),
            ("GET", "/groups/{*group_id}/-/labels"),
            ("GET", "/groups/{*id}"),
            ("GET", "/{*namespace_id}/{id}"),
        ],
    ];
    for set in sets {
        let builder = set
            .iter()
            .fold(Router::builder(), |builder, (method, template)| {
                let method = Method::from_bytes(method.as_bytes()).unwrap();
                builder.on(method, template, async || "")
            });
        let router = builder.build().unwrap_or_else(|report| panic!("{report}"));
        for (method, template) in set {
            let path = template.replace(['{', '}', '*', '+'], "");
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let response = send(&router, method, &path);
            assert_eq!(
                response.body().route().map(|r| r.template()),
                Some(*template),
                "{path}"
            );
            assert_eq!(response.status(), StatusCode::OK);
        }
    }
}

#[test]
fn what_is_ambiguous_is_found_wherever_it_is() {
    for templates in [
        &["/{a}.{b}/{c}.{d}", "/{a}.{b}/{c}-{d}"][..],
        &["/x/{a}-{b}/y", "/x/{a}_{b}/{c}"],
        &["/{a}-{b}/{c}.json", "/{a}_{b}/{c}.{d}"],
        &["/{a:len(1..4)}", "/{a:len(4..9)}"],
        &["/{a:one(p|q)}/x", "/{b:one(q|r)}/{c}"],
        &["/{*a}/-/{b}.{c}", "/{*a}/-/{b}-{c}"],
        &["/{a:hex}a{b}", "/{a:hex}b{b}"],
        &["/{a:uuid}/{b:alnum}z{c}", "/{a:uuid}/{b:alnum}y{c:alpha}"],
        &["/{a}-{b}/{*rest}", "/{a}_{b}/c/{d}"],
        &["/{a}-{b}/{*rest}/x", "/{a}_{b}/c/d/{e}"],
        &["/{a}-{b}/{c:date}", "/{a}.{b}/{+rest}"],
        &["/{a}-{b}/{c:date}", "/{a}.{b}/{c}-31"],
        &["/{a}-{b}/{c:date}", "/{a}.{b}/{c}-12-{d}"],
        &["/{a}-{b}/{c:date}.x", "/{a}.{b}/{c:date}.{d}"],
        &["/{a}-{b}/{c:uuid}", "/{a}.{b}/{c}"],
        &["/{a}-{b}/{c:i64}", "/{a}.{b}/{c:u32}"],
        &["/{a}-{b}/{c:alnum}", "/{a}.{b}/{c:len(9..20)}"],
        &[
            "/{a:one(x|x-y)}-{b}",
            "/{a:one(x)}_{b}",
            "/{a:one(x-y)}.{b}",
        ],
    ] {
        let report = RouteTable::new(templates).expect_err(&format!("{templates:?}"));
        let Some(Problem::Conflict {
            first,
            second,
            example,
            ..
        }) = report.problems().first()
        else {
            panic!("{report}");
        };
        for template in [first, second] {
            assert!(table(&[template]).find(example).is_some(), "{report}");
        }
    }
    for distinct in [
        &["/{a}-{b}/x", "/{a}_{b}/y"][..],
        &["/{a}-{b}/{c:u64}", "/{a}_{b}/{c:alpha}"],
        &["/{a:len(1..4)}", "/{a:len(5..9)}"],
        &["/{a:u64}.{b}", "/{a:u64}-{b}"],
        &["/{a:one(p|q)}", "/{b:one(r|s)}"],
        &["/{a:one(p)}-{b}", "/{b:one(q)}_{b2}"],
        &["/{a}-{b}/x/{*rest}", "/{a}_{b}/y/{*rest}"],
    ] {
        table(distinct);
    }
}

#[test]
fn ambiguity_matters_only_for_one_method_and_one_host() {
    let ambiguous = ["/{a}-{b}", "/{a}.{b}"];
    Router::builder()
        .get(ambiguous[0], async || "")
        .post(ambiguous[1], async || "")
        .build()
        .unwrap();
    let on = |first: &str, second: &str| {
        Router::builder()
            .host(first, Router::builder().get(ambiguous[0], async || ""))
            .host(second, Router::builder().get(ambiguous[1], async || ""))
            .build()
    };
    assert!(on("a.example", "b.example").is_ok());
    assert!(on("a.example", "A.example").is_err());
}

#[test]
fn hosts_that_differ_in_case_are_one_host() {
    let host = |name: &str| (name.to_owned(), Router::builder().get("/x", async || ""));
    let build = |names: [&str; 2]| {
        let [(first, a), (second, b)] = names.map(host);
        Router::builder().host(&first, a).host(&second, b).build()
    };
    for same in [["A.example", "a.example"], ["*.A.example", "*.a.example"]] {
        let report = build(same).unwrap_err();
        assert!(
            matches!(report.problems(), [Problem::Conflict { .. }]),
            "{report}"
        );
    }
    assert!(build(["a.example", "*.a.example"]).is_ok());
}

#[test]
fn a_parameter_before_text_ends_where_that_stands_last_or_else_first() {
    let names = table(&[
        "/f/{name}.{ext}",
        "/v/{version}.{format:one(json|xml)}",
        "/p/{id:u64}-{slug}",
        "/d/{name}-v{version}.tar.gz",
    ]);
    for (path, expected) in [
        ("/f/archive.tar.gz", "/f/{name}.{ext} archive.tar gz"),
        ("/f/a.b", "/f/{name}.{ext} a b"),
        ("/f/.a.b", "/f/{name}.{ext} .a b"),
        ("/f/a.", "-"),
        ("/f/.a", "-"),
        (
            "/v/v1.2.json",
            "/v/{version}.{format:one(json|xml)} v1.2 json",
        ),
        ("/p/7-my-first-post", "/p/{id:u64}-{slug} 7 my-first-post"),
        (
            "/d/x-v1-v2.0.tar.gz",
            "/d/{name}-v{version}.tar.gz x-v1 2.0",
        ),
    ] {
        assert_eq!(found(&names, path), expected, "{path}");
    }
}

#[test]
fn a_route_or_prefix_without_its_slash_is_refused() {
    let users = || Router::builder().get("users", async || "");
    for builder in [
        Router::builder().nest("/api", users()),
        Router::builder().nest("/api/", users()),
        Router::builder().nest("/{id}", users()),
        Router::builder().nest("/a", Router::builder().nest("/b", users())),
        users(),
    ] {
        let report = builder.build().unwrap_err();
        assert!(report.to_string().contains("`users`, byte 0"), "{report}");
    }
    let prefix = Router::builder().nest("api", Router::builder().get("/users", async || ""));
    assert!(
        prefix
            .build()
            .unwrap_err()
            .to_string()
            .contains("`api/users`, byte 0")
    );
    let fallback = Router::builder().nest("api", Router::builder().fallback(async || ""));
    assert!(
        fallback
            .build()
            .unwrap_err()
            .to_string()
            .contains("`api`, byte 0")
    );
}

#[test]
fn several_segments_may_stand_before_text() {
    let gitlab = table(&[
        "/{*namespace}/{project}/-/issues",
        "/{*namespace}/{project}/-/issues/{id:u64}",
        "/{*namespace}/{project}/-/refs/{+ref}/logs/{*path}",
        "/{*namespace}/{project}",
        "/-/health",
        "/{user}/settings",
        "/{*anything}",
    ]);
    for (path, expected) in [
        ("/a/b/-/issues", "/{*namespace}/{project}/-/issues a b"),
        (
            "/a/b/c/-/issues/7",
            "/{*namespace}/{project}/-/issues/{id:u64} a/b c 7",
        ),
        (
            "/a/b/c/-/issues/x",
            "/{*namespace}/{project} a/b/c/-/issues x",
        ),
        (
            "/a/b/-/refs/x/y/logs/z/logs/w",
            "/{*namespace}/{project}/-/refs/{+ref}/logs/{*path} a b x/y z/logs/w",
        ),
        ("/-/health", "/-/health "),
        ("/a/settings", "/{user}/settings a"),
        ("/a/b/settings", "/{*namespace}/{project} a/b settings"),
        ("/a", "/{*anything} a"),
        ("/", "/{*anything} "),
    ] {
        assert_eq!(found(&gitlab, path), expected, "{path}");
    }
    let least = table(&["/x/{*any}/y", "/x/{+some}/y/z"]);
    assert_eq!(found(&least, "/x//y"), "/x/{*any}/y ");
    assert_eq!(found(&least, "/x//y/z"), "-");
    assert_eq!(found(&least, "/x/y"), "-");
    assert_eq!(found(&least, "/x/y/y/y"), "/x/{*any}/y y/y");
    for wrong in ["/{*a}b", "/{*a}{b}", "/a{*b}/c", "/{+a}.json"] {
        assert!(RouteTable::new([wrong]).is_err(), "{wrong}");
    }
}

#[test]
fn explain_orders_routes_as_the_tree_does() {
    let table = table(&["/{*a}/x/{b}", "/{*a}/{b}/y", "/{a}.{b}", "/{a}", "/{+rest}"]);
    for path in ["/p/x/y", "/p/q/x/y", "/a.b", "/a", "/a.b.c", "/p/x/x/y"] {
        let first = table.explain(path);
        let first = first.split("1. ").nth(1).unwrap();
        let answer = table.find(path).unwrap().template().to_owned();
        assert!(first.starts_with(&format!("{answer} (")), "{path}: {first}");
    }
}

#[test]
fn two_fallbacks_of_one_scope_are_named_as_such() {
    let with = || Router::builder().fallback(async || "");
    let report = Router::builder()
        .merge(with())
        .merge(with())
        .build()
        .unwrap_err();
    assert!(
        matches!(report.problems(), [Problem::Fallbacks { first, second }] if first == "/" && second == "/"),
        "{report}"
    );
    assert!(!report.to_string().contains("rest"), "{report}");
    let report = Router::builder()
        .nest("/a", with())
        .nest("/a", with())
        .build()
        .unwrap_err();
    assert!(
        report
            .to_string()
            .contains("two fallbacks for the scope `/a`"),
        "{report}"
    );
    let report = Router::builder()
        .nest("/{a}", with())
        .nest("/{b}", with())
        .build()
        .unwrap_err();
    assert!(
        matches!(report.problems(), [Problem::Fallbacks { .. }]),
        "{report}"
    );
    let router = Router::builder()
        .merge(with())
        .nest("/{rest}", Router::builder().fallback(async || "inner"))
        .build()
        .unwrap();
    assert_eq!(get(&router, "/a/b").1, "inner");
}
