//! Controllers that come with the tuner.
//!
//! All of them leave a knob alone while it is within a tenth of where it should be.

use std::borrow::Cow;

use super::{Controller, Memory, Objective, View, Wish, action::Short};

type Name = Cow<'static, str>;

/// Keeps a knob where one signal says it should be: `aim` gives the value and why, from the signal and the
/// range of the knob. What is near enough is left alone.
fn follow(
    view: &View<'_>,
    knob: &str,
    signal: &'static str,
    aim: impl FnOnce(f64, (f64, f64)) -> (f64, String),
) -> Option<Wish> {
    let value = view.value(knob)?;
    let (to, because) = aim(view.value(signal)?, view.range(knob)?);
    ((to - value).abs() > 0.1 * value.abs()).then(|| Wish {
        to,
        because,
        evidence: vec![signal],
    })
}

/// As many workers as the offered load needs: the load in Erlangs (arrivals per second times the
/// time each takes) plus its square root.
///
/// Grows at once when jobs wait; shrinks by one after three ticks in which
/// fewer would do, and never while jobs wait.
#[derive(Debug, Clone)]
pub struct Staffing {
    knob: Name,
    arrivals: &'static str,
    service_time: &'static str,
    queue_wait: &'static str,
    patience: f64,
}

impl Staffing {
    /// `arrivals` in jobs per second, `service_time` and `queue_wait` in seconds.
    #[must_use]
    pub fn new(
        knob: impl Into<Name>,
        arrivals: &'static str,
        service_time: &'static str,
        queue_wait: &'static str,
    ) -> Self {
        Self {
            knob: knob.into(),
            arrivals,
            service_time,
            queue_wait,
            patience: 0.005,
        }
    }

    /// From which queue wait on workers are added. Default: 5 ms.
    #[must_use]
    pub fn patience(mut self, seconds: f64) -> Self {
        self.patience = seconds;
        self
    }
}

impl Controller for Staffing {
    fn name(&self) -> &str {
        "staffing"
    }

    fn knob(&self) -> &str {
        &self.knob
    }

    /// Remembers the smoothed load, whether there is one, and for how many ticks fewer would do.
    fn propose(&self, view: &View<'_>, memory: &mut Memory) -> Option<Wish> {
        let workers = view.value(&self.knob)?;
        let load = view.value(self.arrivals)? * view.value(self.service_time)?;
        let wait = view.value(self.queue_wait)?;
        let [smooth, known, idle, ..] = memory;
        *smooth = if *known == 0.0 {
            load
        } else {
            *smooth + 0.3 * (load - *smooth)
        };
        *known = 1.0;
        let load = smooth.max(load);
        let target = (load + load.sqrt()).ceil().max(1.0);
        let because = format!(
            "the offered load is {} Erlang, which needs {} workers, and jobs wait {} ms",
            Short(load),
            Short(target),
            Short(1000.0 * wait)
        );
        let evidence = vec![self.arrivals, self.service_time, self.queue_wait];
        if wait > self.patience {
            *idle = 0.0;
            let to = target.max(workers + (workers / 4.0).ceil());
            return Some(Wish {
                to,
                because,
                evidence,
            });
        }
        *idle = if target < 0.7 * (workers - 1.0) {
            *idle + 1.0
        } else {
            0.0
        };
        if *idle < 3.0 {
            return None;
        }
        *idle = 0.0;
        Some(Wish {
            to: workers - 1.0,
            because,
            evidence,
        })
    }

    fn objective(&self) -> Option<Objective> {
        Some(Objective::minimize(self.queue_wait))
    }
}

/// Keeps a knob at a multiple of a signal: the bound of a queue at what is served in the time a
/// job may wait, the ceiling of a limit at four times the limit.
#[derive(Debug, Clone)]
pub struct Proportional {
    knob: Name,
    signal: &'static str,
    factor: f64,
}

impl Proportional {
    /// `knob` is to be `factor` times `signal`.
    #[must_use]
    pub fn new(knob: impl Into<Name>, signal: &'static str, factor: f64) -> Self {
        Self {
            knob: knob.into(),
            signal,
            factor,
        }
    }
}

