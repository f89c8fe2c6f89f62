//! What a request costs in allocations.

mod support;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

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

/// Keep-alive requests over hyper and an in-memory connection; allocations of the median one, hyper's
/// included. Not the mean: hyper makes its `date` anew once a second, in whichever request comes then.
fn over_hyper<S, B>(service: S, head: &str) -> u64
where
    S: tower::Service<
            Request<hyper::body::Incoming>,
            Response = Response<B>,
            Error = std::convert::Infallible,
            Future: Send,
        > + Clone
        + Send
        + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const WARM: usize = 100;
    const REQUESTS: usize = 1000;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(16 * 1024);
        let service = hyper::service::service_fn(move |request| service.clone().call(request));
        let io = hyper_util::rt::TokioIo::new(server);
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
        let mut buffer = vec![0; 4096];
        let mut counts = Vec::with_capacity(WARM + REQUESTS);
        for _ in 0..WARM + REQUESTS {
            let before = COUNT.get();
            client
                .write_all(head.as_bytes())
                .await
                .expect("the connection is open");
            let mut len = 0;
            // A response may come in pieces; all here end so.
            while len == 0 || !matches!(buffer[len - 1], b'o' | b'}') {
                let read = client
                    .read(&mut buffer[len..])
                    .await
                    .expect("the connection is open");
                len += read;
                assert!(read > 0 && buffer.starts_with(b"HTTP/1.1 200"), "{head}");
            }
            counts.push(COUNT.get() - before);
        }
        let counts = &mut counts[WARM..];
        *counts.select_nth_unstable(REQUESTS / 2).1
    })
}

#[test]
fn header_maps_go_round_between_hyper_and_the_router() {
    let router = Router::builder()
        .get("/", async || "hello")
        .get("/text/{id}", async |Path(_): Path<u64>| "hello")
        .get("/users/{id}", async |Path(id): Path<u64>| {
            Json(User {
                id,
                name: "someone",
            })
        })
        .build()
        .unwrap();
    let request = |path: &str| {
        let headers: String = [
            "accept",
            "accept-encoding",
            "accept-language",
            "cookie",
            "dnt",
            "cache-control",
            "pragma",
            "referer",
            "user-agent",
            "origin",
            "te",
            "via",
            "range",
        ]
        .map(|name| format!("{name}: x\r\n"))
        .concat();
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n")
    };
    let bare = tower::service_fn(async |_: Request<hyper::body::Incoming>| {
        Ok(Response::new(http_body_util::Full::new(
            Bytes::from_static(b"hello"),
        )))
    });
    let bare_hello = over_hyper(bare, &request("/"));
    let bare_user = over_hyper(bare, &request("/users/7"));
    let hello = over_hyper(router.clone(), &request("/"));
    let text = over_hyper(router.clone(), &request("/text/7"));
    let user = over_hyper(router, &request("/users/7"));
    println!(
        "/: bare hyper {bare_hello}, router {hello}; /text/7: {text}; \
         /users/7: bare hyper {bare_user}, router {user}"
    );
    // hyper alone makes a map for every request; here the response gives it back.
    assert!(hello + 2 <= bare_hello);
    assert!(user < bare_user);
}
