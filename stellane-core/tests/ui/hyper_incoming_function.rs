//~ expected function signature `fn(http::Request<RequestBody>) -> _`
//~ found function signature `fn(http::Request<hyper::body::Incoming>) -> _`
use std::convert::Infallible;

use http::{Request, Response};

async fn hello(_: Request<hyper::body::Incoming>) -> Result<Response<String>, Infallible> {
    Ok(Response::new("hello".to_owned()))
}

fn main() {
    let _ = stellane_core::serve("127.0.0.1:0", tower::service_fn(hello));
}
