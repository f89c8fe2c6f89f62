use std::{collections::HashMap, fmt, thread, time::Duration};

use pprof::{ProfilerGuardBuilder, Report};

use super::stacks::Stacks;

/// Those can't be unwound safely from a signal handler wherever they are interrupted.
pub(super) const NOT_SAFE: &[&str] = &["libc", "libgcc", "pthread", "vdso"];

/// Records for this long; blocks the thread. Dropping the guard ends the signals.
///
/// # Errors
/// The system refuses the timer, or a profiler that is not ours is running.
pub(super) fn record(duration: Duration, frequency: i32) -> Result<Stacks, CpuError> {
    let builder = ProfilerGuardBuilder::default()
        .frequency(frequency)
        .blocklist(NOT_SAFE);
    let mut guard = builder.clone().build();
    // It may be that somebody asks for the stack of a single thread.
    for _ in 0..10 {
        if guard.is_ok() {
            break;
        }
        thread::sleep(Duration::from_millis(10));
        guard = builder.clone().build();
    }
    let guard = guard?;
    thread::sleep(duration);
    let report = guard.report().build()?;
    drop(guard);
    Ok(stacks(&report, duration, frequency))
}

fn stacks(report: &Report, duration: Duration, frequency: i32) -> Stacks {
    let mut samples = HashMap::<Vec<String>, u64>::new();
    for (frames, &count) in &report.data {
        let mut stack = vec![frames.thread_name_or_id()];
        let functions = frames
            .frames
            .iter()
            .rev()
            .flat_map(|inlined| inlined.iter().rev());
        stack.extend(functions.map(|symbol| symbol.name()));
        *samples.entry(stack).or_default() += u64::try_from(count).unwrap_or(0);
    }
    Stacks::cpu(samples, frequency, duration)
}

/// Why there is no CPU profile.
#[derive(Debug)]
pub(super) struct CpuError(pprof::Error);

impl From<pprof::Error> for CpuError {
    fn from(error: pprof::Error) -> Self {
        Self(error)
    }
}

impl fmt::Display for CpuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no CPU profile: {}", self.0)
    }
}
