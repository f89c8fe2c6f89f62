use std::{
    sync::Arc,
    task::{Context, Poll, ready},
};

use super::{
    Class, Permit, Shed,
    keys::Keys,
    shared::{Own, Shared},
    wait::Queued,
};

/// What a limit says to a request.
pub(super) enum Decision {
    Now(Permit),
    Later(Turn),
    Never(Shed),
}

/// A request that waits: first for a seat of its class, if that has a limit of its own, then for a place.
pub(super) struct Turn {
    queued: Queued,
    class: Class,
    awaited: Awaited,
}

enum Awaited {
    /// The limit that it will need a place of.
    Seat(Arc<Own>, Keys),
    Place {
        seat: Option<Box<Permit>>,
    },
}

impl Shared {
    /// A seat of the class, if it has a limit of its own; that limit, if none is free.
    #[inline]
    pub(super) fn take_seat(&self, class: Class) -> Result<Option<Box<Permit>>, &Arc<Own>> {
        let Some(seats) = self.seats(class) else {
            return Ok(None);
        };
        let (class, keys) = (Class::DEFAULT, Keys::default());
        match seats.try_enter(class, keys, false) {
            true => Ok(Some(Box::new(Permit::new(Arc::clone(seats), class, keys)))),
            false => Err(seats),
        }
    }
}

impl Own {
    #[inline]
    pub(super) fn admit(self: &Arc<Self>, class: Class, keys: Keys) -> Decision {
        match self.take_seat(class) {
            Ok(seat) => self.admit_seated(class, keys, seat),
            Err(seats) => self.queue_for_seat(seats, class, keys),
        }
    }

    #[inline]
    fn admit_seated(
        self: &Arc<Self>,
        class: Class,
        keys: Keys,
        seat: Option<Box<Permit>>,
    ) -> Decision {
        if self.try_enter(class, keys, false) {
            let permit = Permit::new(Arc::clone(self), class, keys);
            return Decision::Now(permit.with_seat(seat));
        }
        self.queue_for_place(class, keys, seat)
    }

    #[cold]
    fn queue_for_seat(self: &Arc<Self>, seats: &Arc<Self>, class: Class, keys: Keys) -> Decision {
        match seats.queue(Class::DEFAULT, Keys::default()) {
            Ok(queued) => Decision::Later(Turn {
                queued,
                class,
                awaited: Awaited::Seat(Arc::clone(self), keys),
            }),
            Err(_) => self.refuse(class, Shed::ClassFull),
        }
    }

    #[cold]
    fn queue_for_place(
        self: &Arc<Self>,
        class: Class,
        keys: Keys,
        seat: Option<Box<Permit>>,
    ) -> Decision {
        match self.queue(class, keys) {
            Ok(queued) => Decision::Later(Turn {
                queued,
                class,
                awaited: Awaited::Place { seat },
            }),
            Err(reason) => self.refuse(class, reason),
        }
    }

    /// Has it wait, unless nobody may or too many do.
    fn queue(self: &Arc<Self>, class: Class, keys: Keys) -> Result<Queued, Shed> {
        self.may_wait().ok_or(Shed::Limit)?;
        Queued::join(self, class, keys, self.settings.max_waiters).ok_or(Shed::QueueFull)
    }

    pub(super) fn refuse(&self, class: Class, reason: Shed) -> Decision {
        self.shed(class, reason);
        Decision::Never(reason)
    }
}

impl Turn {
    /// Ready when its waiting is over: see [`Self::permit`].
    pub(super) fn poll(&mut self, cx: &Context<'_>) -> Poll<Result<(), Shed>> {
        loop {
            if !ready!(self.queued.poll_granted(cx)) {
                return Poll::Ready(Err(self.reason()));
            }
            let Awaited::Seat(limit, keys) = &self.awaited else {
                return Poll::Ready(Ok(()));
            };
            let seat = self.queued.take_permit().map(Box::new);
            self.queued = match limit.try_enter(self.class, *keys, false) {
                true => Queued::granted(limit, self.class, *keys),
                false => match limit.queue(self.class, *keys) {
                    Ok(queued) => queued,
                    Err(reason) => return Poll::Ready(Err(reason)),
                },
            };
            self.awaited = Awaited::Place { seat };
        }
    }

    /// The permit, if a place was granted.
    #[inline]
    pub(super) fn permit(&mut self) -> Option<Permit> {
        let permit = self.queued.take_permit()?;
        match &mut self.awaited {
            Awaited::Place { seat } => Some(permit.with_seat(seat.take())),
            Awaited::Seat(..) => None,
        }
    }

    /// Why it is refused if it waits no longer.
    pub(super) fn reason(&self) -> Shed {
        match self.awaited {
            Awaited::Seat(..) => Shed::ClassFull,
            Awaited::Place { .. } => Shed::WaitTimeout,
        }
    }

    /// Counts that it is refused.
    pub(super) fn note_refusal(&self, reason: Shed) {
        self.limit().shed(self.class, reason);
    }

    /// Whose queue it stands in.
    #[cfg(feature = "tokio")]
    pub(super) fn queue(&self) -> &Arc<Shared> {
        self.queued.limit().shared()
    }

    /// The limit that it needs a place of.
    pub(super) fn limit(&self) -> &Shared {
        match &self.awaited {
            Awaited::Seat(limit, _) => limit,
            Awaited::Place { .. } => self.queued.limit(),
        }
    }
}
