use std::time::Duration;

/// The CPU time of this process.
pub(crate) fn process_ran() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("is there");
    let behind_its_name = stat.rsplit(')').next().expect("more");
    // Of hundredths of a second, in user space and in the kernel.
    let ran = behind_its_name.split(' ').skip(12).take(2);
    let ran = ran.map(|ticks| ticks.parse::<u64>().expect("a number"));
    Duration::from_millis(10 * ran.sum::<u64>())
}
