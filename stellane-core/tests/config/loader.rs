//! What a user sees of the configuration: precedence, and every mistake at once.

use std::time::Duration;

use stellane_core::config::{Loader, Origin, RuntimeConfig};

fn problems(loader: &Loader) -> Vec<String> {
    let errors = loader.load().expect_err("the configuration is wrong");
    errors.problems().iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_given_means_the_defaults() {
    assert_eq!(Loader::new().load(), Ok(RuntimeConfig::default()));
}

#[test]
fn the_environment_wins_over_the_file_and_the_file_over_the_profile() {
    let file = "[server]\ndrain_timeout = \"7s\"\nmax_body_bytes = \"3KiB\"\n";
    let config = Loader::new()
        .text("stellane.toml", file)
        .env([
            ("STELLANE_ENV", "development"),
            ("STELLANE__SERVER__MAX_BODY_BYTES", "4096"),
        ])
        .load()
        .expect("valid");
    assert_eq!(config.server.drain_timeout, Duration::from_secs(7));
    assert_eq!(config.server.max_body_bytes, 4096);
    assert_eq!(config.log.level, "debug", "from the profile");
}

#[test]
fn the_short_variables_of_the_seed_each_set_their_key() {
    let load = |name: &str, value: &str| Loader::new().env([(name, value)]).load().expect("valid");
    assert_eq!(load("STELLANE_LOG_LEVEL", "trace").log.level, "trace");
    assert!(load("STELLANE_HOT_RELOAD", "true").dev.hot_reload);
    assert!(load("STELLANE_PROFILE_CPU", "1").dev.profile_cpu);
    assert!(load("STELLANE_PROFILE_MEM", "yes").dev.profile_mem);
    assert!(load("STELLANE_PROFILE_BLOCK", "on").dev.profile_block);
    assert!(load("STELLANE_ENV", "development").dev.hot_reload);
    let found = problems(&Loader::new().env([("STELLANE_HOT_RELOAD", "maybe")]));
    assert_eq!(
        found,
        ["STELLANE_HOT_RELOAD: `dev.hot_reload`: `maybe` is not true or false"]
    );
}

#[test]
fn variables_of_others_are_passed_over() {
    let loader = Loader::new().env([("PATH", "/bin"), ("STELLANE", "x"), ("STELLANE_OTHER", "y")]);
    assert_eq!(loader.load(), Ok(RuntimeConfig::default()));
}

#[test]
fn every_mistake_is_reported_with_its_line_the_value_and_what_is_valid() {
    let file = "\n[server]\nmax_body_byte = 1\ndrain_timeout = 30\naddress = \"nowhere\"\n\
                max_body_bytes = -1\n[sever]\nx = 1\n[log]\nformat = \"xml\"\n";
    let found = problems(&Loader::new().text("app.toml", file).env([
        ("STELLANE__SERVER__MAX_BODY_BYTES", "lots"),
        ("STELLANE_ENV", "prod"),
    ]));
    let expect = [
        (
            "STELLANE_ENV",
            "expected `production`, `development` or `default`",
        ),
        (
            "app.toml:3: `server.max_body_byte`",
            "did you mean `max_body_bytes`?",
        ),
        (
            "app.toml:4: `server.drain_timeout`",
            "30 is not a string, such as \"20s\"",
        ),
        (
            "app.toml:5: `server.address`",
            "`nowhere` is not an address: expected HOST:PORT",
        ),
        (
            "app.toml:6: `server.max_body_bytes`",
            "-1 is not a whole number from 0",
        ),
        ("app.toml:7: `sever`", "did you mean `server`?"),
        (
            "app.toml:10: `log.format`",
            "expected one of `text`, `compact`, `json`",
        ),
        (
            "STELLANE__SERVER__MAX_BODY_BYTES: ",
            "\"lots\" is not a size",
        ),
    ];
    for (place, message) in expect {
        assert!(
            found
                .iter()
                .any(|p| p.starts_with(place) && p.contains(message)),
            "{place} … {message} in {found:#?}"
        );
    }
    assert_eq!(found.len(), expect.len(), "{found:#?}");
}

#[test]
fn toml_that_does_not_parse_names_the_line() {
    let found = problems(&Loader::new().text("app.toml", "[server]\naddress = \n"));
    assert!(found[0].starts_with("app.toml:2"), "{found:?}");
}

#[test]
fn a_missing_file_is_named() {
    let errors = Loader::new()
        .file("/no/such/stellane.toml")
        .load()
        .expect_err("missing");
    assert!(matches!(
        &errors.problems()[0].origin,
        Origin::File { line: None, .. }
    ));
    assert!(errors.to_string().contains("/no/such/stellane.toml"));
}

#[test]
fn unknown_variables_of_ours_are_errors() {
    let found =
        problems(&Loader::new().env([("STELLANE__SERVER__ADRESS", "x"), ("STELLANE__NOPE", "1")]));
    assert!(found[0].contains("did you mean `address`?"), "{found:?}");
    assert!(found[1].contains("unknown key; valid here: `"), "{found:?}");
}

#[test]
fn the_serialised_configuration_loads_to_the_same() {
    for config in [
        RuntimeConfig::default(),
        RuntimeConfig::production(),
        RuntimeConfig::development(),
    ] {
        let text = toml::to_string(&config).expect("serialises");
        assert_eq!(Loader::new().text("dump.toml", text).load(), Ok(config));
    }
}

#[test]
fn garbage_is_an_error_and_never_a_panic() {
    let mut seed = 0x2545_F491_4F6C_DD1D_u64;
    for _ in 0..2000 {
        let mut text = String::from("[server]\n");
        for _ in 0..20 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            text.push(b" =[]{}\"'.#\n1a-_,\\"[(seed % 17) as usize] as char);
        }
        let _ = Loader::new().text("fuzz.toml", text.clone()).load();
        let _ = Loader::new()
            .env([("STELLANE__SERVER__ADDRESS", text)])
            .load();
    }
}

