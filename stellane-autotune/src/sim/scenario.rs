use crate::clock::Rng;

/// A service, its load and its clients. Functions of time are in seconds since the start.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// A short name.
    pub name: &'static str,
    /// How long it lasts, in seconds.
    pub duration: f64,
    /// When something changes: what follows is judged on its own, from [`Self::grace`] after it.
    pub steps: Vec<f64>,
    /// Clients that ask, wait for the answer, think and ask again, besides the open load.
    pub closed: Option<Closed>,
    /// Requests of another kind, besides the load and the closed loop.
    pub others: Option<Others>,
    /// Whether the limit is given a [`LocalSignal`](crate::LocalSignal) of the machine.
    pub signal: bool,
    /// Requests per second.
    pub load: fn(f64) -> f64,
    /// Times the load.
    pub scale: f64,
    /// The service.
    pub plant: fn(f64) -> Plant,
    /// What a request costs.
    pub work: Work,
    /// How the service shares itself out.
    pub discipline: Discipline,
    /// An answer later than this is worth nothing.
    pub slo: f64,
    /// What clients do.
    pub clients: Clients,
    /// Seconds after a step that are not judged.
    pub grace: f64,
}

/// Clients in a closed loop.
#[derive(Debug, Clone, Copy)]
pub struct Closed {
    /// How many.
    pub clients: usize,
    /// The mean time between an answer and the next request, exponential; 0 for none.
    pub think: f64,
    /// The mean pause after a refusal.
    pub backoff: f64,
    /// They all come within this time.
    pub within: f64,
}

/// Requests whose clients are slow, or whose answers are streams, or that need something that there is little of.
#[derive(Debug, Clone, Copy)]
pub struct Others {
    /// When the first comes.
    pub from: f64,
    /// How many come per second.
    pub rate: f64,
    /// How many come.
    pub most: u32,
    /// Seconds until such a request has been sent, after it was let in; then it is worked on as any other.
    pub sends: f64,
    /// When all of them have been sent that have not been before; infinite for never.
    pub together: f64,
    /// Seconds until the answer has been read; infinite for a stream that does not end.
    pub reads: f64,
    /// How many of them can be worked on and read at a time: a GPU's seats, a pool's connections. The rest waits for
    /// one where it is.
    pub seats: usize,
    /// Whether the place under the limit is given back while the client is waited for, and taken again by force.
    pub lent: bool,
}

impl Others {
    /// None that are slow in any way.
    #[must_use]
    pub fn quick() -> Self {
        Self {
            from: 1.0,
            rate: 50.0,
            most: 100,
            sends: 0.0,
            together: f64::INFINITY,
            reads: 0.0,
            seats: usize::MAX,
            lent: true,
        }
    }
}

/// A service at a moment.
#[derive(Debug, Clone, Copy)]
pub struct Plant {
    /// Requests that are served at full speed.
    pub cores: f64,
    /// Time every request takes besides its work, without using a core.
    pub delay: f64,
    /// The fraction of requests that do nothing but wait for something elsewhere, and for how long.
    pub waits: (f64, f64),
    /// How much each request beyond the cores slows all down.
    pub contention: f64,
    /// Nothing moves: a garbage collection, a lock.
    pub stalled: bool,
    /// The fraction of requests that fail at once with a client error.
    pub bad_requests: f64,
    /// The fraction of requests that are answered "overloaded", however few there are: a route whose database is gone.
    pub failing: f64,
    /// The rate beyond which the service answers "too many requests"; infinite for none.
    pub quota: f64,
    /// With so many in service it answers "too many requests"; the largest number for no bound.
    pub places: usize,
    /// Seconds until it has said so.
    pub refusal: f64,
    /// With all places taken it does not answer at all.
    pub drops: bool,
    /// The fraction of requests that are never answered until the client gives up.
    pub black_hole: f64,
}

