//! What a request costs in allocations.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Empty;
use stellane_router::{Body, Json, Path, RouteTable, Router};
use support::call;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is left to `System`.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(mut work: impl FnMut()) -> u64 {
    work();
    let before = COUNT.get();
    work();
    COUNT.get() - before
}

/// Sends a request whose header map goes round as it does in hyper: the response's map comes back
/// as the next request's.
fn dispatch(router: &Router, uri: &str) -> u64 {
    let uri: http::Uri = uri.parse().expect("valid in every test");
    let mut headers = http::HeaderMap::new();
    let mut response = Response::new(Body::empty());
    let mut work = || {
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = std::mem::take(&mut headers);
        request
            .headers_mut()
            .insert("host", http::HeaderValue::from_static("localhost"));
        request
            .headers_mut()
            .insert("accept", http::HeaderValue::from_static("*/*"));
        response = call(router, request);
        assert!(
            response.status().is_success(),
            "{uri}: {}",
            response.status()
        );
        headers = std::mem::take(response.headers_mut());
        headers.clear();
    };
    work();
    allocations(work)
}

#[derive(serde::Serialize)]
struct User {
    id: u64,
    name: &'static str,
}

#[test]
fn dispatch_allocates_nothing_but_the_body() {
    let user = async |Path(id): Path<u64>| {
        Json(User {
            id,
            name: "someone",
        })
    };
    let deep = (0..10).fold(Router::builder().get("/{id}", user), |inner, _| {
        Router::builder().nest("/n", inner)
    });
    let layered = Router::builder()
        .get("/layered/{id}", async |Path(_): Path<u64>| "hello")
        .layer(tower::util::MapRequestLayer::new(
            |request: Request<Body>| request,
        ))
        .layer(tower::util::MapResponseLayer::new(
            |response: Response<Body>| response,
        ));
    let router = Router::builder()
        .get("/", async || "hello")
        .get("/users/{id}", user)
        .get("/one/{id}", async |Path(_): Path<u64>| "hello")
        .merge(deep)
        .merge(layered)
        .build()
        .unwrap();
    assert_eq!(dispatch(&router, "/"), 0);
    assert_eq!(dispatch(&router, "/one/7"), 0);
    assert_eq!(dispatch(&router, "/users/7"), 1);
    assert_eq!(dispatch(&router, "/n/n/n/n/n/n/n/n/n/n/7"), 1);
    assert_eq!(dispatch(&router, "/layered/7"), 0);
}

#[test]
fn misses_allocate_only_their_headers() {
    let router = Router::builder()
        .get("/", async || "hello")
        .build()
        .unwrap();
    let miss = || drop(support::send(&router, Method::GET, "/nothing"));
    let bare = || drop(support::request(Method::GET, "/nothing"));
    assert_eq!(allocations(miss), allocations(bare));
}

#[test]
fn matching_allocates_nothing_backtracking_included() {
    let router = Router::builder()
        .get("/users/me", async || "")
        .get("/users/{id}", async || "")
        .get("/{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}", async || "")
        .get("/{a}/b/{c}/d/{e}/f/{g}/x", async || "")
        .get("/x{a}/b/{c}/d/{e}/f/{*rest}", async || "")
        .build()
        .unwrap();
    for path in [
        "/users/mike",
        "/a/b/c/d/e/f/g/h",
        "/xa/b/c/d/e/f/g/x",
        "/xa/b/c/d/e/f/g/h/i",
    ] {
        assert_eq!(dispatch(&router, path), 0, "{path}");
    }
}

#[test]
fn a_route_table_is_searched_without_allocating() {
    let table = RouteTable::new(["/users/{id}"]).unwrap();
    assert_eq!(allocations(|| assert!(table.find("/users/7").is_some())), 0);
}
