use std::{
    collections::HashMap,
    fmt, mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Poll, Waker},
};

use super::{
    Budget, ConfigError, MemoryConfig,
    account::Account,
    counts::{Counts, MemoryStats},
    policy::{self, Decision, Owner, Scene},
};

/// Counts the bytes that bodies hold, and sees to it that they stay within what there is for them; a cheap handle. See the
/// [module](super).
#[derive(Clone)]
pub struct MemoryBudget(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) counts: Arc<Counts>,
    uploads: Mutex<Uploads>,
    last: AtomicU64,
    /// Bytes given back since it was looked who may read on.
    given_back: AtomicU64,
}

/// Those that hold more than a little. Each knows its place, which costs less than to look for it.
#[derive(Default)]
struct Uploads {
    places: Vec<Option<Weak<Account>>>,
    free: Vec<usize>,
}

impl Uploads {
    fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    fn list(&self) -> Vec<Arc<Account>> {
        let listed = self.places.iter().flatten();
        listed.filter_map(Weak::upgrade).collect()
    }
}

impl MemoryBudget {
    /// Of so many bytes; 0 is off.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        Self(Arc::new(Inner {
            counts: Arc::new(Counts::new(bytes)),
            uploads: Mutex::default(),
            last: AtomicU64::new(0),
            given_back: AtomicU64::new(0),
        }))
    }

    /// By configuration.
    pub fn builder() -> MemoryBudgetBuilder {
        MemoryBudgetBuilder::default()
    }

    /// How many bytes there are; 0 is off.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.counts.bytes()
    }

    /// From now on there are so many; 0 is off for requests that begin now.
    pub fn set_bytes(&self, bytes: u64) {
        self.0.counts.set_bytes(bytes);
        self.0.look();
    }

    /// What it counts.
    #[must_use]
    pub fn stats(&self) -> MemoryStats {
        self.0.counts.stats()
    }

    /// Counts bytes of one's own, such as what a handler makes of a body, until this is dropped. Uploads wait for them. None
    /// is ended in their place, unless it has waited for ten seconds: nobody waits for ever for what is never given back.
    pub fn hold(&self, bytes: u64) -> Held {
        self.0.counts.count_own(0, bytes);
        Held {
            budget: Arc::clone(&self.0),
            bytes,
        }
    }

    /// Says whether the process has little memory left, by whatever measure: uploads then go on one by one, so that what
    /// is not counted here grows slowly. Nobody is ended for it.
    pub fn set_squeezed(&self, squeezed: bool) {
        self.0.counts.set_squeezed(squeezed);
    }

    /// Says what the system holds for the sockets of the process, as far as it tells: a control group of version 2 does. It
    /// is in the [stats](Self::stats), and nobody waits or is ended for it.
    pub fn set_sockets(&self, bytes: u64) {
        self.0.counts.set_sockets(bytes);
    }

    /// Whether three quarters are held, with what the system holds for sockets, or uploads wait for each other: as little as
    /// possible is then to lie in buffers.
    #[must_use]
    pub fn is_near(&self) -> bool {
        self.0.counts.is_near()
    }

    /// Looks whether those that wait may read on: to be called about twice a second, so that nobody waits for a client
    /// that sends nothing. The `Runtime` does.
    pub fn look(&self) {
        if self.0.counts.waiting() > 0 {
            let listed = self.0.uploads().list();
            for upload in listed {
                upload.look();
            }
        }
        self.0.look();
    }
}

impl Inner {
    pub(super) fn account(self: &Arc<Self>, owner: Option<Owner>, length: Option<u64>) -> Account {
        let id = self.last.fetch_add(1, Relaxed);
        Account::new(&self.counts, id, owner, length)
    }

    pub(super) fn answer_was_read(&self, bytes: u64) {
        self.counts.answer_was_read(bytes);
        self.give_back(bytes);
    }

    fn uploads(&self) -> MutexGuard<'_, Uploads> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts it into the list, unless it was answered in this moment.
    pub(super) fn enlist(&self, upload: &Arc<Account>) {
        let mut uploads = self.uploads();
        let mut state = upload.state();
        if state.is_answered {
            return;
        }
        let place = uploads.free.pop().unwrap_or(uploads.places.len());
        if place == uploads.places.len() {
            uploads.places.push(None);
        }
        uploads.places[place] = Some(Arc::downgrade(upload));
        state.place = Some(place);
        upload.set_eases(true);
    }

    pub(super) fn strike(&self, place: usize) {
        let mut uploads = self.uploads();
        uploads.places[place] = None;
        uploads.free.push(place);
        drop(uploads);
        self.look();
    }

