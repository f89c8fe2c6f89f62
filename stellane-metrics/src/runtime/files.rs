//! What Linux says in short files.

use std::{fs::File, io::Read as _, path::Path};

/// A short file, read at once: without room for it each read is for a few bytes more.
pub(super) fn text(path: impl AsRef<Path>) -> Option<String> {
    let mut text = String::with_capacity(4096);
    File::open(path).ok()?.read_to_string(&mut text).ok()?;
    Some(text)
}

pub(super) fn number(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse().ok()
}

pub(super) fn kib(text: &str, key: &str) -> Option<u64> {
    number(text, key).map(|kib| kib * 1024)
}

/// All the memory of the machine in bytes.
pub(super) fn total_memory() -> Option<u64> {
    kib(&text("/proc/meminfo")?, "MemTotal:")
}
