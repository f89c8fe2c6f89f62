//! What Linux says about the process, as fractions of its limits; `None` where it says nothing.

use std::fs;
use std::path::{Path, PathBuf};

/// Memory of the cgroup as a fraction of its limit, or of the machine where there is none.
/// Page cache that can be dropped does not count.
#[must_use]
pub fn memory() -> Option<f64> {
    cgroup()
        .and_then(|dir| cgroup_memory(&dir))
        .or_else(machine_memory)
}

/// The fraction of the last ten seconds in which some task waited for memory (PSI).
#[must_use]
pub fn memory_stall() -> Option<f64> {
    let of_cgroup = cgroup().and_then(|dir| read(&dir.join("memory.pressure")));
    some_avg10(&of_cgroup.or_else(|| read(Path::new("/proc/pressure/memory")))?)
}

/// The fraction of the last ten seconds in which some task waited for a CPU (PSI).
#[must_use]
pub fn cpu_stall() -> Option<f64> {
    let of_cgroup = cgroup().and_then(|dir| read(&dir.join("cpu.pressure")));
    some_avg10(&of_cgroup.or_else(|| read(Path::new("/proc/pressure/cpu")))?)
}

/// Open files of this process as a fraction of what it may open.
#[must_use]
pub fn open_files() -> Option<f64> {
    let limits = read(Path::new("/proc/self/limits"))?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    let limit: f64 = line.split_whitespace().next()?.parse().ok()?;
    // Linux tells their number as the directory's size since 6.2; counting takes a microsecond for each.
    let open = match fs::metadata("/proc/self/fd").ok()?.len() {
        0 => fs::read_dir("/proc/self/fd").ok()?.count() as f64,
        n => n as f64,
    };
    (limit > 0.0).then_some(open / limit)
}

/// The directory of the cgroup (version 2) of this process.
fn cgroup() -> Option<PathBuf> {
    let text = read(Path::new("/proc/self/cgroup"))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let dir = Path::new("/sys/fs/cgroup").join(path);
    // Inside a container the path is that of the host, and the mount is already the cgroup.
    if dir.join("memory.current").exists() {
        Some(dir)
    } else {
        Some("/sys/fs/cgroup".into())
    }
}

fn cgroup_memory(dir: &Path) -> Option<f64> {
    let limit: f64 = read(&dir.join("memory.max"))?.trim().parse().ok()?;
    let used: f64 = read(&dir.join("memory.current"))?.trim().parse().ok()?;
    let stat = read(&dir.join("memory.stat")).unwrap_or_default();
    let cache = field(&stat, "inactive_file").unwrap_or(0.0);
    (limit > 0.0).then_some((used - cache).max(0.0) / limit)
}

fn machine_memory() -> Option<f64> {
    let text = read(Path::new("/proc/meminfo"))?;
    let (total, available) = (field(&text, "MemTotal:")?, field(&text, "MemAvailable:")?);
    (total > 0.0).then_some(1.0 - available / total)
}

fn field(text: &str, name: &str) -> Option<f64> {
    let mut words = text.lines().map(str::split_whitespace);
    words
        .find_map(|mut line| (line.next() == Some(name)).then(|| line.next())?)?
        .parse()
        .ok()
}

fn some_avg10(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let value = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix("avg10="))?;
    value.parse::<f64>().ok().map(|percent| percent / 100.0)
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalls_are_read_from_psi() {
        let text = "some avg10=12.50 avg60=1.00 avg300=0.00 total=1\nfull avg10=3.00 avg60=0\n";
        assert_eq!(some_avg10(text), Some(0.125));
        assert_eq!(some_avg10("full avg10=3.00"), None);
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "inactive_file_x 7\ninactive_file 4096\n";
        assert_eq!(field(text, "inactive_file"), Some(4096.0));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn linux_tells_memory_and_open_files() {
        for value in [memory(), open_files()] {
            assert!(
                value.is_some_and(|value| (0.0..=1.0).contains(&value)),
                "{value:?}"
            );
        }
    }
}
