//! Who takes part: how each server is started, its version, or why it is missing.

use std::path::Path;

use serde::Serialize;

use crate::{
    BoxError, go, nginx,
    peers::{FLOOR, PEERS},
    server::{Cores, Launch, Server},
};

/// What Stellane is compared as; ratios are its figure by that of the other.
pub(crate) const REFERENCE: &str = "stellane-preset";

/// How much of the routes a server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// It speaks gRPC and nothing else.
    Grpc,
    /// It is there for its memory.
    Idle,
    Hello,
    /// `/hello`, and an upload that is counted.
    Upload,
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

/// The servers in Rust, which are this program or another build of it.
fn rust(program: &Path) -> Vec<Contestant> {
    let contestant = |peer: &crate::peers::Peer| Contestant {
        scope: peer.scope,
        ..Contestant::present(
            peer.name,
            locked(peer.package),
            Launch {
                program: program.to_owned(),
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
    PEERS.iter().map(contestant).collect()
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

/// Everyone, or those that are wanted, present or missing; `other` is another build of this program.
///
/// # Errors
/// A name that nobody has.
pub(crate) fn all(
    wanted: Option<&[String]>,
    other: Option<&Path>,
) -> Result<Vec<Contestant>, BoxError> {
    let mut all = rust(&std::env::current_exe()?);
    if let Some(program) = other {
        let mut others = rust(program);
        others.retain(|other| other.name.starts_with("stellane-"));
        for other in &mut others {
            other.name += "@other";
        }
        all.extend(others);
    }
    all.push(nginx::contestant());
    let missing = |all: &[Contestant]| {
        let mut names = wanted?.iter();
        names.find(|name| !all.iter().any(|one| one.name == **name))
    };
    // Those in Go have to be fetched and built.
    if wanted.is_none() || missing(&all).is_some() {
        all.extend(go::contestants());
    }
    if let Some(name) = missing(&all) {
        return Err(format!("no server {name}").into());
    }
    all.retain(|one| wanted.map_or(one.name != FLOOR, |wanted| wanted.contains(&one.name)));
    Ok(all)
}
