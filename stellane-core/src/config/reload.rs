use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;
use toml::{Table, Value};

use super::{ConfigErrors, Loader, RuntimeConfig, live_keys, schema};
use crate::detached::DetachedThread;

/// How often [`ConfigWatcher::run`] looks at the file. A change is applied after two looks that agree.
const INTERVAL: Duration = Duration::from_millis(250);

/// Follows a configuration while the process runs: reads it again when its file changes or on SIGHUP,
/// validates it, and publishes what can change without a restart.
///
/// An invalid file changes nothing. The file is compared by content, not by notifications, so that an
/// edit in place, an atomic rename, a swapped symlink (as Kubernetes does it) and a network file system
/// are all the same; a half-written file is not read, since two looks in a row must agree.
///
/// A cheap handle: clones follow the same configuration.
///
/// ```
/// use stellane_core::config::{ConfigWatcher, Loader};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let watcher = ConfigWatcher::new(Loader::from_process())?;
/// let mut configs = watcher.subscribe();
/// tokio::spawn(watcher.clone().run(|outcome| match outcome {
///     Ok(reload) => println!("{reload}"),
///     Err(errors) => eprintln!("the old configuration stays:\n{errors}"),
/// }));
/// tokio::spawn(async move {
///     while configs.changed().await.is_ok() {
///         let config = configs.borrow_and_update().clone();
///         println!("log level is now {}", config.log.level);
///     }
/// });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct ConfigWatcher {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    loader: Loader,
    running: watch::Sender<Arc<RuntimeConfig>>,
    /// The file as the process started with it.
    initial: Option<Vec<u8>>,
    /// One reload at a time; holds why the last one failed.
    last_error: Mutex<Option<ConfigErrors>>,
    reloads: AtomicU64,
    failures: AtomicU64,
}

impl ConfigWatcher {
    /// Loads the configuration and follows it from now on.
    ///
    /// # Errors
    /// Every mistake in the configuration that the process would start with.
    pub fn new(loader: Loader) -> Result<Self, ConfigErrors> {
        let initial = loader.path().and_then(|path| std::fs::read(path).ok());
        let config = Arc::new(with_content(&loader, initial.as_deref()).load()?);
        Ok(Self {
            shared: Arc::new(Shared {
                loader,
                initial,
                running: watch::Sender::new(config),
                last_error: Mutex::default(),
                reloads: AtomicU64::new(0),
                failures: AtomicU64::new(0),
            }),
        })
    }

    /// The configuration in force: the one at the start with every live change since.
    #[must_use]
    pub fn config(&self) -> Arc<RuntimeConfig> {
        self.shared.running.borrow().clone()
    }

    /// A channel that sees each new configuration; the present one counts as seen.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<RuntimeConfig>> {
        self.shared.running.subscribe()
    }

    /// Reads the file again now.
    ///
    /// # Errors
    /// Every mistake in the new configuration; the old one stays in force.
    pub fn reload(&self) -> Result<Reload, ConfigErrors> {
        self.reload_from(&self.shared.loader)
    }

    /// How often the configuration was reloaded, and how the last time went.
    #[must_use]
    pub fn stats(&self) -> ReloadStats {
        ReloadStats {
            reloads_total: self.shared.reloads.load(Ordering::Relaxed),
            failures_total: self.shared.failures.load(Ordering::Relaxed),
            last_error: self.last_error().as_ref().map(ToString::to_string),
        }
    }

    /// Watches the file, and SIGHUP on Unix, until it is dropped; `on_reload` hears of each outcome
    /// except a reload that changed nothing.
    pub async fn run(self, on_reload: impl FnMut(&Result<Reload, ConfigErrors>) + Send) {
        self.run_and_tell(on_reload, |_| {}).await;
    }

    /// As [`run`](Self::run); `on_asked` hears when SIGHUP has come, and when what it asked for is done.
    pub(crate) async fn run_and_tell(
        self,
        mut on_reload: impl FnMut(&Result<Reload, ConfigErrors>) + Send,
        mut on_asked: impl FnMut(Asked) + Send,
    ) {
        let mut hangup = Hangup::new();
        let Ok(files) = DetachedThread::spawn("stellane-config") else {
            return;
        };
        let path = self.shared.loader.path().map(PathBuf::from);
        let mut current = self.shared.initial.clone();
        let mut previous = current.clone();
        loop {
            let asked = hangup.within(INTERVAL).await;
            if asked {
                on_asked(Asked::Begins);
            }
            let seen = read(&files, path.clone()).await;
            let changed = seen != current && seen == previous;
            previous.clone_from(&seen);
            if !changed && !asked {
                continue;
            }
            current = seen;
            let outcome = self.reload_from(&with_content(&self.shared.loader, current.as_deref()));
            if !matches!(&outcome, Ok(reload) if reload.is_empty()) {
                on_reload(&outcome);
            }
            if asked {
                on_asked(Asked::Done);
            }
        }
    }

    fn reload_from(&self, loader: &Loader) -> Result<Reload, ConfigErrors> {
        let mut last_error = self.last_error();
        let outcome = loader
            .load()
            .and_then(|new| Reload::new(&self.config(), &new));
        match &outcome {
            Ok(reload) => {
                self.shared.reloads.fetch_add(1, Ordering::Relaxed);
                *last_error = None;
                if !reload.applied.is_empty() {
                    self.shared.running.send_replace(reload.config.clone());
                }
            }
            Err(errors) => {
                self.shared.failures.fetch_add(1, Ordering::Relaxed);
                *last_error = Some(errors.clone());
            }
        }
        outcome
    }

    fn last_error(&self) -> std::sync::MutexGuard<'_, Option<ConfigErrors>> {
        self.shared
            .last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reload that was asked for by SIGHUP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Begins,
    Done,
}