impl Plant {
    /// Sixteen cores and 5 % contention: what most scenarios start from.
    #[must_use]
    pub fn healthy() -> Self {
        Self {
            cores: 16.0,
            delay: 0.0,
            waits: (0.0, 0.0),
            contention: 0.05,
            stalled: false,
            bad_requests: 0.0,
            failing: 0.0,
            quota: f64::INFINITY,
            places: usize::MAX,
            refusal: 0.005,
            drops: false,
            black_hole: 0.0,
        }
    }
}

/// The distribution of the work of a request, in seconds on one core.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    /// All alike.
    Constant(f64),
    /// Exponential.
    Exponential(f64),
    /// Short with this probability, else long.
    Bimodal(f64, f64, f64),
    /// Pareto with this minimum and shape, cut at a thousand times the minimum.
    Pareto(f64, f64),
}

impl Work {
    pub(super) fn draw(self, rng: &mut Rng) -> f64 {
        match self {
            Self::Constant(work) => work,
            Self::Exponential(mean) => exponential(rng, mean),
            Self::Bimodal(p, short, long) => {
                if rng.between(0.0, 1.0) < p {
                    short
                } else {
                    long
                }
            }
            Self::Pareto(min, shape) => {
                (min / rng.between(1e-12, 1.0).powf(1.0 / shape)).min(1000.0 * min)
            }
        }
    }
}

pub(super) fn exponential(rng: &mut Rng, mean: f64) -> f64 {
    -mean * rng.between(1e-12, 1.0).ln()
}

/// How a service shares its cores out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discipline {
    /// Everything admitted progresses together.
    Sharing,
    /// First come, first served: M/G/k.
    Fifo,
}

/// What clients do when they are refused or wait too long.
#[derive(Debug, Clone, Copy)]
pub struct Clients {
    /// Seconds until a client gives up; the service does not notice and works on.
    pub timeout: f64,
    /// How often a client tries again.
    pub retries: u32,
    /// The mean pause before it does.
    pub backoff: f64,
    /// Whether the service notices that a client went away.
    pub cancels: bool,
}

impl Clients {
    /// Ask once and wait for ever.
    #[must_use]
    pub fn patient() -> Self {
        Self {
            timeout: f64::INFINITY,
            retries: 0,
            backoff: 0.0,
            cancels: false,
        }
    }
}

impl Scenario {
    /// The same, cut off after so many seconds.
    #[must_use]
    pub fn shortened(mut self, duration: f64) -> Self {
        self.duration = self.duration.min(duration);
        self.steps.retain(|step| *step < duration);
        self
    }

    /// The intervals that are judged: from `grace` after each step (and after the start) to the next.
    #[must_use]
    pub fn judged(&self) -> Vec<(f64, f64)> {
        let starts = std::iter::once(0.0).chain(self.steps.iter().copied());
        let ends = self
            .steps
            .iter()
            .copied()
            .chain(std::iter::once(self.duration));
        starts
            .map(|start| start + self.grace)
            .zip(ends)
            .filter(|(a, b)| a + 1.0 <= *b)
            .collect()
    }
}

/// One value during a span of time, another outside of it.
pub(super) fn during(t: f64, span: std::ops::Range<f64>, value: f64, otherwise: f64) -> f64 {
    if span.contains(&t) { value } else { otherwise }
}

/// A tenth of a second for every request, however many there are.
fn constant_delay() -> Plant {
    Plant {
        cores: 1e9,
        delay: 0.1,
        ..Plant::healthy()
    }
}

const CAPACITY: f64 = 1600.0;

/// Sixteen cores at twice what they can do.
pub(super) fn base() -> Scenario {
    Scenario {
        name: "",
        closed: None,
        scale: 1.0,
        others: None,
        signal: true,
        duration: 30.0,
        steps: Vec::new(),
        load: |_| 2.0 * CAPACITY,
        plant: |_| Plant::healthy(),
        work: Work::Exponential(0.010),
        discipline: Discipline::Sharing,
        slo: 0.1,
        clients: Clients::patient(),
        grace: 5.0,
    }
}

