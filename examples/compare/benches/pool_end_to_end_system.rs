//! `cargo bench --bench pool_end_to_end_system`: against the system's
//! allocator.

mod end_to_end;

fn main() {
    end_to_end::main();
}
