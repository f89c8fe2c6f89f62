//! The control groups of a process, its own and all above: what they allow, and how much of it is used.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::files::{text, total_memory};

/// From this share of its limit on a group's stalls are its own; below, the whole machine is short of memory.
const NEAR: f64 = 0.7;

/// So long it is remembered which groups limit memory: most don't, and to see that takes reading two files of each. What a
/// limit is, and how much of it is used, is always read.
const REMEMBERED: Duration = Duration::from_secs(10);

/// Those of this process, and when they were found.
static FOUND: Mutex<Option<(Instant, Arc<Groups>)>> = Mutex::new(None);

/// The groups of one process, of version 1 and 2.
pub(super) struct Groups {
    root: PathBuf,
    /// What `/proc/self/cgroup` says.
    own: String,
    /// Of the machine: a greater limit is none.
    total: u64,
    /// The folders of those that limit memory.
    limited: Vec<PathBuf>,
}

/// One group that limits memory.
struct Memory {
    dir: PathBuf,
    limit: u64,
    used: u64,
    sockets: Option<u64>,
}

impl Groups {
    /// Those of this process.
    pub(super) fn of_process() -> Arc<Self> {
        let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
        let remembered = found.as_ref();
        if let Some((_, groups)) = remembered.filter(|(at, _)| at.elapsed() < REMEMBERED) {
            return Arc::clone(groups);
        }
        let own = text("/proc/self/cgroup").unwrap_or_default();
        let total = total_memory().unwrap_or(0);
        let groups = Arc::new(Self::at(Path::new("/sys/fs/cgroup"), own, total));
        *found = Some((Instant::now(), Arc::clone(&groups)));
        groups
    }

    fn at(root: &Path, own: String, total: u64) -> Self {
        let mut groups = Self {
            root: root.to_owned(),
            own,
            total,
            limited: Vec::new(),
        };
        groups.limited = groups.folders("memory");
        groups.limited = groups
            .memories()
            .into_iter()
            .map(|memory| memory.dir)
            .collect();
        groups
    }

    /// All the memory of the machine in bytes.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// The folders of the groups that count for a controller.
    fn folders(&self, controller: &str) -> Vec<PathBuf> {
        let mut folders = Vec::new();
        for line in self.own.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
                continue;
            };
            let mount = match controllers {
                "" => self.root.clone(),
                _ if controllers.split(',').any(|name| name == controller) => {
                    let alone = self.root.join(controller);
                    match alone.is_dir() {
                        true => alone,
                        false => self.root.join(controllers),
                    }
                }
                _ => continue,
            };
            // In a container the path may name what lies outside: the mount is then the container's own group.
            let path = Path::new(path.trim_start_matches('/'));
            folders.extend(path.ancestors().map(|group| mount.join(group)));
        }
        folders
    }

    fn memories(&self) -> Vec<Memory> {
        let in_file = |dir: &Path, names: [&str; 2]| {
            let mut read = names.iter().filter_map(|name| text(dir.join(name)));
            read.next()?.trim().parse::<u64>().ok()
        };
        let mut memories = Vec::new();
        for dir in self.limited.clone() {
            let limit = in_file(&dir, ["memory.max", "memory.limit_in_bytes"]);
            // "No limit" is a huge number in version 1.
            let Some(limit) = limit.filter(|limit| *limit > 0 && *limit <= self.total) else {
                continue;
            };
            let used = in_file(&dir, ["memory.current", "memory.usage_in_bytes"]).unwrap_or(0);
            let stat = text(dir.join("memory.stat")).unwrap_or_default();
            // Files that can be dropped do not count; version 1 tells those of all groups below by another name.
            let cache = field(&stat, "total_inactive_file")
                .or_else(|| field(&stat, "inactive_file"))
                .unwrap_or(0);
            let used = used.saturating_sub(cache);
            let sockets = field(&stat, "sock");
            memories.push(Memory {
                dir,
                limit,
                used,
                sockets,
            });
        }
        memories
    }

    /// The tightest limit in bytes.
    pub(super) fn memory_limit(&self) -> Option<u64> {
        self.memories().iter().map(|memory| memory.limit).min()
    }

    /// What the tightest of them counts for sockets.
    pub(super) fn socket_memory(&self) -> Option<u64> {
        let memories = self.memories();
        memories.iter().min_by_key(|memory| memory.limit)?.sockets
    }

    /// The greatest share of a limit that is used.
    pub(super) fn memory_used(&self) -> Option<f64> {
        let memories = self.memories();
        memories.iter().map(Memory::share).max_by(f64::total_cmp)
    }

    /// The greatest share of the last ten seconds in which a group that is near its limit waited for memory.
    pub(super) fn memory_stall(&self) -> Option<f64> {
        let memories = self.memories();
        let near = memories.iter().filter(|memory| memory.share() >= NEAR);
        let stalls = near.filter_map(|memory| {
            let text = text(memory.dir.join("memory.pressure"))?;
            some_avg10(&text)
        });
        stalls.max_by(f64::total_cmp)
    }

    /// The tightest limit in CPUs.
    pub(super) fn cpu_limit(&self) -> Option<f64> {
        let limits = self.folders("cpu").into_iter().filter_map(|dir| {
            let limit = text(dir.join("cpu.max")).or_else(|| {
                let read = |name| text(dir.join(name));
                let (quota, period) = (read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?);
                Some(format!("{} {}", quota.trim(), period.trim()))
            })?;
            let mut numbers = limit.split_whitespace().map(str::parse::<f64>);
            let (quota, period) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
            (quota > 0.0 && period > 0.0).then(|| quota / period)
        });
        limits.min_by(f64::total_cmp)
    }
}

