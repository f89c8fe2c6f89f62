use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

#[cfg(feature = "tokio")]
use std::sync::atomic::AtomicBool;

use http::HeaderValue;

use super::LoadReport;
use crate::{BuildError, ConfigError, HttpMetrics};

type Source = Box<dyn Fn() -> Option<f64> + Send + Sync>;

/// The load of this replica: the handle, cheap to clone. See the [module](super).
#[derive(Clone)]
pub struct LoadReports(Arc<Shared>);

struct Shared {
    http: HttpMetrics,
    application: Option<Source>,
    cpu: Option<Source>,
    memory: Option<Source>,
    named: Vec<(Cow<'static, str>, Source)>,
    /// When the next report is to be made, in nanoseconds.
    due: AtomicU64,
    /// The same of the next look at the utilization.
    look_due: AtomicU64,
    #[cfg(feature = "tokio")]
    has_ended: AtomicBool,
    averages: Mutex<Averages>,
    latest: RwLock<Latest>,
}

#[derive(Clone, Default)]
struct Latest {
    report: Option<LoadReport>,
    text: Option<HeaderValue>,
    binary: Option<HeaderValue>,
}

const INTERVAL: Duration = Duration::from_millis(100);

/// Of few seats some are taken or none: ten looks a second would say little.
const LOOK: Duration = Duration::from_millis(10);

/// What is fuller is as good as twice full: balancers halve what they send, and hear of it within the second.
const FULLEST: f64 = 2.0;

/// What is averaged over about a second: one look at how many requests are in flight says little.
#[derive(Debug, Default)]
struct Averages {
    begun: Option<Duration>,
    read: Duration,
    requests: u64,
    failed: u64,
    rps: f64,
    eps: f64,
    looked: Duration,
    utilization: Option<f64>,
}

impl Averages {
    /// Whether they mean something yet.
    fn update(&mut self, now: Duration, requests: u64, failed: u64) -> bool {
        let begun = match self.begun {
            Some(begun) => begun,
            None => {
                (self.read, self.requests, self.failed) = (now, requests, failed);
                *self.begun.insert(now)
            }
        };
        let passed = now.saturating_sub(self.read).as_secs_f64();
        if passed > 0.0 {
            let weight = 1.0 - (-passed).exp();
            let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / passed;
            self.rps += weight * (rate(requests, self.requests) - self.rps);
            self.eps += weight * (rate(failed, self.failed) - self.eps);
            (self.read, self.requests, self.failed) = (now, requests, failed);
        }
        now.saturating_sub(begun) >= Duration::from_secs(1)
    }

    fn look(&mut self, now: Duration, utilization: Option<f64>) {
        let passed = now.saturating_sub(self.looked).as_secs_f64();
        self.looked = now;
        // Whoever was much too full for a moment would be remembered as such for long, and get nothing meanwhile.
        let utilization = utilization.map(|utilization| utilization.min(FULLEST));
        self.utilization = match (self.utilization, utilization) {
            (Some(before), Some(now)) => Some(before + (1.0 - (-passed).exp()) * (now - before)),
            (_, now) => now,
        };
    }
}

impl LoadReports {
    /// A builder of reports whose rates are those of the requests that `http` counts.
    pub fn builder(http: &HttpMetrics) -> LoadReportsBuilder {
        LoadReportsBuilder {
            http: http.clone(),
            application: None,
            cpu: None,
            memory: None,
            named: Vec::new(),
        }
    }

    /// The load now, at most a tenth of a second old. `None` before a second of traffic.
    #[must_use]
    pub fn report(&self) -> Option<LoadReport> {
        self.look();
        self.latest(|latest| latest.report.clone())
    }

    pub(super) fn text(&self) -> Option<HeaderValue> {
        self.latest(|latest| latest.text.clone())
    }

    pub(super) fn binary(&self) -> Option<HeaderValue> {
        self.latest(|latest| latest.binary.clone())
    }

    /// Ends the streams of [`OpenRcaService`](super::OpenRcaService), and those that begin: for when the service is to end, so that
    /// no stream holds it up.
    #[cfg(feature = "tokio")]
    pub fn end_streams(&self) {
        self.0.has_ended.store(true, Relaxed);
    }

    #[cfg(feature = "tokio")]
    pub(super) fn has_ended(&self) -> bool {
        self.0.has_ended.load(Relaxed)
    }

