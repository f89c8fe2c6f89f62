//! The commented default file is the code: its values are the defaults and its comments the
//! documentation of the fields.
//!
//! `STELLANE_WRITE_REFERENCE=1 cargo test -p stellane-core --test config reference` writes
//! `src/config/reference.toml` anew after a field has changed.
#![cfg(feature = "full")]

use std::{collections::BTreeMap, fs, path::Path};

use stellane_core::config::{
    DrainClass, Loader, REFERENCE, RateLimits, RouteLimits, RuntimeConfig,
};
use toml::{Table, Value};

const HEAD: &str = "# Every key of a Stellane configuration, with its default.\n\
                    # Keep only what you change: a key that is left out has this value. What is\n\
                    # written after a bare `#` is what a table has to which you give a NAME.\n";

/// A terminal's, less a margin.
const COLUMNS: usize = 78;

#[test]
fn the_reference_holds_every_key_with_its_default_and_its_documentation() {
    let structs = structs();
    let defaults = Table::try_from(RuntimeConfig::default()).expect("serialises");
    let mut text = HEAD.to_owned();
    write_section(&mut text, &structs, "RuntimeConfig", "", &defaults);

    if std::env::var_os("STELLANE_WRITE_REFERENCE").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/reference.toml");
        fs::write(path, &text).expect("writes");
        return;
    }
    assert_eq!(
        text, REFERENCE,
        "write it anew: STELLANE_WRITE_REFERENCE=1 cargo test -p stellane-core --test config reference"
    );
}

#[test]
fn where_the_preset_has_another_default_than_the_component_the_documentation_names_it() {
    let structs = structs();
    let preset = Table::try_from(RuntimeConfig::default().limit).expect("serialises");
    let alone = Table::try_from(stellane_autotune::LimitConfig::default()).expect("serialises");
    let mut others = 0;
    for (name, value) in preset
        .iter()
        .filter(|(name, value)| alone[*name] != **value)
    {
        let field = structs["LimitConfig"]
            .iter()
            .find(|field| field.name == *name);
        let docs = field.expect("a field").docs.join(" ");
        let named = docs.contains(&format!("in the preset of `stellane-core` `{value}`"))
            || docs.contains(&format!("in the preset {value}"));
        assert!(named, "`limit.{name}` is {value} in the preset: {docs}");
        others += 1;
    }
    assert!(others > 0);
}

#[test]
fn the_reference_loads_to_the_defaults() {
    if std::env::var_os("STELLANE_WRITE_REFERENCE").is_some() {
        // What is compiled in is the old one.
        return;
    }
    let loaded = Loader::new().text("reference.toml", REFERENCE).load();
    assert_eq!(loaded, Ok(RuntimeConfig::default()));
}

#[test]
fn what_is_commented_out_is_what_a_named_table_has() {
    let tables = REFERENCE.lines().map(|line| match line.as_bytes() {
        // A list of rules may not be empty.
        [b'#', b'r', b'u', b'l', b'e', b's', ..] => "rules = [\"10/s\"]",
        // Nor may limits of routes limit nothing.
        [b'#', b't', b'i', b'm', b'e', ..] => "timeout = \"30s\"",
        // Nor may a table say of no request that it is meant.
        [b'#', b'm', b'e', b't', b'h', ..] => "methods = [\"PUT\"]",
        [b'#', b' ', ..] | [b'#'] => "",
        _ => line.strip_prefix('#').unwrap_or(line),
    });
    let text = tables.collect::<Vec<_>>().join("\n");
    let loaded = Loader::new().text("reference.toml", text).load();
    let config = loaded.expect("uncommented");
    assert_eq!(config.rate_limit["NAME"].key, "peer");
    assert!(config.limit.classes.contains_key("NAME"));
    assert!(config.server.drain_classes.contains_key("NAME"));
    assert!(config.server.route_limits.contains_key("NAME"));
}

const THREAT_MODEL: &str = include_str!("../../src/guide/threat_model.md");

#[test]
fn every_key_that_the_threat_model_names_is_one() {
    let defaults = Table::try_from(RuntimeConfig::default()).expect("serialises");
    let mut keys = Vec::new();
    every_key(&defaults, "", &mut keys);
    // Of one of several addresses.
    keys.extend(["redirect_port", "certificates"].map(str::to_owned));
    let is_of_key = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.*".contains(c);
    let mut named = 0;
    for name in THREAT_MODEL.split('`').skip(1).step_by(2) {
        // The name of a metric, of a close reason, of an example.
        let is_other = ["stellane_", "handshake_", "serve_"]
            .iter()
            .any(|one| name.starts_with(one));
        if is_other || !name.contains(['_', '.']) || !name.chars().all(is_of_key) {
            continue;
        }
        let start = name.trim_end_matches('*');
        let is_one = |key: &String| {
            let end = key.rsplit('.').next().unwrap_or(key);
            key == name || end == name || (start != name && key.starts_with(start))
        };
        assert!(keys.iter().any(is_one), "`{name}` is no key");
        named += 1;
    }
    assert!(named > 30, "{named}");
}

