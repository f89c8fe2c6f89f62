//! `stellane-pool` alone: objects and buffers that are used again, cleared on their way back and bounded in bytes.
//!
//! `cargo run -p stellane-examples --bin alone_pool [HOW_OFTEN]`

use std::error::Error;

use stellane_core::pool::{Pool, PoolConfig, Pools};

fn main() -> Result<(), Box<dyn Error>> {
    let times = std::env::args()
        .nth(1)
        .map_or(Ok(1000), |text| text.parse())?;
    let pool = Pool::builder(|| Vec::<u8>::with_capacity(1024)).build()?;
    for _ in 0..times {
        let mut scratch = pool.take();
        assert!(scratch.is_empty(), "cleared on its way back");
        scratch.extend_from_slice(b"dirty");
    }
    let pools = Pools::builder().config(PoolConfig::enabled()).build()?;
    for _ in 0..times {
        let mut buffer = pools.buf().get(1000);
        buffer.extend_from_slice(b"hello");
        // `Bytes`, whose memory comes back when the last of them is dropped.
        assert_eq!(buffer.freeze(), "hello");
    }
    let stats = pools.stats();
    println!("objects: {:?}", pool.stats());
    println!(
        "buffers: {} of {} from the pool",
        stats.hits,
        stats.hits + stats.misses
    );
    println!("try another number as an argument");
    Ok(())
}
