//! Where a configuration came from, so that it can be followed and shown.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use toml::{Table, Value};

#[cfg(feature = "reload")]
use super::schema;
use super::{Loader, Origin};

/// How a configuration was loaded; nothing for one that the program has made. It is no part of what a configuration says:
/// two that say the same are equal.
#[derive(Clone, Default)]
pub(crate) struct Source<C>(Option<Arc<Loaded<C>>>);

#[derive(Clone)]
pub(crate) struct Loaded<C> {
    #[cfg_attr(
        not(feature = "reload"),
        expect(dead_code, reason = "nothing is followed")
    )]
    pub(super) loader: Loader,
    /// What its file said.
    #[cfg_attr(
        not(feature = "reload"),
        expect(dead_code, reason = "nothing is followed")
    )]
    pub(super) text: Arc<str>,
    /// What it was laid over: the defaults of a profile, or those of the program.
    pub(super) base: C,
    /// What came of it, before the program changed anything.
    pub(super) config: Table,
    /// Where the keys were that are not from `base`.
    pub(super) origins: BTreeMap<String, Origin>,
}

impl<C> PartialEq for Source<C> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<C: Clone + Serialize> Source<C> {
    pub(super) fn new(
        loader: Loader,
        text: Arc<str>,
        base: C,
        config: &C,
        origins: BTreeMap<String, Origin>,
    ) -> Self {
        let config = table(config);
        Self(Some(Arc::new(Loaded {
            loader,
            text,
            base,
            config,
            origins,
        })))
    }

    pub(crate) fn loaded(&self) -> Option<&Loaded<C>> {
        self.0.as_deref()
    }

    /// The same where these keys have come from the newer source meanwhile.
    #[cfg(feature = "reload")]
    pub(super) fn after<'a>(&self, newer: &Self, keys: impl Iterator<Item = &'a str>) -> Self {
        let (Some(loaded), Some(newer)) = (self.loaded(), newer.loaded()) else {
            return self.clone();
        };
        let mut loaded = loaded.clone();
        for key in keys {
            let path: Vec<&str> = key.split('.').collect();
            if let Some(value) = schema::get(&newer.config, &path) {
                schema::set(&mut loaded.config, &path, value.clone());
            }
            match newer.origins.get(key) {
                Some(origin) => loaded.origins.insert(key.to_owned(), origin.clone()),
                None => loaded.origins.remove(key),
            };
        }
        Self(Some(Arc::new(loaded)))
    }
}

#[cfg(all(feature = "preset", feature = "reload"))]
impl<C: Serialize> Loaded<C> {
    /// The keys that have another value than what was loaded: those that the program has set.
    pub(super) fn set_by_program(&self, config: &C) -> Vec<String> {
        changed(&self.config, &table(config))
    }
}

pub(super) fn table(config: &impl Serialize) -> Table {
    Table::try_from(config).unwrap_or_default()
}

/// The keys that have another value there.
#[cfg(feature = "preset")]
pub(super) fn changed(old: &Table, new: &Table) -> Vec<String> {
    let mut keys = Vec::new();
    differences(old, new, &mut Vec::new(), &mut |key, _, _| keys.push(key));
    keys
}

/// Calls `found` with each key, its old value and its new one.
pub(super) fn differences(
    old: &Table,
    new: &Table,
    path: &mut Vec<String>,
    found: &mut impl FnMut(String, &Value, &Value),
) {
    for (name, new) in new {
        path.push(name.clone());
        match (old.get(name), new) {
            (Some(Value::Table(old)), Value::Table(new)) => differences(old, new, path, found),
            (Some(old), new) if old != new => found(path.join("."), old, new),
            _ => {}
        }
        path.pop();
    }
}
