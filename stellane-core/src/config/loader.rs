use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use toml::{
    Spanned, Table, Value,
    de::{DeTable, DeValue},
};

use super::{ConfigErrors, Origin, Problem, Profile, RuntimeConfig, schema};

const SECTION_PREFIX: &str = "STELLANE__";

/// Variables that stand for one key.
const SHORT_NAMES: [(&str, &str); 5] = [
    ("STELLANE_LOG_LEVEL", "log.level"),
    ("STELLANE_HOT_RELOAD", "dev.hot_reload"),
    ("STELLANE_PROFILE_CPU", "dev.profile_cpu"),
    ("STELLANE_PROFILE_MEM", "dev.profile_mem"),
    ("STELLANE_PROFILE_BLOCK", "dev.profile_block"),
];

/// Reads a [`RuntimeConfig`] from its sources and reports every mistake at once.
///
/// [`Loader::from_process`] takes the file and the variables that the process was started with; the
/// other methods make each source explicit, which is what tests want.
#[derive(Debug, Default, Clone)]
#[must_use]
pub struct Loader {
    file: Option<Source>,
    env: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
enum Source {
    Path(PathBuf),
    Text(PathBuf, String),
}

impl Loader {
    /// A loader with no file and no variables: [`load`](Self::load) gives the defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// A loader for this process: its environment, and the file that `STELLANE_CONFIG` names if it is set.
    pub fn from_process() -> Self {
        // Variables that are not Unicode can't be ours: our names and values are all ASCII.
        Self::new().env(std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        }))
    }

    /// Reads this TOML file. It replaces a file named by `STELLANE_CONFIG`.
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(Source::Path(path.into()));
        self
    }

    /// Takes TOML that is already in memory; `name` stands for the file in messages.
    pub fn text(mut self, name: impl Into<PathBuf>, toml: impl Into<String>) -> Self {
        self.file = Some(Source::Text(name.into(), toml.into()));
        self
    }

    /// Adds environment variables; those that are not ours are passed over.
    pub fn env<K: Into<String>, V: Into<String>>(
        mut self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.env.extend(
            variables
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .filter(|(name, _)| name.starts_with("STELLANE_")),
        );
        self
    }

    /// The path of the configuration file, if there is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.file {
            Some(Source::Path(path) | Source::Text(path, _)) => Some(path),
            None => self.variable("STELLANE_CONFIG").map(Path::new),
        }
    }

    /// Reads, merges and validates.
    ///
    /// # Errors
    /// Every mistake in every source, each with its place.
    pub fn load(&self) -> Result<RuntimeConfig, ConfigErrors> {
        let mut problems = Vec::new();
        let base = self
            .variable("STELLANE_ENV")
            .unwrap_or_default()
            .parse::<Profile>();
        let base = base.unwrap_or_else(|message| {
            problems.push(Problem::new(
                Origin::Env("STELLANE_ENV".into()),
                "",
                message,
            ));
            Profile::Default
        });
        self.load_with(RuntimeConfig::profile(base), problems)
    }

    /// The same over other defaults than those of a profile.
    #[cfg(feature = "preset")]
    pub(crate) fn load_over(&self, base: RuntimeConfig) -> Result<RuntimeConfig, ConfigErrors> {
        self.load_with(base, Vec::new())
    }

    fn load_with(
        &self,
        base: RuntimeConfig,
        mut problems: Vec<Problem>,
    ) -> Result<RuntimeConfig, ConfigErrors> {
        let (config, origins) = self.merge(base, &mut problems);

        let mut invalid = config.problems();
        for problem in &mut invalid {
            if let Some(origin) = origin_of(problem, &origins) {
                problem.origin = origin.clone();
            }
        }
        problems.append(&mut invalid);
        ConfigErrors::check(problems)?;
        Ok(config)
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.env
            .iter()
            .rev()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// Lays the file and the environment over `base`, key by key. A key that can't be read keeps the
    /// value of `base`, so that the other keys are still checked.
    fn merge<T: Serialize + DeserializeOwned + Clone>(
        &self,
        base: T,
        problems: &mut Vec<Problem>,
    ) -> (T, BTreeMap<String, Origin>) {
        let Ok(mut merged) = Table::try_from(&base) else {
            return (base, BTreeMap::new());
        };
        let known = merged.clone();
        let mut origins = BTreeMap::new();
        for Setting {
            path,
            value,
            origin,
        } in self
            .file_settings(&known, problems)
            .into_iter()
            .chain(self.env_settings(&known, problems))
        {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            let key = path.join(".");
            // One key at a time: whatever goes wrong is this key's fault and is told with its place.
            let mut alone = known.clone();
            schema::set(&mut alone, &path, value.clone());
            match alone.try_into::<T>() {
                Ok(_) => {
                    schema::set(&mut merged, &path, value);
                    origins.insert(key, origin);
                }
                Err(error) => {
                    let message = match value {
                        Value::Integer(n) if n < 0 => format!("{n} is not a whole number from 0"),
                        value => invalid(&value, error.message().trim()),
                    };
                    problems.push(Problem::new(origin, &key, message));
                }
            }
        }
        (merged.try_into().unwrap_or(base), origins)
    }

    fn file_settings(&self, known: &Table, problems: &mut Vec<Problem>) -> Vec<Setting> {
        let (path, text) = match &self.file {
            Some(Source::Text(path, text)) => (path.clone(), Ok(text.clone())),
            Some(Source::Path(path)) => (path.clone(), std::fs::read_to_string(path)),
            None => match self.variable("STELLANE_CONFIG") {
                Some(path) => (PathBuf::from(path), std::fs::read_to_string(path)),
                None => return Vec::new(),
            },
        };
        let text = match text {
            Ok(text) => text,
            Err(error) => {
                let origin = Origin::File { path, line: None };
                problems.push(Problem::new(origin, "", format!("can't be read: {error}")));
                return Vec::new();
            }
        };
        let (document, errors) = DeTable::parse_recoverable(&text);
        let place = |offset: usize| Origin::File {
            path: path.clone(),
            line: Some(
                text.as_bytes()
                    .iter()
                    .take(offset)
                    .filter(|b| **b == b'\n')
                    .count()
                    + 1,
            ),
        };
        let mut broken = Vec::new();
        for error in errors {
            let origin = place(error.span().map_or(0, |span| span.start));
            if broken.contains(&origin) {
                continue;
            }
            let line = match &origin {
                Origin::File {
                    line: Some(line), ..
                } => text.lines().nth(line - 1),
                _ => None,
            };
            let message = not_toml(line.unwrap_or_default(), error.message());
            problems.push(Problem::new(origin.clone(), "", message));
            broken.push(origin);
        }
        let mut settings = Vec::new();
        let mut misread = Vec::new();
        let mut file = FileWalk {
            place: &place,
            problems: &mut misread,
            settings: &mut settings,
            path: Vec::new(),
        };
        file.table(document.get_ref(), known);
        // What the parser made of a broken line is not what was meant: one mistake is told once.
        settings.retain(|setting| !broken.contains(&setting.origin));
        misread.retain(|problem| !broken.contains(&problem.origin));
        problems.append(&mut misread);
        settings
    }

    fn env_settings(&self, known: &Table, problems: &mut Vec<Problem>) -> Vec<Setting> {
        let mut settings = Vec::new();
        for (name, text) in &self.env {
            let short = SHORT_NAMES.iter().find(|(short, _)| short == name);
            let key = match (name.strip_prefix(SECTION_PREFIX), short) {
                (Some(key), _) => key.to_ascii_lowercase().replace("__", "."),
                (None, Some((_, key))) => (*key).to_owned(),
                (None, None) => continue,
            };
            let origin = Origin::Env(name.clone());
            let path: Vec<&str> = key.split('.').collect();
            let parsed = match schema::get(known, &path) {
                Some(value) => schema::parse(&key, value, text),
                None if schema::names_are_free(known, &path) => Ok(schema::literal(text)),
                None => Err(unknown(&key, known)),
            };
            match parsed {
                Ok(value) => settings.push(Setting {
                    path: path.iter().map(|s| (*s).to_owned()).collect(),
                    value,
                    origin,
                }),
                Err(message) => problems.push(Problem::new(origin, &key, message)),
            }
        }
        settings
    }
}

