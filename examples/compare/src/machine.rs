//! Where and when it was measured.

use std::{
    fs,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    pub date: String,
    pub cpu: String,
    /// What tells machines apart whose processors have one name.
    pub kind: String,
    pub cpus: usize,
    pub memory_gib: f64,
    pub kernel: String,
    pub rustc: String,
    /// The commit of Stellane.
    pub commit: String,
    /// What else the machine was doing when it began: its load of the last minute.
    pub load: String,
    pub postgres: Option<String>,
}

impl Machine {
    pub(crate) fn describe() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key));
            let value = line.and_then(|line| line.split_once(':'));
            value.map_or("?".to_owned(), |(_, value)| value.trim().to_owned())
        };
        let memory = after(&read("/proc/meminfo"), "MemTotal");
        let kilobytes = memory.split(' ').next().and_then(|n| n.parse::<f64>().ok());
        let cpuinfo = read("/proc/cpuinfo");
        let of_cpu = |key: &str| after(&cpuinfo, key);
        let is_virtual = cpuinfo.contains(" hypervisor");
        Self {
            date: today(),
            cpu: of_cpu("model name"),
            kind: format!(
                "family {}, model {}, {} MHz, {} of cache{}",
                of_cpu("cpu family"),
                of_cpu("model\t"),
                of_cpu("cpu MHz"),
                of_cpu("cache size"),
                if is_virtual {
                    ", a virtual machine"
                } else {
                    ""
                },
            ),
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_gib: kilobytes.unwrap_or(0.0) / f64::from(1 << 20),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            rustc: output("rustc", &["--version"]),
            commit: output("git", &["describe", "--always", "--dirty"]),
            load: read("/proc/loadavg")
                .split(' ')
                .next()
                .unwrap_or("?")
                .to_owned(),
            postgres: None,
        }
    }
}

/// The first line that a command prints, or `?`.
pub(crate) fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(crate::contestants::home())
        .output();
    let text = output
        .map(|o| [o.stdout, o.stderr].concat())
        .unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().next().unwrap_or("?").trim().to_owned()
}

/// The date in UTC, as `2026-11-23`.
fn today() -> String {
    let days = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() / 86_400);
    // The civil calendar in years that begin in March, so that the leap day comes last.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}
