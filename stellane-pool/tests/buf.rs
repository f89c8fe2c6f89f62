//! Buffers: growth, freezing, the way back of frozen memory.

use std::io::Write as _;

use bytes::{BufMut, Bytes};
use stellane_pool::{Budget, BufPool, DropReason, PoolConfig, Pools};

fn pool() -> BufPool {
    BufPool::new(&PoolConfig::enabled()).expect("the defaults are valid")
}

#[test]
fn a_buffer_takes_everything_and_grows_through_the_classes() {
    let pool = pool();
    let mut buffer = pool.get(10);
    buffer.put_u8(b'a');
    buffer.write_all(b"bc").unwrap();
    let last = 'd';
    write!(buffer, "{last}").unwrap();
    std::fmt::Write::write_str(&mut buffer, "e").unwrap();
    assert_eq!(&buffer[..], b"abcde");
    let mut expected = b"abcde".to_vec();
    for round in 0..2_000_u32 {
        buffer.put_slice(&[round as u8; 700]);
        expected.extend_from_slice(&[round as u8; 700]);
    }
    buffer.put_bytes(7, 9);
    expected.extend_from_slice(&[7; 9]);
    assert!(*buffer == *expected);
    assert_eq!(
        pool.stats().outstanding,
        0,
        "past 1 MiB it is not the pool's any more"
    );
    assert_eq!(pool.stats().idle, 5, "one of each class on the way");
    assert!(buffer.freeze() == expected);
}

#[test]
fn frozen_memory_comes_back_when_the_last_clone_is_dropped() {
    let pool = pool();
    let mut buffer = pool.get(100);
    buffer.extend_from_slice(b"first");
    let address = buffer.as_ptr();
    let bytes = buffer.freeze();
    let part = bytes.slice(1..3);
    drop(bytes);

    let mut other = pool.get(100);
    other.extend_from_slice(b"other");
    assert_ne!(other.as_ptr(), address, "a part of it is still alive");
    assert_eq!(part, "ir");
    drop(part);

    let again = pool.get(100);
    assert_eq!(again.as_ptr(), address);
    assert!(again.is_empty() && again.capacity() >= 4096, "whole again");
    assert_eq!(pool.stats().hits, 1);
}

#[test]
fn bytes_that_live_long_keep_their_memory_and_the_pool_forgets_it() {
    let pool = pool();
    let mut buffer = pool.get(100);
    buffer.extend_from_slice(b"cached for ever");
    let bytes = buffer.freeze();
    pool.tick();
    assert_eq!(pool.stats().idle, 1);
    pool.tick();
    let stats = pool.stats();
    assert_eq!((stats.idle, stats.retained_bytes), (0, 0));
    assert_eq!(stats.drops.count(DropReason::Lent), 1);
    drop(pool);
    assert_eq!(bytes, "cached for ever");
}

#[test]
fn an_empty_buffer_freezes_to_nothing_and_returns_at_once() {
    let pool = pool();
    let bytes = pool.get(100).freeze();
    assert_eq!(bytes, Bytes::new());
    assert_eq!(pool.stats().idle, 1);
    drop(pool.get(100));
    assert_eq!(pool.stats().hits, 1);
}

#[test]
fn scrubbing_leaves_no_byte_of_what_was_written() {
    let mut config = PoolConfig::enabled();
    config.scrub = true;
    let pool = BufPool::new(&config).unwrap();
    let secret = b"a secret of twenty-eight byte";
    let spare = |buffer: &mut stellane_pool::PooledBuf| {
        // What was there before, as far as it was ever written: two times the secret.
        let spare = buffer.chunk_mut();
        let written = spare.as_mut_ptr();
        // SAFETY: every byte of the first two secrets was written in this test, or zeroed since.
        unsafe { std::slice::from_raw_parts(written, 2 * secret.len()) }.to_vec()
    };
    for freeze in [false, true] {
        let mut buffer = pool.get(100);
        let address = buffer.as_ptr();
        buffer.extend_from_slice(secret);
        buffer.extend_from_slice(secret);
        buffer.truncate(30);
        if freeze {
            drop(buffer.freeze());
        } else {
            drop(buffer);
        }
        let mut again = pool.get(100);
        assert_eq!(again.as_ptr(), address);
        assert_eq!(
            spare(&mut again),
            vec![0; 2 * secret.len()],
            "frozen: {freeze}"
        );
    }
}

#[test]
fn buffers_larger_than_allowed_are_not_kept() {
    let pool = pool();
    pool.set_max_buffer_bytes(64 << 10);
    drop(pool.get(100 << 10));
    drop(pool.get(64 << 10));
    drop(pool.get(3 << 20));
    let stats = pool.stats();
    assert_eq!((stats.idle, stats.retained_bytes), (1, 64 << 10));
}

#[test]
fn debug_output_shows_no_content() {
    let pool = pool();
    let mut buffer = pool.get(10);
    buffer.extend_from_slice(b"password");
    assert!(!format!("{buffer:?} {pool:?}").contains("password"));
}

#[test]
fn a_pool_that_is_off_gives_ordinary_memory() {
    let pool = BufPool::new(&PoolConfig::default()).unwrap();
    let mut buffer = pool.get(10);
    buffer.extend_from_slice(&[1; 10_000]);
    assert_eq!(buffer.freeze(), vec![1; 10_000]);
    let stats = pool.stats();
    assert_eq!((stats.hits, stats.misses, stats.idle), (0, 0, 0));
}

#[test]
fn one_large_buffer_at_a_time_leaves_the_budget_alone_and_many_at_once_leave_it_to_others() {
    const LARGE: usize = 64 << 10;
    let in_use = |limit: usize, count: usize| {
        let pools = Pools::builder().enabled(true);
        let pools = pools.budget(&Budget::new(limit)).build().expect("valid");
        let take = || {
            (0..count)
                .map(|_| pools.buf().get(LARGE))
                .collect::<Vec<_>>()
        };
        drop(take());
        let kept = pools.budget().used();
        let taken = take();
        let in_use = pools.budget().used();
        drop(taken);
        assert_eq!(pools.budget().used(), kept);
        (kept, in_use)
    };
    let (kept, in_reserve) = in_use(64 << 20, 1);
    assert!(kept >= LARGE && in_reserve == kept);
    let (kept, in_reserve) = in_use(64 << 20, 12);
    assert!(kept >= 12 * LARGE && in_reserve <= 256 << 10);
    let (kept, in_reserve) = in_use(1 << 20, 1);
    assert!(kept >= LARGE && in_reserve <= 16 << 10, "{in_reserve}");
}
