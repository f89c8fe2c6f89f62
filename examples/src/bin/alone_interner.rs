//! The interner of `stellane-router` alone: equal strings become one, within a bound that no client can pass.
//!
//! `cargo run -p stellane-examples --bin alone_interner [HOW_MANY]`

use stellane_core::router::Interner;

fn main() {
    let strangers = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let interner = Interner::builder()
        .vocabulary(["eu-west", "us-east"])
        .build()
        .expect("the bound is in range");
    let (one, other) = (interner.intern("eu-west"), interner.intern("eu-west"));
    assert_eq!(one, other);
    // What clients make up is interned too, as long as there is room, and pushes out what nobody uses.
    for number in 0..strangers.unwrap_or(100_000_u64) {
        let _ = interner.intern(&format!("tenant-{number}"));
    }
    let stats = interner.stats();
    println!(
        "{} frozen, {} entries of {} bytes",
        stats.frozen, stats.entries, stats.bytes
    );
    println!("try another number of strangers as an argument");
}
