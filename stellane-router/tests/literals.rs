//! Literal text of templates and constraints matches whatever clients send for it.

mod support;

use http::{Method, StatusCode, Uri};
use stellane_router::{Path, RouteMatch, RouteTable, Router};
use support::{get, send};

/// Text of a template, and what clients make of it: browsers, curl, Node and Python differ.
const SENT: [(&str, &[&str]); 12] = [
    ("a|b", &["a|b", "a%7Cb", "a%7cb"]),
    ("a^b", &["a^b", "a%5Eb"]),
    ("a\"b", &["a\"b", "a%22b"]),
    ("a{{b", &["a{b", "a%7Bb", "a%7bb"]),
    ("a}}b", &["a}b", "a%7Db"]),
    ("a[b", &["a[b", "a%5Bb"]),
    ("a]b", &["a]b", "a%5Db"]),
    ("a\\b", &["a\\b", "a%5Cb"]),
    (
        "\u{e9}\u{65e5}",
        &["\u{e9}\u{65e5}", "%C3%A9%E6%97%A5", "%c3%a9\u{65e5}"],
    ),
    ("a b<c>`", &["a%20b%3Cc%3E%60", "a%20b%3cc%3e%60"]),
    ("a~b.c", &["a~b.c", "a%7Eb%2Ec", "%61~b.c"]),
    ("a:b@c+d", &["a:b@c+d"]),
];

#[test]
fn text_of_a_template_matches_raw_and_escaped() {
    for (text, sent) in SENT {
        let alone = format!("/{text}");
        let [suffix, infix] = [format!("/{{x}}{text}"), format!("/{{x}}{text}{{y}}")];
        for (template, before, after) in [(&alone, "", ""), (&suffix, "v", ""), (&infix, "v", "w")]
        {
            let router = Router::builder()
                .get(template, async || "")
                .build()
                .unwrap();
            let table = router.table();
            for sent in sent {
                let path = format!("/{before}{sent}{after}");
                assert_eq!(
                    get(&router, &path).0,
                    StatusCode::OK,
                    "{path} for {template}"
                );
                assert!(table.find(&path).is_some(), "{path} for {template}");
                assert!(
                    table.explain(&path).contains("the only route"),
                    "{path} for {template}"
                );
            }
        }
        // A template may be written as it is sent, too, but for braces.
        for sent in sent.iter().filter(|sent| !sent.contains(['{', '}'])) {
            let table = RouteTable::new([format!("/{sent}")]).unwrap();
            assert!(table.find(&format!("/{sent}")).is_some(), "{sent}");
        }
    }
    let table = RouteTable::new(["/a:b", "/c"]).unwrap();
    for other in ["/a%3Ab", "/a%3ab", "/%zz", "/c%2F"] {
        assert!(table.find(other).is_none(), "{other}");
    }
}

#[test]
fn an_option_of_one_is_text_like_any_other() {
    let router = Router::builder()
        .get(
            "/c/{x:one(new york|paris|a\"b|\u{e9}|a%7Cb)}",
            async |Path(x): Path<String>| x,
        )
        .build()
        .unwrap();
    for (path, value) in [
        ("/c/new%20york", "new york"),
        ("/c/paris", "paris"),
        ("/c/p%61ris", "paris"),
        ("/c/a\"b", "a\"b"),
        ("/c/a%22b", "a\"b"),
        ("/c/%C3%A9", "\u{e9}"),
        ("/c/\u{e9}", "\u{e9}"),
        ("/c/a|b", "a|b"),
        ("/c/a%7cb", "a|b"),
    ] {
        assert_eq!(
            get(&router, path),
            (StatusCode::OK, value.to_owned()),
            "{path}"
        );
    }
    assert_eq!(get(&router, "/c/new+york").0, StatusCode::NOT_FOUND);
}

#[test]
fn len_counts_characters() {
    let table = RouteTable::new(["/{x:len(1..3)}"]).unwrap();
    for path in [
        "/%C3%A9",
        "/\u{e9}",
        "/%E6%97%A5%E6%9C%AC%E8%AA%9E",
        "/a%20b",
        "/%FF",
        "/abc",
    ] {
        assert!(table.find(path).is_some(), "{path}");
    }
    for path in [
        "/%C3%A9%C3%A9%C3%A9%C3%A9",
        "/abcd",
        "/a%20bc",
        "/%FF%FF%FF%FF",
    ] {
        assert!(table.find(path).is_none(), "{path}");
    }
}

#[test]
fn a_table_reads_a_path_as_a_router_does() {
    let table = RouteTable::new(["/a", "/{x}/b"]).unwrap();
    assert_eq!(table.find("/%61").unwrap().template(), "/a");
    let found = table.find("/%7Em%c3%a9%2F/b").unwrap();
    assert_eq!(found.params().get("x"), Some("~m%C3%A9%2F"));
    assert_eq!(found.params().decoded("x").unwrap().unwrap(), "~m\u{e9}/");
    assert!(table.find("/%").is_none());
    assert!(table.explain("/%").contains("400"));
}

#[test]
fn a_handler_sees_the_target_as_it_was_sent() {
    let router = Router::builder()
        .get(
            "/{x}",
            async |uri: Uri, Path(x): Path<String>, found: RouteMatch| {
                format!("{uri} {x} {}", found.params().get("x").unwrap())
            },
        )
        .slash(stellane_router::SlashPolicy::Ignore)
        .fallback(async |uri: Uri| format!("fallback {uri}"))
        .build()
        .unwrap();
    for (sent, seen) in [
        ("/%7Eme%2f?q=%7E", "/%7Eme%2f?q=%7E ~me/ ~me%2F"),
        ("/%61", "/%61 a a"),
        ("/%61/", "/%61/ a a"),
        ("/a/?q", "/a/?q a a"),
        ("/\u{e9}", "/\u{e9} \u{e9} %C3%A9"),
        ("/%61/%62", "fallback /%61/%62"),
    ] {
        assert_eq!(get(&router, sent).1, seen);
    }
}

#[test]
fn a_date_is_a_day_of_the_calendar() {
    let table = RouteTable::new(["/{d:date}"]).unwrap();
    for day in ["2024-02-29", "2000-02-29", "2026-12-31", "2026-04-30"] {
        assert!(table.find(&format!("/{day}")).is_some(), "{day}");
    }
    for day in [
        "2026-02-31",
        "2026-02-29",
        "1900-02-29",
        "2026-04-31",
        "2026-13-01",
        "2026-00-01",
        "2026-01-00",
        "2026-1-011",
        "2026:01-01",
    ] {
        assert!(table.find(&format!("/{day}")).is_none(), "{day}");
    }
}

#[test]
fn a_path_that_grows_beyond_what_a_uri_holds_is_refused() {
    let router = Router::builder().get("/{*x}", async || "").build().unwrap();
    let path = format!("/{}", "\u{e9}".repeat(20_000));
    assert_ne!(send(&router, Method::GET, &path).status(), StatusCode::OK);
    assert!(router.table().find(&path).is_none());
}
