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

#[cfg(test)]
mod tests {
    use super::*;

    fn task<F, Fut>(name: &'static str, start: F) -> BackgroundTask
    where
        F: Fn(CancellationToken) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        BackgroundTask::new(name.into(), start)
    }

    #[tokio::test(start_paused = true)]
    async fn what_panics_again_and_again_rests_longer_each_time_and_anew_once_it_ran_well() {
        // How long it runs before it panics, and how long it rests then.
        let runs_and_rests: &[(u64, u64)] = &[
            (0, 100),
            (0, 200),
            (5, 400),
            (0, 800),
            (0, 1_600),
            (0, 3_200),
            (0, 6_400),
            (0, 12_800),
            (0, 25_600),
            (0, 30_000),
            (59_000, 30_000),
            (61_000, 100),
            (0, 200),
        ];
        let starts = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&starts);
        let start = move |_| {
            let mut starts = lock(&seen);
            starts.push(Instant::now());
            let run = runs_and_rests.get(starts.len() - 1).map(|(run, _)| *run);
            async move {
                let Some(run) = run else { return };
                tokio::time::sleep(Duration::from_millis(run)).await;
                panic!("as asked");
            }
        };
        let restarts = Restarts::default();
        let token = CancellationToken::new();
        task("unlucky", start).run(token, restarts.clone()).await;
        let starts = lock(&starts);
        for ((run, rest), pair) in runs_and_rests.iter().zip(starts.windows(2)) {
            let between = pair[1] - pair[0];
            assert_eq!(between, Duration::from_millis(run + rest), "{starts:?}");
        }
        assert_eq!(starts.len(), runs_and_rests.len() + 1, "and once well");
        let counted = u64::try_from(runs_and_rests.len()).unwrap();
        assert_eq!(restarts.counts()["unlucky"], counted);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_at_the_deadline_is_named_and_nothing_begins_again_in_the_drain() {
        let starts = Arc::new(Mutex::new(0));
        let seen = Arc::clone(&starts);
        let panics = move |_| {
            *lock(&seen) += 1;
            async { panic!("as asked") }
        };
        let tasks = vec![
            task("that ends", |_| async {}),
            task("stubborn", |_| std::future::pending()),
            task("obedient", |token| async move { token.cancelled().await }),
            task("panics", panics),
        ];
        let restarts = Restarts::default();
        let background = Background::start(tasks, &restarts);
        // It rests now.
        tokio::time::sleep(FIRST_REST / 2).await;
        let begun = Instant::now();
        let deadline = Duration::from_secs(10);
        assert_eq!(background.end(deadline).await, ["stubborn"]);
        assert_eq!(begun.elapsed(), deadline);
        assert_eq!(*lock(&starts), 1);
        assert!(restarts.counts().is_empty());
    }
}
