//! Where a thread stands that a handler holds: its stack, taken by a signal to this thread alone.
//!
//! The signal and what records the stack in it are those of the CPU profile, with a clock so slow that it never ticks. A
//! thread that waits does so in libc, in a call that can be unwound from; one that computes is asked again later if the
//! signal finds it there.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use nix::sys::{
    pthread::{Pthread, pthread_kill, pthread_self},
    signal::Signal,
};
use pprof::{Frames, ProfilerGuardBuilder};

use super::{SlowPolls, cpu::NOT_SAFE};

/// So many may wait to be asked; of others no stack is taken.
const QUEUE: usize = 256;
/// So often a thread is looked at that was asked, and for how long each time.
const LOOKS: u32 = 10;
const LOOK: Duration = Duration::from_millis(2);
/// After so long those that gave none are asked again, for as long as they are held: the machine was busy, or somebody took
/// a CPU profile.
const AGAIN: Duration = Duration::from_millis(250);
/// As many functions of a stack are told, the innermost.
const FRAMES: usize = 48;

/// A thread for as long as it lives; a cheap handle.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// `None` once it ends. Locked while it is sent a signal: so that is sent to no other.
    alive: Arc<Mutex<Option<Pthread>>>,
    /// What the kernel calls it; 0 where nobody knows.
    id: u32,
}

struct Ends(Target);

impl Drop for Ends {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

thread_local! {
    static THIS: Ends = Ends(Target {
        alive: Arc::new(Mutex::new(Some(pthread_self()))),
        id: thread_id(),
    });
}

impl Target {
    /// The current thread; `None` if it is about to end.
    pub(crate) fn here() -> Option<Self> {
        THIS.try_with(|this| this.0.clone()).ok()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Pthread>> {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has it record its stack; what the recorder calls it.
    #[cfg_attr(
        target_os = "linux",
        expect(clippy::unnecessary_cast, reason = "elsewhere it is another type")
    )]
    fn ask(&self) -> Option<u64> {
        let alive = self.lock();
        let thread = (*alive)?;
        pthread_kill(thread, Signal::SIGPROF).ok()?;
        Some(thread as u64)
    }

    /// Whether it waits in a system call.
    fn waits(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{}/stat", self.id));
        let stat = stat.unwrap_or_default();
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes());
        matches!(state, Some([b'S' | b'D', ..]))
    }
}

/// The stack of a hold, once it is there: one function a line, the innermost first. Who takes stacks has a weak reference:
/// without any other the hold is over.
pub(crate) type HeldStack = Arc<OnceLock<String>>;

struct Asked {
    target: Target,
    route: Option<String>,
    hold: Weak<OnceLock<String>>,
}

/// Takes stacks, on a thread of its own; a cheap handle. The thread ends with the last.
#[derive(Debug, Clone)]
pub(crate) struct HeldStacks(SyncSender<Asked>);

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asked").finish_non_exhaustive()
    }
}

impl HeldStacks {
    /// The stacks are shown in the block profile too.
    ///
    /// # Errors
    /// There is no thread for it.
    pub(crate) fn start(polls: &SlowPolls) -> io::Result<Self> {
        let (send, asked) = sync_channel(QUEUE);
        let polls = polls.clone();
        thread::Builder::new()
            .name("stellane-stacks".to_owned())
            .spawn(move || take_all(&asked, &polls))?;
        Ok(Self(send))
    }

    /// Has the stack of a thread taken that is held by a handler of this route. Waits for nothing.
    pub(crate) fn take(&self, target: &Target, route: Option<&str>) -> HeldStack {
        let stack = HeldStack::default();
        let _ = self.0.try_send(Asked {
            target: target.clone(),
            route: route.map(str::to_owned),
            hold: Arc::downgrade(&stack),
        });
        stack
    }
}

fn take_all(asked: &Receiver<Asked>, polls: &SlowPolls) {
    let mut left: Vec<Asked> = Vec::new();
    loop {
        let next = match left.is_empty() {
            true => asked.recv().map_err(RecvTimeoutError::from),
            false => asked.recv_timeout(AGAIN),
        };
        match next {
            Ok(one) => left.push(one),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        left.extend(asked.try_iter());
        left.retain(|asked| asked.hold.strong_count() > 0);
        let (mut waiting, mut computing): (Vec<_>, Vec<_>) =
            left.drain(..).partition(|asked| asked.target.waits());
        for (some, blocked) in [(&mut waiting, &[][..]), (&mut computing, NOT_SAFE)] {
            for (asked, frames) in take_some(some, blocked) {
                tell(&asked, &frames, polls);
            }
            left.append(some);
        }
    }
}

/// The stacks of those that gave one while they were held; the others are left.
fn take_some(some: &mut Vec<Asked>, blocked: &[&str]) -> Vec<(Asked, Frames)> {
    let mut taken = Vec::new();
    for _ in 0..LOOKS {
        if some.is_empty() {
            break;
        }
        let guard = ProfilerGuardBuilder::default()
            // Of CPU time of the process: it is over before that.
            .frequency(1)
            .blocklist(blocked)
            .build();
        // Somebody takes a CPU profile.
        let Ok(guard) = guard else { break };
        let asked = some.drain(..);
        let asked = asked.filter_map(|one| Some((one.target.ask()?, one)));
        let mut asked: HashMap<u64, Asked> = asked.collect();
        thread::sleep(LOOK);
        let report = guard.report().build_unresolved();
        drop(guard);
        let recorded = report
            .into_iter()
            .flat_map(|report| report.data.into_keys());
        for frames in recorded {
            let Some(one) = asked.remove(&frames.thread_id) else {
                continue;
            };
            // After it, it may have been anywhere.
            if one.hold.strong_count() > 0 {
                taken.push((one, frames));
            }
        }
        some.extend(asked.into_values());
    }
    let named = |(one, frames)| (one, Frames::from(frames));
    taken.into_iter().map(named).collect()
}

fn tell(asked: &Asked, frames: &Frames, polls: &SlowPolls) {
    let functions = frames.frames.iter().flatten().take(FRAMES);
    let stack: Vec<_> = functions
        .map(|function| match function.lineno {
            Some(line) => format!("{} ({}:{line})", function.name(), function.filename()),
            None => function.name(),
        })
        .collect();
    if let Some(hold) = asked.hold.upgrade() {
        let _ = hold.set(stack.join("\n"));
    }
    polls.record_stack(asked.route.as_deref(), stack);
}

#[cfg(target_os = "linux")]
fn thread_id() -> u32 {
    u32::try_from(nix::unistd::gettid().as_raw()).unwrap_or(0)
}

#[cfg(not(target_os = "linux"))]
fn thread_id() -> u32 {
    0
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn who_could_not_be_asked_is_asked_again_while_it_is_held() {
        let somebody = loop {
            // Another test may have the recorder.
            if let Ok(guard) = ProfilerGuardBuilder::default().frequency(1).build() {
                break guard;
            }
        };
        let (tell, told) = channel();
        let (release, held) = channel::<()>();
        let thread = thread::spawn(move || {
            tell.send(Target::here().expect("lives")).expect("is heard");
            let _ = held.recv();
        });
        let target = told.recv().expect("is told");
        let stacks = HeldStacks::start(&SlowPolls::new(Duration::from_millis(1))).expect("starts");
        let stack = stacks.take(&target, None);
        thread::sleep(10 * LOOK);
        assert_eq!(stack.get(), None, "somebody takes a CPU profile");
        drop(somebody);
        while stack.get().is_none() {
            thread::sleep(LOOK);
        }
        drop(release);
        thread.join().expect("no panic");
    }
}
