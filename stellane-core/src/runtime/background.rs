//! Work beside the requests, which a drain waits for as for these.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use humantime_serde::re::humantime::format_duration;
use stellane_metrics::RuntimeSnapshot;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

/// How long a task that has panicked rests before it is started again: at first, and at most.
const FIRST_REST: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_secs(30);
/// One that has run for so long begins anew with the first.
const WELL: Duration = Duration::from_secs(60);

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;
type Start = Arc<dyn Fn(CancellationToken) -> Running + Send + Sync>;

/// A task that the program gives to the runtime.
pub(super) struct BackgroundTask {
    name: Cow<'static, str>,
    start: Start,
}

/// How often tasks were started again; a cheap handle.
#[derive(Debug, Clone, Default)]
pub(super) struct Restarts(Arc<Mutex<BTreeMap<Cow<'static, str>, u64>>>);

/// Those that run.
#[derive(Debug)]
pub(super) struct Background {
    tasks: JoinSet<()>,
    token: CancellationToken,
    /// The names of those that have not ended.
    running: Arc<Mutex<Vec<Cow<'static, str>>>>,
}

impl BackgroundTask {
    pub(super) fn new<F, Fut>(name: Cow<'static, str>, start: F) -> Self
    where
        F: Fn(CancellationToken) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let start = move |token| -> Running { Box::pin(start(token)) };
        Self {
            name,
            start: Arc::new(start),
        }
    }

    /// Runs it until it returns, and again after a panic.
    async fn run(self, token: CancellationToken, restarts: Restarts) {
        let Self { name, start } = self;
        let mut rest = FIRST_REST;
        loop {
            let begun = Instant::now();
            let mut one = JoinSet::new();
            let (start, given) = (Arc::clone(&start), token.clone());
            one.spawn(async move { start(given).await });
            match one.join_next().await {
                Some(Err(error)) if error.is_panic() => {}
                _ => return,
            }
            if begun.elapsed() > WELL {
                rest = FIRST_REST;
            }
            tracing::error!(
                "the background task `{name}` has panicked: it is started again in {}",
                format_duration(rest)
            );
            tokio::select! {
                // In the drain there is no time to begin again.
                () = token.cancelled() => return,
                () = tokio::time::sleep(rest) => {}
            }
            restarts.count(name.clone());
            rest = (rest * 2).min(LONGEST_REST);
        }
    }
}

impl Restarts {
    fn count(&self, name: Cow<'static, str>) {
        *self.counts().entry(name).or_default() += 1;
    }

    pub(super) fn fill(&self, snapshot: &mut RuntimeSnapshot) {
        snapshot.background_restarts_total = self.counts().clone();
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<Cow<'static, str>, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Background {
    pub(super) fn start(tasks: Vec<BackgroundTask>, restarts: &Restarts) -> Self {
        let mut all = Self {
            tasks: JoinSet::new(),
            token: CancellationToken::new(),
            running: Arc::default(),
        };
        for task in tasks {
            let name = task.name.clone();
            lock(&all.running).push(name.clone());
            let (running, token) = (Arc::clone(&all.running), all.token.clone());
            let restarts = restarts.clone();
            all.tasks.spawn(async move {
                task.run(token, restarts).await;
                let mut running = lock(&running);
                if let Some(at) = running.iter().position(|one| *one == name) {
                    running.swap_remove(at);
                }
            });
        }
        all
    }

    /// Tells them of the drain, and waits for them so long; those that have not ended by then.
    pub(super) async fn end(mut self, deadline: Duration) -> Vec<Cow<'static, str>> {
        self.token.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(deadline, all).await.is_ok() {
            return Vec::new();
        }
        let left = lock(&self.running).clone();
        tracing::warn!(
            left = left.join(", "),
            "background tasks are cut off at the deadline of the drain"
        );
        left
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for BackgroundTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BackgroundTask").field(&self.name).finish()
    }
}
