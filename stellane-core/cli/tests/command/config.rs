//! `stellane check` and `stellane config`, run as a user runs them.

use std::{
    fs,
    process::{Command, Output},
};

use stellane_core::config::{Loader, REFERENCE, RuntimeConfig};

/// The command, in an environment without any of our variables.
fn stellane(arguments: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stellane"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("STELLANE_")) {
        command.env_remove(name);
    }
    command
        .args(arguments)
        .envs(env.iter().copied())
        .output()
        .expect("runs")
}

fn stdout(output: &Output) -> &str {
    str::from_utf8(&output.stdout).expect("text")
}

fn stderr(output: &Output) -> &str {
    str::from_utf8(&output.stderr).expect("text")
}

fn temporary(name: &str, text: &str) -> String {
    let path = std::env::temp_dir().join(format!("stellane-cli-{}-{name}", std::process::id()));
    fs::write(&path, text).expect("writes");
    path.into_os_string().into_string().expect("text")
}

#[test]
fn help_and_reference_fit_a_terminal_of_eighty_columns() {
    let commands = ["bench", "check", "config", "dev", "report", "top"];
    for arguments in [&[][..]]
        .into_iter()
        .chain(commands.each_ref().map(std::slice::from_ref))
    {
        let output = stellane(&[arguments, &["--help"]].concat(), &[("COLUMNS", "80")]);
        for line in stdout(&output).lines() {
            assert!(line.chars().count() <= 80, "{arguments:?}: {line}");
        }
    }
    for line in REFERENCE.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn a_valid_file_is_said_to_be_valid() {
    let file = temporary("valid.toml", "[server]\nmax_body_bytes = \"1MiB\"\n");
    let output = stellane(&["check", &file], &[]);
    assert_eq!(stdout(&output), format!("{file}: valid\n"));
    assert_eq!(output.status.code(), Some(0));
    fs::remove_file(file).expect("removes");
}

#[test]
fn check_looks_at_the_environment_only_when_asked() {
    let file = temporary("env.toml", "");
    let env = [("STELLANE__SERVER__MAX_BODY_BYTES", "lots")];
    assert_eq!(stellane(&["check", &file], &env).status.code(), Some(0));
    let output = stellane(&["check", "--env", &file], &env);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).starts_with("STELLANE__SERVER__MAX_BODY_BYTES: "),
        "{}",
        stderr(&output)
    );
    fs::remove_file(file).expect("removes");
}

#[test]
fn bad_arguments_end_with_status_2() {
    for arguments in [
        &[][..],
        &["chekc"],
        &["check"],
        &["config", "--schema", "--default"],
    ] {
        let output = stellane(arguments, &[]);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains("Usage:"), "{}", stderr(&output));
    }
}

#[test]
fn config_prints_what_a_service_started_here_would_have() {
    let file = temporary("effective.toml", "[server]\ndrain_timeout = \"7s\"\n");
    let env = [
        ("STELLANE_CONFIG", file.as_str()),
        ("STELLANE_ENV", "development"),
        ("STELLANE_LOG_LEVEL", "warn"),
    ];
    let output = stellane(&["config"], &env);
    let expected = Loader::new().env(env).load().expect("valid");
    assert_eq!(expected.log.level, "warn");
    assert_eq!(
        Loader::new().text("stdout", stdout(&output)).load(),
        Ok(expected)
    );
    fs::remove_file(file).expect("removes");
}

#[test]
fn no_command_prints_a_secret() {
    let text = "[server]\nadmin_token = \"hunter2-1\"\n[http.security_headers]\n\
                content_security_policy = \"report-uri https://u:hunter2-2@a.example/\"\n";
    let good = temporary("secrets.toml", text);
    let bad = temporary("bad-secrets.toml", "[server]\nadmin_token = hunter2-3\n");
    let env = [("STELLANE__SERVER__DB_PASSWORD", "hunter2-4")];
    for (arguments, env, expected) in [
        (
            &["config", "--file", &good][..],
            &[][..],
            "admin_token = \"<redacted>\"",
        ),
        (&["check", &good], &[], "valid"),
        (&["config", "--file", &bad], &[], ":2: not TOML"),
        (&["check", &bad], &[], ":2: not TOML"),
        (&["config"], &env, "unknown key"),
        (&["config", "--default"], &env, "admin_token = \"\""),
        (&["config", "--schema"], &env, "admin_token"),
    ] {
        let output = stellane(arguments, env);
        let said = format!("{}{}", stdout(&output), stderr(&output));
        assert!(said.contains(expected), "{arguments:?}: {said}");
        assert!(!said.contains("hunter2"), "{arguments:?}: {said}");
    }
    for file in [good, bad] {
        fs::remove_file(file).expect("removes");
    }
}

#[test]
fn config_default_prints_the_reference_and_it_checks() {
    let output = stellane(&["config", "--default"], &[]);
    assert_eq!(stdout(&output), REFERENCE);
    let file = temporary("default.toml", stdout(&output));
    assert_eq!(stellane(&["check", &file], &[]).status.code(), Some(0));
    fs::remove_file(file).expect("removes");
}

#[test]
fn the_schema_describes_every_key_and_its_defaults_are_the_code_s() {
    let output = stellane(&["config", "--schema"], &[]);
    let schema: serde_json::Value = serde_json::from_str(stdout(&output)).expect("JSON");
    let defaults = toml::Table::try_from(RuntimeConfig::default()).expect("serialises");
    compare(&schema, &defaults, "");
    let format = &schema["properties"]["log"]["properties"]["format"];
    assert_eq!(
        format["enum"],
        serde_json::json!(["text", "compact", "json"])
    );
    let limit = &schema["properties"]["server"]["properties"]["max_body_bytes"];
    assert_eq!(
        limit["anyOf"][0],
        serde_json::json!({ "type": "integer", "minimum": 0 })
    );
}

fn compare(schema: &serde_json::Value, defaults: &toml::Table, path: &str) {
    assert_eq!(
        schema["additionalProperties"],
        defaults.is_empty(),
        "{path}"
    );
    let properties = schema["properties"].as_object().expect("properties");
    assert_eq!(
        properties.keys().collect::<Vec<_>>().len(),
        defaults.len(),
        "{path}"
    );
    for (name, value) in defaults {
        let property = &properties[name];
        let path = format!("{path}.{name}");
        assert!(
            property["description"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{path}"
        );
        match value {
            toml::Value::Table(table) => compare(property, table, &path),
            value => assert_eq!(
                property["default"],
                serde_json::to_value(value).expect("JSON"),
                "{path}"
            ),
        }
    }
}