#[test]
fn the_defaults_are_those_that_the_threat_model_tells() {
    let defaults = Table::try_from(RuntimeConfig::default()).expect("serialises");
    for (key, expected) in [
        ("server.address", Value::from("127.0.0.1:3000")),
        ("server.admin_address", "auto".into()),
        ("server.admin_token", "".into()),
        ("server.admin_hosts", Value::Array(Vec::new())),
        ("server.admin_tls", false.into()),
        ("server.max_body_bytes", 0.into()),
        ("connection.max_connections_per_peer", 0.into()),
        ("connection.strict_http1", true.into()),
        ("strict_http1.enabled", true.into()),
        ("strict_http1.allow_non_ascii_target", true.into()),
        ("connection.forwarded.header", "off".into()),
        ("connection.proxy_protocol.mode", "off".into()),
        ("connection.tls.certificate", "".into()),
        ("connection.tls.certificates", Value::Array(Vec::new())),
        ("connection.tls.min_version", "1.2".into()),
        ("connection.tls.client_auth", "none".into()),
        ("connection.tls.client_ca", "".into()),
        ("connection.tls.client_crl", "".into()),
        ("dev.profile_cpu", false.into()),
        ("dev.profile_mem", false.into()),
        ("dev.profile_block", false.into()),
    ] {
        let mut names = key.split('.');
        let section = &defaults[names.next().expect("a section")];
        let value = names.fold(section, |value, name| &value[name]);
        assert_eq!(*value, expected, "{key}");
    }
    let server = RuntimeConfig::default().server;
    let (admin, _) = server.admin();
    assert!(admin.starts_with("127.0.0.1:"), "{admin}");
}

fn every_key(table: &Table, path: &str, keys: &mut Vec<String>) {
    for (name, value) in table {
        let key = format!("{path}{name}");
        if let Value::Table(table) = value {
            every_key(table, &format!("{key}."), keys);
        }
        keys.push(key);
    }
}

#[test]
fn every_component_has_its_section() {
    let structs = structs();
    let mut reached = vec!["RuntimeConfig"];
    let mut next = 0;
    while let Some(name) = reached.get(next) {
        let fields = structs.get(*name).into_iter().flatten();
        reached.extend(fields.map(|field| field.type_name.as_str()));
        next += 1;
    }
    for name in structs.keys().filter(|name| name.ends_with("Config")) {
        // Of classes, rates and their stores there are none by default.
        let is_free = matches!(
            name.as_str(),
            "ClassConfig" | "RateLimitConfig" | "RateStoreConfig"
        );
        assert!(
            is_free || reached.contains(&name.as_str()),
            "no section has {name}"
        );
    }
}

/// The structs of the crates whose configuration the runtime holds.
fn structs() -> BTreeMap<String, Vec<Field>> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut structs = BTreeMap::new();
    for krate in ["autotune", "core", "metrics", "pool", "router"] {
        let sources = workspace.join(format!("stellane-{krate}/src"));
        read_structs(&sources, &mut structs);
    }
    structs
}

struct Field {
    name: String,
    docs: Vec<String>,
    type_name: String,
}

/// The public fields of every struct below a folder, by the name of the struct.
fn read_structs(folder: &Path, structs: &mut BTreeMap<String, Vec<Field>>) {
    for entry in fs::read_dir(folder)
        .expect("sources")
        .map(|e| e.expect("entry").path())
    {
        if entry.is_dir() {
            read_structs(&entry, structs);
            continue;
        }
        let source = fs::read_to_string(&entry).expect("source");
        let mut current: Option<(String, Vec<Field>)> = None;
        let mut docs = Vec::new();
        for line in source.lines().map(str::trim) {
            if let Some(text) = line.strip_prefix("///") {
                docs.push(text.trim().to_owned());
            } else if let Some(name) = line
                .strip_prefix("pub struct ")
                .and_then(|l| l.strip_suffix(" {"))
            {
                current = Some((name.to_owned(), Vec::new()));
                docs.clear();
            } else if let Some((_, fields)) = &mut current
                && let Some((name, type_name)) =
                    line.strip_prefix("pub ").and_then(|l| l.split_once(": "))
            {
                let type_name = type_name.trim_end_matches(',');
                fields.push(Field {
                    name: name.to_owned(),
                    docs: std::mem::take(&mut docs),
                    type_name: type_name.to_owned(),
                });
            } else if line == "}" {
                structs.extend(current.take());
            } else if !line.starts_with("#[") {
                docs.clear();
            }
        }
    }
}

