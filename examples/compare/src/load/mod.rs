//! What comes back, and what is made of it. The requests are sent by the load generator of `stellane bench`.

mod http2;
mod tls;
pub(crate) mod wrk;

use std::{collections::BTreeMap, io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use hdrhistogram::Histogram;
use mio::net::TcpStream;
use rustix::time::{ClockId, clock_gettime};
use rustls::ClientConfig;
use stellane_cli::load::{self, Answer, Codec, Failure, Observer, Stream, Wire};
pub(crate) use stellane_cli::load::{Exchange, Load, Pace};

use crate::BoxError;

/// So many requests a second, on a core of the generator's own.
pub(crate) fn at_rate(rate: f64) -> Pace {
    Pace::Open { rate, spin: true }
}

/// What is spoken with a server, if it is not HTTP/1 over TCP.
#[derive(Debug)]
pub(crate) struct Speech {
    http2: bool,
    tls: Option<Arc<ClientConfig>>,
}

impl Speech {
    /// HTTP/2 of who knows that the server speaks it.
    pub(crate) fn http2() -> Arc<dyn Wire> {
        let http2 = true;
        Arc::new(Self { http2, tls: None })
    }

    /// Over TLS, with a server that shows the certificate in a file.
    pub(crate) fn tls(http2: bool, certificate: &Path) -> Result<Arc<dyn Wire>, BoxError> {
        let protocol: &[u8] = if http2 { b"h2" } else { b"http/1.1" };
        let tls = Some(tls::config(certificate, protocol)?);
        Ok(Arc::new(Self { http2, tls }))
    }
}

impl Wire for Speech {
    fn stream(&self, socket: TcpStream) -> io::Result<Box<dyn Stream>> {
        Ok(match &self.tls {
            Some(config) => Box::new(tls::Tls::new(config, socket)?),
            None => Box::new(socket),
        })
    }

    fn codec(&self) -> Option<Box<dyn Codec>> {
        self.http2.then(|| Box::new(http2::Http2::default()) as _)
    }
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
    /// Latencies are those of so many of the exchanges, the first.
    timed: usize,
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

    fn new(accepted: &'static [u16], timed: usize) -> Self {
        let latency = Histogram::new_with_bounds(100, 600_000_000_000, 3);
        Self {
            good: 0,
            statuses: BTreeMap::new(),
            failures: BTreeMap::new(),
            latency: latency.expect("the bounds are constant and right"),
            elapsed: Duration::ZERO,
            busy: None,
            accepted,
            timed,
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
            if answer.exchange < self.timed {
                self.latency.saturating_record(after.as_nanos() as u64);
            }
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
    /// Latencies are those of so many of the exchanges, the first.
    pub timed: usize,
}

impl Generator {
    pub(crate) fn connect(address: SocketAddr, load: Load) -> io::Result<Self> {
        Ok(Self {
            spins: matches!(load.pace, Pace::Open { .. }),
            inner: load::Generator::connect(address, load)?,
            accepted: &[],
            timed: usize::MAX,
        })
    }

    /// Sends for `duration`, then waits for what is under way.
    pub(crate) fn run(&mut self, duration: Duration) -> io::Result<Answers> {
        let mut answers = Answers::new(self.accepted, self.timed);
        let cpu = thread_cpu();
        answers.elapsed = self.inner.run(duration, &mut answers)?;
        let used = thread_cpu().saturating_sub(cpu);
        let busy = used.as_secs_f64() / answers.elapsed.as_secs_f64();
        answers.busy = (!self.spins).then_some(busy);
        Ok(answers)
    }
}

/// CPU time of the calling thread so far.
pub(crate) fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
