//! Load that no limit has any business with, and cold starts.

use std::fmt;

use super::scenario::{base, during};
use super::{Closed, Discipline, Others, Plant, Run, Scenario, Work};

/// One cell of the matrix of honest loads: so many requests in flight on average, of a service that does them all at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Honest {
    /// How they come.
    pub load: Load,
    /// How their latencies differ.
    pub shape: Shape,
    /// Their mean, in seconds.
    pub latency: f64,
    /// How many are in flight on average.
    pub in_flight: u32,
}

/// How requests come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Whenever they like.
    Open,
    /// Each client asks again as soon as it has its answer; all of them come within a tenth of a second.
    Closed,
    /// Each thinks for as long, on average, as it waits.
    Thinking,
}

/// How latencies differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Not at all.
    Fixed,
    /// Exponentially.
    Exponential,
    /// One in ten takes twenty times as long.
    Bimodal,
    /// Half of them take a fiftieth of the mean, the others all the rest.
    Mixed,
}

impl Honest {
    /// All of them: 480.
    #[must_use]
    pub fn matrix() -> Vec<Self> {
        let mut cells = Vec::new();
        for load in [Load::Open, Load::Closed, Load::Thinking] {
            for shape in [
                Shape::Fixed,
                Shape::Exponential,
                Shape::Bimodal,
                Shape::Mixed,
            ] {
                for latency in [0.001, 0.01, 0.05, 0.2, 1.0, 5.0, 20.0, 60.0] {
                    cells.extend([5, 20, 60, 200, 1000].map(|in_flight| Self {
                        load,
                        shape,
                        latency,
                        in_flight,
                    }));
                }
            }
        }
        cells
    }

    /// For ten latencies, or sixty thousand requests.
    #[must_use]
    pub fn scenario(&self) -> Scenario {
        let (latency, in_flight) = (self.latency, f64::from(self.in_flight));
        let most = (60_000.0 * latency / in_flight).max(3.0);
        let mut scenario = Scenario {
            name: "honest",
            duration: 20.0_f64.max(10.0 * latency).min(most),
            load: |_| 1.0,
            work: match self.shape {
                Shape::Fixed => Work::Constant(latency),
                Shape::Exponential => Work::Exponential(latency),
                Shape::Bimodal => Work::Bimodal(0.9, latency / 2.9, 20.0 * latency / 2.9),
                Shape::Mixed => Work::Bimodal(0.5, latency / 50.0, latency * 99.0 / 50.0),
            },
            ..honest()
        };
        let (clients, think) = match self.load {
            Load::Open => {
                scenario.scale = in_flight / latency;
                return scenario;
            }
            Load::Closed => (self.in_flight, 0.0),
            Load::Thinking => (2 * self.in_flight, latency),
        };
        scenario.closed = Some(Closed {
            clients: clients as usize,
            think,
            backoff: 1.0,
            within: 0.1,
        });
        scenario.load = |_| 0.0;
        scenario
    }
}

impl fmt::Display for Honest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let load = match self.load {
            Load::Open => "open",
            Load::Closed => "closed",
            Load::Thinking => "thinking",
        };
        let shape = match self.shape {
            Shape::Fixed => "fixed",
            Shape::Exponential => "exponential",
            Shape::Bimodal => "bimodal",
            Shape::Mixed => "mixed",
        };
        let Self {
            latency, in_flight, ..
        } = self;
        write!(f, "{load}, {shape} {latency} s, {in_flight} in flight")
    }
}

/// As many cores as anybody asks for.
fn honest() -> Scenario {
    Scenario {
        plant: |_| Plant {
            cores: 1e9,
            contention: 0.0,
            ..Plant::healthy()
        },
        slo: f64::INFINITY,
        grace: 0.0,
        ..base()
    }
}

/// The same, of which each request waits for so long for something that does them all at once.
fn elsewhere(delay: f64) -> Plant {
    Plant {
        delay,
        ..(honest().plant)(0.0)
    }
}

/// A load that goes away within a minute.
fn quick(t: f64) -> f64 {
    (1000.0 * (1.0 - t / 60.0)).max(0.0)
}

