//! What of an answer its client has not read.

use std::{
    mem,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::Frame;

use super::{MemoryBudget, budget::Inner};

/// Smaller pieces are not counted.
const SMALL: usize = 4 << 10;
/// Larger ones only if nobody else holds them as well: a file in a cache is not the answer's.
const SHARED: usize = 128 << 10;
/// What an answer may have written ahead of its client when memory is scarce.
const AHEAD: u64 = 16 << 10;

/// The pieces of an answer that are not sent yet: nothing before the first that is large.
#[derive(Default)]
pub(crate) struct Unsent(Option<Arc<Account>>);

struct Account {
    budget: Arc<Inner>,
    bytes: AtomicU64,
    waits: Mutex<Option<Waker>>,
}

impl Unsent {
    /// Whether another piece may be made: when memory is scarce, once most of those before it are sent.
    #[inline]
    pub(crate) fn poll_turn(&self, cx: &Context<'_>) -> Poll<()> {
        match &self.0 {
            Some(account) if account.budget.counts.answers_wait() => account.poll_turn(cx),
            _ => Poll::Ready(()),
        }
    }

    /// What goes out now.
    #[inline]
    pub(crate) fn count<E>(
        &mut self,
        budget: &MemoryBudget,
        frame: &mut Option<Result<Frame<Bytes>, E>>,
    ) {
        if let Some(Ok(frame)) = frame
            && let Some(data) = frame.data_mut()
            && data.len() >= SMALL
        {
            *data = self.piece(budget, mem::take(data));
        }
    }

    fn piece(&mut self, budget: &MemoryBudget, data: Bytes) -> Bytes {
        let counts = data.len() <= SHARED || data.is_unique();
        if !counts || budget.bytes() == 0 {
            return data;
        }
        let account = self.0.get_or_insert_with(|| {
            Arc::new(Account {
                budget: Arc::clone(&budget.0),
                bytes: AtomicU64::new(0),
                waits: Mutex::default(),
            })
        });
        account.budget.counts.count_answer(data.len() as u64);
        account.bytes.fetch_add(data.len() as u64, Relaxed);
        Bytes::from_owner(Piece {
            data,
            account: Arc::clone(account),
        })
    }
}

impl Account {
    #[cold]
    fn poll_turn(&self, cx: &Context<'_>) -> Poll<()> {
        let is_read = || self.bytes.load(Relaxed) <= AHEAD;
        if is_read() {
            return Poll::Ready(());
        }
        let before = self.waits().replace(cx.waker().clone());
        drop(before);
        // It may have been sent in that moment.
        match is_read() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    fn waits(&self) -> std::sync::MutexGuard<'_, Option<Waker>> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Piece {
    data: Bytes,
    account: Arc<Account>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let bytes = self.data.len() as u64;
        drop(mem::take(&mut self.data));
        let account = &self.account;
        account.bytes.fetch_sub(bytes, Relaxed);
        let waker = account.waits().take();
        account.budget.answer_was_read(bytes);
        waker.into_iter().for_each(Waker::wake);
    }
}
