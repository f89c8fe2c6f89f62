//~ its answers are a `Response` of an `http_body::Body`
use std::convert::Infallible;

use http::{Request, Response};
use stellane_core::RequestBody;

fn main() {
    let hello = tower::service_fn(async |_: Request<RequestBody>| {
        Ok::<_, Infallible>(Response::new(42))
    });
    let _ = stellane_core::serve("127.0.0.1:0", hello);
}