/// Where to look for the cause of a problem: where its key was written; else where something below it
/// was; else, for values that contradict each other, where the other one was that the message names.
fn origin_of<'a>(problem: &Problem, origins: &'a BTreeMap<String, Origin>) -> Option<&'a Origin> {
    let below = format!("{}.", problem.key);
    let section = problem
        .key
        .rsplit_once('.')
        .map_or("", |(section, _)| section);
    let named = || {
        let mut names = problem.message.split('`').skip(1).step_by(2);
        names.find_map(|name| origins.get(&format!("{section}.{name}")))
    };
    let inside = || {
        origins
            .range(below.clone()..)
            .next()
            .filter(|(key, _)| key.starts_with(&below))
    };
    origins
        .get(&problem.key)
        .or_else(|| inside().map(|(_, origin)| origin))
        .or_else(named)
}

struct Setting {
    path: Vec<String>,
    value: Value,
    origin: Origin,
}

/// Walks a parsed file beside the schema.
struct FileWalk<'a, P> {
    place: &'a P,
    problems: &'a mut Vec<Problem>,
    settings: &'a mut Vec<Setting>,
    path: Vec<String>,
}

impl<P: Fn(usize) -> Origin> FileWalk<'_, P> {
    fn table(&mut self, table: &DeTable<'_>, known: &Table) {
        for (name, value) in table {
            self.path.push(name.get_ref().to_string());
            self.entry(
                name.span().start,
                value,
                known.get(name.get_ref().as_ref()),
                known,
            );
            self.path.pop();
        }
    }

    fn entry(
        &mut self,
        offset: usize,
        value: &Spanned<DeValue<'_>>,
        schema: Option<&Value>,
        siblings: &Table,
    ) {
        let key = self.path.join(".");
        let origin = (self.place)(offset);
        if schema.is_none() && !siblings.is_empty() {
            let name = self.path.last().map_or("", String::as_str);
            self.problems
                .push(Problem::new(origin, &key, unknown_among(name, siblings)));
            return;
        }
        if let (DeValue::Table(table), Some(Value::Table(known))) = (value.get_ref(), schema) {
            return self.table(table, known);
        }
        let read = toml::de::ValueDeserializer::from(value.clone());
        let read = serde::Deserialize::deserialize(read).map_err(|error| match value.get_ref() {
            DeValue::Integer(n) => {
                format!("{} is out of range", n.as_str())
            }
            _ => error.message().to_owned(),
        });
        match read.and_then(|value| match schema {
            Some(schema) => schema::coerce(&key, schema, value),
            // In a section of free names, such as `limit.classes`.
            None => Ok(value),
        }) {
            Ok(value) => self.settings.push(Setting {
                path: self.path.clone(),
                value,
                origin,
            }),
            Err(message) => self.problems.push(Problem::new(origin, &key, message)),
        }
    }
}

