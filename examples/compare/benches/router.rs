//! Routers against each other, and the interner against its like, in one process.
//!
//! - in `examples/compare`, `cargo bench --profile default-release --bench router` prints nanoseconds (the best of many
//!   alternating rounds) and allocations per operation, compiled as users compile who set no profile.
//! - `benches/router_instructions` runs every contender under callgrind and prints
//!   instructions per operation, which do not depend on what else the machine does.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use axum::body::Body;
use axum::routing::get;
use http::{HeaderMap, HeaderValue, Request, Response};
use stellane_router::{Interner, Path, RouteTable, Router};
use tower::Service;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is left to `System`.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One way to do a piece of work, and how many operations the piece is.
struct Contender {
    group: &'static str,
    name: &'static str,
    operations: u64,
    /// What the work needs and is not measured.
    prepare: Box<dyn FnMut()>,
    work: Box<dyn FnMut()>,
}

fn main() {
    let mut contenders = Vec::new();
    for corpus in corpora() {
        contenders.extend(matchers(&corpus));
    }
    contenders.extend(long_paths());
    contenders.extend(dispatchers());
    contenders.extend(interners());

    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    match args.next().as_deref() {
        None => time_all(contenders),
        Some("list") => {
            contenders
                .iter()
                .for_each(|c| println!("{}:{} {}", c.group, c.name, c.operations));
        }
        // For callgrind, which collects inside `measured` only: warm first, then a known count.
        Some(wanted) => {
            let rounds: u32 = args.next().and_then(|n| n.parse().ok()).unwrap_or(1);
            for mut c in contenders {
                if format!("{}:{}", c.group, c.name) == wanted {
                    for round in 0..rounds + 4 {
                        (c.prepare)();
                        if round < 4 {
                            (c.work)()
                        } else {
                            measured(&mut *c.work)
                        }
                    }
                }
            }
        }
    }
}

#[inline(never)]
fn measured(work: &mut dyn FnMut()) {
    work();
}

fn time_all(mut contenders: Vec<Contender>) {
    let mut best = vec![f64::MAX; contenders.len()];
    let mut allocations = vec![0; contenders.len()];
    for round in 0..40 {
        for (i, c) in contenders.iter_mut().enumerate() {
            let times = (20_000 / c.operations).max(1);
            let (mut nanos, mut count) = (0, 0);
            for _ in 0..times {
                (c.prepare)();
                let (before, start) = (ALLOCATIONS.get(), Instant::now());
                (c.work)();
                nanos += start.elapsed().as_nanos();
                count += ALLOCATIONS.get() - before;
            }
            let nanos = nanos as f64 / (times * c.operations) as f64;
            allocations[i] = count / (times * c.operations);
            if round > 0 {
                best[i] = best[i].min(nanos);
            }
        }
    }
    println!(
        "{:<22}{:<22}{:>10}{:>14}",
        "group", "contender", "ns/op", "allocs/op"
    );
    for (i, c) in contenders.iter().enumerate() {
        println!(
            "{:<22}{:<22}{:>10.1}{:>14}",
            c.group, c.name, best[i], allocations[i]
        );
    }
}

// ===== matching =====

struct Corpus {
    name: &'static str,
    /// In the braces syntax all but path-tree share.
    templates: Vec<String>,
    paths: Vec<String>,
}

fn corpora() -> Vec<Corpus> {
    // GitHub's API as matchit's own benchmark has it: 130 routes.
    let github: Vec<String> = include_str!("../../../stellane-router/tests/support/github.txt")
        .lines()
        .map(str::to_owned)
        .collect();
    let fill = |value: &dyn Fn(usize) -> String| -> Vec<String> {
        let one = |(i, template): (usize, &String)| {
            template
                .split('/')
                .map(|s| {
                    if s.starts_with('{') {
                        value(i)
                    } else {
                        s.to_owned()
                    }
                })
                .collect::<Vec<_>>()
                .join("/")
        };
        github.iter().enumerate().map(one).collect()
    };
    let words = [
        "user", "repos", "me", "events", "git", "keys", "orgs", "starred",
    ];
    // Values that begin like a literal next to them, as names of people and things do.
    let siblings = [
        "/users/me",
        "/users/{id}",
        "/users/new",
        "/users/{id}/posts",
        "/users/me/posts",
        "/articles/latest",
        "/articles/{slug}",
        "/articles/{slug}/edit",
    ];
    let lookalikes = [
        "/users/mike",
        "/users/men",
        "/users/newton",
        "/users/melissa/posts",
        "/articles/later",
        "/articles/latest-news/edit",
        "/users/me",
        "/articles/l",
    ];
    let owned = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect();
    let verbs = |name: &'static str| (0..300).map(move |i| format!("/v1/{name}:verb{i}"));
    // Paths that go far and end nowhere.
    let misses: Vec<String> = fill(&|i| format!("p{}", i % 4 + 1));
    let longer = |path: &String| format!("{path}/zz/zz/zz");
    let misses = misses.iter().map(longer).collect();
    vec![
        Corpus {
            name: "match-suffixes",
            templates: verbs("{name}").collect(),
            paths: verbs("projects").collect(),
        },
        Corpus {
            name: "miss-suffixes",
            templates: verbs("{name}").collect(),
            paths: verbs("projects").map(|path| format!("{path}x")).collect(),
        },
        Corpus {
            name: "miss-130",
            paths: misses,
            templates: github.clone(),
        },
        Corpus {
            name: "match-130",
            paths: fill(&|i| format!("p{}", i % 4 + 1)),
            templates: github.clone(),
        },
        Corpus {
            name: "match-130-hard",
            paths: fill(&|i| format!("{}x{i}", words[i % words.len()])),
            templates: github.clone(),
        },
        Corpus {
            name: "match-lookalike",
            templates: owned(&siblings),
            paths: owned(&lookalikes),
        },
    ]
}