#[cfg(feature = "autotune")]
#[test]
fn sections_of_free_names_take_any_name_and_check_its_value() {
    let config = Loader::new()
        .text("app.toml", "[limit.classes]\ngold = 0.5\n")
        .env([("STELLANE__LIMIT__CLASSES__SILVER", "0.25")])
        .load()
        .expect("valid");
    assert_eq!(config.limit.classes["gold"], 0.5.into());
    assert_eq!(config.limit.classes["silver"], 0.25.into());
    let found = problems(&Loader::new().text("app.toml", "[limit.classes]\ngold = \"much\"\n"));
    assert!(
        found[0].starts_with("app.toml:2: `limit.classes.gold`"),
        "{found:?}"
    );
}

#[cfg(feature = "full")]
#[test]
fn the_profile_production_has_the_values_of_the_seed_and_is_valid() {
    let config = Loader::new()
        .env([("STELLANE_ENV", "production")])
        .load()
        .expect("valid");
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    assert_eq!(config.workers.min_workers, cpus * 2);
    assert_eq!(config.workers.max_workers, cpus * 100);
    assert_eq!(config.workers.queue_size, 50_000);
    // Of the seed's limits for idle connections none is left: they cost next to nothing.
    assert_eq!(config.connection, RuntimeConfig::default().connection);
    assert_eq!(config.pool.retain_percent, 50);
}

#[test]
fn every_key_that_the_documentation_maps_the_seed_to_exists() {
    let defaults = toml::Table::try_from(RuntimeConfig::default()).expect("serialises");
    let documentation = include_str!("../../src/config/mod.rs");
    let rows = documentation
        .lines()
        .filter(|line| line.starts_with("//! | `"));
    let mut keys = 0;
    for text in rows
        .filter_map(|row| row.split(" | ").nth(2))
        .flat_map(|cell| cell.split('`'))
    {
        let name = text.split(' ').next().unwrap_or_default();
        let Some((section, key)) = name.split_once('.') else {
            continue;
        };
        if let Some(section) = defaults.get(section) {
            assert!(
                section.get(key).is_some(),
                "`{name}` in the table of the documentation"
            );
            keys += 1;
        }
    }
    assert!(cfg!(not(feature = "full")) || keys > 10, "{keys}");
}

#[test]
fn what_main_prints_of_mistakes_is_a_line_for_each() {
    let loaded = Loader::new().text("app.toml", "[server]\ndrain_timeout = 40\nadress = \"\"");
    let errors = loaded.load().expect_err("two mistakes");
    let printed = format!("{errors:?}");
    assert_eq!(printed, errors.to_string());
    let lines: Vec<_> = printed.lines().map(|line| &line[..11]).collect();
    assert_eq!(lines, ["app.toml:2:", "app.toml:3:"], "{printed}");
}

#[test]
fn each_mistake_in_a_table_with_a_free_name_is_told_with_its_line() {
    let text = r#"
[server.route_limits.slow]
path = ["/slow"]
timeout = "1 second please"
[rate_limit.orders]
rules = ["5 per second"]
colour = "red"
[rate_limit.all]
rules = ["5/s"]
max_keys = 3
"#;
    let found = problems(&Loader::new().text("app.toml", text));
    for (problem, (start, rest)) in found.iter().zip([
        (
            "app.toml:3: `server.route_limits.slow.path`",
            "mean `paths`?",
        ),
        (
            "app.toml:4: `server.route_limits.slow.timeout`",
            "such as \"30s\"",
        ),
        ("app.toml:6: `rate_limit.orders.rules`", "such as `10/s`"),
        (
            "app.toml:7: `rate_limit.orders.colour`",
            "valid here: `key`, `rules`",
        ),
    ]) {
        let is_told = problem.starts_with(start) && problem.contains(rest);
        assert!(is_told, "{start} … {rest}: {found:#?}");
    }
    assert_eq!(found.len(), 5, "{found:#?}");
    let text = text
        .replace("path =", "paths =")
        .replace("1 second please", "1s");
    let text = text
        .replace("5 per second", "5/s")
        .replace("colour = \"red\"", "");
    let found = problems(&Loader::new().text("app.toml", &text));
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(
        found[0].starts_with("app.toml:8: `rate_limit.all`: `max_keys` = 3"),
        "{found:#?}"
    );
}
