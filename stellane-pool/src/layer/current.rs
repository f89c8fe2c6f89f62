use std::{cell::Cell, mem::ManuallyDrop};

use http::Extensions;

use crate::Pools;

thread_local! {
    /// Never dropped where they are, since a thread-local that has to be costs a look at every access: who puts them
    /// there takes them back.
    static CURRENT: Cell<Option<ManuallyDrop<Pools>>> = const { Cell::new(None) };
}

impl Pools {
    /// The pools of the [`PoolLayer`](crate::PoolLayer) whose handler is running, if there is one.
    ///
    /// They are there wherever the handler's own code runs, before and after each `await`, also on the workers of a
    /// `WorkerPoolLayer`; not on other threads or in tasks it spawns, nor behind another layer that runs the handler on
    /// another thread. There, take them before, or use [`PoolLayer::with_extension`](crate::PoolLayer::with_extension).
    pub fn current() -> Option<Self> {
        let pools = CURRENT.take();
        let current = pools.as_deref().cloned();
        CURRENT.set(pools);
        current
    }

    /// [`Pools::current`], else the pools in the request's extensions.
    pub fn of(extensions: &Extensions) -> Option<Self> {
        Self::current().or_else(|| extensions.get().cloned())
    }
}

/// Makes pools the current ones, again and again: what [`PoolLayer`](crate::PoolLayer) does, for a service that
/// wraps futures anyway. Only making one changes the reference count of the pools.
///
/// ```
/// use stellane_pool::{Pools, embed::PoolScope};
///
/// let pools = Pools::builder().build()?;
/// let mut scope = PoolScope::new(&pools);
/// let entered = scope.enter(); // around the call, and around each poll of the future
/// assert!(Pools::current().is_some());
/// drop(entered);
/// assert!(Pools::current().is_none());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct PoolScope {
    // While somebody is inside, those that were the current ones before.
    pools: Option<Pools>,
}

impl PoolScope {
    /// A scope of these pools.
    pub fn new(pools: &Pools) -> Self {
        Self {
            pools: Some(pools.clone()),
        }
    }

    /// Makes the pools the current ones until the result is dropped, and puts them back into their place then, also
    /// when what runs between panics. No closure: that would move a request, or a response, once more.
    #[inline]
    pub fn enter(&mut self) -> InPoolScope<'_> {
        self.swap();
        InPoolScope { scope: self }
    }

    #[inline]
    fn swap(&mut self) {
        let pools = self.pools.take().map(ManuallyDrop::new);
        self.pools = CURRENT.replace(pools).map(ManuallyDrop::into_inner);
    }
}

/// While it lives, the pools of a [`PoolScope`] are the current ones.
#[derive(Debug)]
#[must_use = "the pools are the current ones only while it lives"]
pub struct InPoolScope<'a> {
    scope: &'a mut PoolScope,
}

impl Drop for InPoolScope<'_> {
    #[inline]
    fn drop(&mut self) {
        self.scope.swap();
    }
}
