use serde_json::Value;

use crate::admin::Admin;

/// What `/runtime.json` says, and what else is shown of the other pages.
///
/// Fields are looked up by name, so that a service of another version shows what it has.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    json: Value,
}

impl Snapshot {
    pub(super) fn new(json: Value) -> Self {
        Self { json }
    }

    /// The number at a path such as `connections.active`.
    pub(super) fn number(&self, path: &str) -> Option<f64> {
        self.value(path)?.as_f64()
    }

    /// The sum of the numbers of a map, such as the reasons of sheds.
    pub(super) fn sum(&self, path: &str) -> Option<f64> {
        match self.value(path)? {
            // From zero: the sum of nothing is -0 otherwise.
            Value::Object(map) => Some(
                map.values()
                    .filter_map(Value::as_f64)
                    .fold(0.0, |a, b| a + b),
            ),
            value => value.as_f64(),
        }
    }

    pub(super) fn list(&self, path: &str) -> &[Value] {
        let list = self.value(path).and_then(Value::as_array);
        list.map_or(&[], Vec::as_slice)
    }

    pub(super) fn json(&self) -> &Value {
        &self.json
    }

    pub(super) fn value(&self, path: &str) -> Option<&Value> {
        path.split('.')
            .try_fold(&self.json, |value, key| value.get(key))
    }
}

/// Asks the admin service, also whether it is ready, what its routes do, what was slow and what its tuner did.
///
/// # Errors
/// What to do about it, in one line.
pub(super) fn fetch(admin: &Admin) -> Result<Snapshot, String> {
    let mut json = admin.runtime()?;
    if let Ok((status @ (200 | 503), _)) = admin.get("/readyz") {
        json["ready"] = (status == 200).into();
    }
    for page in ["about", "routes", "requests", "tuning"] {
        if let Some(value) = admin.json(&format!("/{page}")) {
            json[page] = value;
        }
    }
    Ok(Snapshot::new(json))
}
