//! What happens to a request that was let in.

use super::{
    Discipline,
    engine::{Engine, Reply, What},
    job::Job,
    waiting::{Asking, Who},
};
use crate::{AdaptiveLimit, Outcome, Permit};

impl Engine<'_> {
    pub(super) fn enter(&mut self, asking: Asking, permit: Permit) {
        let Asking {
            since,
            attempt,
            client,
            who,
        } = asking;
        let second = match self.second.as_ref().map(AdaptiveLimit::try_acquire) {
            None => None,
            Some(Ok(permit)) => Some(permit),
            Some(Err(_)) => {
                // Which the first one hears as an overload of what is behind it.
                permit.finish(Outcome::Overload);
                self.runs[client].refused += 1;
                return self.retry(attempt, client);
            }
        };
        let (in_flight, _) = self.limits[client].shared.gate.load();
        self.runs[client].peak = self.runs[client].peak.max(in_flight);
        let job = self.free.pop().unwrap_or_else(|| {
            self.jobs.push(Job::default());
            self.jobs.len() - 1
        });
        let plant = self.plant;
        let work = self.scenario.work.draw(&mut self.rng);
        let mut happens = |part: f64| part > 0.0 && self.rng.between(0.0, 1.0) < part;
        let is_other = who == Who::Other;
        let lost = happens(plant.black_hole) && !is_other;
        let failed = happens(plant.failing) && !is_other;
        let bad = happens(plant.bad_requests) && !is_other;
        let waits = happens(plant.waits.0) && !is_other;
        let slot = &mut self.jobs[job];
        *slot = Job {
            permit: Some(permit),
            second,
            generation: slot.generation.wrapping_add(1),
            arrived: since,
            work,
            attempt,
            client,
            who,
            wanted: true,
            lost,
        };
        if is_other {
            return self.receive(job);
        }
        let generation = slot.generation;
        self.schedule(
            self.now + self.scenario.clients.timeout,
            What::Timeout(job, generation),
        );
        if lost {
            return;
        }
        if bad {
            return self.schedule(self.now + 0.001, What::Answer(job, Reply::BadRequest));
        }
        let inside = self.delayed + self.sharing.len() + self.busy + self.queue.len();
        let is_full = inside >= plant.places;
        if is_full && plant.drops {
            self.jobs[job].lost = true;
            return;
        }
        if failed || is_full || plant.quota.is_finite() && !self.take_token(plant.quota) {
            let at = self.now + plant.refusal;
            return self.schedule(at, What::Answer(job, Reply::TooMany));
        }
        if waits {
            self.jobs[job].work = 0.0;
            self.delayed += 1;
            self.schedule(self.now + plant.waits.1, What::Begin(job));
        } else if plant.delay > 0.0 {
            self.delayed += 1;
            self.schedule(self.now + plant.delay, What::Begin(job));
        } else {
            self.begin(job);
        }
    }

    fn take_token(&mut self, quota: f64) -> bool {
        let fresh = (self.now - self.tokens_at) * quota;
        self.tokens = (self.tokens + fresh).min(quota * 0.05);
        self.tokens_at = self.now;
        let taken = self.tokens >= 1.0;
        self.tokens -= f64::from(u8::from(taken));
        taken
    }

    pub(super) fn begin(&mut self, job: usize) {
        match self.scenario.discipline {
            Discipline::Sharing => {
                self.sharing.begin(job, self.jobs[job].work);
            }
            Discipline::Fifo => {
                self.queue.push_back(job);
                self.start_queued();
            }
        }
    }

    pub(super) fn start_queued(&mut self) {
        while (self.busy as f64) < self.plant.cores {
            let Some(job) = self.queue.pop_front() else {
                return;
            };
            self.busy += 1;
            self.schedule(self.now + self.jobs[job].work, What::Done(job));
        }
    }

    pub(super) fn finish(&mut self, job: usize, outcome: Outcome) {
        let slot = &mut self.jobs[job];
        if slot.who == Who::Other {
            return self.send(job);
        }
        for permit in [slot.permit.take(), slot.second.take()]
            .into_iter()
            .flatten()
        {
            permit.finish(outcome);
        }
        if outcome == Outcome::Success {
            self.dates.tell(slot.client, self.now);
            let latency = (self.now - slot.arrived) as f32;
            self.runs[slot.client]
                .answers
                .push((self.now, latency, slot.wanted));
        }
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(job);
        if let Who::User(user) = slot.who {
            self.ask_again(user, outcome == Outcome::Overload);
        }
    }

    pub(super) fn give_up(&mut self, job: usize, generation: u32) {
        let slot = &mut self.jobs[job];
        if slot.generation != generation || !slot.wanted {
            return;
        }
        slot.wanted = false;
        let (attempt, client) = (slot.attempt, slot.client);
        if self.scenario.clients.cancels || slot.lost {
            // Dropping the permit: the request counts as cancelled. Its work goes on.
            (slot.permit, slot.second) = (None, None);
        }
        if slot.lost {
            slot.generation = slot.generation.wrapping_add(1);
            self.free.push(job);
        }
        self.retry(attempt, client);
    }

    /// Waits for the body of one of the others.
    fn receive(&mut self, job: usize) {
        let Some(others) = self.scenario.others else {
            return;
        };
        let sent = (self.now + others.sends).min(others.together.max(self.now));
        if others.lent
            && sent > self.now
            && let Some(permit) = self.jobs[job].permit.take()
        {
            permit.finish(Outcome::Ignore);
        }
        self.schedule(sent, What::Sent(job));
    }

    pub(super) fn sent(&mut self, job: usize) {
        let slot = &mut self.jobs[job];
        let limit = &self.limits[slot.client];
        slot.permit.get_or_insert_with(|| limit.retake());
        let (in_flight, _) = limit.shared.gate.load();
        let run = &mut self.runs[slot.client];
        run.peak = run.peak.max(in_flight);
        self.seats.queue.push_back(job);
        self.seat();
    }

    fn seat(&mut self) {
        let seats = self.scenario.others.map_or(0, |others| others.seats);
        while self.seats.taken < seats
            && let Some(job) = self.seats.queue.pop_front()
        {
            self.seats.taken += 1;
            self.begin(job);
        }
    }

    /// Begins to send the answer to one of the others.
    fn send(&mut self, job: usize) {
        let Some(others) = self.scenario.others else {
            return;
        };
        let slot = &mut self.jobs[job];
        if let Some(permit) = &mut slot.permit {
            permit.record(Outcome::Success);
        }
        if others.lent {
            slot.permit = None;
        }
        self.schedule(self.now + others.reads, What::Read(job));
    }

    pub(super) fn read(&mut self, job: usize) {
        let slot = &mut self.jobs[job];
        slot.permit = None;
        self.runs[slot.client].others.2 += 1;
        self.free.push(job);
        self.seats.taken -= 1;
        self.seat();
    }
}
