//! The heap profile names who holds memory, and forgets what was freed. In a process of its own: it
//! takes the global allocator.
#![cfg(all(feature = "profiling", not(miri)))]

use std::{alloc::System, hint::black_box, sync::Mutex};

use stellane_core::profiling::HeapProfiler;

#[global_allocator]
static ALLOCATOR: HeapProfiler<System> = HeapProfiler::new(System);

/// Sampling is one for the process.
static ALONE: Mutex<()> = Mutex::new(());

#[inline(never)]
fn hoard() -> Vec<Vec<u8>> {
    (0..1000).map(|_| black_box(vec![1; 10_000])).collect()
}

fn bytes_of(name: &str) -> u64 {
    let folded = ALLOCATOR.folded();
    let lines = folded.lines().filter(|line| line.contains(name));
    lines
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
        .sum()
}

#[test]
fn the_function_that_holds_memory_is_named_with_about_how_much_until_it_is_freed() {
    let _alone = ALONE.lock();
    ALLOCATOR.start(64 << 10);
    let held = hoard();
    let bytes = bytes_of("hoard");
    assert!(
        (8_000_000..=12_000_000).contains(&bytes),
        "{bytes} of 10 MB: {}",
        ALLOCATOR.folded()
    );
    assert!(ALLOCATOR.svg().contains("hoard"));
    assert!(
        ALLOCATOR
            .pprof()
            .windows(11)
            .any(|part| part == b"inuse_space")
    );
    drop(held);
    assert_eq!(bytes_of("hoard"), 0, "freed");

    ALLOCATOR.stop();
    let held = hoard();
    assert_eq!(bytes_of("hoard"), 0, "off");
    drop(held);
}

#[test]
fn threads_that_allocate_grow_and_free_each_other_s_memory_while_a_profile_is_taken() {
    let _alone = ALONE.lock();
    ALLOCATOR.start(1);
    let (rounds, profiles) = (300, 2);
    let (sender, receiver) = std::sync::mpsc::sync_channel::<Vec<usize>>(16);
    let freeing = std::thread::spawn(move || receiver.into_iter().map(|v| v.len()).sum::<usize>());
    let growing: Vec<_> = (0..2)
        .map(|_| {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for i in 0..rounds {
                    let mut v = Vec::new();
                    (0..i % 50).for_each(|n| v.push(n));
                    sender.send(v).expect("open");
                }
            })
        })
        .collect();
    drop(sender);
    for _ in 0..profiles {
        black_box(ALLOCATOR.folded());
    }
    growing
        .into_iter()
        .for_each(|thread| thread.join().expect("joins"));
    assert_eq!(
        freeing.join().expect("joins"),
        2 * (0..rounds).map(|i| i % 50).sum::<usize>()
    );
    ALLOCATOR.stop();
}
