use std::sync::Arc;

use http::{Method, Request, Response, Version};
use http_body::Body;

use super::{
    AdaptiveLimitLayer, Class, Hold, Key, LimitRequestBody, Outcome, Permit, RequestHead,
    future::answer_of,
    held,
    keys::{Count, Keys},
    place::{Counts, Handed, Loan},
    shared::{Shared, UNTIMED},
};

/// A request that an [`AdaptiveLimitLayer`] let in by [`enter`](AdaptiveLimitLayer::enter).
///
/// Unlike a [`Permit`](super::Permit) it has no reference to the limit, which costs two writes that all cores
/// share: who keeps the layer anyway gives the place back to it.
#[derive(Debug)]
#[must_use = "the place is lost unless the layer gets it back by `leave`"]
pub struct Admission {
    start: u64,
    class: Class,
    keys: Keys,
    generation: u32,
    /// Whether a successful answer turns the connection into a tunnel.
    tunnel: bool,
    /// Whether the head of its answer may wait for the client: that of a stream of HTTP/2 may, that of a connection is
    /// followed by the body at once.
    multiplexed: bool,
    /// Whether the place is lent while the client is waited for.
    lends: bool,
    recorded: bool,
    /// Whether the body of its answer is under way.
    streams: bool,
    left: bool,
    /// Since when the place is given back by hand, in nanoseconds, and whether that counts for its keys.
    lent: Option<(u64, Counts)>,
    /// The place was taken back when it was no longer free.
    owes: bool,
    /// It needs no place, but is one of few that its key has.
    exempt: bool,
    /// It is polled by a thread that somebody watches.
    watched: bool,
    /// When its latest frame was handed out.
    handed: Option<Handed>,
    /// What it shares with the body of the request.
    loan: Option<Arc<Loan>>,
    /// Its place under the limit of its class.
    seat: Option<Seat>,
    /// What another admission shared with its body, to be used again.
    spare: Option<Arc<Loan>>,
}

#[derive(Debug)]
struct Seat {
    permit: Box<Permit>,
    hold: Hold,
}

impl Admission {
    /// Of a request that was let in just now.
    #[inline]
    pub(super) fn new(shared: &Shared, class: Class, keys: Keys) -> Self {
        Self {
            start: shared.start(),
            generation: shared.be_born(),
            ..Self::blank(class, keys)
        }
    }

    /// Of a request that needs no place.
    pub(super) fn exempt(keys: Keys) -> Self {
        Self {
            recorded: true,
            left: true,
            exempt: true,
            ..Self::blank(Class::DEFAULT, keys)
        }
    }

    #[inline]
    fn blank(class: Class, keys: Keys) -> Self {
        Self {
            start: UNTIMED,
            class,
            keys,
            generation: 0,
            tunnel: false,
            multiplexed: false,
            lends: false,
            recorded: false,
            streams: false,
            left: false,
            lent: None,
            owes: false,
            exempt: false,
            watched: false,
            handed: None,
            loan: None,
            seat: None,
            spare: None,
        }
    }

    /// What is known from the head of its request.
    #[inline]
    pub(super) fn note_head<B>(&mut self, request: &Request<B>, hold: Hold) {
        self.tunnel = request.method() == Method::CONNECT;
        self.multiplexed = request.version() >= Version::HTTP_2;
        self.lends = hold == Hold::Work;
    }

    /// The body that the service gets.
    #[inline]
    pub(super) fn wrap<B: Body>(&mut self, body: B, shared: &Arc<Shared>) -> LimitRequestBody<B> {
        if self.lends && !body.is_end_stream() {
            let (keys, generation) = (self.keys, self.generation);
            let renew = |spare| Loan::renew(spare, keys, generation);
            let loan = self.spare.take().and_then(renew);
            let new = || Arc::new(Loan::new(shared, keys, generation));
            self.loan = Some(loan.unwrap_or_else(new));
        }
        LimitRequestBody::new(body, self.loan.clone())
    }

