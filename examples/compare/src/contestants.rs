//! Who takes part: how each server is started, its version, or why it is missing.

use std::path::Path;

use serde::Serialize;

use crate::{
    BoxError, go, nginx,
    peers::PEERS,
    server::{Cores, Launch, Server},
};

/// What Stellane is compared as; ratios are its figure by that of the other.
pub(crate) const REFERENCE: &str = "stellane-preset";

/// How much of the routes a server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// It is there for its memory.
    Idle,
    Hello,
    All,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Contestant {
    pub name: String,
    pub version: String,
    /// Why it does not take part.
    pub missing: Option<String>,
    #[serde(skip)]
    pub scope: Scope,
    #[serde(skip)]
    pub launch: Option<Launch>,
}

impl Contestant {
    pub(crate) fn missing(name: &str, why: impl ToString) -> Self {
        Self {
            name: name.to_owned(),
            version: String::new(),
            missing: Some(why.to_string()),
            scope: Scope::All,
            launch: None,
        }
    }

    pub(crate) fn present(name: &str, version: &str, launch: Launch) -> Self {
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            missing: None,
            scope: Scope::All,
            launch: Some(launch),
        }
    }

    pub(crate) fn start(
        &self,
        cores: &Cores,
        environment: &[(String, String)],
    ) -> Result<Server, BoxError> {
        let launch = self.launch.as_ref().ok_or("it is missing")?;
        let mut launch = launch.clone();
        launch.environment.extend_from_slice(environment);
        Server::start(&launch, cores).map_err(|error| format!("{}: {error}", self.name).into())
    }
}

/// The servers in Rust, which are this program.
fn rust() -> Result<Vec<Contestant>, BoxError> {
    let program = std::env::current_exe()?;
    let contestant = |peer: &crate::peers::Peer| Contestant {
        scope: match peer.hello_only {
            true => Scope::Hello,
            false => Scope::All,
        },
        ..Contestant::present(
            peer.name,
            locked(peer.package),
            Launch {
                program: program.clone(),
                arguments: vec!["serve".to_owned(), peer.name.to_owned()],
                environment: peer
                    .environment
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                    .collect(),
                address: None,
            },
        )
    };
    Ok(PEERS.iter().map(contestant).collect())
}

/// The version of a package in the lock file.
fn locked(package: &str) -> &'static str {
    const LOCK: &str = include_str!("../Cargo.lock");
    let entry = format!("name = \"{package}\"\nversion = \"");
    LOCK.split_once(&entry)
        .and_then(|(_, rest)| rest.split_once('"'))
        .map_or("?", |(version, _)| version)
}

/// The folder of this package: its Go sources, and where results go.
pub(crate) fn home() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Everyone, present or missing.
pub(crate) fn all() -> Result<Vec<Contestant>, BoxError> {
    let mut all = rust()?;
    all.extend(go::contestants());
    all.push(nginx::contestant());
    Ok(all)
}