    /// Bytes came back: now and then it is looked who may read on.
    pub(super) fn give_back(&self, bytes: u64) {
        if self.counts.waiting() == 0 {
            return;
        }
        let given_back = self.given_back.fetch_add(bytes, Relaxed) + bytes;
        if given_back >= self.counts.bytes() / 64 {
            self.look();
        }
    }

    /// Whether an upload may read on. If it has to wait, this waker is woken when it is to ask again.
    #[cold]
    pub(super) fn ask(&self, upload: &Account, waker: &Waker) -> Poll<()> {
        let (bytes, room) = (self.counts.bytes(), self.counts.room());
        // Room is kept for it, whatever the others take that need not ask.
        if upload.goes() {
            return Poll::Ready(());
        }
        let allowance = policy::allowance(bytes, self.uploads().len());
        if let Some(piece) = upload.row().piece_at_once(allowance, bytes, room) {
            upload.keep(piece);
            return Poll::Ready(());
        }
        if upload.begin_to_wait(waker) {
            self.counts.count_wait();
        }
        self.look();
        match upload.waits() {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }

    /// Looks who of those that wait may read on, and who is ended.
    pub(super) fn look(&self) {
        if self.counts.waiting() == 0 {
            return;
        }
        self.given_back.store(0, Relaxed);
        // Nobody else decides meanwhile. What is woken and dropped is so after it, since it may do anything.
        let mut woken = Vec::new();
        let uploads = self.uploads();
        let listed = uploads.list();
        if self.counts.is_scarce() {
            let rows: Vec<_> = listed.iter().map(|upload| upload.row()).collect();
            let scene = Scene {
                budget: self.counts.bytes(),
                held: self.counts.held(),
                room: self.counts.room(),
                squeezed: self.counts.is_squeezed(),
                others: self.counts.others(),
                uploads: &rows,
            };
            let Decision { go, end } = scene.decide();
            let by_id: HashMap<_, _> = listed.iter().map(|upload| (upload.id, upload)).collect();
            for (upload, kept) in go
                .iter()
                .filter_map(|(id, kept)| Some((by_id.get(id)?, *kept)))
            {
                woken.extend(upload.go_on(kept));
            }
            for upload in end.iter().filter_map(|id| by_id.get(id)) {
                self.counts.count_end();
                woken.extend(upload.end());
            }
        } else {
            for upload in &listed {
                woken.extend(upload.go_on(0));
            }
        }
        drop(uploads);
        woken.into_iter().for_each(Waker::wake);
        drop(listed);
    }
}

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemoryBudget").field(&self.stats()).finish()
    }
}

/// Bytes that are [held](MemoryBudget::hold) until this is dropped.
#[must_use = "they are given back when it is dropped"]
pub struct Held {
    budget: Arc<Inner>,
    bytes: u64,
}

impl Held {
    /// From now on it is so many.
    pub fn set(&mut self, bytes: u64) {
        let before = mem::replace(&mut self.bytes, bytes);
        self.budget.counts.count_own(before, bytes);
        self.budget.give_back(before.saturating_sub(bytes));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.counts.count_own(self.bytes, 0);
        self.budget.give_back(self.bytes);
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Held").field(&self.bytes).finish()
    }
}

/// Makes a [`MemoryBudget`].
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct MemoryBudgetBuilder {
    config: MemoryConfig,
    limit: Option<u64>,
}

impl MemoryBudgetBuilder {
    /// With these settings.
    pub fn config(mut self, config: MemoryConfig) -> Self {
        self.config = config;
        self
    }

    /// Of so many bytes.
    pub fn bytes(mut self, bytes: u64) -> Self {
        self.config.budget = Budget::Bytes(bytes);
        self
    }

    /// What the process may use, of which [`Budget::Auto`] takes a part. Without it there is no limit.
    pub fn limit(mut self, bytes: u64) -> Self {
        self.limit = Some(bytes);
        self
    }

    /// Makes it.
    ///
    /// # Errors
    /// A setting is out of range.
    pub fn build(self) -> Result<MemoryBudget, BuildError> {
        self.config.validate().map_err(BuildError)?;
        Ok(MemoryBudget::new(self.config.budget.bytes(self.limit)))
    }
}

/// Why there is no [`MemoryBudget`]: settings that are out of range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildError(Vec<ConfigError>);

impl BuildError {
    /// Each of them.
    #[must_use]
    pub fn errors(&self) -> &[ConfigError] {
        &self.0
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errors: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&errors.join("; "))
    }
}

impl std::error::Error for BuildError {}
