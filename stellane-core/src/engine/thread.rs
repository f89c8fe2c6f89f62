//! One core: a thread with a runtime of its own.

use std::{io, pin::Pin, sync::mpsc as sync_mpsc, thread, time::Duration};

use tokio::{
    runtime::{Builder, Handle, LocalOptions},
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use super::{CoreMetrics, EngineError};

/// What a core does: made elsewhere, run there.
pub(super) type Job = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

enum Message {
    Run(Job),
    /// End when what runs has ended.
    End,
}

/// How long a core that is to end waits for what it still runs.
pub(super) const JOIN: Duration = Duration::from_secs(1);

/// The handle of a core; its thread ends when this is dropped.
#[derive(Debug)]
pub(super) struct Core {
    messages: mpsc::UnboundedSender<Message>,
    ended: oneshot::Receiver<()>,
    runtime: Handle,
    cpu: Option<usize>,
}

impl Core {
    pub(super) fn start(name: String, cpu: Option<usize>) -> io::Result<Self> {
        let (messages, queue) = mpsc::unbounded_channel();
        let (say_ended, ended) = oneshot::channel();
        let (say_started, started) = sync_mpsc::sync_channel(1);
        thread::Builder::new().name(name).spawn(move || {
            let pinned = cpu.filter(|cpu| pin(*cpu));
            // Lets services that are not `Send` spawn what is not either.
            let runtime = Builder::new_current_thread()
                .enable_all()
                .build_local(LocalOptions::default());
            match runtime {
                Ok(runtime) => {
                    let _ = say_started.send(Ok((runtime.handle().clone(), pinned)));
                    runtime.block_on(run(queue));
                }
                Err(error) => drop(say_started.send(Err(error))),
            }
            drop(say_ended);
        })?;
        let gone = |_| Err(io::Error::other("its thread ended at once"));
        let (runtime, cpu) = started.recv().unwrap_or_else(gone)?;
        Ok(Self {
            messages,
            ended,
            runtime,
            cpu,
        })
    }

    /// # Errors
    /// The thread has ended.
    pub(super) fn run(&self, job: Job) -> Result<(), EngineError> {
        self.messages
            .send(Message::Run(job))
            .map_err(|_| EngineError::Stopped)
    }

    /// Asks the thread to end; the receiver hears when it has.
    pub(super) fn end(self) -> oneshot::Receiver<()> {
        let _ = self.messages.send(Message::End);
        self.ended
    }

    pub(super) fn runtime(&self) -> Handle {
        self.runtime.clone()
    }

    pub(super) fn metrics(&self) -> CoreMetrics {
        CoreMetrics {
            cpu: self.cpu,
            ..CoreMetrics::of(&self.runtime, 0)
        }
    }
}

async fn run(mut queue: mpsc::UnboundedReceiver<Message>) {
    let mut jobs = JoinSet::new();
    loop {
        tokio::select! {
            message = queue.recv() => match message {
                Some(Message::Run(job)) => drop(jobs.spawn_local(async { job().await })),
                Some(Message::End) => break,
                // The engine was dropped: what runs is dropped too.
                None => return,
            },
            Some(_) = jobs.join_next() => {}
        }
    }
    // Their connections have ended; they are about to notice.
    let _ = tokio::time::timeout(JOIN, jobs.join_all()).await;
}

/// The CPUs that this process may use, as numbers for [`pin`].
#[cfg(target_os = "linux")]
pub(super) fn cpus() -> Vec<usize> {
    use rustix::thread::{CpuSet, sched_getaffinity};
    let allowed = sched_getaffinity(None);
    allowed.map_or_else(
        |_| Vec::new(),
        |set| {
            (0..CpuSet::MAX_CPU)
                .filter(|cpu| set.is_set(*cpu))
                .collect()
        },
    )
}

#[cfg(not(target_os = "linux"))]
pub(super) fn cpus() -> Vec<usize> {
    Vec::new()
}

/// Pins the calling thread; whether that worked.
#[cfg(target_os = "linux")]
fn pin(cpu: usize) -> bool {
    use rustix::thread::{CpuSet, sched_setaffinity};
    let mut set = CpuSet::new();
    set.set(cpu);
    let pinned = sched_setaffinity(None, &set);
    if let Err(error) = &pinned {
        tracing::warn!(cpu, %error, "a core can't be pinned");
    }
    pinned.is_ok()
}

#[cfg(not(target_os = "linux"))]
fn pin(_: usize) -> bool {
    false
}
