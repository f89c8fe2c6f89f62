use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use http::StatusCode;
use stellane_core::autotune::LimitStats;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::{BoxError, Server, client::Client};

/// What became of a request.
#[derive(Debug)]
pub(super) enum Answer {
    Served,
    /// The server says that it, or its limit, is full.
    Refused(String),
    /// Anything else: cut, reset, another status.
    Failed(String),
}

impl Answer {
    pub(super) fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::OK => Self::Served,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                Self::Refused(status.as_u16().to_string())
            }
            _ => Self::Failed(status.to_string()),
        }
    }
}

/// What became of the requests of a load, without the bystander's.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) served: u64,
    pub(crate) refused: u64,
    pub(crate) failed: u64,
    /// Clients that were never served.
    pub(crate) unserved: u64,
    /// One of the refusals or failures.
    pub(crate) example: Option<String>,
    /// What more is to be said.
    pub(crate) note: String,
    /// What the load demands besides, and did not get.
    pub(crate) missed: Vec<String>,
}

impl Tally {
    pub(super) fn add(&mut self, answer: Answer) {
        self.requests += 1;
        match answer {
            Answer::Served => self.served += 1,
            Answer::Refused(text) => {
                self.refused += 1;
                self.example.get_or_insert(text);
            }
            Answer::Failed(text) => {
                self.failed += 1;
                self.example = Some(text);
            }
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.requests += other.requests;
        self.served += other.served;
        self.refused += other.refused;
        self.failed += other.failed;
        self.example = self.example.take().or(other.example);
    }

    /// Begins them all at once; what they come to together.
    pub(super) fn of<T>(
        clients: impl IntoIterator<Item = T>,
    ) -> impl Future<Output = Result<Self, BoxError>>
    where
        T: Future<Output = Self> + Send + 'static,
    {
        let tasks: Vec<_> = clients.into_iter().map(tokio::spawn).collect();
        async move {
            let mut sum = Self::default();
            for task in tasks {
                let tally = task.await?;
                sum.unserved += u64::from(tally.served == 0);
                sum.merge(tally);
            }
            Ok(sum)
        }
    }
}

/// What a row came to.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) load: Tally,
    /// How often the bystander got which answer.
    pub(crate) bystander: BTreeMap<String, u64>,
    pub(crate) bystander_p99: Duration,
    /// The most at any one time.
    pub(crate) held: Held,
    pub(crate) limit: LimitStats,
}

/// What requests had of the server.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) in_flight: u32,
    /// On average.
    pub(crate) mean_in_flight: f64,
    /// Let in, without a place, since its client was waited for.
    pub(crate) lent: u32,
    /// Beside the limit, since it outlived the others.
    pub(crate) aside: u32,
    pub(crate) waiting: u32,
    /// What was held against the server, and the limit then.
    pub(crate) evidence: Vec<String>,
    /// By how much the process grew, clients and all.
    pub(crate) bytes: u64,
}

impl Report {
    /// How often the bystander was not served.
    pub(crate) fn bystander_harmed(&self) -> u64 {
        let harmed = self.bystander.iter().filter(|(answer, _)| *answer != "200");
        harmed.map(|(_, count)| count).sum()
    }

    /// What is wrong with it where nobody asks for too much.
    pub(crate) fn faults_if_honest(&self) -> Vec<String> {
        let load = &self.load;
        let mut faults = self.faults_if_hostile();
        let example = load.example.as_deref().unwrap_or("-");
        for (count, what) in [
            (load.refused, "honest requests refused"),
            (load.failed, "honest requests failed"),
            (self.limit.shed, "refusals counted by the limit"),
            (load.unserved, "clients never served"),
        ] {
            if count > 0 {
                faults.push(format!("{count} {what} ({example})"));
            }
        }
        faults
    }

    /// What is wrong with it where somebody asks for too much.
    pub(crate) fn faults_if_hostile(&self) -> Vec<String> {
        let mut faults = self.load.missed.clone();
        if self.bystander_harmed() > 0 {
            let evidence = &self.held.evidence;
            faults.push(format!(
                "the bystander got {:?}, {evidence:?}",
                self.bystander
            ));
        }
        if self.bystander.get("200").is_none_or(|served| *served < 5) {
            faults.push(format!(
                "the bystander was hardly there: {:?}",
                self.bystander
            ));
        }
        faults
    }
}

/// Runs the load while one client on a connection of its own asks for `/hello` about every 50 ms.
pub(super) async fn beside_a_bystander(
    server: &Arc<Server>,
    load: impl Future<Output = Result<Result<Tally, BoxError>, tokio::time::error::Elapsed>>,
) -> Result<Report, BoxError> {
    let over = Arc::new(AtomicBool::new(false));
    let bystander = tokio::spawn(bystander(Arc::clone(server), Arc::clone(&over)));
    let watching = tokio::spawn(watch(Arc::clone(server), Arc::clone(&over)));
    let load = load.await;
    // Who comes right after must be served as well.
    sleep(Duration::from_millis(200)).await;
    over.store(true, Relaxed);
    let (bystander, bystander_p99) = bystander.await??;
    let held = watching.await?;
    Ok(Report {
        load: load??,
        bystander,
        bystander_p99,
        held,
        limit: server.limit.stats(),
    })
}

type Answers = (BTreeMap<String, u64>, Duration);

async fn bystander(server: Arc<Server>, over: Arc<AtomicBool>) -> Result<Answers, BoxError> {
    let mut client = Client::http1(&server, None).await?;
    let (mut answers, mut latencies) = (BTreeMap::new(), Vec::new());
    let mut next = interval(Duration::from_millis(50));
    next.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !over.load(Relaxed) {
        next.tick().await;
        let asked = Instant::now();
        let answer = match timeout(Duration::from_secs(10), client.get("/hello")).await {
            Ok(answer) => match Answer::from(answer) {
                Answer::Served => "200".to_owned(),
                Answer::Refused(text) | Answer::Failed(text) => text,
            },
            Err(_) => {
                client = Client::http1(&server, None).await?;
                "nothing for 10 s".to_owned()
            }
        };
        *answers.entry(answer).or_insert(0) += 1;
        latencies.push(asked.elapsed());
    }
    latencies.sort();
    let p99 = latencies.len().saturating_sub(1) * 99 / 100;
    Ok((answers, latencies.get(p99).copied().unwrap_or_default()))
}

async fn watch(server: Arc<Server>, over: Arc<AtomicBool>) -> Held {
    let (before, mut held) = (resident(), Held::default());
    let (began, mut changes, mut looks) = (Instant::now(), 0, 0.0);
    while !over.load(Relaxed) {
        let stats = server.limit.stats();
        held.in_flight = held.in_flight.max(stats.in_flight);
        looks += 1.0;
        held.mean_in_flight += (f64::from(stats.in_flight) - held.mean_in_flight) / looks;
        held.lent = held.lent.max(stats.lent);
        held.aside = held.aside.max(stats.aside);
        held.waiting = held.waiting.max(stats.waiting);
        if let Some(evidence) = stats.evidence
            && stats.changes > changes
        {
            let (at, limit) = (began.elapsed().as_secs_f64(), stats.limit);
            held.evidence
                .push(format!("at {at:.1} s, limiting at {limit}: {evidence}"));
        }
        changes = stats.changes;
        held.bytes = held.bytes.max(resident().saturating_sub(before));
        sleep(Duration::from_millis(20)).await;
    }
    held
}

/// Zero where the system does not say.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}