    /// Makes a report if one is due. At a time that no answer chooses, such as when a request comes: a look when one ends finds one in
    /// flight always, and whoever has few would seem busy, and get fewer.
    pub(super) fn look(&self) {
        let shared = &*self.0;
        let nanos = shared.http.table.elapsed_ns(0);
        let now = Duration::from_nanos(nanos);
        // Whoever comes first does it; the others take what was before.
        let is_due = |due: &AtomicU64, interval: Duration| {
            let (at, next) = (
                due.load(Relaxed),
                nanos.saturating_add(interval.as_nanos() as u64),
            );
            nanos >= at && due.compare_exchange(at, next, Relaxed, Relaxed).is_ok()
        };
        if is_due(&shared.look_due, LOOK) {
            let utilization = shared
                .application
                .as_ref()
                .and_then(|application| application());
            shared.averages().look(now, utilization);
        }
        if is_due(&shared.due, INTERVAL) {
            let latest = shared.make(now);
            *shared
                .latest
                .write()
                .unwrap_or_else(PoisonError::into_inner) = latest;
        }
    }

    fn latest<T>(&self, of: impl FnOnce(&Latest) -> T) -> T {
        of(&self.0.latest.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Shared {
    fn averages(&self) -> MutexGuard<'_, Averages> {
        self.averages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self, now: Duration) -> Latest {
        let read = |source: &Option<Source>| source.as_ref().and_then(|source| source());
        let stats = self.http.stats();
        let (requests, failed) = (stats.requests_total, stats.requests_failed_total);
        let (rps, eps, utilization) = {
            let mut averages = self.averages();
            if !averages.update(now, requests, failed) {
                return Latest::default();
            }
            (averages.rps, averages.eps, averages.utilization)
        };
        let named = self.named.iter();
        let report = LoadReport {
            application_utilization: utilization,
            cpu_utilization: read(&self.cpu),
            mem_utilization: read(&self.memory),
            rps_fractional: Some(rps),
            eps: Some(eps),
            named_metrics: named
                .filter_map(|(name, source)| Some((name.clone(), source()?)))
                .collect(),
        };
        Latest {
            text: report.text(),
            binary: report.binary(),
            report: Some(report),
        }
    }
}

impl fmt::Debug for LoadReports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LoadReports").field(&self.report()).finish()
    }
}

/// Builds [`LoadReports`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct LoadReportsBuilder {
    http: HttpMetrics,
    application: Option<Source>,
    cpu: Option<Source>,
    memory: Option<Source>,
    named: Vec<(Cow<'static, str>, Source)>,
}

impl LoadReportsBuilder {
    /// How full the service is: 1 is full, more is too much, and more than 2 no more than that. What balancers choose by; it is asked a
    /// hundred times a second at most. Best is what works in terms of what can: a few requests that come together and wait for a moment are no load,
    /// and would seem to be much of it on a small replica.
    pub fn application_utilization(
        mut self,
        of: impl Fn() -> Option<f64> + Send + Sync + 'static,
    ) -> Self {
        self.application = Some(Box::new(of));
        self
    }

    /// CPU in terms of what the process may use. What balancers choose by where there is no `application_utilization`.
    pub fn cpu_utilization(mut self, of: impl Fn() -> Option<f64> + Send + Sync + 'static) -> Self {
        self.cpu = Some(Box::new(of));
        self
    }

    /// Memory in terms of what the process may use.
    pub fn mem_utilization(mut self, of: impl Fn() -> Option<f64> + Send + Sync + 'static) -> Self {
        self.memory = Some(Box::new(of));
        self
    }

    /// A number of the service's own, for balancers that are told to choose by it.
    pub fn named(
        mut self,
        name: impl Into<Cow<'static, str>>,
        of: impl Fn() -> Option<f64> + Send + Sync + 'static,
    ) -> Self {
        self.named.push((name.into(), Box::new(of)));
        self
    }

    /// Builds it.
    ///
    /// # Errors
    ///
    /// A name is used twice, or is not of letters, digits, `_`, `-` and `.`: balancers would take no report at all.
    pub fn build(self) -> Result<LoadReports, BuildError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let mut errors = Vec::new();
        for (place, (name, _)) in self.named.iter().enumerate() {
            let is_twice = self.named[..place].iter().any(|(other, _)| other == name);
            if name.is_empty() || !name.chars().all(plain) || is_twice {
                errors.push(ConfigError {
                    key: "named",
                    value: name.clone().into_owned(),
                    expected: "a name that is used once, of letters, digits, `_`, `-` and `.`"
                        .into(),
                });
            }
        }
        if !errors.is_empty() {
            return Err(BuildError::Config(errors));
        }
        Ok(LoadReports(Arc::new(Shared {
            http: self.http,
            application: self.application,
            cpu: self.cpu,
            memory: self.memory,
            named: self.named,
            due: AtomicU64::new(0),
            look_due: AtomicU64::new(0),
            #[cfg(feature = "tokio")]
            has_ended: AtomicBool::new(false),
            averages: Mutex::default(),
            latest: RwLock::default(),
        })))
    }
}

impl fmt::Debug for LoadReportsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadReportsBuilder").finish_non_exhaustive()
    }
}