/// What real services are asked that are not full: nobody is to be refused.
#[must_use]
pub fn honest_services() -> Vec<Scenario> {
    let closed = |name, clients, latency, think| Scenario {
        name,
        duration: 30.0_f64.max(12.0 * latency),
        work: Work::Exponential(latency),
        load: |_| 0.0,
        closed: Some(Closed {
            clients,
            think,
            backoff: 1.0,
            within: 0.1,
        }),
        ..honest()
    };
    let beside = |name, others| Scenario {
        name,
        duration: 40.0,
        load: |_| 320.0,
        slo: f64::INFINITY,
        grace: 0.0,
        others: Some(others),
        ..base()
    };
    let endless = |most| Others {
        most,
        reads: f64::INFINITY,
        lent: false,
        ..Others::quick()
    };
    vec![
        Scenario {
            name: "12/s of 5 s, ten minutes",
            duration: 600.0,
            load: |_| 12.0,
            work: Work::Exponential(5.0),
            ..honest()
        },
        Scenario {
            name: "3/s of 20 s, ten minutes",
            duration: 600.0,
            load: |_| 3.0,
            work: Work::Constant(20.0),
            ..honest()
        },
        closed("100 clients of 1 s", 100, 1.0, 0.0),
        closed("40 clients of 3 s", 40, 3.0, 0.0),
        closed("100 clients of 200 ms", 100, 0.2, 0.0),
        closed("300 users of a language model, 10 s", 300, 10.0, 5.0),
        Scenario {
            name: "one route of three answers 503",
            load: |_| 960.0,
            plant: |_| Plant {
                failing: 1.0 / 3.0,
                ..Plant::healthy()
            },
            slo: f64::INFINITY,
            ..base()
        },
        Scenario {
            name: "a route begins to answer 503",
            duration: 60.0,
            load: |_| 960.0,
            plant: |t| Plant {
                failing: if t > 20.0 { 1.0 / 3.0 } else { 0.0 },
                ..Plant::healthy()
            },
            slo: f64::INFINITY,
            ..base()
        },
        Scenario {
            name: "two routes of three answer 503",
            load: |_| 960.0,
            plant: |_| Plant {
                failing: 2.0 / 3.0,
                ..Plant::healthy()
            },
            slo: f64::INFINITY,
            ..base()
        },
        Scenario {
            name: "one route of three answers 504 after 1 s",
            load: |_| 960.0,
            plant: |_| Plant {
                failing: 1.0 / 3.0,
                refusal: 1.0,
                ..Plant::healthy()
            },
            slo: f64::INFINITY,
            ..base()
        },
        Scenario {
            plant: |_| Plant {
                cores: 1e9,
                contention: 0.0,
                failing: 1.0 / 3.0,
                ..Plant::healthy()
            },
            closed: Some(Closed {
                clients: 50,
                think: 0.0,
                backoff: 0.001,
                within: 0.1,
            }),
            ..closed(
                "50 clients of 50 ms, one route of three answers 503",
                50,
                0.05,
                0.0,
            )
        },
        beside("20 streams without end", endless(20)),
        beside("100 streams without end", endless(100)),
        beside(
            "2000 streams without end, places lent",
            Others {
                rate: 200.0,
                lent: true,
                ..endless(2000)
            },
        ),
        beside(
            "100 slow uploads, places held",
            Others {
                sends: 10.0,
                lent: false,
                ..Others::quick()
            },
        ),
        beside(
            "2000 slow uploads, places lent",
            Others {
                rate: 200.0,
                most: 2000,
                sends: 10.0,
                ..Others::quick()
            },
        ),
        beside(
            "100 slow downloads, places held",
            Others {
                reads: 10.0,
                lent: false,
                ..Others::quick()
            },
        ),
        // What is waited for changes, or what is asked does: the same number is answered, or fewer, and later.
        Scenario {
            name: "an upstream of 100 ms takes 500",
            duration: 60.0,
            load: |_| 120.0,
            work: Work::Exponential(0.002),
            plant: |t| elsewhere(during(t, 20.0..40.0, 0.5, 0.1)),
            ..honest()
        },
        Scenario {
            name: "an upstream of 20 ms takes a second",
            duration: 60.0,
            load: |_| 300.0,
            work: Work::Exponential(0.002),
            plant: |t| elsewhere(during(t, 20.0..40.0, 1.0, 0.02)),
            ..honest()
        },
        Scenario {
            name: "1000/s of 1 ms, then 60/s of 1 s",
            duration: 60.0,
            load: |t| if t < 10.0 { 1000.0 } else { 60.0 },
            work: Work::Constant(0.001),
            plant: |t| elsewhere(if t < 10.0 { 0.0 } else { 1.0 }),
            ..honest()
        },
        Scenario {
            name: "of 1060/s 1000 of 1 ms go away, 60 of 1 s stay",
            duration: 120.0,
            load: |t| 60.0 + quick(t),
            work: Work::Constant(0.001),
            plant: |t| Plant {
                waits: (60.0 / (60.0 + quick(t)), 1.0),
                ..elsewhere(0.0)
            },
            ..honest()
        },
        Scenario {
            plant: |t| elsewhere(if t < 10.0 { 0.0 } else { 2.0 }),
            ..closed("60 clients of 10 ms, of 2 s then", 60, 0.01, 0.1)
        },
        Scenario {
            duration: 60.0,
            plant: |t| elsewhere(if t < 10.0 { 0.0 } else { 5.0 }),
            ..closed("500 clients of 10 ms, of 5 s then", 500, 0.01, 1.0)
        },
        beside(
            "200 streams for 8 seats",
            Others {
                most: 200,
                reads: 1.0,
                seats: 8,
                lent: false,
                ..Others::quick()
            },
        ),
    ]
}

