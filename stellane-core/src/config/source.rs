//! Where a configuration came from, so that it can be followed and shown.

use std::{collections::BTreeMap, sync::Arc};

use toml::{Table, Value};

use super::{Loader, Origin, RuntimeConfig, schema};

/// How a configuration was loaded; nothing for one that the program has made. It is no part of what a configuration says:
/// two that say the same are equal.
#[derive(Clone, Default)]
pub(crate) struct Source(Option<Arc<Loaded>>);

#[derive(Clone)]
pub(crate) struct Loaded {
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
    pub(super) base: RuntimeConfig,
    /// What came of it, before the program changed anything.
    config: Table,
    /// Where the keys were that are not from `base`.
    origins: BTreeMap<String, Origin>,
}

impl PartialEq for Source {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Source {
    pub(super) fn new(
        loader: Loader,
        text: Arc<str>,
        base: RuntimeConfig,
        config: &RuntimeConfig,
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

    pub(crate) fn loaded(&self) -> Option<&Loaded> {
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
impl Loaded {
    /// The keys that have another value than what was loaded: those that the program has set.
    pub(super) fn set_by_program(&self, config: &RuntimeConfig) -> Vec<String> {
        changed(&self.config, &table(config))
    }
}

pub(super) fn table(config: &RuntimeConfig) -> Table {
    Table::try_from(config).unwrap_or_default()
}

/// The keys that have another value there.
#[cfg(feature = "preset")]
fn changed(old: &Table, new: &Table) -> Vec<String> {
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

/// Where the keys have their values from that do not have the default; `in_force` is what the handles say now.
#[cfg(all(feature = "admin", feature = "preset"))]
pub(crate) fn places(
    config: &RuntimeConfig,
    in_force: &RuntimeConfig,
    changed_by: impl Fn(&str, &Value) -> &'static str,
) -> BTreeMap<String, String> {
    let mut places = BTreeMap::new();
    let (defaults, written) = (table(&RuntimeConfig::default()), table(config));
    let base = config.source.loaded().map(|loaded| &loaded.base);
    let base = base.map_or_else(|| defaults.clone(), table);
    let mut note = |keys: Vec<String>, place: &dyn Fn(&str) -> String| {
        for key in keys {
            let place = place(&key);
            places.insert(key, place);
        }
    };
    // From the weakest to the strongest.
    note(changed(&defaults, &base), &|_| "profile".to_owned());
    match config.source.loaded() {
        None => note(changed(&defaults, &written), &|_| "program".to_owned()),
        Some(loaded) => {
            let keys = loaded.origins.keys().cloned().collect();
            note(keys, &|key| match &loaded.origins[key] {
                Origin::Env(name) => format!("environment {name}"),
                origin => origin.to_string(),
            });
            note(changed(&loaded.config, &written), &|_| "program".to_owned());
        }
    }
    let now = table(in_force);
    differences(&written, &now, &mut Vec::new(), &mut |key, _, value| {
        let place = changed_by(&key, value).to_owned();
        places.insert(key, place);
    });
    places
}
