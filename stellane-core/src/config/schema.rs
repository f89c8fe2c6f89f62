//! The serialised defaults are the schema: which keys exist, and of what type each is.

use toml::{Table, Value};

use super::Secrets;
use crate::size::size;

/// The value at a dotted path such as `["connection", "idle_timeout"]`.
pub(super) fn get<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Value> {
    let (last, parents) = path.split_last()?;
    let mut table = table;
    for key in parents {
        table = table.get(*key)?.as_table()?;
    }
    table.get(*last)
}

/// Whether a path lies in a section whose names are the user's own: one that is empty by default.
pub(super) fn names_are_free(table: &Table, path: &[&str]) -> bool {
    let parent = path
        .split_last()
        .and_then(|(_, parents)| get(table, parents));
    matches!(parent, Some(Value::Table(section)) if section.is_empty())
}

/// A text as TOML would read it, or else as a string.
pub(super) fn literal(text: &str) -> Value {
    format!("value = {text}")
        .parse::<Table>()
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Sets the value at a path, making the tables on the way.
pub(super) fn set(table: &mut Table, path: &[&str], value: Value) {
    let Some((last, parents)) = path.split_last() else {
        return;
    };
    let mut table = table;
    for key in parents {
        let entry = table
            .entry(*key)
            .or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(next) = entry else { return };
        table = next;
    }
    table.insert((*last).to_owned(), value);
}

/// Turns a written value into the type that the schema has for its key.
///
/// # Errors
/// What was expected, when the value can't be that.
pub(super) fn coerce(key: &str, schema: &Value, value: Value) -> Result<Value, String> {
    match (schema, value) {
        (Value::Float(_), Value::Integer(n)) => Ok(Value::Float(n as f64)),
        (Value::Integer(_), Value::String(s)) if key.ends_with("_bytes") => bytes(&s),
        (schema, value) if same_type(schema, &value) => Ok(value),
        (schema, value) => Err(format!(
            "{} is not {}",
            show(key, &value),
            expected(key, schema)
        )),
    }
}

/// Reads the text of an environment variable as the type that the schema has for its key.
///
/// # Errors
/// What was expected, when the text can't be that.
pub(super) fn parse(key: &str, schema: &Value, text: &str) -> Result<Value, String> {
    let parsed = match schema {
        Value::String(_) => return Ok(Value::String(text.to_owned())),
        Value::Integer(_) => match text.parse() {
            Ok(n) => Some(Value::Integer(n)),
            Err(_) if key.ends_with("_bytes") => return bytes(text),
            Err(_) => None,
        },
        Value::Float(_) => text.parse().ok().map(Value::Float),
        Value::Boolean(_) => match text {
            "true" | "1" | "yes" | "on" => Some(Value::Boolean(true)),
            "false" | "0" | "no" | "off" => Some(Value::Boolean(false)),
            _ => None,
        },
        Value::Array(_) | Value::Table(_) | Value::Datetime(_) => {
            // Spelt as in the file: `["/a", "/b"]`.
            format!("value = {text}")
                .parse::<Table>()
                .ok()
                .and_then(|mut t| t.remove("value"))
        }
    };
    let value = parsed.ok_or_else(|| {
        let text = Secrets::default().value(key, text);
        format!("`{text}` is not {}", expected(key, schema))
    })?;
    coerce(key, schema, value)
}

/// The valid name most like `name`, if one is near enough to be what was meant.
pub(super) fn nearest<'a>(name: &str, valid: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_ascii_lowercase().replace('-', "_");
    let unlikeness = |candidate: &str| {
        let cut_short = name.len() > 2 && candidate.starts_with(&name);
        let with_a_unit = name.starts_with(candidate);
        if cut_short || with_a_unit {
            1
        } else {
            distance(&name, candidate)
        }
    };
    valid
        .map(|candidate| (unlikeness(candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 2.max(candidate.len() / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// A value as the user would write it.
pub(super) fn show(key: &str, value: &Value) -> String {
    match value {
        Value::Table(_) => "a section".to_owned(),
        _ if Secrets::default().is_secret(key) => Secrets::REDACTED.to_owned(),
        Value::String(s) => format!("\"{s}\""),
        other => other.to_string(),
    }
}

fn bytes(text: &str) -> Result<Value, String> {
    size(text)
        .map(Value::Integer)
        .ok_or_else(|| format!("\"{text}\" is not a size, such as 65536 or \"64KiB\""))
}

fn same_type(a: &Value, b: &Value) -> bool {
    std::mem::discriminant(a) == std::mem::discriminant(b)
}

fn expected(key: &str, schema: &Value) -> String {
    match schema {
        Value::Integer(_) if key.ends_with("_bytes") => "a size, such as 65536 or \"64KiB\"".into(),
        Value::Integer(n) => format!("a whole number, such as {n}"),
        Value::Float(n) => format!("a number, such as {n}"),
        Value::Boolean(_) => "true or false".into(),
        Value::String(s) if s.is_empty() || Secrets::default().is_secret(key) => "a string".into(),
        Value::String(s) => format!("a string, such as \"{s}\""),
        Value::Array(_) => "a list, such as [\"…\"]".into(),
        Value::Table(_) => "a section".into(),
        Value::Datetime(_) => "a date".into(),
    }
}

/// Levenshtein distance over bytes; keys are short ASCII names.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_a_typo_and_refuses_a_stranger() {
        let keys = ["idle_timeout", "head_timeout", "park"];
        assert_eq!(
            nearest("idle_timout", keys.into_iter()),
            Some("idle_timeout")
        );
        assert_eq!(nearest("zebra_crossing_lights", keys.into_iter()), None);
    }

    #[test]
    fn sizes_are_accepted_only_where_the_key_says_bytes() {
        let one = Value::Integer(1);
        assert_eq!(parse("max_bytes", &one, "64KiB"), Ok(Value::Integer(65536)));
        assert!(parse("workers", &one, "64KiB").is_err());
        assert!(parse("max_bytes", &one, "64 bananas").is_err());
    }
}
