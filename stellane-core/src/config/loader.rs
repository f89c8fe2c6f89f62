use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Serialize, de::DeserializeOwned};
use toml::{
    Spanned, Table, Value,
    de::{DeTable, DeValue},
};

use super::{Origin, Problem, Secrets, file, schema};

const SECTION_PREFIX: &str = "STELLANE__";

/// Variables that stand for one key.
const SHORT_NAMES: [(&str, &str); 5] = [
    ("STELLANE_LOG_LEVEL", "log.level"),
    ("STELLANE_HOT_RELOAD", "dev.hot_reload"),
    ("STELLANE_PROFILE_CPU", "dev.profile_cpu"),
    ("STELLANE_PROFILE_MEM", "dev.profile_mem"),
    ("STELLANE_PROFILE_BLOCK", "dev.profile_block"),
];

/// Reads a [`RuntimeConfig`](super::RuntimeConfig) from its sources and reports every mistake at once.
///
/// [`Loader::from_process`] takes the file and the variables that the process was started with; the
/// other methods make each source explicit, which is what tests want.
#[derive(Default, Clone)]
#[must_use]
pub struct Loader {
    file: Option<TomlFile>,
    env: Vec<(String, String)>,
}

#[derive(Clone)]
enum TomlFile {
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
        self.file = Some(TomlFile::Path(path.into()));
        self
    }

    /// Takes TOML that is already in memory; `name` stands for the file in messages.
    pub fn text(mut self, name: impl Into<PathBuf>, toml: impl Into<String>) -> Self {
        self.file = Some(TomlFile::Text(name.into(), toml.into()));
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
            Some(TomlFile::Path(path) | TomlFile::Text(path, _)) => Some(path),
            None => self.variable("STELLANE_CONFIG").map(Path::new),
        }
    }

    /// The variables that it reads.
    #[cfg(feature = "preset")]
    pub(crate) fn names(&self) -> Vec<&str> {
        let names = self.env.iter().map(|(name, _)| name.as_str());
        names
            .filter(|name| {
                name.starts_with(SECTION_PREFIX)
                    || ["STELLANE_CONFIG", "STELLANE_ENV"].contains(name)
                    || SHORT_NAMES.iter().any(|(short, _)| short == name)
            })
            .collect()
    }

    /// The path of the file that can change; text in memory can't.
    #[cfg(feature = "reload")]
    pub(super) fn followed(&self) -> Option<&Path> {
        match &self.file {
            Some(TomlFile::Text(..)) => None,
            _ => self.path(),
        }
    }

    /// The same with this text for that of its file.
    #[cfg(feature = "reload")]
    pub(super) fn with_content(&self, text: &str) -> Self {
        match self.path() {
            Some(path) => self.clone().text(path, text),
            None => self.clone(),
        }
    }

    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.env
            .iter()
            .rev()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// Lays the file and the environment over `base`, key by key. A key that can't be read keeps the
    /// value of `base`, so that the other keys are still checked.
    pub(super) fn merge<T: Serialize + DeserializeOwned + Clone>(
        &self,
        base: T,
        file: &str,
        problems: &mut Vec<Problem>,
    ) -> (T, BTreeMap<String, Origin>) {
        let Ok(mut merged) = Table::try_from(&base) else {
            return (base, BTreeMap::new());
        };
        let known = merged.clone();
        let mut settings = self.file_settings(file, &known, problems);
        settings.append(&mut self.env_settings(&known, problems));
        let mut origins = BTreeMap::new();
        for setting in &settings {
            schema::set(&mut merged, &setting.path(), setting.value.clone());
            origins.insert(setting.path.join("."), setting.origin.clone());
        }
        // Once for all of them; what is hidden by another source is looked at on its own.
        if origins.len() == settings.len()
            && let Ok(config) = merged.try_into::<T>()
        {
            return (config, origins);
        }
        let mut merged = known.clone();
        origins.clear();
        for setting in settings {
            let (path, key) = (setting.path(), setting.path.join("."));
            let (value, origin) = (setting.value.clone(), setting.origin.clone());
            // One key at a time: whatever goes wrong is this key's fault and is told with its place.
            let mut alone = known.clone();
            schema::set(&mut alone, &path, value.clone());
            match alone.try_into::<T>() {
                Ok(_) => {
                    schema::set(&mut merged, &path, value);
                    origins.insert(key, origin);
                }
                Err(_) if setting.tell_of_fields::<T>(&known, problems) => {}
                Err(error) => {
                    let message = match value {
                        Value::Integer(n) if n < 0 => format!("{n} is not a whole number from 0"),
                        value => invalid(&key, &value, error.message().trim()),
                    };
                    problems.push(Problem::new(origin, &key, message));
                }
            }
        }
        (merged.try_into().unwrap_or(base), origins)
    }

    /// The text of the file; empty where there is none.
    pub(super) fn file_text(&self, problems: &mut Vec<Problem>) -> Arc<str> {
        let text = match (&self.file, self.path()) {
            (Some(TomlFile::Text(_, text)), _) => return text.as_str().into(),
            (_, Some(path)) => {
                file::read_to_start(path).map_err(|why| file::unreadable(path, &why))
            }
            (_, None) => return "".into(),
        };
        text.unwrap_or_else(|problem| {
            problems.push(problem);
            String::new()
        })
        .into()
    }

    fn file_settings(
        &self,
        text: &str,
        known: &Table,
        problems: &mut Vec<Problem>,
    ) -> Vec<Setting> {
        let Some(path) = self.path() else {
            return Vec::new();
        };
        let (document, errors) = DeTable::parse_recoverable(text);
        let lines = Lines::of(text);
        let mut broken = BTreeSet::new();
        for error in errors {
            let number = lines.number(error.span().map_or(0, |span| span.start));
            if !broken.insert(number) {
                continue;
            }
            let message = not_toml(lines.that_may_be_shown(number, known), error.message());
            let line = Some(number);
            let path = path.to_owned();
            problems.push(Problem::new(Origin::File { path, line }, "", message));
        }
        let mut file = FileWalk {
            file: path,
            lines: &lines,
            broken: &broken,
            problems,
            settings: Vec::new(),
            path: Vec::new(),
        };
        file.table(document.get_ref(), known);
        file.settings
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
                    fields: BTreeMap::new(),
                }),
                Err(message) => problems.push(Problem::new(origin, &key, message)),
            }
        }
        settings
    }
}