    /// Whether it has not left, or keeps a seat of its class.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        !self.left || self.seat.is_some()
    }

    pub(super) fn sit_down(&mut self, shared: &Shared, permit: Box<Permit>) {
        let hold = shared.class(self.class).hold;
        self.seat = Some(Seat { permit, hold });
    }

    /// The head of the answer is there: `holds` if its body is to hold the place.
    #[inline]
    pub(super) fn answered(&mut self, shared: &Shared, outcome: Outcome, holds: bool) {
        self.record(shared, outcome);
        if self
            .seat
            .as_ref()
            .is_some_and(|seat| seat.hold == Hold::Headers)
        {
            self.seat = None;
        }
        if !holds {
            return self.give_back(shared);
        }
        self.streams = true;
        shared.begin_stream();
        if self.multiplexed {
            self.hand_over(shared);
        }
    }

    /// The handler, or the body of the answer, goes on.
    #[inline]
    pub(super) fn resume(&mut self, shared: &Shared) {
        if self.handed.is_some() || self.loan.is_some() {
            self.take_what_is_lent(shared);
        }
        if !self.left {
            let generation = match &self.loan {
                Some(loan) => loan.generation(),
                None => self.generation,
            };
            self.watched = held::begin(shared, generation);
        }
    }

    #[inline(never)]
    fn take_what_is_lent(&mut self, shared: &Shared) {
        if let Some(handed) = self.handed.take() {
            self.owes |= shared.take_back(self.keys, handed);
            self.age(shared);
        }
        if let Some(loan) = &self.loan {
            loan.resume();
        }
    }

    /// The poll has ended; if its thread was held, the place was lent meanwhile.
    #[inline]
    fn end_poll(&mut self, shared: &Shared) {
        if let Some(loan) = &self.loan {
            loan.end_poll();
        }
        if self.watched {
            self.end_watched_poll(shared);
        }
    }

    #[inline(never)]
    fn end_watched_poll(&mut self, shared: &Shared) {
        self.watched = false;
        if let Some(since) = held::end(shared) {
            self.take_back(shared, since);
        }
    }

    #[cold]
    fn take_back(&mut self, shared: &Shared, since: u64) {
        self.forget_time(shared.clock.nanos().saturating_sub(since));
        match &self.loan {
            Some(loan) => loan.age_anew(),
            None => self.generation = shared.be_born(),
        }
        if shared.gate.retake() && !self.owes {
            shared.owe(self.keys);
            self.owes = true;
        }
    }

    /// It has nothing to do.
    #[inline]
    pub(super) fn pause(&mut self, shared: &Shared) {
        self.end_poll(shared);
        if let Some(loan) = &self.loan {
            loan.pause();
        }
    }

    /// The client has got a frame, and may not want the next one yet.
    #[inline]
    pub(super) fn hand_over(&mut self, shared: &Shared) {
        self.end_poll(shared);
        if self.lends && !self.left && self.handed.is_none() {
            self.pay(shared);
            self.handed = shared.hand_over(self.keys);
            if self.handed.is_some() {
                self.stop_ageing(shared);
            }
        }
    }

    /// Gives the place back until [`retake`](Self::retake).
    pub(super) fn lend(&mut self, shared: &Shared) {
        if self.lent.is_none()
            && self.loan.is_none()
            && let Some(counts) = shared.may_lend(self.keys)
        {
            self.lent = Some((shared.clock.nanos(), counts));
            self.stop_ageing(shared);
            self.pay(shared);
            shared.lend(self.keys, counts);
        }
    }

    pub(super) fn retake(&mut self, shared: &Shared) {
        if let Some((since, counts)) = self.lent.take() {
            self.forget_time(shared.clock.nanos().saturating_sub(since));
            self.age(shared);
            if shared.retake(self.keys, counts) {
                shared.owe(self.keys);
                self.owes = true;
            }
        }
    }

    /// What is waited for by its client does not age.
    fn stop_ageing(&self, shared: &Shared) {
        match &self.loan {
            Some(loan) => loan.stop_ageing(),
            None => shared.pass_away(self.generation),
        }
    }

    fn age(&mut self, shared: &Shared) {
        match &self.loan {
            Some(loan) => loan.age(),
            None => self.generation = shared.be_born(),
        }
    }

    fn pay(&mut self, shared: &Shared) {
        if std::mem::take(&mut self.owes) {
            shared.pay(self.keys);
        }
    }

    /// Only the first record counts.
    #[inline]
    pub(super) fn record(&mut self, shared: &Shared, outcome: Outcome) {
        self.end_poll(shared);
        if self.recorded {
            return;
        }
        self.recorded = true;
        if let Some(loan) = &self.loan {
            self.forget_time(loan.lent_for());
        }
        shared.record(self.start, outcome);
        if let Some(seat) = &mut self.seat {
            seat.permit.record(outcome);
        }
    }

    /// The client's time is not the service's.
    fn forget_time(&mut self, nanos: u64) {
        if self.start != UNTIMED {
            self.start = self.start.saturating_add(nanos);
        }
    }

    #[inline]
    pub(super) fn leave(&mut self, shared: &Shared) {
        self.give_back(shared);
        self.seat = None;
        if std::mem::take(&mut self.exempt) {
            shared.keys.sub(self.keys, Count::Exempt);
        }
    }

    #[inline]
    fn give_back(&mut self, shared: &Shared) {
        if self.left {
            return;
        }
        self.end_poll(shared);
        self.left = true;
        if !self.recorded {
            shared.record_cancelled();
        }
        let ages = self.handed.is_none() && self.lent.is_none();
        if ages && self.loan.is_none() {
            shared.pass_away(self.generation);
        }
        if let Some(handed) = self.handed.take() {
            shared.forget_handed(self.keys, handed);
        }
        self.pay(shared);
        let mut lent = self.lent.map(|(_, counts)| counts);
        if let Some(loan) = self.loan.take() {
            lent = loan.end();
            self.spare = Some(loan);
        }
        if self.streams {
            shared.end_stream();
        }
        match lent {
            None if self.streams => shared.release_answered(self.class, self.keys),
            None => shared.release(self.class, self.keys),
            Some(counts) => shared.release_lent(self.class, self.keys, counts),
        }
    }
}