impl Memory {
    fn share(&self) -> f64 {
        self.used as f64 / self.limit as f64
    }
}

fn field(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().map(str::split_whitespace);
    lines
        .find_map(|mut words| (words.next() == Some(name)).then(|| words.next())?)?
        .parse()
        .ok()
}

fn some_avg10(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let mut words = line.split_whitespace();
    let percent = words.find_map(|word| word.strip_prefix("avg10="))?;
    percent.parse::<f64>().ok().map(|percent| percent / 100.0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// A tree of groups of its own, which ends with it.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root =
                std::env::temp_dir().join(format!("stellane-groups-{}-{name}", std::process::id()));
            for (file, text) in files {
                let file = root.join(file);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, text).unwrap();
            }
            Self(root)
        }

        fn groups(&self, own: &str) -> Groups {
            Groups::at(&self.0, own.to_owned(), 1000 * MIB)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn every_group_on_the_way_up_counts() {
        let tree = Tree::new(
            "v2",
            &[
                ("a/b/memory.max", "max\n"),
                ("a/b/cpu.max", "150000 100000\n"),
                ("a/memory.max", "104857600\n"),
                ("a/memory.current", "94371840\n"),
                (
                    "a/memory.stat",
                    "anon 1\nsock 4096\ninactive_file 10485760\n",
                ),
                ("a/memory.pressure", "some avg10=12.50 avg60=1\n"),
                ("a/cpu.max", "max 100000\n"),
                ("memory.max", "209715200\n"),
                ("memory.current", "104857600\n"),
                ("memory.pressure", "some avg10=50.00 avg60=1\n"),
            ],
        );
        let groups = tree.groups("0::/a/b\n");
        assert_eq!(groups.memory_limit(), Some(100 * MIB));
        assert_eq!(groups.cpu_limit(), Some(1.5));
        assert_eq!(groups.memory_used(), Some(0.8));
        assert_eq!(groups.socket_memory(), Some(4096));
        // The root stalls, and is not near its limit.
        assert_eq!(groups.memory_stall(), Some(0.125));
        // In a container the path may name what lies outside.
        let contained = tree.groups("0::/elsewhere/b\n");
        assert_eq!(contained.memory_limit(), Some(200 * MIB));
        assert_eq!(
            (contained.memory_used(), contained.memory_stall()),
            (Some(0.5), None)
        );
    }

    #[test]
    fn version_1_counts_the_same() {
        let tree = Tree::new(
            "v1",
            &[
                ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ("memory/memory.usage_in_bytes", "99999999999\n"),
                ("memory/k8s/memory.limit_in_bytes", "209715200\n"),
                ("memory/k8s/memory.usage_in_bytes", "199229440\n"),
                (
                    "memory/k8s/memory.stat",
                    "inactive_file 1\ntotal_inactive_file 10485760\n",
                ),
                ("cpu,cpuacct/k8s/cpu.cfs_quota_us", "50000\n"),
                ("cpu,cpuacct/k8s/cpu.cfs_period_us", "100000\n"),
                ("cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
                ("cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ],
        );
        let groups = tree.groups("4:memory:/k8s\n2:cpu,cpuacct:/k8s/pod\n0::/\n");
        assert_eq!(groups.memory_limit(), Some(200 * MIB));
        assert_eq!(groups.memory_used(), Some(0.9));
        assert_eq!(groups.cpu_limit(), Some(0.5));
        assert_eq!(groups.socket_memory(), None);
        assert_eq!(groups.memory_stall(), None);
    }

    #[test]
    fn without_a_limit_nothing_is_said_whatever_the_machine_suffers() {
        let tree = Tree::new(
            "none",
            &[
                ("memory.max", "max\n"),
                ("memory.current", "1048576000\n"),
                ("memory.pressure", "some avg10=99.00 avg60=1\n"),
                ("a/memory.max", "2097152000\n"),
                ("a/memory.current", "1048576000\n"),
            ],
        );
        let groups = tree.groups("0::/a\n");
        assert_eq!(groups.memory_limit(), None, "more than there is");
        assert_eq!((groups.memory_used(), groups.memory_stall()), (None, None));
        assert_eq!(tree.groups("").memory_limit(), None);
    }
}
