//! The compiled tree against a naive oracle, against matchit, and against itself in another order.
//!
//! `STELLANE_FUZZ=10000000 cargo test --release -p stellane-router --test differential` is the full
//! form; `STELLANE_SEED` repeats a run.

mod support;

use http::{Method, StatusCode};
use stellane_router::{RouteTable, Router};

fn cases() -> u64 {
    std::env::var("STELLANE_FUZZ")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(100_000)
}

fn random() -> fastrand::Rng {
    let seed = std::env::var("STELLANE_SEED")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(7);
    println!("STELLANE_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

// ===== the oracle =====

/// What one template makes of a path, step by step, and the values it takes. Of two templates that
/// match, the one whose steps are smaller is preferred.
type Steps = Vec<(u8, usize, u8)>;

/// Reads template and path side by side, one template at a time.
fn oracle<'p>(mut template: &str, mut path: &'p str) -> Option<(Steps, Vec<&'p str>)> {
    let (mut steps, mut values) = (Vec::new(), Vec::new());
    while let Some(byte) = template.chars().next() {
        if byte != '{' {
            path = path.strip_prefix(byte)?;
            template = &template[1..];
            steps.push((0, 0, 0));
            continue;
        }
        let (inside, after) = template[1..].split_once('}')?;
        template = after;
        if inside.starts_with(['*', '+']) {
            if inside.starts_with('+') && path.is_empty() {
                return None;
            }
            values.push(path);
            steps.push((if inside.starts_with('+') { 2 } else { 3 }, 0, 0));
            return Some((steps, values));
        }
        let segment = path.split('/').next()?;
        let tail = &template[..template.find(['/', '{']).unwrap_or(template.len())];
        let infix = template[tail.len()..].starts_with('{');
        let len = match (tail, infix) {
            ("", _) => segment.len(),
            (_, false) => segment.strip_suffix(tail)?.len(),
            (_, true) => 1 + segment.get(1..)?.find(tail)?,
        };
        let value = &segment[..len];
        let (rank, fits) = match inside.split_once(':') {
            None => (9, true),
            Some((_, "u64")) => (1, value.parse::<u64>().is_ok() && !value.starts_with('+')),
            Some((_, "alpha")) => (2, value.bytes().all(|b| b.is_ascii_alphabetic())),
            Some((_, "one(a|b)")) => (0, value == "a" || value == "b"),
            Some((_, other)) => panic!("unknown {other}"),
        };
        if value.is_empty() || !fits {
            return None;
        }
        // A longer tail is preferred; of equal ones that which ends the segment is not the first.
        steps.push((
            1,
            usize::MAX - tail.len() * 2 + usize::from(!tail.is_empty() && !infix),
            rank,
        ));
        values.push(value);
        path = &path[len + tail.len()..];
        template = &template[tail.len()..];
        steps.extend(tail.bytes().map(|_| (0, 0, 0)));
    }
    path.is_empty().then_some((steps, values))
}

fn expected<'t, 'p>(templates: &'t [String], path: &'p str) -> Option<(&'t str, Vec<&'p str>)> {
    let fits = |template: &'t String| {
        oracle(template, path).map(|(steps, values)| (steps, template.as_str(), values))
    };
    let best = templates
        .iter()
        .filter_map(fits)
        .min_by(|a, b| a.0.cmp(&b.0));
    best.map(|(_, template, values)| (template, values))
}

// ===== random templates and paths =====

fn template(rng: &mut fastrand::Rng, kinds: &[&str], rests: &[&str]) -> String {
    let mut text = String::new();
    for at in 0..rng.usize(0..4) {
        text.push('/');
        // Parameters of one name at one place, so that names never conflict.
        text.push_str(
            &rng.choice(kinds)
                .expect("some")
                .replace('@', &at.to_string()),
        );
    }
    match rng.u8(0..8) {
        0 => text.push('/'),
        1 => text.push_str(rng.choice(rests).copied().unwrap_or("/")),
        _ => {}
    }
    if text.is_empty() {
        "/".to_owned()
    } else {
        text
    }
}

fn path(rng: &mut fastrand::Rng) -> String {
    let segments = [
        "a", "b", "ab", "aab", "a-b", "a-a-b", "7", "a7", "7.b", "a.b.b", "", "-", "x",
    ];
    let mut text: String = (0..rng.usize(0..5))
        .map(|_| format!("/{}", rng.choice(segments).expect("some")))
        .collect();
    if text.is_empty() || rng.u8(0..6) == 0 {
        text.push('/');
    }
    text
}

