//! What a server depends on, and what its failures mean for readiness.

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// What a server can't do without, or can for a while: a database, a cache, another service.
///
/// Whoever checks it tells [`DependencyHandle`] what came of it; [`Readiness`](super::Readiness) says what follows.
///
/// Where all replicas depend on the same database, a failure that made each unready at once would take the service away as a
/// whole, also what needs no database. So a required dependency makes the server unready only once it has failed for as long
/// as it says, and what the service can do without is better [`degraded`](Self::degraded).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    name: Cow<'static, str>,
    need: Need,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Required { tolerated: Duration },
    Degraded,
}

/// A dependency as it is now.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct DependencyStatus {
    /// Its name.
    pub name: Cow<'static, str>,
    /// Whether the server is unready without it.
    pub required: bool,
    /// Whether the latest check succeeded.
    pub up: bool,
    /// Whether it makes the server unready.
    pub holds: bool,
    /// For how long it has failed; zero while it is up or was never checked. Serialised in seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::seconds"))]
    pub failing_for: Duration,
    /// Checks that came to an end.
    pub checks: u64,
    /// Of these, how many failed.
    pub failures: u64,
}

/// Takes the results of the checks of one [`Dependency`]; a cheap handle.
#[derive(Debug, Clone)]
pub struct DependencyHandle(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dependency: Dependency,
    checked: Mutex<Checked>,
}

/// What the checks said.
#[derive(Debug, Default)]
struct Checked {
    has_succeeded: bool,
    failing_since: Option<Instant>,
    /// When the check that runs must have ended.
    due: Option<Instant>,
    checks: u64,
    failures: u64,
}

impl Dependency {
    /// Without it the server is not ready: until it has succeeded for the first time, and once it has failed for longer than
    /// `tolerated`. Too short and all replicas are unready after a blink of the database they share, too long and
    /// requests come that can only fail.
    pub fn required(name: impl Into<Cow<'static, str>>, tolerated: Duration) -> Self {
        Self {
            name: name.into(),
            need: Need::Required { tolerated },
        }
    }

    /// Without it the server stays ready; that it fails is shown and counted.
    pub fn degraded(name: impl Into<Cow<'static, str>>) -> Self {
        Self {
            name: name.into(),
            need: Need::Degraded,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn renamed(mut self, name: String) -> Self {
        self.name = name.into();
        self
    }

    /// What is to be said at a time.
    fn judge(&self, checked: &Checked, now: Instant) -> DependencyStatus {
        // A check that does not come to its end has failed, whoever was to say so.
        let overdue = checked.due.filter(|due| *due <= now);
        let failing_since = checked.failing_since.or(overdue);
        let failing_for = failing_since.map(|since| now.saturating_duration_since(since));
        let up = checked.has_succeeded && failing_since.is_none();
        let holds = match self.need {
            Need::Degraded => false,
            Need::Required { tolerated } => {
                !checked.has_succeeded || failing_for.is_some_and(|failing| failing > tolerated)
            }
        };
        DependencyStatus {
            name: self.name.clone(),
            required: self.need != Need::Degraded,
            up,
            holds,
            failing_for: failing_for.unwrap_or_default(),
            checks: checked.checks,
            failures: checked.failures,
        }
    }
}

impl DependencyStatus {
    /// Why the server is not ready, if this is why.
    pub(super) fn reason(&self) -> Option<String> {
        let Self { name, .. } = self;
        match (self.holds, self.failing_for.is_zero()) {
            (false, _) => None,
            (true, true) => Some(format!("{name} is not there yet")),
            (true, false) => Some(format!("{name} fails")),
        }
    }
}

impl DependencyHandle {
    pub(super) fn new(dependency: Dependency) -> Self {
        Self(Arc::new(Inner {
            dependency,
            checked: Mutex::default(),
        }))
    }

    /// Its name; another one than it was given if there was one of that name already.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.dependency.name()
    }

    /// A check begins. If nothing is heard of it for so long it has failed.
    pub fn begin(&self, timeout: Duration) {
        self.checked().due = Instant::now().checked_add(timeout);
    }

    /// The check has succeeded; whether the dependency was not up before.
    pub fn succeeded(&self) -> bool {
        self.end(Instant::now(), true)
    }

    /// The check has failed; whether the dependency has failed no earlier.
    pub fn failed(&self) -> bool {
        self.end(Instant::now(), false)
    }

    fn end(&self, now: Instant, well: bool) -> bool {
        let mut checked = self.checked();
        let due = checked.due.take();
        checked.checks += 1;
        if well {
            let is_news = !checked.has_succeeded || checked.failing_since.is_some();
            checked.has_succeeded = true;
            checked.failing_since = None;
            return is_news;
        }
        checked.failures += 1;
        let is_news = checked.failing_since.is_none();
        let since = due.map_or(now, |due| due.min(now));
        checked.failing_since.get_or_insert(since);
        is_news
    }

    /// How it is now.
    #[must_use]
    pub fn status(&self) -> DependencyStatus {
        self.0.dependency.judge(&self.checked(), Instant::now())
    }

    fn checked(&self) -> MutexGuard<'_, Checked> {
        self.0
            .checked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long failures of a dependency are tolerated that is given by its name only.
const TOLERATED: Duration = Duration::from_secs(10);

/// One that is required; its failures are tolerated for 10 s.
impl From<&'static str> for Dependency {
    fn from(name: &'static str) -> Self {
        Self::required(name, TOLERATED)
    }
}

/// One that is required; its failures are tolerated for 10 s.
impl From<String> for Dependency {
    fn from(name: String) -> Self {
        Self::required(name, TOLERATED)
    }
}

impl fmt::Display for Dependency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a check said, and at which second.
    #[derive(Clone, Copy)]
    enum Event {
        Begins(u64),
        Succeeds(u64),
        Fails(u64),
    }
    use Event::{Begins, Fails, Succeeds};