/// The message for a value that has the right type and still can't be read.
fn invalid(value: &Value, cause: &str) -> String {
    let value = schema::show(value);
    // serde repeats the value: `invalid value: string "30", expected a duration`.
    match cause
        .strip_prefix("invalid value: ")
        .and_then(|cause| cause.rsplit_once(", expected "))
    {
        Some((_, "a duration")) => {
            format!("{value} is not a duration, such as \"30s\" or \"1h 30m\"")
        }
        Some((_, expected)) => format!("{value} is not valid: expected {expected}"),
        None => format!("{value} is not valid: {cause}"),
    }
}

/// The message for a line that does not parse.
fn not_toml(line: &str, cause: &str) -> String {
    let line = line.trim();
    let bare = line
        .split_once('=')
        .map(|(_, value)| value.trim_start())
        .filter(|value| !value.is_empty() && !value.starts_with(['"', '\'', '[', '{']));
    match bare {
        Some(value) => {
            format!("`{line}` is not TOML: {cause}; text is written in quotes: \"{value}\"")
        }
        None => format!("`{line}` is not TOML: {cause}"),
    }
}

/// The message for an unknown dotted key: it names the first part that does not exist.
fn unknown(key: &str, known: &Table) -> String {
    let mut table = known;
    for name in key.split('.') {
        match table.get(name) {
            Some(Value::Table(next)) => table = next,
            Some(_) => continue,
            None => return unknown_among(name, table),
        }
    }
    format!("is a section, not a key; it has {}", names(table))
}

fn unknown_among(name: &str, siblings: &Table) -> String {
    match schema::nearest(name, siblings.keys().map(String::as_str)) {
        Some(near) => format!("unknown key; did you mean `{near}`?"),
        None => format!("unknown key; valid here: {}", names(siblings)),
    }
}

fn names(table: &Table) -> String {
    table
        .keys()
        .map(|key| format!("`{key}`"))
        .collect::<Vec<_>>()
        .join(", ")
}
