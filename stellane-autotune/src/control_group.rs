//! The control groups (version 1 and 2) that Linux has put this process into.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The directories of the control groups of this process and of all above that count for a controller.
pub(crate) fn groups(controller: &str) -> Vec<PathBuf> {
    let text = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let groups = text.lines().filter_map(|line| {
        // `0::/path` of version 2, `4:memory:/path` and `3:cpu,cpuacct:/path` of version 1.
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let mount = match controllers {
            "" => "",
            _ if controllers.split(',').any(|name| name == controller) => controller,
            _ => return None,
        };
        let mount = Path::new("/sys/fs/cgroup").join(mount);
        // Inside a container the path may be that of the host: the mount is then the container's own group.
        let groups = Path::new(path.trim_start_matches('/')).ancestors();
        Some(groups.map(move |group| mount.join(group)))
    });
    groups.flatten().collect()
}

/// The tightest limit of CPUs that a control group sets.
#[cfg(feature = "tokio")]
pub(crate) fn cpu_limit() -> Option<f64> {
    let limits = groups("cpu").into_iter().filter_map(|dir| {
        let version_1 = || {
            let number = |name| read(&dir.join(name));
            Some(number("cpu.cfs_quota_us")? + &number("cpu.cfs_period_us")?)
        };
        cpu_quota(&read(&dir.join("cpu.max")).or_else(version_1)?)
    });
    limits.min_by(f64::total_cmp)
}

/// A quota and its period. Without a limit the quota is a word, or negative in version 1.
#[cfg(feature = "tokio")]
fn cpu_quota(text: &str) -> Option<f64> {
    let mut numbers = text.split_whitespace().map(str::parse::<f64>);
    let (quota, period) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

pub(crate) fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

#[cfg(all(test, feature = "tokio"))]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_a_share_of_its_period() {
        assert_eq!(cpu_quota("20000 100000\n"), Some(0.2));
        assert_eq!(cpu_quota("150000\n100000\n"), Some(1.5));
        assert_eq!(cpu_quota("max 100000\n"), None);
        assert_eq!(cpu_quota("-1\n100000\n"), None);
    }
}