impl Controller for Proportional {
    fn name(&self) -> &str {
        "proportional"
    }

    fn knob(&self) -> &str {
        &self.knob
    }

    fn propose(&self, view: &View<'_>, _memory: &mut Memory) -> Option<Wish> {
        follow(view, &self.knob, self.signal, |signal, (min, max)| {
            let because = format!(
                "{} is {}, and {} should be {} times as much",
                self.signal,
                Short(signal),
                self.knob,
                Short(self.factor)
            );
            ((self.factor * signal).clamp(min, max), because)
        })
    }
}

/// Turns a knob down as a signal rises: from all of its range at `low` to its minimum at `high`.
/// For what is kept only because there is room for it: pooled memory, idle connections.
#[derive(Debug, Clone)]
pub struct Scaled {
    knob: Name,
    signal: &'static str,
    low: f64,
    high: f64,
}

impl Scaled {
    /// The maximum of `knob` while `signal` is below `low`, its minimum from `high` on.
    #[must_use]
    pub fn new(knob: impl Into<Name>, signal: &'static str, low: f64, high: f64) -> Self {
        Self {
            knob: knob.into(),
            signal,
            low,
            high,
        }
    }
}

impl Controller for Scaled {
    fn name(&self) -> &str {
        "scaled"
    }

    fn knob(&self) -> &str {
        &self.knob
    }

    fn propose(&self, view: &View<'_>, _memory: &mut Memory) -> Option<Wish> {
        follow(view, &self.knob, self.signal, |signal, (min, max)| {
            let pressed = ((signal - self.low) / (self.high - self.low).max(1e-9)).clamp(0.0, 1.0);
            let because = format!(
                "{} is {}, where {} counts as full room and {} as none",
                self.signal,
                Short(signal),
                Short(self.low),
                Short(self.high)
            );
            (max - pressed * (max - min), because)
        })
    }

    fn priority(&self) -> i32 {
        60
    }
}

/// How long a connection is idle before it is parked. If most parked connections come back soon,
/// parking costs more than it saves: park later. If few do, and memory is in use, park sooner.
#[derive(Debug, Clone)]
pub struct Parking {
    knob: Name,
    parked: &'static str,
    unparked: &'static str,
    memory: &'static str,
}

impl Parking {
    /// `parked` and `unparked` in connections per second, `memory` as a fraction of its limit.
    #[must_use]
    pub fn new(
        knob: impl Into<Name>,
        parked: &'static str,
        unparked: &'static str,
        memory: &'static str,
    ) -> Self {
        Self {
            knob: knob.into(),
            parked,
            unparked,
            memory,
        }
    }
}

impl Controller for Parking {
    fn name(&self) -> &str {
        "parking"
    }

    fn knob(&self) -> &str {
        &self.knob
    }

    /// Remembers for how many ticks the same was true: positive is "later", negative "sooner".
    fn propose(&self, view: &View<'_>, memory: &mut Memory) -> Option<Wish> {
        let delay = view.value(&self.knob)?;
        let parked = view.value(self.parked)?;
        let unparked = view.value(self.unparked)?;
        let used = view.value(self.memory)?;
        let back = if parked > 0.0 { unparked / parked } else { 0.0 };
        let streak = &mut memory[0];
        *streak = if parked < 1.0 {
            0.0
        } else if back > 0.5 && used < 0.7 {
            streak.max(0.0) + 1.0
        } else if used > 0.7 || back < 0.1 && used > 0.5 {
            streak.min(0.0) - 1.0
        } else {
            0.0
        };
        if streak.abs() < 5.0 {
            return None;
        }
        let to = if *streak > 0.0 {
            1.5 * delay
        } else {
            0.7 * delay
        };
        *streak = 0.0;
        let because = format!(
            "{:.0} % of the parked connections come back, at {:.0} % of the memory",
            100.0 * back,
            100.0 * used
        );
        Some(Wish {
            to,
            because,
            evidence: vec![self.parked, self.unparked, self.memory],
        })
    }
}
