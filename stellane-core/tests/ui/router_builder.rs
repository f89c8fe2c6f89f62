//~ `RouterBuilder` can't be served
//~ a `RouterBuilder` of ours `.build()?`
fn main() {
    let _ = stellane_core::Runtime::builder().service(stellane_core::router::Router::builder());
}