/// What a reload changed.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Reload {
    /// The configuration in force after it.
    pub config: Arc<RuntimeConfig>,
    /// What changed at once.
    pub applied: Vec<KeyChange>,
    /// What the file says but only a restart can bring; reported by each reload until then.
    pub restart_required: Vec<KeyChange>,
}

impl Reload {
    fn new(running: &RuntimeConfig, new: &RuntimeConfig) -> Result<Self, ConfigErrors> {
        let (mut merged, wanted) = (table(running), table(new));
        let mut changes = Vec::new();
        differences(&merged, &wanted, &mut Vec::new(), &mut changes);
        let (live, restart_required) = changes.into_iter().partition::<Vec<_>, _>(|c| c.is_live());
        for change in &live {
            let path: Vec<&str> = change.key.split('.').collect();
            if let Some(value) = schema::get(&wanted, &path) {
                schema::set(&mut merged, &path, value.clone());
            }
        }
        let config: RuntimeConfig = merged.try_into().unwrap_or_else(|_| running.clone());
        // New live values and old restart-only values may contradict each other.
        config.validate()?;
        Ok(Self {
            config: Arc::new(config),
            applied: live,
            restart_required,
        })
    }

    /// Whether the file says what is in force already.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.applied.is_empty() && self.restart_required.is_empty()
    }
}

impl fmt::Display for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("configuration unchanged");
        }
        let mut separator = "";
        for (changes, verb) in [
            (&self.applied, "applied"),
            (&self.restart_required, "needs a restart"),
        ] {
            for change in changes {
                write!(f, "{separator}{verb}: {change}")?;
                separator = "; ";
            }
        }
        Ok(())
    }
}

/// One key with another value than before.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyChange {
    /// The full key, such as `log.level`.
    pub key: String,
    /// The value in force before, as TOML.
    pub old: String,
    /// The value in the new configuration, as TOML.
    pub new: String,
}

impl KeyChange {
    /// Whether it takes effect without a restart: see [`live_keys`].
    #[must_use]
    pub fn is_live(&self) -> bool {
        live_keys().any(|key| key == self.key)
    }
}

impl fmt::Display for KeyChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {} -> {}", self.key, self.old, self.new)
    }
}

/// A snapshot of [`ConfigWatcher::stats`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReloadStats {
    /// Reloads that were valid, whether or not they changed anything.
    pub reloads_total: u64,
    /// Reloads that were refused.
    pub failures_total: u64,
    /// Why the last reload was refused; `None` when it was not.
    pub last_error: Option<String>,
}

/// The loader with this content of its file, so that what was compared is what is parsed.
fn with_content(loader: &Loader, content: Option<&[u8]>) -> Loader {
    match (loader.path(), content.map(str::from_utf8)) {
        (Some(path), Some(Ok(text))) => loader.clone().text(path, text),
        _ => loader.clone(),
    }
}

fn table(config: &RuntimeConfig) -> Table {
    Table::try_from(config).unwrap_or_default()
}

fn differences(old: &Table, new: &Table, path: &mut Vec<String>, changes: &mut Vec<KeyChange>) {
    for (name, new) in new {
        path.push(name.clone());
        match (old.get(name), new) {
            (Some(Value::Table(old)), Value::Table(new)) => differences(old, new, path, changes),
            (Some(old), new) if old != new => changes.push(KeyChange {
                key: path.join("."),
                old: old.to_string(),
                new: new.to_string(),
            }),
            _ => {}
        }
        path.pop();
    }
}

/// The content of the file; `None` when there is none.
async fn read(files: &DetachedThread, path: Option<PathBuf>) -> Option<Vec<u8>> {
    let path = path?;
    files.run(move || std::fs::read(path).ok()).await.flatten()
}

/// SIGHUP where there is one.
struct Hangup {
    #[cfg(unix)]
    signal: Option<tokio::signal::unix::Signal>,
}

impl Hangup {
    fn new() -> Self {
        Self {
            #[cfg(unix)]
            signal: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).ok(),
        }
    }

    /// Waits; true if the signal came before the time was up.
    async fn within(&mut self, time: Duration) -> bool {
        #[cfg(unix)]
        if let Some(signal) = &mut self.signal {
            return matches!(
                tokio::time::timeout(time, signal.recv()).await,
                Ok(Some(()))
            );
        }
        tokio::time::sleep(time).await;
        false
    }
}
