//! What comes back, and what is made of it. The requests are sent by the load generator of `stellane bench`.

pub(crate) mod wrk;

use std::{collections::BTreeMap, io, net::SocketAddr, time::Duration};

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use stellane_cli::load::{self, Answer, Failure, Observer};
pub(crate) use stellane_cli::load::{Exchange, Load, Pace};

/// So many requests a second, on a core of the generator's own.
pub(crate) fn at_rate(rate: f64) -> Pace {
    Pace::Open { rate, spin: true }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answers {
    /// Answers with status 200 and the right body.
    pub good: u64,
    /// Answers with another status.
    pub statuses: BTreeMap<u16, u64>,
    /// Everything that must not happen, by what happened.
    pub failures: BTreeMap<String, u64>,
    /// Of good answers, in nanoseconds.
    pub latency: Histogram<u64>,
    pub elapsed: Duration,
    /// How much of a core's time the generator used; none where it waits by looking again and again.
    pub busy: Option<f64>,
    /// Statuses that are an answer too, besides 200.
    accepted: &'static [u16],
}

impl Answers {
    pub(crate) fn per_second(&self) -> f64 {
        self.good as f64 / self.elapsed.as_secs_f64()
    }

    /// In microseconds.
    pub(crate) fn quantile(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1000.0
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    fn new(accepted: &'static [u16]) -> Self {
        let latency = Histogram::new_with_bounds(100, 600_000_000_000, 3);
        Self {
            good: 0,
            statuses: BTreeMap::new(),
            failures: BTreeMap::new(),
            latency: latency.expect("the bounds are constant and right"),
            elapsed: Duration::ZERO,
            busy: None,
            accepted,
        }
    }

    fn fail(&mut self, what: &str) {
        match self.failures.get_mut(what) {
            Some(count) => *count += 1,
            None => {
                self.failures.insert(what.to_owned(), 1);
            }
        }
    }
}

impl Observer for Answers {
    fn answered(&mut self, answer: Answer, after: Duration) {
        if answer.status == 200 {
            self.good += 1;
            self.latency.saturating_record(after.as_nanos() as u64);
            return;
        }
        *self.statuses.entry(answer.status).or_default() += 1;
        if !self.accepted.contains(&answer.status) {
            self.fail(&format!("status {}", answer.status));
        }
    }

    fn failed(&mut self, failure: Failure, _after: Duration) {
        self.fail(failure.as_str());
    }
}

/// Many connections to one server.
#[derive(Debug)]
pub(crate) struct Generator {
    inner: load::Generator,
    spins: bool,
    /// Statuses that are an answer too, besides 200: refusals under overload.
    pub accepted: &'static [u16],
}

impl Generator {
    pub(crate) fn connect(address: SocketAddr, load: Load) -> io::Result<Self> {
        Ok(Self {
            spins: matches!(load.pace, Pace::Open { .. }),
            inner: load::Generator::connect(address, load)?,
            accepted: &[],
        })
    }

    /// Sends for `duration`, then waits for what is under way.
    pub(crate) fn run(&mut self, duration: Duration) -> io::Result<Answers> {
        let mut answers = Answers::new(self.accepted);
        let cpu = thread_cpu();
        answers.elapsed = self.inner.run(duration, &mut answers)?;
        let used = thread_cpu().saturating_sub(cpu);
        let busy = used.as_secs_f64() / answers.elapsed.as_secs_f64();
        answers.busy = (!self.spins).then_some(busy);
        Ok(answers)
    }
}

/// CPU time of the calling thread so far.
fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
