//! Which requests may take another time in a drain than the drain's own.

use std::{fmt, time::Duration};

use http::Request;

use crate::connection::{incoming::Incoming, table::budget::Budget};

type Judge = dyn Fn(&Request<Incoming>) -> Option<Duration> + Send + Sync;

/// What a request's budget is; nothing is asked unless somebody has said.
#[derive(Default)]
pub(crate) struct Budgets(Option<Box<Judge>>);

impl Budgets {
    pub(crate) fn new(
        judge: impl Fn(&Request<Incoming>) -> Option<Duration> + Send + Sync + 'static,
    ) -> Self {
        Self(Some(Box::new(judge)))
    }

    /// `None` if all have the same.
    #[inline]
    pub(crate) fn of(&self, request: &Request<Incoming>) -> Option<Budget> {
        let judge = self.0.as_ref()?;
        Some(judge(request).map_or(Budget::DRAINS, Budget::own))
    }
}

impl fmt::Debug for Budgets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Budgets").field(&self.0.is_some()).finish()
    }
}
