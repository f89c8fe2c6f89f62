//! The thread beside those of the service: it serves the admin address and watches the others, with a small runtime of
//! its own. Whatever handlers do to the runtimes that serve, probes and metrics are answered.
//!
//! Nothing here waits for what a handler may hold: it logs from other threads, since a handler may hold the subscriber
//! or the pipe that this writes to.

mod admin;
mod held;
mod progress;

use std::{
    io, mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc as sync_mpsc,
    },
    thread,
    time::Duration,
};

use stellane_autotune::LocalSignal;
use stellane_metrics::HttpMetrics;
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
    task::JoinSet,
};
use tracing::{Dispatch, dispatcher};

pub(super) use self::progress::Progress;
use self::{admin::AdminPlaces, held::Look, progress::Pulses};
use super::{Components, held::HeldThreads};
use crate::{
    config::ServerConfig,
    connection::{ConnectionManager, HttpService, Listener},
};

/// How often the thread looks at the others.
const TICK: Duration = Duration::from_millis(100);
/// How long its end is waited for.
const JOIN: Duration = Duration::from_secs(1);
/// Threads for what may block: rendering, profiles, log lines.
const BLOCKING_THREADS: usize = 16;

/// The thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    admin: ConnectionManager,
    stop: Option<oneshot::Sender<()>>,
    ended: Option<oneshot::Receiver<()>>,
}

impl Watch {
    /// Starts it, to watch these runtimes. What it logs goes to the subscriber of the caller.
    pub(super) fn start<S: HttpService>(
        components: &Components,
        server: &ServerConfig,
        admin: Option<(Listener, S)>,
        runtimes: Vec<Handle>,
        are_told: bool,
    ) -> io::Result<Self> {
        let manager = AdminPlaces::manager()?;
        let admin = match admin {
            Some((listener, service)) => Some((listener.detach()?, service)),
            None => None,
        };
        let watcher = Watcher {
            look: Look::new(server.held_after, TICK),
            are_told,
            http: components.metrics.clone(),
            held: components.held.clone(),
            signal: components.local_signal.clone(),
            pulses: Pulses::new(runtimes, components.progress.clone()),
            places: AdminPlaces::new(manager.clone()),
            logs: Logs::default(),
        };
        let collector = components.runtime_metrics.clone().run();
        let (stop, stopped) = oneshot::channel::<()>();
        let (say_ended, ended) = oneshot::channel();
        let (say_started, started) = sync_mpsc::sync_channel(1);
        let serving = manager.clone();
        let thread = thread::Builder::new().name("stellane-admin".to_owned());
        thread.spawn(move || {
            // None at all, not one that takes nothing: that one says no level, and then the whole process asks at each
            // trace point whether anybody wants it.
            let _quiet = dispatcher::set_default(&Dispatch::none());
            let runtime = Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(BLOCKING_THREADS)
                .thread_name("stellane-admin-job")
                .build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return drop(say_started.send(Err(error))),
            };
            let begun = runtime.block_on(async {
                let mut tasks = JoinSet::new();
                if let Some((listener, service)) = admin {
                    let serving = serving.serve(listener.attach()?, service);
                    tasks.spawn(async { drop(serving.await) });
                }
                tasks.spawn(collector);
                tasks.spawn(watcher.run());
                Ok(tasks)
            });
            let tasks = match begun {
                Ok(tasks) => tasks,
                Err(error) => return drop(say_started.send(Err(error))),
            };
            let _ = say_started.send(Ok(()));
            let _ = runtime.block_on(stopped);
            drop(tasks);
            runtime.shutdown_timeout(TICK);
            drop(say_ended);
        })?;
        let gone = |_| Err(io::Error::other("its thread ended at once"));
        started.recv().unwrap_or_else(gone)?;
        Ok(Self {
            admin: manager,
            stop: Some(stop),
            ended: Some(ended),
        })
    }

    /// Closes the admin address, once asked to, when what was asked there has its answer.
    pub(super) fn close_admin(&self, deadline: Duration) -> impl Future<Output = ()> + use<> {
        let admin = self.admin.clone();
        async move {
            let drained = admin.drain(deadline);
            let _ = tokio::time::timeout(deadline + JOIN, drained).await;
        }
    }

    /// Ends the thread, and waits for that.
    pub(super) async fn end(mut self, deadline: Duration) {
        self.close_admin(deadline).await;
        drop(self.stop.take());
        if let Some(ended) = self.ended.take() {
            let _ = tokio::time::timeout(JOIN, ended).await;
        }
    }
}

/// What the thread does every tick.
struct Watcher {
    look: Look,
    /// Whether an engine tells of threads that are held.
    are_told: bool,
    http: HttpMetrics,
    held: HeldThreads,
    signal: LocalSignal,
    pulses: Pulses,
    places: AdminPlaces,
    logs: Logs,
}

impl Watcher {
    async fn run(mut self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let runs = self.http.running_polls().next().is_some();
            self.pulses.tick(TICK, runs);
            self.places.keep_some();
            let after = self.look.after();
            let new = match self.are_told {
                true => {
                    self.held.name_anew(&self.http);
                    self.held.lasting(after)
                }
                false => self.look.at(self.http.running_polls(), &self.held),
            };
            self.signal.report_held(self.held.in_the_way());
            if !new.is_empty() {
                self.logs.tell(move |left_out| {
                    for told in &new {
                        tracing::warn!(
                            target: "stellane::held",
                            route = &*told.route,
                            left_out,
                            stack = told.stack(),
                            "a handler has held a thread of the runtime for {after:?} and still does: what blocks or \
                             computes for long belongs on `spawn_blocking` or the worker pool"
                        );
                    }
                });
            }
        }
    }
}

/// Writes log lines elsewhere, one batch at a time: a subscriber that hangs costs lines, and nothing else.
struct Logs {
    dispatch: Dispatch,
    busy: Arc<AtomicBool>,
    left_out: u64,
}

impl Default for Logs {
    fn default() -> Self {
        Self {
            dispatch: dispatcher::get_default(Clone::clone),
            busy: Arc::default(),
            left_out: 0,
        }
    }
}

impl Logs {
    /// Has `tell` log, unless what was told before is still being written. It gets how often that was so.
    fn tell(&mut self, tell: impl FnOnce(u64) + Send + 'static) {
        if self.busy.swap(true, Relaxed) {
            self.left_out += 1;
            return;
        }
        let left_out = mem::take(&mut self.left_out);
        let (dispatch, busy) = (self.dispatch.clone(), Arc::clone(&self.busy));
        tokio::task::spawn_blocking(move || {
            dispatcher::with_default(&dispatch, || tell(left_out));
            busy.store(false, Relaxed);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn while_lines_are_being_written_others_are_left_out_and_counted() {
        let mut logs = Logs::default();
        let (go_on, held) = sync_mpsc::channel::<()>();
        let (say, said) = sync_mpsc::channel();
        let told = say.clone();
        logs.tell(move |left_out| {
            let _ = told.send(left_out);
            let _ = held.recv();
        });
        for _ in 0..2 {
            logs.tell(|_| unreachable!("the first is not done"));
        }
        drop(go_on);
        while logs.busy.load(Relaxed) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for _ in 0..2 {
            let told = say.clone();
            logs.tell(move |left_out| {
                let _ = told.send(left_out);
            });
            while logs.busy.load(Relaxed) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        drop((say, logs));
        assert_eq!(said.iter().collect::<Vec<_>>(), [0, 2, 0]);
    }
}
