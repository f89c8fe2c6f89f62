//! The process and its container, read from `/proc` and `/sys/fs/cgroup`. All zero elsewhere than on Linux.

use std::{fs, time::Duration};

use super::{
    RuntimeSnapshot,
    files::{kib, number, text},
    groups::Groups,
};

/// What a process may use, which does not change while it runs; and how much of it is used, as shares of 1.
///
/// Limits are the tightest of the control groups (version 1 and 2) of the process and of every group above them. All is
/// zero or `None` elsewhere than on Linux.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Machine {
    /// Memory that the process may use in bytes: the container's limit, or all there is.
    pub memory: u64,
    /// CPUs that the process may use.
    pub cpus: f64,
    /// Files that it may have open.
    pub max_files: u64,
    cgroup_memory: u64,
    cgroup_cpu: f64,
}

impl Machine {
    /// The machine and the groups of this process, as they are now.
    #[must_use]
    pub fn read() -> Self {
        let groups = Groups::of_process();
        let (cgroup_memory, cgroup_cpu) = (groups.memory_limit(), groups.cpu_limit());
        let parallelism = std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64);
        Self {
            memory: cgroup_memory.unwrap_or(groups.total()),
            cpus: cgroup_cpu.map_or(parallelism, |cpus| cpus.min(parallelism)),
            max_files: max_files().unwrap_or(0),
            cgroup_memory: cgroup_memory.unwrap_or(0),
            cgroup_cpu: cgroup_cpu.unwrap_or(0.0),
        }
    }

    /// The greatest share of a group's memory that is used, or of the machine's if no group has a limit. Files in memory
    /// that can be dropped do not count.
    #[must_use]
    pub fn memory_used() -> Option<f64> {
        let groups = Groups::of_process();
        let of_machine = || {
            let available = kib(&text("/proc/meminfo")?, "MemAvailable:")?;
            Some(1.0 - available as f64 / groups.total().max(1) as f64)
        };
        groups.memory_used().or_else(of_machine)
    }

    /// The least that a group of the process allows of memory in bytes, if one limits it.
    #[must_use]
    pub fn memory_limit() -> Option<u64> {
        Groups::of_process().memory_limit()
    }

    /// What the system holds for the sockets of the process in bytes, as the tightest group that limits its memory counts it;
    /// only groups of version 2 do.
    #[must_use]
    pub fn socket_memory() -> Option<u64> {
        Groups::of_process().socket_memory()
    }

    /// The share of the last ten seconds in which a group of the process that is near its limit of memory waited for some.
    /// That the whole machine does so is no fault of this process, and not told here.
    #[must_use]
    pub fn memory_stall() -> Option<f64> {
        Groups::of_process().memory_stall()
    }

    /// The share of the files that may be open which are.
    #[must_use]
    pub fn files_used() -> Option<f64> {
        let most = max_files().filter(|most| *most > 0)?;
        Some(open_fds()? as f64 / most as f64)
    }

    pub(super) fn fill(&self, snapshot: &mut RuntimeSnapshot) {
        snapshot.cgroup_memory_limit = self.cgroup_memory;
        snapshot.cgroup_cpu_limit = self.cgroup_cpu;
        snapshot.max_fds = self.max_files;
        if let Some(status) = text("/proc/self/status") {
            snapshot.rss = kib(&status, "VmRSS:").unwrap_or(0);
            snapshot.heap_size = kib(&status, "RssAnon:").unwrap_or(0);
            snapshot.threads = number(&status, "Threads:").unwrap_or(0);
        }
        if let Some(stat) = text("/proc/self/stat") {
            snapshot.cpu_time = cpu_time(&stat).unwrap_or_default();
        }
        snapshot.open_fds = open_fds().unwrap_or(0);
    }
}

/// Linux tells their number as the directory's size since 6.2; before, and elsewhere, they are counted, which
/// takes a microsecond for each.
fn open_fds() -> Option<u64> {
    let directory = "/proc/self/fd";
    match fs::metadata(directory).ok()?.len() {
        // One of those counted is the directory being read.
        0 => Some((fs::read_dir(directory).ok()?.count() as u64).saturating_sub(1)),
        n => Some(n),
    }
}

/// Fields 14 and 15 of `/proc/self/stat`; the second field, the name, may itself contain spaces and parentheses.
fn cpu_time(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    // USER_HZ is 100 on every Linux that Rust runs on: it is part of the interface to user space.
    Some(Duration::from_millis((user + system) * 10))
}

fn max_files() -> Option<u64> {
    let limits = text("/proc/self/limits")?;
    let rest = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    // Without a limit it is a word.
    let soft = rest.split_whitespace().next()?;
    Some(soft.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_spaces_and_parentheses_does_not_shift_the_cpu_time() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 0 0 0 123 45 0 0 20 0 1 0 100";
        assert_eq!(cpu_time(stat), Some(Duration::from_millis(1680)));
    }
}
