//! Calling a service without a runtime.
#![allow(dead_code, reason = "each test uses a part of this")]

pub(crate) mod grammar;
pub(crate) mod reader;

use std::{
    convert::Infallible,
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use stellane_router::{Body, Router};
use tower::Service;

pub(crate) type NoBody = Empty<bytes::Bytes>;

/// Polls a future that never has to wait.
pub(crate) fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("nothing in this test waits"),
    }
}

pub(crate) fn request(method: Method, uri: &str) -> Request<NoBody> {
    Request::builder()
        .method(method)
        .uri(uri)
        .body(NoBody::new())
        .expect("valid in every test")
}

pub(crate) fn request_to(method: &Method, uri: &str, host: Option<&str>) -> Request<NoBody> {
    let mut request = request(method.clone(), uri);
    if let Some(host) = host {
        let host = host.parse().expect("valid in every test");
        request.headers_mut().insert(header::HOST, host);
    }
    request
}

pub(crate) fn call<B>(router: &Router, request: Request<B>) -> Response<Body>
where
    Router: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
{
    match now(router.clone().call(request)) {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

pub(crate) fn send(router: &Router, method: Method, uri: &str) -> Response<Body> {
    call(router, request(method, uri))
}

/// Status and body of a GET.
pub(crate) fn get(router: &Router, uri: &str) -> (StatusCode, String) {
    let response = send(router, Method::GET, uri);
    (response.status(), text(response))
}

pub(crate) fn text(response: Response<Body>) -> String {
    let bytes = now(response.into_body().collect())
        .expect("valid in every test")
        .to_bytes();
    String::from_utf8(bytes.to_vec()).expect("valid in every test")
}

pub(crate) fn allow(response: &Response<Body>) -> &str {
    response.headers()[header::ALLOW]
        .to_str()
        .expect("valid in every test")
}