/// The standard scenarios.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    let base = base();
    let link = Scenario {
        name: "constant_link",
        load: |_| 500.0,
        plant: |_| constant_delay(),
        work: Work::Constant(1e-6),
        slo: 0.3,
        ..base.clone()
    };
    vec![
        Scenario {
            name: "overload_2x",
            ..base.clone()
        },
        Scenario {
            name: "overload_10x",
            duration: 20.0,
            load: |_| 10.0 * CAPACITY,
            ..base.clone()
        },
        Scenario {
            name: "overload_1.2x",
            duration: 120.0,
            load: |_| 1.2 * CAPACITY,
            ..base.clone()
        },
        Scenario {
            name: "capacity_halves",
            duration: 60.0,
            steps: vec![20.0, 40.0],
            plant: |t| Plant {
                cores: during(t, 20.0..40.0, 8.0, 16.0),
                ..Plant::healthy()
            },
            ..base.clone()
        },
        Scenario {
            name: "slow_dependency",
            duration: 75.0,
            steps: vec![20.0, 55.0],
            load: |_| 1.5 * CAPACITY,
            plant: |t| Plant {
                delay: during(t, 20.0..55.0, 0.04, 0.0),
                ..Plant::healthy()
            },
            slo: 0.15,
            ..base.clone()
        },
        Scenario {
            // Half of what is asked costs the machine nothing.
            name: "half_waits",
            duration: 40.0,
            load: |_| 4.0 * CAPACITY,
            plant: |_| Plant {
                waits: (0.5, 0.2),
                ..Plant::healthy()
            },
            slo: 0.4,
            ..base.clone()
        },
        Scenario {
            name: "bimodal",
            work: Work::Bimodal(0.95, 0.002, 0.162),
            slo: 0.1,
            ..base.clone()
        },
        Scenario {
            name: "pareto",
            work: Work::Pareto(0.004, 1.6),
            ..base.clone()
        },
        Scenario {
            name: "spike",
            duration: 40.0,
            steps: vec![20.0],
            load: |t| {
                if t < 20.0 {
                    0.3 * CAPACITY
                } else {
                    3.0 * CAPACITY
                }
            },
            grace: 1.0,
            ..base.clone()
        },
        Scenario {
            name: "ramp",
            duration: 40.0,
            load: |t| CAPACITY * (0.2 + t * 0.07),
            ..base.clone()
        },
        Scenario {
            name: "diurnal",
            duration: 60.0,
            load: |t| CAPACITY * (1.0 + 0.9 * (t * std::f64::consts::TAU / 30.0).sin()),
            ..base.clone()
        },
        Scenario {
            name: "bursty",
            load: |t| {
                if ((t * 4.0) as u64).is_multiple_of(4) {
                    5.0 * CAPACITY
                } else {
                    0.4 * CAPACITY
                }
            },
            ..base.clone()
        },
        Scenario {
            name: "fifo",
            discipline: Discipline::Fifo,
            ..base.clone()
        },
        Scenario {
            name: "knee",
            duration: 40.0,
            plant: |_| Plant {
                cores: 10.0,
                contention: 0.6,
                ..Plant::healthy()
            },
            ..base.clone()
        },
        Scenario {
            name: "shallow_knee",
            duration: 40.0,
            plant: |_| Plant {
                cores: 10.0,
                contention: 0.2,
                ..Plant::healthy()
            },
            ..base.clone()
        },
        Scenario {
            name: "gc_pauses",
            duration: 40.0,
            plant: |t| Plant {
                stalled: t % 2.0 < 0.2,
                ..Plant::healthy()
            },
            slo: 0.3,
            ..base.clone()
        },
        Scenario {
            name: "load_independent",
            duration: 40.0,
            load: |_| 2000.0,
            plant: |t| Plant {
                cores: 1e9,
                delay: 0.02 * (1.0 + 0.4 * (t * std::f64::consts::TAU / 7.0).sin()),
                ..Plant::healthy()
            },
            work: Work::Exponential(0.005),
            ..base.clone()
        },
        Scenario {
            name: "few_requests",
            duration: 120.0,
            load: |_| 20.0,
            plant: |_| Plant {
                cores: 4.0,
                ..Plant::healthy()
            },
            work: Work::Exponential(0.1),
            slo: 1.0,
            ..base.clone()
        },
        link.clone(),
        Scenario {
            name: "jittery_link",
            load: |_| 500.0,
            plant: |_| Plant {
                cores: 1e9,
                delay: 0.05,
                ..Plant::healthy()
            },
            work: Work::Exponential(0.05),
            slo: 0.5,
            ..base.clone()
        },
        Scenario {
            name: "slow_link",
            load: |_| 400.0,
            plant: |_| Plant {
                cores: 1.0,
                contention: 0.0,
                ..Plant::healthy()
            },
            work: Work::Constant(0.005),
            ..base.clone()
        },
        Scenario {
            name: "slow_send",
            load: |_| 10.0,
            ..link.clone()
        },
        Scenario {
            name: "medium_send",
            load: |_| 40.0,
            ..link.clone()
        },
        Scenario {
            name: "defers",
            load: |_| 800.0,
            plant: |_| Plant {
                places: 40,
                refusal: 0.1,
                ..constant_delay()
            },
            ..link.clone()
        },
        Scenario {
            name: "defers_at_rate",
            load: |_| 800.0,
            plant: |_| Plant {
                quota: 400.0,
                refusal: 0.1,
                ..constant_delay()
            },
            ..link.clone()
        },
        Scenario {
            name: "quota",
            plant: |_| Plant {
                quota: 800.0,
                ..Plant::healthy()
            },
            ..base.clone()
        },
        Scenario {
            name: "few_places",
            plant: |_| Plant {
                places: 20,
                ..Plant::healthy()
            },
            ..base.clone()
        },
        Scenario {
            name: "drops",
            plant: |_| Plant {
                places: 24,
                drops: true,
                ..Plant::healthy()
            },
            clients: Clients {
                timeout: 0.5,
                cancels: true,
                ..Clients::patient()
            },
            ..base.clone()
        },
        Scenario {
            name: "bad_requests",
            load: |_| 1.5 * CAPACITY,
            plant: |t| Plant {
                bad_requests: if t > 10.0 { 0.3 } else { 0.0 },
                ..Plant::healthy()
            },
            ..base.clone()
        },
        Scenario {
            name: "black_hole",
            duration: 40.0,
            steps: vec![15.0, 25.0],
            load: |_| 1.2 * CAPACITY,
            plant: |t| Plant {
                black_hole: during(t, 15.0..25.0, 0.05, 0.0),
                ..Plant::healthy()
            },
            clients: Clients {
                timeout: 0.5,
                cancels: true,
                ..Clients::patient()
            },
            ..base.clone()
        },
        Scenario {
            name: "retry_storm",
            duration: 30.0,
            steps: vec![10.0, 15.0],
            load: |t| during(t, 10.0..15.0, 3.0, 0.8) * CAPACITY,
            clients: Clients {
                timeout: 0.5,
                retries: 3,
                backoff: 0.1,
                cancels: false,
            },
            grace: 3.0,
            ..base.clone()
        },
        Scenario {
            name: "deadline_storm",
            duration: 30.0,
            steps: vec![10.0, 20.0],
            load: |t| during(t, 10.0..20.0, 5.0, 0.7) * CAPACITY,
            slo: 0.06,
            clients: Clients {
                timeout: 0.06,
                ..Clients::patient()
            },
            grace: 3.0,
            ..base
        },
    ]
}
