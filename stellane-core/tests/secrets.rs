//! What is secret is in no message: not of a configuration that is right, nor of one that is wrong.
#![cfg(feature = "full")]

use std::fs;

use stellane_core::{
    Runtime,
    config::{ConfigWatcher, Loader, RuntimeConfig, Secrets},
};

/// Part of every secret here: whoever finds it has found one.
const PLANTED: &str = "hunter2";

#[track_caller]
fn keeps(what: &str, shown: &str) {
    assert!(!shown.contains(PLANTED), "{what} shows a secret: {shown}");
}

#[track_caller]
fn keeps_of_errors(what: &str, loader: &Loader) {
    let errors = loader.load().expect_err(what);
    keeps(what, &errors.to_string());
    keeps(what, &format!("{errors:?} {errors:#?} {loader:?}"));
    let panic = std::panic::catch_unwind(|| panic!("{errors:?}")).expect_err("panics");
    keeps(what, panic.downcast_ref::<String>().expect("text"));
    let error = stellane_core::RuntimeError::from(errors);
    keeps(what, &format!("{error} {error:?}"));
}

#[test]
fn a_mistake_in_a_file_is_told_without_the_secret_beside_it() {
    for text in [
        // Without quotes, in each form.
        "[server]\nadmin_token = hunter2",
        "[server]\nadmin_token=hunter2 # for now",
        "server.admin_token = hunter2",
        "server = { address = \"127.0.0.1:1\", admin_token = hunter2 }",
        "server = { admin_tokn = hunter2 }",
        "[server]\n\"admin_token\" = hunter2",
        "[server]\nadmin_tokn = hunter2",
        "[server]\nadmin_token hunter2",
        "[server]\nadmin_token: hunter2",
        "[server]\naddress = \"127.0.0.1:1\" admin_tokn = hunter2",
        // Quotes that do not end.
        "[server]\nadmin_token = \"hunter2",
        "[server]\nadmin_token = 'hunter2\"",
        "[server]\nadmin_token = \"\"\"\nhunter2",
        "[server]\nadmin_token = \"a\\qhunter2\"",
        "[server]\nadmin_token = [\nhunter2,\n]",
        "hunter2",
        // Of another type.
        "[server]\nadmin_token = [\"hunter2\"]",
        "[server]\nadmin_token = { x = \"hunter2\" }",
        "[server]\nadmin_token = 99999999999999999999999999 # hunter2",
        // A key that is none.
        "[server]\nadmin_tokens = \"hunter2\"",
        "[server]\ndb_password = \"hunter2\"",
        "[secrets]\ndb = \"hunter2\"",
        "password = \"hunter2\"",
        // In a URL.
        "[server]\naddress = \"http://me:hunter2@host\"",
        "[server]\naddress = http://me:hunter2@host",
        "[http.cors]\nallow_origins = [\"https://me:hunter2@a.example\"]",
        "[server.drain_classes.a]\npaths = \"https://me:hunter2@a.example\"",
        "[log]\nlevel = \"https://hunter2@a.example\"\nformat = \"https://x:hunter2@a.example\"",
    ] {
        keeps_of_errors(text, &Loader::new().text("app.toml", text));
    }
    let number = Loader::new().text("app.toml", "[server]\nadmin_token = 31415926");
    let error = number.load().expect_err("a number").to_string();
    assert!(!error.contains("31415926"), "{error}");
}

#[test]
fn a_mistake_in_the_environment_is_told_without_the_secret() {
    for (name, value) in [
        ("STELLANE__SERVER__ADMIN_TOKENS", "hunter2"),
        ("STELLANE__DB_PASSWORD", "hunter2"),
        ("STELLANE__SERVER__ADDRESS", "redis://:hunter2@host"),
        ("STELLANE__SERVER__MAX_BODY_BYTES", "redis://:hunter2@host"),
        ("STELLANE__LIMIT__CLASSES__A", "redis://:hunter2@host"),
        ("STELLANE_HOT_RELOAD", "https://hunter2@host"),
        ("STELLANE_ENV", "https://hunter2@host"),
    ] {
        keeps_of_errors(name, &Loader::new().env([(name, value)]));
    }
    let file = Loader::new().env([("STELLANE_CONFIG", "/none/https://a:hunter2@host/x")]);
    keeps("a path", &file.load().expect_err("none").to_string());
}

#[tokio::test]
async fn what_is_right_is_shown_without_its_secret() {
    let file = "[server]\nadmin_token = \"hunter2\"\n[http.csrf]\ntrusted_origins = []\n";
    let loader = Loader::new().text("app.toml", file);
    let config = loader.load().expect("valid");
    assert_eq!(config.server.admin_token, PLANTED, "it is there");
    keeps("Display", &config.to_string());
    keeps(
        "Debug",
        &format!("{config:?} {config:#?} {:?}", config.server),
    );
    keeps("Debug of the loader", &format!("{loader:?}"));
    let env = Loader::new().env([("STELLANE__SERVER__ADMIN_TOKEN", PLANTED)]);
    keeps("Debug of the variables", &format!("{env:?}"));
    let watcher = ConfigWatcher::new(loader).expect("valid");
    keeps("Debug of the watcher", &format!("{watcher:?}"));

    let app = tower::service_fn(|_: http::Request<stellane_core::RequestBody>| async {
        Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
    });
    let builder = Runtime::builder().config(config);
    keeps("Debug of the builder", &format!("{builder:?}"));
    let runtime = builder.service(app).build().expect("builds");
    keeps("Debug of the runtime", &format!("{runtime:?}"));
    let mut config = RuntimeConfig::default();
    config.server.address = "http://me:hunter2@host".to_owned();
    keeps(
        "Debug of an address",
        &format!("{config:?} {:?}", config.server),
    );
}

#[test]
fn a_reload_tells_that_a_secret_has_changed_and_not_to_what() {
    let name = format!("stellane-secrets-{}.toml", std::process::id());
    let file = std::env::temp_dir().join(name);
    let write = |token: &str| {
        let text = format!("[server]\nadmin_token = \"{token}\"\n");
        fs::write(&file, text).expect("writes");
    };
    write("hunter2-old");
    let watcher = ConfigWatcher::new(Loader::new().file(&file)).expect("valid");
    write("hunter2-new");
    let reload = watcher.reload().expect("valid");
    assert_eq!(
        reload.to_string(),
        "needs a restart: `server.admin_token` <redacted> -> <redacted>"
    );
    keeps(
        "Debug",
        &format!("{reload:?} {:#?}", reload.restart_required),
    );
    fs::write(&file, "[server]\nadmin_token = hunter2\n").expect("writes");
    let errors = watcher.reload().expect_err("no TOML");
    keeps("the error", &errors.to_string());
    keeps("the error that is kept", &format!("{:?}", watcher.stats()));
    fs::remove_file(file).expect("removes");
}

#[test]
fn of_all_keys_none_is_hidden_but_those_that_are_secret() {
    let defaults = toml::Table::try_from(RuntimeConfig::default()).expect("serialises");
    let mut hidden = Vec::new();
    visit(&defaults, "", &mut |key| {
        if Secrets::default().is_secret(key) {
            hidden.push(key.to_owned());
        }
    });
    assert_eq!(hidden, ["server.admin_token"]);
}

fn visit(table: &toml::Table, path: &str, see: &mut impl FnMut(&str)) {
    for (name, value) in table {
        let key = format!("{path}{name}");
        match value {
            toml::Value::Table(table) => visit(table, &format!("{key}."), see),
            // A switch is no secret.
            toml::Value::Boolean(_) => {}
            _ => see(&key),
        }
    }
}
