//~ can't be served
//~ a function for `hyper::body::Incoming` takes `stellane_core::RequestBody`
use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
};

use http::{Request, Response};
use hyper::body::Incoming;

#[derive(Clone)]
struct Hello;

impl tower::Service<Request<Incoming>> for Hello {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Incoming>) -> Self::Future {
        ready(Ok(Response::new("hello".to_owned())))
    }
}

fn main() {
    let _ = stellane_core::serve("127.0.0.1:0", Hello);
}
