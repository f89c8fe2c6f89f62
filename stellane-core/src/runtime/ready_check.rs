//! Checks of what the service depends on, in the background.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use stellane_metrics::{Dependency, DependencyHandle, Readiness};
use tokio::task::JoinSet;

use crate::BoxError;

type Checking = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// A dependency and how to ask for it.
pub(super) struct ReadyCheck {
    dependency: Dependency,
    every: Duration,
    timeout: Duration,
    check: Arc<dyn Fn() -> Checking + Send + Sync>,
}

impl ReadyCheck {
    pub(super) fn new<F, Fut, E>(
        dependency: Dependency,
        every: Duration,
        timeout: Duration,
        check: F,
    ) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let check = move || -> Checking {
            let checking = check();
            Box::pin(async { checking.await.map_err(Into::into) })
        };
        Self {
            dependency,
            // Never without a pause.
            every: every.max(Duration::from_millis(1)),
            timeout,
            check: Arc::new(check),
        }
    }

    /// Checks for ever. What it depends on counts from now on.
    pub(super) fn run(self, readiness: &Readiness) -> impl Future<Output = ()> + Send + use<> {
        let handle = readiness.dependency(self.dependency);
        let (every, timeout, check) = (self.every, self.timeout, self.check);
        async move {
            loop {
                handle.begin(timeout);
                let mut one = JoinSet::new();
                let check = Arc::clone(&check);
                one.spawn(async move { check().await });
                let outcome = match tokio::time::timeout(timeout, one.join_next()).await {
                    Ok(Some(Ok(outcome))) => outcome.map_err(|error| error.to_string()),
                    Ok(_) => Err("the check has panicked".to_owned()),
                    Err(_) => Err(format!("no answer within {timeout:?}")),
                };
                tell(&handle, outcome);
                // One that hangs ends before another begins.
                one.shutdown().await;
                tokio::time::sleep(every).await;
            }
        }
    }
}

fn tell(handle: &DependencyHandle, outcome: Result<(), String>) {
    let name = handle.name();
    match outcome {
        Ok(()) if handle.succeeded() => tracing::info!(dependency = name, "is there"),
        Err(error) if handle.failed() => tracing::warn!(dependency = name, error, "fails"),
        Ok(()) | Err(_) => {}
    }
}

impl fmt::Debug for ReadyCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReadyCheck").field(&self.dependency).finish()
    }
}
