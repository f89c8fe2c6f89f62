//~ can't be served
async fn example<S>(greeter: S) {
    let _ = stellane_core::serve("127.0.0.1:0", greeter).await;
}

fn main() {
    let _ = example::<tonic::service::Routes>;
}
