//! `stellane report`: all that a service says of itself, in one file.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::{Failure, admin::Admin, print};

/// Write what a service says of itself to one file, for whoever helps.
///
/// Configuration (secrets are not in it), limits of the machine, metrics, the last ten minutes, slow, refused and failed
/// requests, what the tuner did, and profiles if the service gives them. The addresses of clients are in it.
#[derive(Debug, clap::Args)]
pub(super) struct Report {
    /// The admin address of the service. Default: that of the configuration here.
    address: Option<String>,
    /// The file. `-` is standard output.
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "stellane-report.json"
    )]
    output: PathBuf,
}

/// The streams, which have no end, and the page itself.
const NOT: [&str; 2] = ["/", "/events"];
/// Of these the service may have some.
const PROFILES: [&str; 2] = [
    "/debug/profile/cpu?seconds=3&format=folded",
    "/debug/profile/block",
];

impl Report {
    pub(super) fn run(self) -> Result<(), Failure> {
        let admin = Admin::at(self.address.as_deref())?;
        let runtime = admin.runtime().map_err(Failure::new)?;
        let paths = admin.json("/paths").unwrap_or_default();
        let paths = paths
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        let paths = paths.filter(|path| !NOT.contains(path) && *path != "/runtime.json");
        let mut pages = Map::from_iter([("/runtime.json".to_owned(), runtime)]);
        for path in paths.chain(PROFILES) {
            // Of what only changes something there is nothing to read.
            if let Ok((200 | 503, body)) = admin.get(path) {
                let text = String::from_utf8_lossy(&body);
                let page = serde_json::from_str(&text).unwrap_or_else(|_| text.into());
                pages.insert(path.to_owned(), page);
            }
        }
        let report = json!({
            "stellane_report": env!("CARGO_PKG_VERSION"),
            "address": admin.address,
            "at": humantime_serde::re::humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
            "pages": pages,
        });
        if self.output.as_os_str() == "-" {
            return print(format_args!("{report:#}\n"));
        }
        let file = self.output.display();
        std::fs::write(&self.output, format!("{report:#}\n"))
            .map_err(|error| Failure::new(format_args!("{file}: {error}")))?;
        let names: Vec<_> = pages.keys().map(String::as_str).collect();
        print(format_args!("{file}: {}\n", names.join(" ")))
    }
}
