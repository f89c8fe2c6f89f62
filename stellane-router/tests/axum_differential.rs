//! The same handlers in routers of axum and in ours: what axum's extractors find there is the same.

mod support;

use std::{collections::BTreeMap, convert::Infallible};

use axum::{
    Router as Axum,
    body::Body,
    extract::{
        FromRequestParts, MatchedPath, OriginalUri, Path, RawPathParams, rejection::PathRejection,
    },
    routing::get,
};
use bytes::Bytes;
use http::{Request, Response, StatusCode, request::Parts};
use http_body_util::BodyExt;
use stellane_router::Router;
use support::{
    grammar::{cases, random},
    now,
};
use tower::{Service, ServiceExt};

/// An extractor of someone's own, which asks axum's.
struct Own(Vec<String>);

impl<S: Send + Sync> FromRequestParts<S> for Own {
    type Rejection = PathRejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, PathRejection> {
        let Path(values) = Path::from_request_parts(parts, state).await?;
        Ok(Self(values))
    }
}

type Found<T> = Result<T, PathRejection>;

async fn own(own: Found<Own>) -> String {
    let values = own.map(|Own(values)| values);
    format!("{:?}", values.map_err(|rejection| rejection.body_text()))
}

async fn all(
    raw: RawPathParams,
    one: Found<Path<u32>>,
    two: Found<Path<(String, String)>>,
    map: Found<Path<BTreeMap<String, String>>>,
    option: Found<Option<Path<u8>>>,
    matched: Option<MatchedPath>,
    OriginalUri(uri): OriginalUri,
) -> String {
    let raw: Vec<_> = raw.iter().collect();
    let matched = matched.map(|path| path.as_str().replace("{+", "{*"));
    format!("{raw:?} {one:?} {two:?} {map:?} {option:?} {matched:?} {uri}")
}

fn answer<S, B>(router: &S, path: &str) -> (StatusCode, String)
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone,
    B: http_body::Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let request = Request::get(path)
        .body(Body::empty())
        .expect("valid in every test");
    let Ok(response) = now(router.clone().oneshot(request));
    let status = response.status();
    let body = now(response.into_body().collect())
        .expect("valid in every test")
        .to_bytes();
    (
        status,
        String::from_utf8(body.to_vec()).expect("valid in every test"),
    )
}

const TAKES_ALL: &str = "/lit/{*rest}";
const TEMPLATES: [&str; 11] = [
    "/",
    "/x",
    "/x/",
    "/{p0}",
    "/{p0}/",
    "/x/{p1}",
    "/{p0}/{p1}",
    "/{p0}/x/{p2}",
    "/{p0}/{p1}/{p2}/x",
    TAKES_ALL,
    "/{p0}/lit/{p2}/{*rest}",
];

/// Some of the routes, and a fallback, in both.
fn routes(rng: &mut fastrand::Rng) -> (stellane_router::RouterBuilder, Axum) {
    let (mut ours, mut theirs) = (Router::builder(), Axum::new());
    for template in TEMPLATES {
        let ours_too = template.replace("{*", "{+");
        (ours, theirs) = match rng.u8(0..4) {
            0 if template != TAKES_ALL => (ours, theirs),
            1 => (ours.get(&ours_too, own), theirs.route(template, get(own))),
            _ => (ours.get(&ours_too, all), theirs.route(template, get(all))),
        };
    }
    match rng.bool() {
        true => (ours.fallback(own), theirs.fallback(own)),
        false => (ours.fallback(all), theirs.fallback(all)),
    }
}

fn path(rng: &mut fastrand::Rng) -> String {
    const VALUES: [&[u8]; 19] = [
        b"x",
        b"x",
        b"lit",
        b"lit",
        b"7",
        b"300",
        b"a b",
        b"a/b",
        b"%",
        b"?#",
        b"a=b&c",
        b"..",
        b"{|}",
        b"\"",
        b"\\",
        b":",
        "é".as_bytes(),
        "😀".as_bytes(),
        b"\xff",
    ];
    let mut path = ["", "/n/t", "/n/%74"][rng.usize(0..3)].to_owned();
    // Elsewhere than in the rest axum takes nothing for a value, which ours never does.
    let in_rest = rng.bool();
    path.push_str(if in_rest { "/lit/" } else { "" });
    for _ in 0..rng.usize(1..6) {
        path.push_str(if in_rest && rng.bool() { "//" } else { "/" });
        for &byte in VALUES[rng.usize(0..VALUES.len())] {
            match byte {
                b'a'..=b'z' | b'0'..=b'9' => path.push(byte.into()),
                b'.' | b':' | b'=' | b'&' if rng.bool() => path.push(byte.into()),
                _ if rng.bool() => path.push_str(&format!("%{byte:02X}")),
                _ => path.push_str(&format!("%{byte:02x}")),
            }
        }
    }
    path + ["", "/", "?a=%2F"][rng.usize(0..3)]
}

/// Alone, and below a prefix of a router of axum.
#[test]
fn the_extractors_of_axum_find_what_they_find_in_its_own_router() {
    let mut rng = random();
    for _ in 0..cases() / 500 {
        let (inner, their_inner) = routes(&mut rng);
        let (ours, theirs) = routes(&mut rng);
        let ours = ours.nest("/n/{t}", inner).build().unwrap();
        let theirs = theirs.nest("/n/{t}", their_inner);
        let below = [
            Axum::new().nest_service("/o/{outer}", ours.clone()),
            Axum::new().nest_service("/o/{outer}", theirs.clone()),
        ];
        for _ in 0..32 {
            let path = path(&mut rng);
            assert_eq!(answer(&ours, &path), answer(&theirs, &path), "{path}");
            let path = format!("/o/out{path}");
            let [ours, theirs] = below.each_ref().map(|router| answer(router, &path));
            assert_eq!(ours, theirs, "{path}");
        }
    }
}
