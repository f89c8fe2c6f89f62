//! The ready hook for glibc's malloc gives memory back that glibc keeps. A test binary of its own: no other test allocates.
#![cfg(all(feature = "connection", target_os = "linux", target_env = "gnu"))]

use stellane_core::connection::malloc_trim;

/// Resident kilobytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.expect("a line").parse().expect("a number")
}

#[test]
fn what_was_freed_between_what_is_used_is_given_back() {
    const MIB: usize = 1024;
    // What a wave of busy connections leaves: pages of which a little is in use still.
    let mut blocks: Vec<_> = (0..16 * MIB).map(|n| vec![n as u8; 4096]).collect();
    let kept: Vec<_> = blocks.iter_mut().step_by(64).map(std::mem::take).collect();
    drop(blocks);
    let before = resident();
    malloc_trim();
    let after = resident();
    assert!(after + 32 * MIB < before, "{before} to {after} KiB");
    assert!(
        kept.iter()
            .enumerate()
            .all(|(n, block)| block[4095] == (n * 64) as u8)
    );
}
