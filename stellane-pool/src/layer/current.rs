use std::cell::Cell;

use http::Extensions;

use crate::Pools;

thread_local! {
    static CURRENT: Cell<Option<Pools>> = const { Cell::new(None) };
}

impl Pools {
    /// The pools of the [`PoolLayer`](crate::PoolLayer) whose handler is running, if there is one.
    ///
    /// They are there wherever the handler's own code runs, before and after each `await`; not on
    /// other threads or in tasks it spawns, nor behind a layer that runs the handler on another thread.
    /// There, take them before, or use [`PoolLayer::with_extension`](crate::PoolLayer::with_extension).
    pub fn current() -> Option<Self> {
        CURRENT
            .try_with(|current| {
                let pools = current.take();
                current.set(pools.clone());
                pools
            })
            .ok()
            .flatten()
    }

    /// [`Pools::current`], else the pools in the request's extensions.
    pub fn of(extensions: &Extensions) -> Option<Self> {
        Self::current().or_else(|| extensions.get().cloned())
    }
}

/// Makes `pools` the current ones until the result is dropped, and puts them back into their place then, also
/// when what runs between panics. No closure: that would move a request, or a response, once more.
#[inline]
pub(super) fn enter(pools: &mut Option<Pools>) -> Leave<'_> {
    let outer = swap(pools.take());
    Leave { pools, outer }
}

pub(super) struct Leave<'a> {
    pools: &'a mut Option<Pools>,
    outer: Option<Pools>,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        *self.pools = swap(self.outer.take());
    }
}

#[inline]
fn swap(pools: Option<Pools>) -> Option<Pools> {
    // A thread that is ending has no handler to serve.
    CURRENT
        .try_with(|current| current.replace(pools))
        .ok()
        .flatten()
}