/// For a service that wraps futures and bodies anyway: what the layer does with a request that can begin at once,
/// without a future and a body of its own.
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use stellane_autotune::{AdaptiveLimit, AdaptiveLimitLayer};
///
/// let limit = AdaptiveLimit::builder().build()?;
/// let layer = AdaptiveLimitLayer::new(&limit);
/// // None: it must go through the service of the layer.
/// let mut admission = layer.enter(&Request::new(())).ok_or("it must wait")?;
/// layer.answered(&mut admission, &Response::new(Full::new(Bytes::from("hello"))));
/// assert_eq!(limit.stats().in_flight, 1); // until the body has ended
/// layer.leave(&mut admission);
/// assert_eq!(limit.stats().successes, 1);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
impl AdaptiveLimitLayer {
    /// Takes a place, unless the request must wait for one, has a deadline, is exempt or is to be refused: then
    /// nothing is counted, and the layer's service does all that.
    #[inline]
    pub fn enter<B>(&self, request: &Request<B>) -> Option<Admission> {
        self.enter_from(request, None)
    }

    /// The same for a request from `connection`.
    #[inline]
    pub fn enter_from<B>(
        &self,
        request: &Request<B>,
        connection: Option<Key>,
    ) -> Option<Admission> {
        let head = RequestHead::from(request);
        let overload = self.overload.as_ref();
        if overload.is_some_and(|overload| overload.has_timeout(head))
            || self.classifiers.is_exempt(head)
        {
            return None;
        }
        let shared = &*self.limit.shared;
        let class = self.classifiers.class_for(shared, head);
        let keys = self.classifiers.keys_for(head, connection);
        // One that needs a seat of its class may have to wait for it.
        if shared.seats(class).is_some()
            || shared.is_late(head, class)
            || !shared.try_enter(class, keys, false)
        {
            return None;
        }
        let mut admission = Admission::new(shared, class, keys);
        admission.note_head(request, shared.hold_of(class));
        Some(admission)
    }

    /// The same in the place of an admission of this layer that has left: what it has allocated is used again.
    #[inline]
    pub fn enter_again<B>(
        &self,
        admission: &mut Option<Admission>,
        request: &Request<B>,
        connection: Option<Key>,
    ) {
        let spare = admission.take().and_then(|admission| admission.spare);
        *admission = self.enter_from(request, connection);
        if let Some(admission) = admission {
            admission.spare = spare;
        }
    }

    /// The body that the service gets: while it has nothing, and the service waits, the place is lent. Without a body
    /// there is nothing to wait for, and nothing is allocated.
    #[inline]
    pub fn request_body<B: Body>(&self, admission: &mut Admission, body: B) -> LimitRequestBody<B> {
        admission.wrap(body, &self.limit.shared)
    }

    /// To be told before the service's future, or the body of its answer, is polled.
    #[inline]
    pub fn resume(&self, admission: &mut Admission) {
        admission.resume(&self.limit.shared);
    }

    /// To be told when what was polled is pending.
    #[inline]
    pub fn pause(&self, admission: &mut Admission) {
        admission.pause(&self.limit.shared);
    }

    /// To be told when the body of the answer has given a frame, unless it was the last.
    #[inline]
    pub fn hand_over(&self, admission: &mut Admission) {
        admission.hand_over(&self.limit.shared);
    }

    /// Records what an answer says about the load, and gives the place back unless its body is to hold it.
    #[inline]
    pub fn answered<B: Body>(&self, admission: &mut Admission, response: &Response<B>) {
        let classify = self.classifiers.outcome.as_ref();
        let shared = &self.limit.shared;
        let hold = shared.hold_of(admission.class);
        let (outcome, holds) = answer_of(classify, hold, admission.tunnel, response);
        if response.body().is_end_stream() {
            admission.record(shared, outcome);
            return self.leave(admission);
        }
        admission.answered(shared, outcome, holds);
    }

    /// Gives the place back. A request that was not answered before counts as cancelled.
    #[inline]
    pub fn leave(&self, admission: &mut Admission) {
        admission.leave(&self.limit.shared);
    }
}
