//! The JSON Schema of the configuration file, read off the defaults and their documentation.

use serde_json::{Map, Value, json};
use toml::Table;

use stellane_core::config::{REFERENCE, RuntimeConfig};

/// The schema: types from the serialised defaults, meanings from the reference, and the names of an
/// enum or the form of a duration from what deserialising accepts.
pub(super) fn json_schema() -> Value {
    let defaults = Table::try_from(RuntimeConfig::default()).unwrap_or_default();
    let mut schema = section(&defaults, &mut Vec::new(), &defaults);
    schema.insert(
        "$schema".into(),
        "https://json-schema.org/draft/2020-12/schema".into(),
    );
    schema.insert("title".into(), "Stellane configuration".into());
    Value::Object(schema)
}

fn section(table: &Table, path: &mut Vec<String>, defaults: &Table) -> Map<String, Value> {
    let mut properties = Map::new();
    for (name, value) in table {
        path.push(name.clone());
        let mut property = match value {
            toml::Value::Table(table) => section(table, path, defaults),
            value => leaf(value, path, defaults),
        };
        if let Some(text) = description(&path.join(".")) {
            property.insert("description".into(), text.into());
        }
        properties.insert(name.clone(), Value::Object(property));
        path.pop();
    }
    // A section that is empty by default has names of the user's own.
    let free = table.is_empty();
    object(json!({ "type": "object", "additionalProperties": free, "properties": properties }))
}

fn leaf(value: &toml::Value, path: &[String], defaults: &Table) -> Map<String, Value> {
    let accepts = |value: toml::Value| probe(defaults, path, value);
    let mut schema = object(match value {
        toml::Value::Integer(_) => {
            let mut integer = json!({ "type": "integer" });
            if accepts(toml::Value::Integer(-1)).is_err() {
                integer["minimum"] = 0.into();
            }
            if path.last().is_some_and(|key| key.ends_with("_bytes")) {
                json!({ "anyOf": [integer, { "type": "string", "pattern": "^[0-9.]+ ?([KMGTP]i?)?B?$" }] })
            } else {
                integer
            }
        }
        toml::Value::Float(_) => json!({ "type": "number" }),
        toml::Value::Boolean(_) => json!({ "type": "boolean" }),
        toml::Value::Array(_) => json!({ "type": "array" }),
        _ => match accepts(toml::Value::String("?".into())) {
            Ok(()) => json!({ "type": "string" }),
            Err(message) if message.contains("unknown variant") => {
                json!({ "enum": quoted(&message).skip(1).collect::<Vec<_>>() })
            }
            Err(_) => json!({ "type": "string", "format": "duration, such as 30s, 5m or 1h 30m" }),
        },
    });
    schema.insert(
        "default".into(),
        serde_json::to_value(value).unwrap_or_default(),
    );
    schema
}

/// Whether the configuration still deserialises with `value` at `path`, and what is said if not.
fn probe(defaults: &Table, path: &[String], value: toml::Value) -> Result<(), String> {
    let mut candidate = defaults.clone();
    let Some((last, parents)) = path.split_last() else {
        return Ok(());
    };
    let mut table = &mut candidate;
    for name in parents {
        let Some(next) = table.get_mut(name).and_then(toml::Value::as_table_mut) else {
            return Ok(());
        };
        table = next;
    }
    table.insert(last.clone(), value);
    match candidate.try_into::<RuntimeConfig>() {
        Ok(_) => Ok(()),
        Err(error) => Err(error.message().to_owned()),
    }
}

/// The parts of a message that stand in backticks.
fn quoted(message: &str) -> impl Iterator<Item = &str> {
    message.split('`').skip(1).step_by(2)
}

/// The comment above a key or a section of the reference.
fn description(path: &str) -> Option<String> {
    let mut section = "";
    let mut comment = String::new();
    for line in REFERENCE.lines() {
        if let Some(text) = line.strip_prefix('#') {
            comment.push_str(if comment.is_empty() {
                text.trim_start()
            } else {
                text
            });
            continue;
        }
        let key = match line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            Some(name) => {
                section = name;
                name.to_owned()
            }
            None => match line.split_once(" = ") {
                Some((name, _)) if section.is_empty() => name.to_owned(),
                Some((name, _)) => format!("{section}.{name}"),
                None => String::new(),
            },
        };
        if key == path {
            return (!comment.is_empty()).then_some(comment);
        }
        comment.clear();
    }
    None
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