fn write_section(
    out: &mut String,
    structs: &BTreeMap<String, Vec<Field>>,
    type_name: &str,
    path: &str,
    defaults: &Table,
) {
    let fields = structs
        .get(type_name)
        .unwrap_or_else(|| panic!("no struct {type_name}"));
    assert_eq!(
        fields.len(),
        defaults.len(),
        "{type_name}: every field is a key"
    );
    let (sections, keys): (Vec<_>, Vec<_>) = fields
        .iter()
        .partition(|field| matches!(defaults.get(&field.name), Some(Value::Table(_))));
    for Field { name, docs, .. } in keys {
        let value = defaults
            .get(name)
            .unwrap_or_else(|| panic!("{type_name}::{name} is not a key"));
        write_docs(out, docs, &format!("{type_name}::{name}"));
        write_value(out, name, value);
    }
    for Field {
        name,
        docs,
        type_name,
    } in sections
    {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        write_docs(out, docs, &path);
        out.push_str(&format!("[{path}]\n"));
        if let Some(entry) = type_name.strip_prefix("BTreeMap<String, ") {
            let entry = entry.trim_end_matches('>').trim_start_matches("super::");
            write_named(out, structs, entry, &path);
            continue;
        }
        write_section(
            out,
            structs,
            type_name,
            &path,
            defaults[name].as_table().expect("section"),
        );
    }
}

/// A key; a list that is too long for a line has as many items on each as fit.
fn write_value(out: &mut String, name: &str, value: &Value) {
    let line = format!("{name} = {value}\n");
    let Value::Array(items) = value else {
        return out.push_str(&line);
    };
    if line.chars().count() <= COLUMNS {
        return out.push_str(&line);
    }
    out.push_str(&format!("{name} = ["));
    let mut columns = COLUMNS;
    for item in items {
        let item = format!(" {item},");
        let length = item.chars().count();
        if columns + length > COLUMNS {
            out.push_str("\n   ");
            columns = 3;
        }
        out.push_str(&item);
        columns += length;
    }
    out.push_str("\n]\n");
}

/// What each table below `path` has, commented out: the names are the user's own.
fn write_named(
    out: &mut String,
    structs: &BTreeMap<String, Vec<Field>>,
    type_name: &str,
    path: &str,
) {
    let defaults = match type_name {
        "ClassConfig" => Table::try_from(stellane_autotune::ClassConfig::default()),
        "DrainClass" => Table::try_from(DrainClass::default()),
        "RateLimits" => Table::try_from(RateLimits::default()),
        "RouteLimits" => Table::try_from(RouteLimits::default()),
        other => panic!("the defaults of {other}"),
    };
    let mut text = format!("[{path}.NAME]\n");
    let defaults = defaults.expect("serialises");
    write_section(&mut text, structs, type_name, path, &defaults);
    out.push('\n');
    for line in text.lines() {
        let is_toml = !line.is_empty() && !line.starts_with('#');
        out.push_str(if is_toml { "#" } else { "" });
        out.push_str(line);
        out.push('\n');
    }
}

fn write_docs(out: &mut String, docs: &[String], what: &str) {
    assert!(!docs.is_empty(), "{what} is not documented");
    out.push('\n');
    for paragraph in docs.split(String::is_empty) {
        if !out.ends_with("\n\n") {
            out.push_str("#\n");
        }
        let text = without_links(&paragraph.join(" "));
        let mut columns = 1;
        out.push('#');
        for word in text.split_whitespace() {
            let length = word.chars().count();
            if columns + 1 + length > COLUMNS {
                out.push_str("\n#");
                columns = 1;
            }
            out.push(' ');
            out.push_str(word);
            columns += 1 + length;
        }
        out.push('\n');
    }
}

/// `[text](target)` and `[text]` become `text`.
fn without_links(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('[') {
        let Some((text, tail)) = after.split_once(']') else {
            break;
        };
        // A TOML list in the text is not a link.
        if text.starts_with('"') || !text.starts_with('`') && !tail.starts_with('(') {
            out.push_str(&format!("{before}[{text}]"));
            rest = tail;
            continue;
        }
        out.push_str(before);
        out.push_str(text);
        rest = match tail.strip_prefix('(').and_then(|t| t.split_once(')')) {
            Some((_, tail)) => tail,
            None => tail,
        };
    }
    out + rest
}
