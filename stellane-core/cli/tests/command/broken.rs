//! Broken configuration files, as people write them: each gives one readable error for each mistake,
//! with the line, and never a panic.

use std::{fs, process::Command};

/// What the file holds, and what the error says: `LINE:` of the mistake, then the parts of the message.
const BROKEN: &[(&str, &[&str])] = &[
    // Not TOML.
    ("[server", &["1:", "]"]),
    ("server]", &["1:"]),
    ("[server]\naddress", &["2:", "="]),
    ("[server]\naddress =", &["2:", "value"]),
    (
        "[server]\naddress = 127.0.0.1:3000",
        &["2:", "text is written in quotes: \"127.0.0.1:3000\""],
    ),
    ("[server]\naddress = \"127.0.0.1:3000", &["2:"]),
    ("[server]\naddress: \"127.0.0.1:3000\"", &["2:"]),
    ("[server]\nmax_body_bytes = 1 MiB", &["2:"]),
    ("[server]\nmax_body_bytes = 0x", &["2:"]),
    ("[server]\nmax_body_bytes = 01", &["2:"]),
    ("[log]\nlevel = \"a\\qb\"", &["2:"]),
    ("[log]\nlevel = 'info\n", &["2:"]),
    ("[log]\nlevel = info", &["2:"]),
    ("{\"server\": {}}", &["1:"]),
    ("server:\n", &["1:"]),
    (
        "[log]\nlevel = \"info\"\nlevel = \"warn\"",
        &["3:", "duplicate key"],
    ),
    ("[log]\n[server]\n[log]", &["3:", "duplicate key"]),
    ("[log]\nlevel = \"in\u{0}fo\"", &["2:"]),
    // A key that does not exist.
    ("[sever]\n", &["1:", "`sever`", "did you mean `server`?"]),
    (
        "[servers]\naddress = \"127.0.0.1:1\"",
        &["1:", "did you mean `server`?"],
    ),
    ("[zebra]\n", &["1:", "`zebra`", "valid here: `"]),
    (
        "adress = \"127.0.0.1:3000\"",
        &["1:", "`adress`", "unknown key"],
    ),
    (
        "[server]\nadress = \"127.0.0.1:3000\"",
        &["2:", "`server.adress`", "did you mean `address`?"],
    ),
    (
        "[server]\naddr = \"127.0.0.1:3000\"",
        &["2:", "did you mean `address`?"],
    ),
    (
        "[server]\nADDRESS = \"127.0.0.1:3000\"",
        &["2:", "did you mean `address`?"],
    ),
    (
        "[server]\nadmin-address = \"127.0.0.1:3000\"",
        &["2:", "did you mean `admin_address`?"],
    ),
    (
        "[server]\ndrain_timeout_ms = 5",
        &["2:", "did you mean `drain_timeout`?"],
    ),
    (
        "[server]\nmax_body_size = 5",
        &["2:", "did you mean `max_body_bytes`?"],
    ),
    (
        "[server.log]\nlevel = \"info\"",
        &["1:", "`server.log`", "unknown key"],
    ),
    (
        "server.adress = \"127.0.0.1:1\"",
        &["1:", "did you mean `address`?"],
    ),
    ("[log]\nlevle = \"info\"", &["2:", "did you mean `level`?"]),
    // A value of the wrong type.
    ("server = 1", &["1:", "`server`", "1 is not a section"]),
    ("server = \"127.0.0.1:3000\"", &["1:", "is not a section"]),
    (
        "[[server]]\naddress = \"127.0.0.1:1\"",
        &["1:", "is not a section"],
    ),
    (
        "[server]\naddress = 3000",
        &["2:", "3000 is not a string, such as \"127.0.0.1:3000\""],
    ),
    (
        "[server]\naddress = [\"127.0.0.1:3000\"]",
        &["2:", "is not a string"],
    ),
    (
        "[server.address]\nhost = \"127.0.0.1\"",
        &["1:", "a section is not a string"],
    ),
    (
        "[server]\ndrain_timeout = 30",
        &["2:", "30 is not a string, such as \"20s\""],
    ),
    (
        "[server]\ndrain_timeout = true",
        &["2:", "true is not a string, such as \"20s\""],
    ),
    (
        "[server]\nmax_body_bytes = true",
        &["2:", "true is not a size"],
    ),
    (
        "[server]\nmax_body_bytes = 1.5",
        &["2:", "1.5 is not a size"],
    ),
    (
        "[server]\nmax_body_bytes = 2026-01-01",
        &["2:", "2026-01-01 is not a size"],
    ),
    ("[log]\nlevel = 3", &["2:", "3 is not a string"]),
    // A value out of range.
    (
        "[server]\nmax_body_bytes = -1",
        &["2:", "-1 is not a whole number from 0"],
    ),
    (
        "[server]\nmax_body_bytes = 99999999999999999999",
        &["2:", "99999999999999999999 is out of range"],
    ),
    (
        "[server]\nmax_body_bytes = \"lots\"",
        &["2:", "\"lots\" is not a size, such as 65536 or \"64KiB\""],
    ),
    (
        "[server]\nmax_body_bytes = \"2 MiBs\"",
        &["2:", "is not a size"],
    ),
    (
        "[server]\ndrain_timeout = \"30\"",
        &["2:", "\"30\" is not a duration, such as \"30s\""],
    ),
    (
        "[server]\ndrain_timeout = \"30 parsecs\"",
        &["2:", "\"30 parsecs\" is not a duration"],
    ),
    (
        "[server]\ndrain_timeout = \"-1s\"",
        &["2:", "\"-1s\" is not a duration"],
    ),
    (
        "[server]\ndrain_timeout = \"\"",
        &["2:", "\"\" is not a duration"],
    ),
    (
        "[server]\naddress = \"localhost\"",
        &["2:", "expected HOST:PORT"],
    ),
    (
        "[server]\naddress = \"127.0.0.1:http\"",
        &["2:", "expected HOST:PORT"],
    ),
    (
        "[server]\naddress = \"127.0.0.1:65536\"",
        &["2:", "expected HOST:PORT"],
    ),
    ("[server]\naddress = \"\"", &["2:", "expected HOST:PORT"]),
    (
        "[server]\naddress = \"::1:3000\"",
        &["2:", "expected HOST:PORT"],
    ),
    (
        "[server]\nadmin_address = \"unix:/run/admin\"",
        &["2:", "expected HOST:PORT"],
    ),
    (
        "[log]\nformat = \"xml\"",
        &[
            "2:",
            "\"xml\" is not valid",
            "expected one of `text`, `compact`, `json`",
        ],
    ),
    (
        "[log]\nformat = \"\"",
        &["2:", "expected one of `text`, `compact`, `json`"],
    ),
    (
        "[log]\nlevel = \"inof\"",
        &["2:", "`inof` is not a level", "did you mean `info`?"],
    ),
    (
        "[log]\nlevel = \"info,hyper=loud\"",
        &["2:", "`loud` is not a level: expected off, error, warn"],
    ),
    // Of the components: a range, an enum, and values that contradict each other.
    (
        "[limit]\nmin = 0",
        &["2:", "`limit.min`", "0 is out of range: expected"],
    ),
    (
        "[limit]\nalgorithm = \"magic\"",
        &["2:", "\"magic\" is not valid", "expected one of"],
    ),
    (
        "[limit]\nmax = 3",
        &[
            "2:",
            "`limit.max`",
            "3 is out of range: expected at least `min`",
        ],
    ),
    (
        "[limit.classes]\nbatch = 2.0",
        &[
            "2:",
            "`limit.classes",
            "is out of range: expected shares from 0 to 1",
        ],
    ),
    (
        "[tuner]\nmax_change = 0",
        &["2:", "`tuner.max_change`", "0 is out of range: expected"],
    ),
    (
        "[workers]\nmin_workers = 2000",
        &[
            "2:",
            "`workers.max_workers`",
            "1024 is out of range: expected `min_workers`, 2000",
        ],
    ),
    (
        "[pool]\nretain_percent = 99999",
        &["2:", "99999 is out of range: expected 0 to 10000"],
    ),
    (
        "[connection]\nidle_timeuot = \"5m\"",
        &["2:", "did you mean `idle_timeout`?"],
    ),
    (
        "[connection]\nmax_connections = -1",
        &["2:", "-1 is not a whole number from 0"],
    ),
    (
        "[metrics]\nduration_buckets = \"coarse\"",
        &["2:", "\"coarse\" is not valid"],
    ),
];

#[test]
fn each_broken_file_gives_a_readable_error() {
    assert!(BROKEN.len() >= 50, "{}", BROKEN.len());
    let file = std::env::temp_dir().join(format!("stellane-broken-{}.toml", std::process::id()));
    for (text, expected) in BROKEN {
        fs::write(&file, text).expect("writes");
        let output = Command::new(env!("CARGO_BIN_EXE_stellane"))
            .arg("check")
            .arg(&file)
            .output()
            .expect("runs");
        let said = String::from_utf8(output.stderr).expect("text");
        let context = format!("---\n{text}\n---\n{said}");
        if std::env::var_os("STELLANE_SHOW_ERRORS").is_some() {
            println!("{context}");
        }
        assert_eq!(output.status.code(), Some(2), "{context}");
        assert!(!said.contains("panicked"), "{context}");
        assert_eq!(said.lines().count(), 1, "one mistake, one line: {context}");
        let said = said
            .strip_prefix(&format!("{}:", file.display()))
            .expect("the place comes first");
        for part in *expected {
            assert!(said.contains(part), "`{part}` in {context}");
        }
        assert!(
            said.starts_with(expected[0]),
            "line {} in {context}",
            expected[0]
        );
    }
    fs::remove_file(file).expect("removes");
}
