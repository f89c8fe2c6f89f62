//~ a make-service to `serve_make`
fn main() {
    let app = axum::Router::<()>::new().into_make_service();
    let _ = stellane_core::serve("127.0.0.1:0", app);
}