/// Without what the file and the variables hold.
impl fmt::Debug for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("Loader")
            .field("file", &self.path())
            .field("env", &names)
            .finish()
    }
}

/// Where to look for the cause of a problem: where its key was written; else where something below it
/// was; else, for values that contradict each other, where the other one was that the message names; else, in a table with a
/// free name, where that is.
pub(super) fn origin_of<'a>(
    problem: &Problem,
    origins: &'a BTreeMap<String, Origin>,
) -> Option<&'a Origin> {
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
        .or_else(|| origins.get(section))
}

struct Setting {
    path: Vec<String>,
    value: Value,
    origin: Origin,
    /// Where the fields are of a table with a free name, such as one of `rate_limit`.
    fields: BTreeMap<String, Origin>,
}

impl Setting {
    fn path(&self) -> Vec<&str> {
        self.path.iter().map(String::as_str).collect()
    }

    /// Which fields of a table with a free name are wrong by themselves, each with its place. `false` if none is.
    fn tell_of_fields<T: DeserializeOwned>(
        &self,
        known: &Table,
        problems: &mut Vec<Problem>,
    ) -> bool {
        let Value::Table(fields) = &self.value else {
            return false;
        };
        let before = problems.len();
        for (name, origin) in &self.fields {
            let Some(value) = fields.get(name) else {
                continue;
            };
            let only = Table::from_iter([(name.clone(), value.clone())]);
            let mut alone = known.clone();
            schema::set(&mut alone, &self.path(), Value::Table(only));
            if let Err(error) = alone.try_into::<T>() {
                let key = format!("{}.{name}", self.path.join("."));
                let message = invalid(&key, value, error.message().trim());
                problems.push(Problem::new(origin.clone(), &key, message));
            }
        }
        problems.len() > before
    }
}

/// Walks a parsed file beside the schema.
struct FileWalk<'a> {
    file: &'a Path,
    lines: &'a Lines<'a>,
    /// Lines that do not parse. What the parser made of one is not what was meant: one mistake is told once.
    broken: &'a BTreeSet<usize>,
    problems: &'a mut Vec<Problem>,
    settings: Vec<Setting>,
    path: Vec<String>,
}

