//~ this `Runtime` has no service yet
//~ call `.service(app)` before `.build()`
fn main() {
    let _ = stellane_core::Runtime::builder().build();
}
