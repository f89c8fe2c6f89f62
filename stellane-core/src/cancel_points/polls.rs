//! Polls a future up to a point.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use tokio::task::coop;

use super::spy::Spy;

/// How far it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    /// To the point.
    Point,
    /// To its end, before the point.
    End,
    /// To a wait for something that does not come, before the point.
    Nothing,
}

/// Polls until it has waited so many times.
pub(super) async fn until_wait<F: Future>(
    mut future: Pin<&mut F>,
    point: usize,
    spy: &Arc<Spy>,
) -> Reached {
    let mut waits = 0;
    poll_fn(|cx| {
        if spy.poll(future.as_mut(), cx).is_ready() {
            return Poll::Ready(Reached::End);
        }
        waits += 1;
        if waits == point {
            return Poll::Ready(Reached::Point);
        }
        Poll::Pending
    })
    .await
}

/// Polls in vain until more of the budget is given: some operations need more than one unit in one poll.
const PATIENCE: usize = 64;

/// Polls with a budget for one operation at a time, until all but one of so many were done and it waits for the next. Polls
/// that do no operation do not count, so that a thread that is sometimes faster changes nothing.
pub(super) async fn until_operation<F: Future>(
    mut future: Pin<&mut F>,
    point: usize,
    spy: &Arc<Spy>,
) -> Reached {
    let mut done = 0;
    let mut in_vain = 0;
    poll_fn(|cx| {
        let is_last = done + 1 == point;
        // The operation of the point may not even begin.
        let units = usize::from(!is_last) + in_vain / PATIENCE;
        ready!(leave_budget(units, cx));
        let before = budget();
        if spy.poll(future.as_mut(), cx).is_ready() {
            return Poll::Ready(Reached::End);
        }
        if is_last {
            return Poll::Ready(Reached::Point);
        }
        let left = budget();
        let progress = left < before;
        done += usize::from(progress);
        in_vain = if progress { 0 } else { in_vain + 1 };
        if progress || left == 0 {
            // It may be the budget that it waits for.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await
}

/// What is left of tokio's budget for this poll. One learns it by using it; who drops a token without having made progress
/// puts it back as it was when the token was given, so the first of them puts back all.
fn budget() -> usize {
    let mut cx = Context::from_waker(Waker::noop());
    let mut tokens = Vec::new();
    while coop::has_budget_remaining()
        && let Poll::Ready(token) = coop::poll_proceed(&mut cx)
    {
        tokens.push(token);
    }
    let units = tokens.len();
    while tokens.pop().is_some() {}
    units
}

/// Uses up all but that.
fn leave_budget(units: usize, cx: &mut Context<'_>) -> Poll<()> {
    for _ in units..budget() {
        ready!(coop::poll_proceed(cx)).made_progress();
    }
    Poll::Ready(())
}

/// Time is paused: it goes on when nothing can run and no thread has work. So this comes after whatever may still happen.
const AFTER_ALL: Duration = Duration::from_secs(50 * 365 * 24 * 3600);

pub(super) async fn or_nothing_happens(polled: impl Future<Output = Reached>) -> Reached {
    tokio::select! {
        biased;
        () = coop::unconstrained(tokio::time::sleep(AFTER_ALL)) => Reached::Nothing,
        reached = polled => reached,
    }
}

/// What was spawned runs until it waits, and what runs on threads until it is done.
pub(super) async fn settle() {
    for _ in 0..3 {
        // It can't be cancelled, and does not panic.
        let _ = tokio::task::spawn_blocking(|| ()).await;
        for _ in 0..64 {
            tokio::task::yield_now().await;
        }
    }
}
