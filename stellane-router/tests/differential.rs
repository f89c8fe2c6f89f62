//! The compiled tree against a naive reader of the documented rule, against matchit, and against itself
//! in another order.
//!
//! `STELLANE_FUZZ=10000000 cargo test --release -p stellane-router --test differential` is the full
//! form; `STELLANE_SEED` repeats a run.

mod support;

use http::StatusCode;
use stellane_router::{Problem, RouteTable};
use support::{
    grammar::{Grammar, KINDS, NARROW, cases, random},
    reader::{self, Reading},
};

fn answer(table: &RouteTable, path: &str) -> Option<(String, Vec<String>)> {
    let found = table.find(path)?;
    let values = found
        .params()
        .iter()
        .map(|(_, value)| value.to_owned())
        .collect();
    Some((found.template().to_owned(), values))
}

#[test]
fn the_tree_agrees_with_the_naive_reader() {
    let mut grammar = Grammar::new(&KINDS);
    let (mut done, mut matched, mut refused) = (0, 0, 0);
    while done < cases() {
        let templates = grammar.templates();
        let Ok(table) = RouteTable::new(&templates) else {
            refused += 1;
            continue;
        };
        for _ in 0..64 {
            let path = grammar.path();
            let expected = reader::best(&templates, &path).map(|reading| {
                assert!(!reading.ambiguous, "{path} in {templates:?}");
                (reading.template.to_owned(), reading.values)
            });
            assert_eq!(answer(&table, &path), expected, "{path} in {templates:?}");
            matched += u64::from(expected.is_some());
            done += 1;
        }
    }
    println!("{done} cases, {matched} matched, {refused} tables refused");
    assert!(matched > done / 10, "the generators no longer meet");
    assert!(refused < done / 64, "most tables are refused");
}

/// A set is refused for a reason that a path shows: two routes that both fit it, or one that others are
/// preferred to on every path tried.
#[test]
fn what_is_refused_is_wrong() {
    let mut grammar = Grammar::new(&KINDS);
    let (mut conflicts, mut unreachable) = (0, 0);
    for _ in 0..cases() / 16 {
        let templates = grammar.templates();
        let Err(report) = RouteTable::new(&templates) else {
            continue;
        };
        for problem in report.problems() {
            match problem {
                Problem::Conflict {
                    first,
                    second,
                    example,
                    ..
                } => {
                    let both = [first.clone(), second.clone()];
                    let best = reader::best(&both, &reader::canonical(example).unwrap());
                    assert!(
                        best.is_some_and(|b| b.ambiguous),
                        "{problem} in {templates:?}"
                    );
                    conflicts += 1;
                }
                Problem::Unreachable {
                    template, example, ..
                } => {
                    let answers = |path: &str| {
                        reader::best(&templates, path).is_some_and(|b| b.template == template)
                    };
                    assert!(!answers(example), "{problem} in {templates:?}");
                    let paths = grammar.paths_near(template);
                    assert!(
                        !paths.iter().any(|p| answers(p)),
                        "{problem} in {templates:?}"
                    );
                    unreachable += 1;
                }
                other => panic!("{other} in {templates:?}"),
            }
        }
    }
    println!("{conflicts} conflicts, {unreachable} in vain");
    assert!(
        conflicts > 0 && unreachable > 0,
        "the generators no longer meet"
    );
}

#[test]
fn the_router_agrees_with_the_naive_reader_about_methods_hosts_and_nests() {
    let mut grammar = Grammar::new(&KINDS);
    let (mut done, mut matched, mut refused) = (0, 0, 0);
    while done < cases() / 4 {
        let set = grammar.routes();
        let Ok(router) = set.router() else {
            refused += 1;
            continue;
        };
        for _ in 0..16 {
            let (path, host, method) = grammar.request();
            let request = support::request_to(&method, &path, host);
            let response = support::call(&router, request);
            let expected = set.answer(&path, host, &method);
            let route = response.body().route().map(|r| r.template().to_owned());
            let got = (response.status(), route);
            assert_eq!(got, expected, "{method} {path} at {host:?} in {set:?}");
            matched += u64::from(got.0 == StatusCode::OK);
            done += 1;
        }
    }
    println!("{done} requests, {matched} answered, {refused} sets refused");
    assert!(matched > done / 10, "the generators no longer meet");
}

#[test]
fn the_tree_agrees_with_matchit_on_what_both_can() {
    let mut grammar = Grammar::new(&NARROW);
    let (mut done, mut matched) = (0, 0);
    while done < cases() / 4 {
        let templates = grammar.templates();
        let mut matchit = matchit::Router::new();
        let inserted = templates
            .iter()
            .all(|t| matchit.insert(t.replace('+', "*"), t).is_ok());
        let Ok(table) = RouteTable::new(&templates) else {
            continue;
        };
        if !inserted {
            continue;
        }
        for _ in 0..64 {
            let path = grammar.path();
            let expected = matchit.at(&path).ok().map(|found| {
                let values = found
                    .params
                    .iter()
                    .map(|(_, value)| value.to_owned())
                    .collect();
                (found.value.to_string(), values)
            });
            assert_eq!(answer(&table, &path), expected, "{path} in {templates:?}");
            matched += u64::from(expected.is_some());
            done += 1;
        }
    }
    assert!(matched > done / 10, "the generators no longer meet");
}