const KINDS: [&str; 13] = [
    "a",
    "b",
    "ab",
    "aab",
    "x",
    "{p@}",
    "{p@:u64}",
    "{p@:alpha}",
    "{p@:one(a|b)}",
    "a{p@}",
    "{p@}.b",
    "{p@}-{q@}",
    "a{p@:alpha}-{q@}.b",
];

fn templates(rng: &mut fastrand::Rng, kinds: &[&str], rests: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = (0..rng.usize(1..9))
        .map(|_| template(rng, kinds, rests))
        .collect();
    all.sort();
    all.dedup();
    all
}

fn answer<'a>(table: &'a RouteTable, path: &'a str) -> Option<(String, Vec<String>)> {
    let found = table.find(path)?;
    let values = found
        .params()
        .iter()
        .map(|(_, value)| value.to_owned())
        .collect();
    Some((found.template().to_owned(), values))
}

#[test]
fn the_tree_agrees_with_the_oracle() {
    let mut rng = random();
    let (mut done, mut matched, mut refused) = (0, 0, 0);
    while done < cases() {
        let templates = templates(&mut rng, &KINDS, &["/{*rest}", "/{+more}"]);
        let Ok(table) = RouteTable::new(&templates) else {
            refused += 1;
            continue;
        };
        for _ in 0..64 {
            let path = path(&mut rng);
            let expected = expected(&templates, &path);
            let found = answer(&table, &path);
            let found = found
                .as_ref()
                .map(|(t, v)| (t.as_str(), v.iter().map(|v| &**v).collect()));
            assert_eq!(found, expected, "{path} in {templates:?}");
            matched += u64::from(found.is_some());
            done += 1;
        }
    }
    println!("{done} cases, {matched} matched, {refused} tables refused");
    assert!(matched > done / 10, "the generators no longer meet");
    assert!(refused < done / 64, "most tables are refused");
}

#[test]
fn the_router_answers_by_the_route_that_the_oracle_prefers_among_those_with_the_method() {
    let mut rng = random();
    let (mut done, mut matched, mut literal) = (0, 0, 0);
    while done < cases() / 4 {
        let templates = templates(&mut rng, &KINDS, &["/{*rest}", "/{+more}"]);
        let (get, post): (Vec<_>, Vec<_>) = templates.into_iter().partition(|_| rng.bool());
        let builder = Router::builder();
        let builder = get.iter().fold(builder, |b, t| b.get(t, async || "get"));
        let builder = post.iter().fold(builder, |b, t| b.post(t, async || "post"));
        let Ok(router) = builder.build() else {
            continue;
        };
        for _ in 0..16 {
            let path = path(&mut rng);
            for (method, templates) in [(Method::GET, &get), (Method::POST, &post)] {
                let response = support::send(&router, method, &path);
                let expected = expected(templates, &path).map(|(template, _)| template);
                let route = response.body().route();
                let found = route.filter(|_| response.status() == StatusCode::OK);
                assert_eq!(
                    found.map(|r| r.template()),
                    expected,
                    "{path} in {templates:?}"
                );
                matched += u64::from(expected.is_some());
                literal += u64::from(expected == Some(&*path));
            }
            done += 1;
        }
    }
    println!("{done} cases, {matched} matched, {literal} literally");
    assert!(
        literal > 0 && matched > literal,
        "the generators no longer meet"
    );
}

#[test]
fn the_tree_agrees_with_matchit_on_what_both_can() {
    let mut rng = random();
    let (mut done, mut matched) = (0, 0);
    while done < cases() / 4 {
        let kinds = ["a", "b", "ab", "aab", "x", "7", "{p@}"];
        let templates = templates(&mut rng, &kinds, &["/{+rest}"]);
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
            let path = path(&mut rng);
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
    let mut rng = random();
    for _ in 0..cases() / 1000 {
        let mut templates = templates(&mut rng, &KINDS, &["/{*rest}", "/{+more}"]);
        let first = RouteTable::new(&templates);
        let paths: Vec<String> = (0..32).map(|_| path(&mut rng)).collect();
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
fn github_has_one_table_in_a_hundred_orders() {
    let mut rng = random();
    let mut templates: Vec<&str> = include_str!("../benches/github.txt").lines().collect();
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