    /// Whether it is up, and whether it holds the server, at a second after these; a check may take one second, and ten
    /// are tolerated.
    fn after(events: &[Event], at: u64) -> (bool, bool) {
        let start = Instant::now();
        let second = |n: u64| start + Duration::from_secs(n);
        let handle = DependencyHandle::new(Dependency::required("db", Duration::from_secs(10)));
        for event in events {
            match *event {
                Begins(n) => handle.checked().due = Some(second(n + 1)),
                Succeeds(n) => drop(handle.end(second(n), true)),
                Fails(n) => drop(handle.end(second(n), false)),
            }
        }
        let checked = handle.checked();
        let status = handle.0.dependency.judge(&checked, second(at));
        let degraded = Dependency::degraded("db").judge(&checked, second(at));
        assert!(!degraded.holds && degraded.up == status.up);
        (status.up, status.holds)
    }

    #[test]
    fn a_required_dependency_holds_before_it_was_there_and_when_it_has_failed_for_long() {
        for (events, at, expected) in [
            (&[][..], 0, (false, true)),
            (&[Begins(0)], 0, (false, true)),
            (&[Begins(0), Fails(0)], 1, (false, true)),
            (&[Succeeds(0)], 1, (true, false)),
            (&[Fails(0), Succeeds(1)], 1, (true, false)),
            (&[Succeeds(0), Fails(1)], 1, (false, false)),
            (&[Succeeds(0), Fails(1), Fails(5)], 11, (false, false)),
            (&[Succeeds(0), Fails(1), Fails(5)], 12, (false, true)),
            // It blinks.
            (
                &[Succeeds(0), Fails(1), Succeeds(5), Fails(9)],
                12,
                (false, false),
            ),
            (&[Succeeds(0), Fails(1), Succeeds(20)], 20, (true, false)),
            // A check that does not end.
            (&[Succeeds(0), Begins(1)], 1, (true, false)),
            (&[Succeeds(0), Begins(1)], 2, (false, false)),
            (&[Succeeds(0), Begins(1)], 13, (false, true)),
            (&[Succeeds(0), Begins(1), Fails(9)], 13, (false, true)),
            (&[Succeeds(0), Begins(1), Succeeds(9)], 13, (true, false)),
        ] {
            let case = events.len();
            assert_eq!(after(events, at), expected, "{case} events, at {at}");
        }
    }
}