#[test]
fn the_order_of_insertion_changes_nothing() {
    let mut grammar = Grammar::new(&KINDS);
    let mut rng = random();
    for _ in 0..cases() / 1000 {
        let mut templates = grammar.templates();
        let first = RouteTable::new(&templates);
        let paths: Vec<String> = (0..32).map(|_| grammar.path()).collect();
        for _ in 0..4 {
            rng.shuffle(&mut templates);
            match (&first, &RouteTable::new(&templates)) {
                (Err(a), Err(b)) => assert_eq!(a, b),
                (Ok(a), Ok(b)) => {
                    assert_eq!(format!("{a:?}"), format!("{b:?}"));
                    for path in &paths {
                        assert_eq!(a.explain(path), b.explain(path));
                        let ids = [a, b].map(|t| t.find(path).map(|found| found.id()));
                        assert_eq!(ids[0], ids[1], "{path} in {templates:?}");
                    }
                }
                (a, b) => panic!("{a:?} in one order, {b:?} in another"),
            }
        }
    }
}

#[test]
fn explain_names_first_what_answers() {
    let mut grammar = Grammar::new(&KINDS);
    for _ in 0..cases() / 1000 {
        let templates = grammar.templates();
        let Ok(table) = RouteTable::new(&templates) else {
            continue;
        };
        for _ in 0..8 {
            let path = grammar.path();
            let why = table.explain(&path);
            let first = why.split_once("\n  1. ").map(|(_, rest)| rest);
            let answer = table.find(&path).map(|found| found.template().to_owned());
            match answer {
                Some(template) => {
                    let first = first.unwrap_or_default();
                    assert!(first.starts_with(&format!("{template} (any")), "{why}");
                }
                None => assert_eq!(first, None, "{why}"),
            }
        }
    }
}

#[test]
fn github_has_one_table_in_a_hundred_orders() {
    let mut rng = random();
    let mut templates: Vec<&str> = include_str!("support/github.txt").lines().collect();
    let first = RouteTable::new(&templates).unwrap();
    for _ in 0..100 {
        rng.shuffle(&mut templates);
        let table = RouteTable::new(&templates).unwrap();
        assert_eq!(format!("{first:?}"), format!("{table:?}"));
        for template in &templates {
            let path = template.replace(['{', '}'], "");
            assert_eq!(
                table.find(&path).unwrap().id(),
                first.find(&path).unwrap().id()
            );
            assert_eq!(table.find(&path).unwrap().template(), *template);
        }
    }
}

#[test]
fn arbitrary_text_never_panics() {
    let mut rng = random();
    let alphabet = [
        "/",
        "{",
        "}",
        "*",
        "+",
        ":",
        "a",
        "%",
        "4",
        "é",
        "one(",
        "|",
        ")",
        "?",
        "u64",
        "len(1..3)",
        "-",
        ".",
        "{*",
        "}/",
        "\\",
        "\"",
        "{a}",
        "{b}",
    ];
    for _ in 0..cases() / 10 {
        let text = |rng: &mut fastrand::Rng| -> String {
            (0..rng.usize(0..10))
                .map(|_| rng.choice(alphabet).expect("some"))
                .collect()
        };
        let templates = [format!("/{}", text(&mut rng)), text(&mut rng)];
        for table in [
            RouteTable::new(&templates),
            RouteTable::new(&templates[..1]),
        ] {
            match table {
                Ok(table) => {
                    let path = text(&mut rng);
                    let _ = (table.find(&path).is_some(), table.explain(&path));
                }
                Err(report) => assert!(!report.to_string().is_empty()),
            }
        }
    }
}

#[test]
fn the_naive_reader_reads_as_documented() {
    let reading = |template: &str, path: &str| {
        let set = [template.to_owned()];
        reader::best(&set, path).map(|Reading { values, .. }| values.join(" "))
    };
    assert_eq!(reading("/{a}.{b}", "/x.y.z").as_deref(), Some("x.y z"));
    assert_eq!(reading("/{a:u64}-{b}", "/7-x-y").as_deref(), Some("7 x-y"));
    assert_eq!(reading("/{*a}/-/{b}", "/x/y/-/z").as_deref(), Some("x/y z"));
    assert_eq!(reading("/{+a}/x", "//x"), None);
    assert_eq!(reading("/é|{a}", "/%c3%A9%7Cb").as_deref(), Some("b"));
}
