//! The users: they ask at a steady pace, and tell what they have seen.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use stellane_core::BoxError;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use crate::roles;

/// A user does not wait for longer.
const PATIENCE: Duration = Duration::from_secs(10);

type Http = Client<HttpConnector, Empty<Bytes>>;

#[derive(Clone)]
pub(crate) struct Users {
    http: Http,
    addresses: Vec<String>,
    rate: f64,
    lasts: Duration,
    path: &'static str,
    field: Option<(&'static str, &'static str)>,
    deadline: &'static str,
}

impl Users {
    pub(crate) fn new(addresses: &[&str], rate: f64, lasts: Duration) -> Self {
        Self {
            http: Client::builder(TokioExecutor::new()).build_http(),
            addresses: addresses
                .iter()
                .map(|address| (*address).to_owned())
                .collect(),
            rate,
            lasts,
            path: "/order",
            field: None,
            deadline: "5000",
        }
    }

    pub(crate) fn path(self, path: &'static str) -> Self {
        Self { path, ..self }
    }

    pub(crate) fn field(self, name: &'static str, value: &'static str) -> Self {
        Self {
            field: Some((name, value)),
            ..self
        }
    }

    /// Who wants an answer within a second.
    pub(crate) fn quick(self) -> Self {
        Self {
            deadline: "1000",
            ..self
        }
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.lasts.as_secs_f64()
    }

    pub(crate) async fn run(&self) -> Seen {
        let (began, mut seen, mut calls) = (Instant::now(), Seen::default(), JoinSet::new());
        for number in 0..(self.rate * self.seconds()) as usize {
            let due = began + Duration::from_secs_f64(number as f64 / self.rate);
            sleep_until(due).await;
            let mut request = Request::get(format!(
                "http://{}{}",
                self.addresses[number % self.addresses.len()],
                self.path
            ))
            .header("x-request-timeout-ms", self.deadline);
            request = match self.field {
                Some((name, value)) => request.header(name, value),
                // Ten tenants, none of whom asks for much.
                None => request.header("x-tenant", format!("tenant {}", number % 10)),
            };
            let (http, request) = (self.http.clone(), request.body(Empty::new()));
            calls.spawn(async move {
                let answer = timeout(PATIENCE, async {
                    let (head, body) = http.request(request?).await?.into_parts();
                    body.collect().await?;
                    Ok::<_, BoxError>(Response::from_parts(head, ()))
                });
                let answer = answer
                    .await
                    .unwrap_or_else(|_| Err("not within ten seconds".into()));
                (answer, due.elapsed())
            });
            while let Some(Ok((answer, took))) = calls.try_join_next() {
                seen.note(&answer, took);
            }
        }
        while let Some(Ok((answer, took))) = calls.join_next().await {
            seen.note(&answer, took);
        }
        seen
    }
}

/// What users have seen.
#[derive(Default)]
pub(crate) struct Seen {
    /// By status, and by who answered so and why.
    answers: BTreeMap<(u16, String), usize>,
    replicas: BTreeMap<String, usize>,
    good: Vec<Duration>,
    refused: Vec<Duration>,
    pub(crate) unanswered: usize,
}

impl Seen {
    fn note(&mut self, answer: &Result<Response<()>, BoxError>, took: Duration) {
        let (status, why) = match answer {
            Ok(answer) => {
                let field = |name| {
                    answer
                        .headers()
                        .get(name)
                        .and_then(|value| value.to_str().ok())
                };
                if let Some(replica) = field(roles::REPLICA) {
                    *self.replicas.entry(replica.to_owned()).or_default() += 1;
                }
                let why = field(roles::REFUSED_BY).unwrap_or_default();
                (answer.status().as_u16(), why.to_owned())
            }
            Err(error) => (0, error.to_string()),
        };
        match status {
            200 => self.good.push(took),
            0 => self.unanswered += 1,
            _ => self.refused.push(took),
        }
        *self.answers.entry((status, why)).or_default() += 1;
    }

    pub(crate) fn good(&self) -> usize {
        self.good.len()
    }

    pub(crate) fn share(&self, replica: &str) -> f64 {
        let count = self.replicas.get(replica).copied().unwrap_or_default();
        count as f64 / self.good.len().max(1) as f64
    }

    /// Prints it.
    pub(crate) fn say(mut self, when: &str) -> Self {
        let all: usize = self.answers.values().sum();
        let good = self.good.len();
        println!(
            "    {when}: {all} asked, {good} answered{}",
            percentiles(&mut self.good)
        );
        for ((status, why), count) in &self.answers {
            match status {
                200 => {}
                0 => println!("        {count} without an answer: {why}"),
                _ if why.is_empty() => println!("        {count} x {status}"),
                _ => println!("        {count} x {status} by {why}"),
            }
        }
        if !self.refused.is_empty() {
            println!("        told so{}", percentiles(&mut self.refused));
        }
        self
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.unanswered += other.unanswered;
    }
}

fn percentiles(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let Some(last) = times.len().checked_sub(1) else {
        return String::new();
    };
    let at = |part: f64| times[(last as f64 * part) as usize].as_secs_f64() * 1000.0;
    format!(", p50 {:.1} ms, p99 {:.1} ms", at(0.5), at(0.99))
}

/// What one says at a path.
pub(crate) async fn get(address: &str, path: &str) -> Result<String, BoxError> {
    let http: Http = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::get(format!("http://{address}{path}")).body(Empty::new())?;
    let body = http.request(request).await?.into_body().collect().await?;
    Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
}
