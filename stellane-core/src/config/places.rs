use std::collections::BTreeMap;

use toml::Value;

use super::{
    Origin, RuntimeConfig,
    source::{changed, differences, table},
};

/// Where the keys have their values from that do not have the default; `in_force` is what the handles say now.
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
