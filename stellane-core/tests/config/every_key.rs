//! Every key is reachable from the file, from the environment and from the program, and the three agree.

use stellane_core::config::{Loader, RuntimeConfig};
use toml::{Table, Value};

#[test]
fn file_environment_and_program_agree_on_every_key() {
    let defaults = Table::try_from(RuntimeConfig::default()).expect("serialises");
    let mut keys = Vec::new();
    leaves(&defaults, &mut Vec::new(), &mut keys);
    assert!(!keys.is_empty());
    for (path, default) in keys {
        let key = path.join(".");
        let agreed = candidates(&defaults, &path, &default)
            .into_iter()
            .any(|value| {
                // The program's way: the field itself.
                let mut table = defaults.clone();
                set(&mut table, &path, value.clone());
                let Ok(program) = table.clone().try_into::<RuntimeConfig>() else {
                    return false;
                };
                let expected = program.validate().map(|()| program.clone());

                let file = Loader::new().text("f.toml", table.to_string()).load();
                let text = value.as_str().map_or(value.to_string(), str::to_owned);
                let variable = format!("STELLANE__{}", path.join("__").to_uppercase());
                let env = Loader::new().env([(variable, text)]).load();
                assert_eq!(file.is_ok(), expected.is_ok(), "{key} = {value}: {file:?}");
                assert_eq!(env.is_ok(), expected.is_ok(), "{key} = {value}: {env:?}");
                let Ok(expected) = expected else { return false };
                assert_ne!(expected, RuntimeConfig::default(), "{key}");
                assert_eq!(file, Ok(expected.clone()), "{key}");
                assert_eq!(env, Ok(expected), "{key}");
                true
            });
        assert!(agreed, "no other value than {default} is valid for `{key}`");
    }
}

fn leaves(table: &Table, path: &mut Vec<String>, keys: &mut Vec<(Vec<String>, Value)>) {
    for (name, value) in table {
        path.push(name.clone());
        match value {
            Value::Table(table) => leaves(table, path, keys),
            value => keys.push((path.clone(), value.clone())),
        }
        path.pop();
    }
}

/// Other values that a key with this default may take.
fn candidates(defaults: &Table, path: &[String], default: &Value) -> Vec<Value> {
    match default {
        Value::Integer(n) => [n + 1, n - 1, n * 2, n / 2, 1, 4096, 1 << 20]
            .map(Value::Integer)
            .into(),
        Value::Float(x) => [x * 0.9, x * 1.1, x / 2.0, x * 2.0, 0.5, 1.5]
            .map(Value::Float)
            .into(),
        Value::Boolean(b) => vec![Value::Boolean(!b)],
        Value::Array(_) => vec![
            Value::Array(vec!["/a".into(), "/b".into()]),
            Value::Array(vec!["10.0.0.0/8".into()]),
            Value::Array(vec![0.25.into(), 0.75.into()]),
            Value::Array(vec![1.into(), 2.into()]),
            Value::Array(vec!["https://a.example".into()]),
            Value::Array(vec!["text/css".into()]),
            Value::Array(vec!["gzip".into()]),
            Value::Array(vec!["time".into()]),
            Value::Array(vec![Value::Table(Table::from_iter([(
                "address".to_owned(),
                ":4000".into(),
            )]))]),
            Value::Array(vec![Value::Table(Table::from_iter(
                ["certificate", "key"].map(|name| (name.to_owned(), "a.pem".into())),
            ))]),
        ],
        Value::String(default) => {
            let words = ["7s", "70ms", "2m", "127.0.0.1:4000", "debug"].map(str::to_owned);
            let words = words.into_iter().chain(names(defaults, path));
            words
                .filter(|word| word != default)
                .map(Value::from)
                .collect()
        }
        other => panic!("no key has the type of {other}"),
    }
}

/// The names of an enum, as the error for a wrong one lists them.
fn names(defaults: &Table, path: &[String]) -> Vec<String> {
    let mut table = defaults.clone();
    set(&mut table, path, "?".into());
    let error = table.try_into::<RuntimeConfig>().err();
    let message = error.as_ref().map_or("", |error| error.message());
    message
        .split('`')
        .skip(3)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

fn set(table: &mut Table, path: &[String], value: Value) {
    let (last, parents) = path.split_last().expect("a key");
    let table = parents.iter().fold(table, |table, name| {
        table[name].as_table_mut().expect("section")
    });
    table.insert(last.clone(), value);
}
