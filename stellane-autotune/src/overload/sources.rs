//! What Linux says about the process, as fractions of its limits; `None` where it says nothing.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::control_group::{groups, read};

/// Memory as a fraction of its limit, in the control group (version 1 or 2) that is nearest to its own: that of the process
/// or one above; of the machine where none has a limit. Page cache that can be dropped does not count.
#[must_use]
pub fn memory() -> Option<f64> {
    let used = limited().map(|group| group.used).max_by(f64::total_cmp);
    used.or_else(machine_memory)
}

/// The fraction of the last ten seconds in which some task waited for memory (PSI), in a control group (version 2) that
/// uses 70 % of its limit or more. That the whole machine is short of memory is no fault of this process.
#[must_use]
pub fn memory_stall() -> Option<f64> {
    let near = limited().filter(|group| group.used >= 0.7);
    let stalls = near.filter_map(|group| some_avg10(&read(&group.dir.join("memory.pressure"))?));
    stalls.max_by(f64::total_cmp)
}

/// The fraction of the last ten seconds in which some task waited for a CPU (PSI): of the nearest control group (version 2)
/// that tells it, else of the machine.
#[must_use]
pub fn cpu_stall() -> Option<f64> {
    let mut groups = groups("cpu").into_iter();
    let of_group = groups.find_map(|dir| read(&dir.join("cpu.pressure")));
    some_avg10(&of_group.or_else(|| read(Path::new("/proc/pressure/cpu")))?)
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

/// A control group that limits memory, and the fraction of it that is used.
struct Limited {
    dir: PathBuf,
    used: f64,
}

/// Those of this process and of all above.
fn limited() -> impl Iterator<Item = Limited> {
    groups("memory").into_iter().filter_map(|dir| {
        let number = |names: [&str; 2]| -> Option<f64> {
            let text = names.iter().find_map(|name| read(&dir.join(name)))?;
            text.trim().parse().ok()
        };
        let limit = number(["memory.max", "memory.limit_in_bytes"])?;
        let used = number(["memory.current", "memory.usage_in_bytes"])?;
        let stat = read(&dir.join("memory.stat")).unwrap_or_default();
        let cache = field(&stat, "total_inactive_file").or_else(|| field(&stat, "inactive_file"));
        let used = (used - cache.unwrap_or(0.0)).max(0.0) / limit;
        // "No limit" is a huge number in version 1.
        (limit > 0.0 && limit < 9e18).then_some(Limited { dir, used })
    })
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
