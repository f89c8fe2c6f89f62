//! A request under way, and its body.

use std::{
    mem,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::{Body, Frame};

use super::{
    MemoryBudget, MemoryExhausted,
    account::{Account, SMALL, State},
    budget::Inner,
    policy::Owner,
};

/// A request with a body, until it is answered or given up.
pub(crate) struct Upload {
    kind: Kind,
    budget: Arc<Inner>,
}

enum Kind {
    /// So much is set aside for the whole of it, and nothing else is known of it.
    SetAside(u64),
    /// Its body has a [`Received`].
    Counted(Arc<Account>),
}

impl Upload {
    /// A request begins; `None` where its body is nothing to speak of.
    #[inline]
    pub(crate) fn begin(
        budget: &MemoryBudget,
        owner: impl FnOnce() -> Option<Owner>,
        body: &impl Body,
    ) -> Option<Self> {
        if budget.bytes() == 0 || body.is_end_stream() {
            return None;
        }
        let most = body.size_hint().upper();
        if most.is_some_and(|most| most <= SMALL) {
            return None;
        }
        let kind = match most.filter(|whole| budget.0.counts.set_aside(*whole)) {
            Some(whole) => Kind::SetAside(whole),
            None => Kind::Counted(Arc::new(budget.0.account(owner(), most))),
        };
        let budget = Arc::clone(&budget.0);
        Some(Self { kind, budget })
    }

    #[inline]
    fn account(&self) -> Option<&Arc<Account>> {
        match &self.kind {
            Kind::SetAside(_) => None,
            Kind::Counted(account) => Some(account),
        }
    }

    /// By which its body counts what comes, if it is to.
    #[inline]
    pub(crate) fn received(&self) -> Option<Received> {
        let account = Arc::clone(self.account()?);
        let budget = Arc::clone(&self.budget);
        Some(Received { account, budget })
    }

    /// Whether it was ended, to make room for others.
    #[inline]
    pub(crate) fn is_ended(&self) -> bool {
        self.account().is_some_and(|account| account.is_ended())
    }

    /// Its handler waits: it is woken should the request be ended.
    #[inline]
    pub(crate) fn handler_waits(&self, cx: &Context<'_>) {
        if let Some(account) = self.account() {
            account.handler_waits(cx.waker());
        }
    }
}

impl Drop for Upload {
    #[inline]
    fn drop(&mut self) {
        match &self.kind {
            Kind::SetAside(whole) => {
                self.budget.counts.give_up(*whole);
                self.budget.give_back(*whole);
            }
            Kind::Counted(account) => Self::end(account, &self.budget),
        }
    }
}

impl Upload {
    fn end(account: &Account, budget: &Inner) {
        let (mut wakers, mut kept, mut place) = ((None, None), 0, None);
        account.change(|state| {
            account.set_eases(false);
            wakers = (state.waits.take(), state.handler.take());
            (state.unfollowed, state.whole) = (0, None);
            state.is_answered = true;
            kept = mem::take(&mut state.kept);
            place = state.place.take();
        });
        account.forget_eased();
        budget.counts.keep(kept, 0);
        if wakers.0.is_some() {
            budget.counts.waits_no_more();
        }
        if let Some(place) = place {
            budget.strike(place);
        }
        // A body that is read without its handler.
        wakers.0.into_iter().for_each(Waker::wake);
    }
}

/// What a body has received.
pub(crate) struct Received {
    account: Arc<Account>,
    budget: Arc<Inner>,
}

impl Received {
    /// Whether it may read on.
    #[inline]
    pub(super) fn poll_turn(&self, cx: &Context<'_>) -> Poll<Result<(), MemoryExhausted>> {
        let Self { account, budget } = self;
        if account.is_ended() {
            return Poll::Ready(Err(MemoryExhausted(())));
        }
        if !budget.counts.is_scarce() {
            return Poll::Ready(Ok(()));
        }
        self.poll_scarce(cx)
    }

    #[cold]
    fn poll_scarce(&self, cx: &Context<'_>) -> Poll<Result<(), MemoryExhausted>> {
        let Self { account, budget } = self;
        {
            let state = account.state();
            // Nothing is to come of one that is whole but its end.
            if !state.is_listed || state.is_answered || state.whole.is_some() {
                return Poll::Ready(Ok(()));
            }
        }
        let keeps_none = |state: &mut State| {
            state.consumes = state.follows && state.live == 0;
            if state.consumes {
                state.unfollowed = 0;
            }
        };
        budget.give_back(account.change(keeps_none));
        match budget.ask(account, cx.waker()) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) if account.is_ended() => Poll::Ready(Err(MemoryExhausted(()))),
            Poll::Ready(()) => Poll::Ready(Ok(())),
        }
    }

    /// A frame came.
    #[inline]
    pub(super) fn frame(&self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let Some(data) = frame.data_ref() else {
            self.end();
            return frame;
        };
        let bytes = data.len() as u64;
        let received = self.account.receive(bytes);
        match received <= SMALL || self.account.count_at_ease(bytes) {
            true => frame,
            false => self.follow(frame, received),
        }
    }

    /// Follows it if memory is scarce, or whoever reads it answers to nobody any more.
    fn follow(&self, frame: Frame<Bytes>, received: u64) -> Frame<Bytes> {
        let Self { account, budget } = self;
        let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
        let (mut begins, mut follow, mut waited, mut came) = (false, false, None, 0);
        let back = account.change(|state| {
            // It was polled for another reason, when it need not wait any more.
            waited = state.waits.take();
            state.starves = false;
            came = state.kept.min(bytes);
            state.kept -= came;
            if !state.is_listed {
                state.is_listed = true;
                if !state.is_answered {
                    begins = true;
                    state.unfollowed = received;
                    return;
                }
            }
            if state.follows && state.live == 0 {
                (state.unfollowed, state.follows) = (0, false);
            }
            follow = state.is_answered || !budget.counts.is_at_ease();
            if follow {
                state.follows = true;
                state.live += bytes;
            } else {
                state.unfollowed += bytes;
            }
        });
        if begins {
            budget.enlist(account);
        }
        budget.counts.keep(came, 0);
        if waited.is_some() {
            budget.counts.waits_no_more();
        }
        budget.give_back(back);
        if !follow {
            return frame;
        }
        frame.map_data(|data| {
            Bytes::from_owner(Followed {
                data,
                account: Arc::clone(account),
                budget: Arc::clone(budget),
            })
        })
    }

    /// Whether its client has sent as much as it said that it would.
    #[inline]
    pub(super) fn is_whole(&self) -> Option<bool> {
        self.account.left().map(|left| left == 0)
    }

    /// All of it came, or as much as ever will.
    pub(super) fn end(&self) {
        self.account.change(|state| {
            if !state.is_answered && state.whole.is_none() {
                state.whole = Some(state.live);
            }
        });
    }
}

/// A frame that counts for as long as it is there.
struct Followed {
    data: Bytes,
    account: Arc<Account>,
    budget: Arc<Inner>,
}

impl AsRef<[u8]> for Followed {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let bytes = self.data.len() as u64;
        // Before it is counted as gone.
        drop(mem::take(&mut self.data));
        let back = self.account.change(|state| state.live -= bytes);
        self.budget.give_back(back);
    }
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let held = match &self.kind {
            Kind::SetAside(whole) => *whole,
            Kind::Counted(account) => account.held(),
        };
        f.debug_tuple("Upload").field(&held).finish()
    }
}
