//! The process and its container, read from `/proc` and `/sys/fs/cgroup`. All zero elsewhere than on Linux.

use std::{fs, path::Path, time::Duration};

use super::RuntimeSnapshot;

/// What does not change while the process runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Machine {
    /// Memory that the process may use: the container's limit, or all there is.
    pub(super) memory: u64,
    /// Cores that the process may use.
    pub(super) cores: f64,
    cgroup_memory: u64,
    cgroup_cpu: f64,
    max_fds: u64,
}

impl Machine {
    pub(super) fn read() -> Self {
        let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let (cgroup_memory, cgroup_cpu) = limits(Path::new("/sys/fs/cgroup"), &group);
        let total = fs::read_to_string("/proc/meminfo")
            .ok()
            .and_then(|m| kib(&m, "MemTotal:"));
        let total = total.unwrap_or(0);
        let parallelism = std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64);
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        Self {
            memory: if cgroup_memory > 0 {
                cgroup_memory.min(total.max(1))
            } else {
                total
            },
            cores: if cgroup_cpu > 0.0 {
                cgroup_cpu.min(parallelism)
            } else {
                parallelism
            },
            cgroup_memory,
            cgroup_cpu,
            max_fds: limits
                .lines()
                .find_map(|line| line.strip_prefix("Max open files"))
                .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
                .unwrap_or(0),
        }
    }

    pub(super) fn fill(&self, snapshot: &mut RuntimeSnapshot) {
        snapshot.cgroup_memory_limit = self.cgroup_memory;
        snapshot.cgroup_cpu_limit = self.cgroup_cpu;
        snapshot.max_fds = self.max_fds;
        if let Ok(status) = fs::read_to_string("/proc/self/status") {
            snapshot.rss = kib(&status, "VmRSS:").unwrap_or(0);
            snapshot.heap_size = kib(&status, "RssAnon:").unwrap_or(0);
            snapshot.threads = number(&status, "Threads:").unwrap_or(0);
        }
        if let Ok(stat) = fs::read_to_string("/proc/self/stat") {
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

fn number(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse().ok()
}

fn kib(text: &str, key: &str) -> Option<u64> {
    number(text, key).map(|kib| kib * 1024)
}

/// Fields 14 and 15 of `/proc/self/stat`; the second field, the name, may itself contain spaces and parentheses.
fn cpu_time(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    // USER_HZ is 100 on every Linux that Rust runs on: it is part of the interface to user space.
    Some(Duration::from_millis((user + system) * 10))
}

/// Memory in bytes and CPU in cores, zero for none: the tightest of the group and those above it.
fn limits(root: &Path, group: &str) -> (u64, f64) {
    let path = group
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .unwrap_or("");
    let mut memory = 0_u64;
    let mut cpu = 0_f64;
    // In a container the path may name what lies outside: the root is then the container's own group.
    let mut at = Some(Path::new(path));
    while let Some(group) = at {
        let read = |file| fs::read_to_string(root.join(group).join(file)).unwrap_or_default();
        if let Ok(limit) = read("memory.max").trim().parse::<u64>() {
            memory = if memory == 0 {
                limit
            } else {
                memory.min(limit)
            };
        }
        let max = read("cpu.max");
        let mut parts = max.split_whitespace().map(str::parse::<f64>);
        if let (Some(Ok(quota)), Some(Ok(period))) = (parts.next(), parts.next())
            && period > 0.0
        {
            let cores = quota / period;
            cpu = if cpu == 0.0 { cores } else { cpu.min(cores) };
        }
        at = group.parent();
    }
    if memory == 0 {
        let v1 = fs::read_to_string(root.join("memory/memory.limit_in_bytes")).unwrap_or_default();
        // "No limit" is the largest multiple of the page size there.
        memory = v1
            .trim()
            .parse()
            .ok()
            .filter(|limit| *limit < 1 << 60)
            .unwrap_or(0);
    }
    if cpu == 0.0 {
        let read = |file| -> Option<f64> {
            fs::read_to_string(root.join("cpu").join(file))
                .ok()?
                .trim()
                .parse()
                .ok()
        };
        if let (Some(quota), Some(period)) = (read("cpu.cfs_quota_us"), read("cpu.cfs_period_us"))
            && quota > 0.0
            && period > 0.0
        {
            cpu = quota / period;
        }
    }
    (memory, cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_spaces_and_parentheses_does_not_shift_the_cpu_time() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 0 0 0 123 45 0 0 20 0 1 0 100";
        assert_eq!(cpu_time(stat), Some(Duration::from_millis(1680)));
    }

    #[test]
    fn the_tightest_limit_on_the_way_up_counts() {
        let root = std::env::temp_dir().join(format!("stellane-cgroup-{}", std::process::id()));
        let inner = root.join("a/b");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("memory.max"), "max\n").unwrap();
        fs::write(inner.join("cpu.max"), "150000 100000\n").unwrap();
        fs::write(root.join("a/memory.max"), "1048576\n").unwrap();
        fs::write(root.join("a/cpu.max"), "max 100000\n").unwrap();
        fs::write(root.join("memory.max"), "9999999\n").unwrap();
        assert_eq!(limits(&root, "0::/a/b\n"), (1_048_576, 1.5));
        assert_eq!(limits(&root, ""), (9_999_999, 0.0));
        fs::remove_dir_all(&root).unwrap();
    }
}
