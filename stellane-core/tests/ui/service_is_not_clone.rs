//~ can't be served
//~ that is `Clone + Send + 'static`
use std::{convert::Infallible, sync::Mutex};

use http::{Request, Response};
use stellane_core::RequestBody;

fn main() {
    let count = Mutex::new(0);
    let hello = tower::service_fn(move |_: Request<RequestBody>| {
        let text = count.lock().unwrap().to_string();
        async { Ok::<_, Infallible>(Response::new(text)) }
    });
    let _ = stellane_core::serve("127.0.0.1:0", hello);
}
