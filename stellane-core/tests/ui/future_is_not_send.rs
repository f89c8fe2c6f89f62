//~ its future is `Send`: no `Rc`
use std::{convert::Infallible, rc::Rc};

use http::{Request, Response};
use stellane_core::RequestBody;

fn main() {
    let hello = tower::service_fn(async |_: Request<RequestBody>| {
        let text = Rc::new("hello".to_owned());
        std::future::ready(()).await;
        Ok::<_, Infallible>(Response::new(text.to_string()))
    });
    let _ = stellane_core::serve("127.0.0.1:0", hello);
}