fn matchers(corpus: &Corpus) -> Vec<Contender> {
    let Corpus {
        name,
        templates,
        paths,
    } = corpus;
    let operations = paths.len() as u64;
    let hits = name.starts_with("match");
    let contender = |contender, work: Box<dyn FnMut()>| Contender {
        group: name,
        name: contender,
        operations,
        prepare: Box::new(|| ()),
        work,
    };
    let table = RouteTable::new(templates).expect("valid");
    let mut matchit = matchit::Router::new();
    let mut wayfind = wayfind::RouterBuilder::new();
    let mut path_tree = path_tree::PathTree::new();
    for (i, template) in templates.iter().enumerate() {
        matchit.insert(template, i).expect("valid");
        wayfind
            .insert(&template.replace('{', "<").replace('}', ">"), i)
            .expect("valid");
        // It ends a parameter's name where a colon would begin another.
        let template = template
            .replace(":verb", "\\:verb")
            .replace('{', ":")
            .replace('}', "");
        let _ = path_tree.insert(&template, i);
    }
    let wayfind = wayfind.build();
    let all = |paths: &[String]| paths.to_vec();
    let (p1, p2, p3, p4) = (all(paths), all(paths), all(paths), all(paths));
    vec![
        contender(
            "stellane",
            Box::new(move || {
                for path in &p1 {
                    assert_eq!(black_box(table.find(black_box(path))).is_some(), hits);
                }
            }),
        ),
        contender(
            "matchit",
            Box::new(move || {
                for path in &p2 {
                    assert_eq!(black_box(matchit.at(black_box(path))).is_ok(), hits);
                }
            }),
        ),
        contender(
            "wayfind",
            Box::new(move || {
                for path in &p3 {
                    assert_eq!(black_box(wayfind.search(black_box(path))).is_some(), hits);
                }
            }),
        ),
        contender(
            "path-tree",
            Box::new(move || {
                for path in &p4 {
                    assert_eq!(black_box(path_tree.find(black_box(path))).is_some(), hits);
                }
            }),
        ),
    ]
}

/// Paths that every template looks at and only the last takes: double the length, double the work.
fn long_paths() -> Vec<Contender> {
    let templates = [
        "/{a}-{b}.c/{*rest}",
        "/{a}.json",
        "/{a:alpha}/x",
        "/x{y}/z",
        "/{a}-x",
        "/{+rest}",
    ];
    let sizes = [
        ("16-KiB", 16 << 10),
        ("32-KiB", 32 << 10),
        ("64-KiB", (64 << 10) - 4),
    ];
    sizes
        .map(|(name, len)| {
            let table = RouteTable::new(templates).expect("valid");
            let path = format!("/{}-", "x".repeat(len));
            let work = move || assert!(black_box(table.find(black_box(&path))).is_some());
            let (prepare, work) = (Box::new(|| ()), Box::new(work));
            Contender {
                group: "long",
                name,
                operations: 1,
                prepare,
                work,
            }
        })
        .into()
}

// ===== dispatch =====

fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("no handler here waits"),
    }
}

