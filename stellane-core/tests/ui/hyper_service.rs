//~ a service of hyper (`call(&self)`) goes through `stellane_core::HyperService`
use std::convert::Infallible;

use http::{Request, Response};
use stellane_core::RequestBody;

fn main() {
    let hello = hyper::service::service_fn(async |_: Request<RequestBody>| {
        Ok::<_, Infallible>(Response::new("hello".to_owned()))
    });
    let _ = stellane_core::serve("127.0.0.1:0", hello);
}
