use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::{
    ConfigErrors, LiveTargets, Loader, RuntimeConfig, Secrets, file,
    live::live_key,
    schema,
    source::{differences, table},
};
use crate::detached::DetachedThread;

/// How often [`ConfigWatcher::run`] looks at the file. A change is applied after two looks that agree.
const INTERVAL: Duration = Duration::from_millis(250);
/// How many looks a file may take to be written, once a reload was asked for.
const WRITING: u32 = 20;

/// Follows a configuration while the process runs: reads it again when its file changes or on SIGHUP,
/// validates it, and publishes what can change without a restart.
///
/// An invalid file changes nothing. The file is compared by content, not by notifications, so that an
/// edit in place, an atomic rename, a swapped symlink (as Kubernetes does it) and a network file system
/// are all the same; a half-written file is not read, since two looks in a row must agree, and one that has been emptied
/// is an error.
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
#[derive(Clone)]
pub struct ConfigWatcher {
    shared: Arc<Shared>,
}

struct Shared {
    loader: Loader,
    /// What the loader lays its sources over.
    base: RuntimeConfig,
    /// Keys that the program has set: no source changes them.
    set_by_program: Vec<String>,
    running: watch::Sender<Arc<RuntimeConfig>>,
    /// The file as the process started with it.
    initial: Look,
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
        let config = loader.load()?;
        let (loader, text, base) = match config.source.loaded() {
            Some(loaded) => (
                loaded.loader.clone(),
                loaded.text.clone(),
                loaded.base.clone(),
            ),
            None => (loader, "".into(), RuntimeConfig::default()),
        };
        Ok(Self::over(loader, text, base, Vec::new(), config))
    }

    /// Follows what a configuration was loaded from, if that can change. What the program has set since stays.
    #[cfg(feature = "preset")]
    pub(crate) fn of(config: &RuntimeConfig) -> Option<Self> {
        let loaded = config.source.loaded()?;
        loaded.loader.followed()?;
        let (loader, text, base) = (&loaded.loader, &loaded.text, &loaded.base);
        let by_program = loaded.set_by_program(config);
        Some(Self::over(
            loader.clone(),
            text.clone(),
            base.clone(),
            by_program,
            config.clone(),
        ))
    }

    fn over(
        loader: Loader,
        text: Arc<str>,
        base: RuntimeConfig,
        set_by_program: Vec<String>,
        config: RuntimeConfig,
    ) -> Self {
        let initial = loader.followed().map(|_| text);
        Self {
            shared: Arc::new(Shared {
                loader,
                base,
                set_by_program,
                initial: Look::Content(initial),
                running: watch::Sender::new(Arc::new(config)),
                last_error: Mutex::default(),
                reloads: AtomicU64::new(0),
                failures: AtomicU64::new(0),
            }),
        }
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
        self.reload_from(&Look::at(&self.shared))
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
        let mut current = self.shared.initial.clone();
        let mut previous = current.clone();
        let mut hangup_until = 0;
        loop {
            if hangup.within(INTERVAL).await {
                on_asked(Asked::Begins);
                hangup_until = WRITING;
            }
            let asked = hangup_until > 0;
            let shared = self.shared.clone();
            let Some(seen) = files.run(move || Look::at(&shared)).await else {
                return;
            };
            let is_whole = seen == previous;
            previous.clone_from(&seen);
            hangup_until -= u32::from(asked && !is_whole);
            let wanted = if asked {
                is_whole || hangup_until == 0
            } else {
                is_whole && seen != current
            };
            if !wanted {
                continue;
            }
            hangup_until = 0;
            current = if is_whole {
                seen
            } else {
                Look::unreadable("it is being written")
            };
            let (watcher, look) = (self.clone(), current.clone());
            // Off the threads that serve: a file may be long.
            let Some(outcome) = files.run(move || watcher.reload_from(&look)).await else {
                return;
            };
            if !matches!(&outcome, Ok(reload) if reload.is_empty()) {
                on_reload(&outcome);
            }
            if asked {
                on_asked(Asked::Done);
            }
        }
    }

    fn reload_from(&self, look: &Look) -> Result<Reload, ConfigErrors> {
        let mut last_error = self.last_error();
        let running = self.config();
        let outcome = look.load(&self.shared).and_then(|new| {
            let new = with_values_of(&running, &self.shared.set_by_program, new);
            Reload::new(&running, &new)
        });
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

impl fmt::Debug for ConfigWatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigWatcher")
            .field("loader", &self.shared.loader)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
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

impl LiveTargets {
    /// Turns what the reload changed, and nothing else: what a tuner has set meanwhile stays.
    pub fn apply(&self, reload: &Reload) {
        for change in &reload.applied {
            if let Some(apply) = live_key(&change.key) {
                apply(self, &reload.config);
            }
        }
    }
}

impl Reload {
    fn new(running: &RuntimeConfig, new: &RuntimeConfig) -> Result<Self, ConfigErrors> {
        let (mut merged, wanted) = (table(running), table(new));
        let mut changes = Vec::new();
        let secrets = Secrets::default();
        differences(&merged, &wanted, &mut Vec::new(), &mut |key, old, new| {
            changes.push(KeyChange {
                old: secrets.value(&key, &old.to_string()).into_owned(),
                new: secrets.value(&key, &new.to_string()).into_owned(),
                key,
            });
        });
        let (live, restart_required) = changes.into_iter().partition::<Vec<_>, _>(|c| c.is_live());
        for change in &live {
            let path: Vec<&str> = change.key.split('.').collect();
            if let Some(value) = schema::get(&wanted, &path) {
                schema::set(&mut merged, &path, value.clone());
            }
        }
        let mut config: RuntimeConfig = merged.try_into().unwrap_or_else(|_| running.clone());
        let keys = live.iter().map(|change| change.key.as_str());
        config.source = running.source.after(&new.source, keys);
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
    /// The value in force before, as TOML; without what is [secret](super::Secrets).
    pub old: String,
    /// The value in the new configuration, likewise.
    pub new: String,
}

impl KeyChange {
    /// Whether it takes effect without a restart: see [`live_keys`](super::live_keys).
    #[must_use]
    pub fn is_live(&self) -> bool {
        live_key(&self.key).is_some()
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

/// What a look at the file of a loader saw.
#[derive(Clone, PartialEq)]
enum Look {
    /// `None`: there is no file, or its text is in memory.
    Content(Option<Arc<str>>),
    Unreadable(Arc<str>),
}

impl Look {
    fn at(shared: &Shared) -> Self {
        let Some(path) = shared.loader.followed() else {
            return Self::Content(None);
        };
        match file::read_again(path) {
            // Who writes it anew has emptied it first.
            Ok(text) if text.trim().is_empty() && !shared.initial.is_blank() => Self::unreadable(
                "it is empty, as if it were still being written; a comment in it says that all is to be as by default",
            ),
            Ok(text) => Self::Content(Some(text.into())),
            Err(error) => Self::unreadable(&error),
        }
    }

    fn is_blank(&self) -> bool {
        matches!(self, Self::Content(Some(text)) if text.trim().is_empty())
    }

    fn unreadable(why: &str) -> Self {
        Self::Unreadable(why.into())
    }

    /// What was seen, not what is there now, so that what was compared is what is parsed.
    fn load(&self, shared: &Shared) -> Result<RuntimeConfig, ConfigErrors> {
        let (loader, base) = (&shared.loader, shared.base.clone());
        match (self, loader.path()) {
            (Self::Content(Some(text)), _) => loader.with_content(text).load_over(base),
            (Self::Unreadable(why), Some(path)) => {
                Err(ConfigErrors::one(file::unreadable(path, why)))
            }
            _ => loader.load_over(base),
        }
    }
}

/// The configuration with these keys as the other has them.
fn with_values_of(other: &RuntimeConfig, keys: &[String], config: RuntimeConfig) -> RuntimeConfig {
    if keys.is_empty() {
        return config;
    }
    let (mut merged, other) = (table(&config), table(other));
    for key in keys {
        let path: Vec<&str> = key.split('.').collect();
        if let Some(value) = schema::get(&other, &path) {
            schema::set(&mut merged, &path, value.clone());
        }
    }
    match merged.try_into::<RuntimeConfig>() {
        Ok(mut merged) => {
            merged.source = config.source;
            merged
        }
        Err(_) => config,
    }
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
