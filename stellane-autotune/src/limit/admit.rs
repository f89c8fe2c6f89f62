use std::{
    sync::Arc,
    task::{Context, Poll},
};

#[cfg(feature = "tokio")]
use super::shared::Shared;
use super::{AdaptiveLimit, Class, Permit, Shed, keys::Keys, shared::Own, wait::Queued};

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
    keys: Keys,
    awaited: Awaited,
}

enum Awaited {
    Seat(Arc<Own>),
    Place { seat: Option<Permit> },
}

impl AdaptiveLimit {
    pub(super) fn admit(&self, class: Class, keys: Keys) -> Decision {
        let seats = match self.take_seat(class) {
            Ok(seat) => return self.admit_seated(class, keys, seat),
            Err(seats) => seats,
        };
        let awaited = Awaited::Seat(Arc::clone(seats));
        self.queue(class, keys, awaited).unwrap_or_else(|| {
            self.shared.shed(class, Shed::ClassFull);
            Decision::Never(Shed::ClassFull)
        })
    }

    /// A seat of the class, if it has a limit of its own; that limit, if none is free.
    pub(super) fn take_seat(&self, class: Class) -> Result<Option<Permit>, &Arc<Own>> {
        let Some(seats) = self.shared.seats(class) else {
            return Ok(None);
        };
        let (class, keys) = (Class::DEFAULT, Keys::default());
        match seats.try_enter(class, keys, false) {
            true => Ok(Some(Permit::new(Arc::clone(seats), class, keys))),
            false => Err(seats),
        }
    }

    fn admit_seated(&self, class: Class, keys: Keys, seat: Option<Permit>) -> Decision {
        let shared = &self.shared;
        if shared.try_enter(class, keys, false) {
            let permit = Permit::new(Arc::clone(self.own()), class, keys);
            return Decision::Now(permit.with_seat(seat));
        }
        let reason = match shared.may_wait() {
            Some(_) => Shed::QueueFull,
            None => Shed::Limit,
        };
        self.queue(class, keys, Awaited::Place { seat })
            .unwrap_or_else(|| {
                shared.shed(class, reason);
                Decision::Never(reason)
            })
    }

    /// None if it may not wait, or too many do.
    fn queue(&self, class: Class, keys: Keys, awaited: Awaited) -> Option<Decision> {
        let max_waiters = self.settings.max_waiters;
        let queued = match &awaited {
            Awaited::Seat(seats) => {
                seats.may_wait()?;
                Queued::join(seats, Class::DEFAULT, Keys::default(), max_waiters)
            }
            Awaited::Place { .. } => {
                self.shared.may_wait()?;
                Queued::join(self.own(), class, keys, max_waiters)
            }
        };
        Some(Decision::Later(Turn {
            queued: queued?,
            class,
            keys,
            awaited,
        }))
    }
}

impl Turn {
    pub(super) fn class(&self) -> Class {
        self.class
    }

    pub(super) fn poll_granted(&self, cx: &mut Context<'_>) -> Poll<bool> {
        self.queued.poll_granted(cx)
    }

    /// Whose queue it stands in.
    #[cfg(feature = "tokio")]
    pub(super) fn queue_of<'a>(&'a self, limit: &'a AdaptiveLimit) -> &'a Arc<Shared> {
        match &self.awaited {
            Awaited::Seat(seats) => seats.shared(),
            Awaited::Place { .. } => &limit.shared,
        }
    }

    /// Why it is refused if it waits no longer.
    pub(super) fn reason(&self) -> Shed {
        match self.awaited {
            Awaited::Seat(_) => Shed::ClassFull,
            Awaited::Place { .. } => Shed::WaitTimeout,
        }
    }

    /// What comes next, once it was granted.
    pub(super) fn proceed(self, limit: &AdaptiveLimit) -> Decision {
        let permit = self.queued.into_permit();
        match self.awaited {
            Awaited::Seat(_) => limit.admit_seated(self.class, self.keys, Some(permit)),
            Awaited::Place { seat } => Decision::Now(permit.with_seat(seat)),
        }
    }
}