impl FileWalk<'_> {
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
        let line = self.lines.number(offset);
        let is_section = matches!(value.get_ref(), DeValue::Table(_));
        if self.broken.contains(&line) && !is_section {
            return;
        }
        let key = self.path.join(".");
        let origin = Origin::File {
            path: self.file.to_owned(),
            line: Some(line),
        };
        if schema.is_none() && !siblings.is_empty() {
            let name = self.path.last().map_or("", String::as_str);
            self.problems.push(Problem::new(
                origin,
                &key,
                unknown_among(name, &keys(siblings)),
            ));
            return;
        }
        if let (DeValue::Table(table), Some(Value::Table(known))) = (value.get_ref(), schema) {
            return self.table(table, known);
        }
        let fields = match (value.get_ref(), schema) {
            (DeValue::Table(table), None) => self.places(table),
            _ => BTreeMap::new(),
        };
        let read = toml::de::ValueDeserializer::from(value.clone());
        let read = serde::Deserialize::deserialize(read).map_err(|error| match value.get_ref() {
            _ if Secrets::default().is_secret(&key) => "can't be read".to_owned(),
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
                fields,
            }),
            Err(message) => self.problems.push(Problem::new(origin, &key, message)),
        }
    }
}

impl FileWalk<'_> {
    fn places(&self, table: &DeTable<'_>) -> BTreeMap<String, Origin> {
        let place = |name: &Spanned<_>| Origin::File {
            path: self.file.to_owned(),
            line: Some(self.lines.number(name.span().start)),
        };
        let names = table.keys();
        names
            .map(|name| (name.get_ref().to_string(), place(name)))
            .collect()
    }
}

/// The lines of a file, found without counting from its start each time.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        let after = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            text,
            starts: std::iter::once(0).chain(after).collect(),
        }
    }

    /// The number of the line, counted from one, that has this byte.
    fn number(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }

    fn line(&self, number: usize) -> &'a str {
        let start = self.starts.get(number - 1).copied();
        let rest = &self.text[start.unwrap_or(self.text.len())..];
        rest.lines().next().unwrap_or_default().trim()
    }

    /// A line that does not parse, if nothing in it can be a secret: no more than one key, which is known and none.
    fn that_may_be_shown(&self, number: usize, known: &Table) -> Option<&'a str> {
        let line = self.line(number);
        let (key, value) = line.split_once('=')?;
        let name = key.rsplit('.').next().unwrap_or(key).trim();
        let is_one = !value.contains(['=', '{']) && line.len() <= LONGEST_SHOWN;
        let is_open = is_one && is_a_key(name, known) && !Secrets::default().is_secret(line);
        is_open.then_some(line)
    }
}

/// A longer line is no mistake that one finds by looking at it.
const LONGEST_SHOWN: usize = 200;

/// Whether any section has a key of this name.
fn is_a_key(name: &str, known: &Table) -> bool {
    known.iter().any(|(key, value)| match value {
        Value::Table(section) => is_a_key(name, section),
        _ => key == name,
    })
}

/// The message for a value that has the right type and still can't be read.
fn invalid(key: &str, value: &Value, cause: &str) -> String {
    if Secrets::default().is_secret(key) {
        return "can't have this value".to_owned();
    }
    // `unknown field `path`, expected one of `timeout`, `paths``
    if let Some(known) = cause.strip_prefix("unknown field `") {
        let names: Vec<_> = known.split('`').step_by(2).collect();
        return unknown_among(names[0], &names[1..]);
    }
    let value = schema::show(key, value);
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
fn not_toml(line: Option<&str>, cause: &str) -> String {
    let Some(line) = line else {
        return format!("not TOML: {cause}");
    };
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
            None => return unknown_among(name, &keys(table)),
        }
    }
    format!("is a section, not a key; it has {}", names(&keys(table)))
}

fn unknown_among(name: &str, valid: &[&str]) -> String {
    match schema::nearest(name, valid.iter().copied()) {
        Some(near) => format!("unknown key; did you mean `{near}`?"),
        None => format!("unknown key; valid here: {}", names(valid)),
    }
}

fn keys(table: &Table) -> Vec<&str> {
    table.keys().map(String::as_str).collect()
}

fn names(keys: &[&str]) -> String {
    let keys: Vec<_> = keys.iter().map(|key| format!("`{key}`")).collect();
    keys.join(", ")
}
