//! `cargo bench --bench pool_end_to_end`: against mimalloc.

mod end_to_end;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    end_to_end::main();
}