/// A service that is asked too much from its first millisecond on.
#[derive(Debug, Clone)]
pub struct ColdStart {
    /// The service and its load.
    pub scenario: Scenario,
    /// A fixed limit that is right for it.
    pub right: u32,
    /// How much longer everything takes than where a request takes 10 ms.
    pub slowness: f64,
}

impl ColdStart {
    /// The services, each at `factor` times what it can do: sharing its processor, first come first served, one whose
    /// throughput falls, and one of 1 s on 200 places elsewhere.
    #[must_use]
    pub fn services(factor: f64) -> Vec<Self> {
        let cold = |name, rate: f64, right| Self {
            scenario: Scenario {
                name,
                duration: 20.0,
                load: |_| 1.0,
                scale: factor * rate,
                ..base()
            },
            right,
            slowness: 1.0,
        };
        let mut fifo = cold("first come, first served", 1600.0, 22);
        fifo.scenario.discipline = Discipline::Fifo;
        let mut knee = cold("knee", 960.0, 12);
        knee.scenario.plant = |_| Plant {
            cores: 10.0,
            contention: 0.2,
            ..Plant::healthy()
        };
        let mut slow = cold("1 s on 200 places elsewhere", 200.0, 220);
        slow.slowness = 8.0;
        slow.scenario = Scenario {
            duration: 60.0,
            work: Work::Exponential(1.0),
            plant: |_| Plant {
                cores: 200.0,
                ..Plant::healthy()
            },
            slo: 5.0,
            signal: false,
            ..slow.scenario
        };
        vec![cold("sharing", 1600.0, 22), fifo, knee, slow]
    }

    /// When goodput is at 90 % of `best` for good, in seconds: over the next second and three, and not below 70 % over
    /// the next third of one; eight times that where everything takes eight times as long.
    #[must_use]
    pub fn recovery(&self, run: &Run, best: f64) -> f64 {
        let (end, unit) = (self.scenario.duration, self.slowness);
        let reaches = |at: f64, span: f64, part| run.goodput(at, at + span * unit) >= part * best;
        (0..)
            .map(|step| f64::from(step) * 0.1)
            .take_while(|at| at + 3.0 * unit <= end)
            .find(|at| reaches(*at, 1.0, 0.9) && reaches(*at, 3.0, 0.9) && reaches(*at, 0.3, 0.7))
            .unwrap_or(f64::INFINITY)
    }
}

/// What others do to a service that is full, or make it so: what is served all the same is compared with what would be
/// without them.
#[must_use]
pub fn hostile() -> Vec<Scenario> {
    let beside = |name, load: fn(f64) -> f64, others| Scenario {
        name,
        duration: 40.0,
        load,
        others: Some(others),
        ..base()
    };
    let endless = |most| Others {
        most,
        reads: f64::INFINITY,
        lent: false,
        ..Others::quick()
    };
    let (honest, double) = (|_| 320.0, |_| 3200.0);
    vec![
        beside("100 streams without end, 2 x", double, endless(100)),
        beside("500 streams without end, 2 x", double, endless(500)),
        beside(
            "100 uploads whose last bytes come at once",
            honest,
            Others {
                sends: f64::INFINITY,
                together: 10.0,
                ..Others::quick()
            },
        ),
        beside(
            "2000 uploads whose last bytes come at once",
            honest,
            Others {
                rate: 400.0,
                most: 2000,
                sends: f64::INFINITY,
                together: 10.0,
                ..Others::quick()
            },
        ),
        beside(
            "2000 uploads whose last bytes come at once, 2 x",
            double,
            Others {
                rate: 400.0,
                most: 2000,
                sends: f64::INFINITY,
                together: 10.0,
                ..Others::quick()
            },
        ),
    ]
}
