use std::{
    env,
    io::{BufRead, BufReader, IsTerminal, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
};

use serde_json::Value;

/// A Cargo workspace and what of it is run.
#[derive(Debug)]
pub(super) struct Project {
    pub(super) root: PathBuf,
    pub(super) target: PathBuf,
    /// For `cargo build`.
    build: Vec<String>,
    /// For the program itself.
    arguments: Vec<String>,
    default_run: Option<String>,
}

/// What was built, and how it wants to be started.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) manifest_dir: Option<PathBuf>,
    pub(super) arguments: Vec<String>,
}

impl Project {
    /// Finds the workspace of the current folder, or of `--manifest-path` among the arguments of `cargo run`.
    ///
    /// # Errors
    /// What Cargo says, for example that there is no manifest.
    pub(super) fn find(cargo_run: &[String]) -> Result<Self, String> {
        let (build, arguments) = match cargo_run.iter().position(|argument| argument == "--") {
            Some(end) => (&cargo_run[..end], &cargo_run[end + 1..]),
            None => (cargo_run, &[][..]),
        };
        let mut metadata = cargo();
        metadata.args(["metadata", "--no-deps", "--format-version", "1"]);
        if let Some(at) = build
            .iter()
            .position(|argument| argument == "--manifest-path")
        {
            metadata.args(build.iter().skip(at).take(2));
        }
        let output = metadata
            .output()
            .map_err(|error| format!("cargo can't be run: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        let metadata: Value = serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("cargo metadata can't be read: {error}"))?;
        let folder = |key: &str| metadata[key].as_str().map(PathBuf::from);
        let missing = || "cargo metadata names no workspace".to_owned();
        let default_run = metadata["packages"].as_array().and_then(|packages| {
            packages
                .iter()
                .find_map(|package| package["default_run"].as_str())
        });
        Ok(Self {
            root: folder("workspace_root").ok_or_else(missing)?,
            target: folder("target_directory").ok_or_else(missing)?,
            build: build.to_vec(),
            arguments: arguments.to_vec(),
            default_run: default_run.map(str::to_owned),
        })
    }

    /// Starts a build.
    pub(super) fn build(&self) -> Result<Build, String> {
        let color = if std::io::stderr().is_terminal() {
            "always"
        } else {
            "never"
        };
        let mut child = cargo()
            .args([
                "build",
                "--message-format=json-diagnostic-rendered-ansi",
                "--color",
                color,
            ])
            .args(&self.build)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cargo can't be run: {error}"))?;
        let output = child
            .stdout
            .take()
            .map(|pipe| thread::spawn(move || read_messages(pipe)));
        let errors = child
            .stderr
            .take()
            .map(|pipe| thread::spawn(move || echo(pipe)));
        Ok(Build {
            child,
            output,
            errors,
            arguments: self.arguments.clone(),
            default_run: self.default_run.clone(),
        })
    }
}

fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// A build in progress.
#[derive(Debug)]
pub(super) struct Build {
    child: Child,
    output: Option<JoinHandle<Messages>>,
    errors: Option<JoinHandle<String>>,
    arguments: Vec<String>,
    default_run: Option<String>,
}

impl Build {
    /// The program, or what the compiler says, with its colours; `None` until the build ends.
    pub(super) fn poll(&mut self) -> Option<Result<Program, String>> {
        let status = match self.child.try_wait() {
            Ok(status) => status?,
            Err(error) => return Some(Err(format!("cargo was lost: {error}"))),
        };
        let messages = self
            .output
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default();
        let errors = self
            .errors
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default();
        if !status.success() {
            // A broken manifest has no diagnostics, only Cargo's own words.
            let text = if messages.errors.is_empty() {
                errors
            } else {
                messages.errors
            };
            return Some(Err(text));
        }
        Some(self.choose(messages.programs))
    }

    pub(super) fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The one that `cargo run` would run.
    fn choose(&mut self, mut programs: Vec<Program>) -> Result<Program, String> {
        if programs.len() > 1
            && let Some(name) = &self.default_run
        {
            programs.retain(|program| name_of(&program.path) == *name);
        }
        let names: Vec<_> = programs
            .iter()
            .map(|program| name_of(&program.path))
            .collect();
        match programs.pop() {
            Some(program) if programs.is_empty() => Ok(Program {
                arguments: std::mem::take(&mut self.arguments),
                ..program
            }),
            Some(_) => Err(format!(
                "there are several programs: choose one by `-- --bin NAME` of {}",
                names.join(", ")
            )),
            None => Err("there is no program to run, only libraries".to_owned()),
        }
    }
}

fn name_of(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[derive(Debug, Default)]
struct Messages {
    errors: String,
    programs: Vec<Program>,
}

/// Reads Cargo's messages, shows the diagnostics as they come and keeps the errors.
fn read_messages(pipe: impl Read) -> Messages {
    let mut messages = Messages::default();
    for line in BufReader::new(pipe).lines().map_while(Result::ok) {
        let Ok(message) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        match message["reason"].as_str() {
            Some("compiler-message") => {
                let rendered = message["message"]["rendered"].as_str().unwrap_or_default();
                eprint!("{rendered}");
                if message["message"]["level"]
                    .as_str()
                    .is_some_and(|level| level.starts_with("error"))
                {
                    messages.errors.push_str(rendered);
                }
            }
            Some("compiler-artifact") => {
                if let Some(path) = message["executable"].as_str() {
                    let manifest = message["manifest_path"].as_str().map(Path::new);
                    messages.programs.push(Program {
                        path: path.into(),
                        manifest_dir: manifest.and_then(Path::parent).map(PathBuf::from),
                        arguments: Vec::new(),
                    });
                }
            }
            _ => {}
        }
    }
    messages
}

fn echo(pipe: impl Read) -> String {
    let mut text = String::new();
    for line in BufReader::new(pipe).lines().map_while(Result::ok) {
        eprintln!("{line}");
        text.push_str(&line);
        text.push('\n');
    }
    text
}