/// Requests as hyper makes them: two headers, in the map that the response before gave back.
fn dispatcher<S, B, R>(
    group: &'static str,
    name: &'static str,
    mut service: S,
    uri: &'static str,
    body: impl Fn() -> B + 'static,
) -> Contender
where
    S: Service<Request<B>, Response = Response<R>, Error = Infallible> + 'static,
    B: 'static,
{
    let uri: http::Uri = uri.parse().expect("valid");
    let requests = Rc::new(RefCell::new(Vec::with_capacity(BATCH)));
    let maps = Rc::new(RefCell::new(vec![HeaderMap::new(); BATCH]));
    let prepare = {
        let (requests, maps) = (Rc::clone(&requests), Rc::clone(&maps));
        move || {
            for mut headers in maps.borrow_mut().drain(..) {
                headers.clear();
                headers.insert("host", HeaderValue::from_static("localhost"));
                headers.insert("accept", HeaderValue::from_static("*/*"));
                let mut request = Request::new(body());
                *request.uri_mut() = uri.clone();
                *request.headers_mut() = headers;
                requests.borrow_mut().push(request);
            }
        }
    };
    let work = move || {
        for request in requests.borrow_mut().drain(..) {
            let Ok(mut response) = now(service.call(request));
            assert!(response.status().is_success());
            maps.borrow_mut()
                .push(std::mem::take(response.headers_mut()));
            black_box(&response);
        }
    };
    let (prepare, work) = (Box::new(prepare), Box::new(work));
    Contender {
        group,
        name,
        operations: BATCH as u64,
        prepare,
        work,
    }
}

const BATCH: usize = 64;

fn dispatchers() -> Vec<Contender> {
    let none = http_body_util::Empty::<bytes::Bytes>::new;
    let user = async |Path(id): Path<u64>| id.to_string();
    let nested = |depth: usize| {
        let leaf = Router::builder().get("/{id}", user);
        // Flat: one template of the same length, so that only the nesting differs.
        let router = match depth {
            0 => Router::builder().get("/a/a/a/a/a/a/a/a/a/a/{id}", user),
            _ => (0..depth).fold(leaf, |inner, _| Router::builder().nest("/a", inner)),
        };
        router.build().expect("valid")
    };
    let router = Router::builder()
        .get("/", async || "hello")
        .get("/users/{id}", user)
        .build()
        .expect("valid");
    async fn axum_user(axum::extract::Path(id): axum::extract::Path<u64>) -> String {
        id.to_string()
    }
    let axum: axum::Router = axum::Router::new()
        .route("/", get(async || "hello"))
        .route("/users/{id}", get(axum_user));
    let axum_nested = (0..10).fold(
        axum::Router::new().route("/{id}", get(axum_user)),
        |inner, _| axum::Router::new().nest("/a", inner),
    );
    let deep = "/a/a/a/a/a/a/a/a/a/a/7";
    vec![
        dispatcher("hello", "stellane", router.clone(), "/", none),
        dispatcher("hello", "axum", axum.clone(), "/", Body::empty),
        dispatcher("param", "stellane", router, "/users/7", none),
        dispatcher("param", "axum", axum, "/users/7", Body::empty),
        dispatcher("nest", "stellane-0", nested(0), deep, none),
        dispatcher("nest", "stellane-10", nested(10), deep, none),
        dispatcher("nest", "axum-10", axum_nested, deep, Body::empty),
    ]
}

// ===== interning =====

fn interners() -> Vec<Contender> {
    let words: Vec<String> = (0..256).map(|i| format!("region-{i:03}-name")).collect();
    let frozen = Interner::builder()
        .vocabulary(&words)
        .build()
        .expect("valid");
    let dynamic = Interner::builder().admit_after(1).build().expect("valid");
    let mut reader = lasso::Rodeo::default();
    let rodeo = lasso::ThreadedRodeo::default();
    // What people write by hand: a concurrent map of shared strings.
    let map = dashmap::DashMap::<Arc<str>, Arc<str>>::new();
    for word in &words {
        drop(dynamic.intern(word));
        reader.get_or_intern(word);
        rodeo.get_or_intern(word);
        let shared = Arc::<str>::from(&**word);
        map.insert(Arc::clone(&shared), shared);
    }
    let reader = reader.into_reader();
    let contender = |name, mut each: Box<dyn FnMut(&str)>| {
        let words = words.clone();
        let work = Box::new(move || words.iter().for_each(|word| each(black_box(word))));
        Contender {
            group: "intern-hit",
            name,
            operations: words_len(),
            prepare: Box::new(|| ()),
            work,
        }
    };
    vec![
        contender(
            "stellane-frozen",
            Box::new(move |w| drop(black_box(frozen.lookup(w)))),
        ),
        contender(
            "lasso-reader",
            Box::new(move |w| {
                black_box(reader.get(w));
            }),
        ),
        contender(
            "stellane-dynamic",
            Box::new(move |w| drop(black_box(dynamic.intern(w)))),
        ),
        contender(
            "lasso-threaded",
            Box::new(move |w| {
                black_box(rodeo.get_or_intern(w));
            }),
        ),
        contender(
            "dashmap",
            Box::new(move |w| drop(black_box(map.get(w).map(|found| Arc::clone(&found))))),
        ),
    ]
}

const fn words_len() -> u64 {
    256
}
