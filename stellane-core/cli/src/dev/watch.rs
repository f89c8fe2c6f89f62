use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

/// What a build or a page may depend on.
const EXTENSIONS: [&str; 16] = [
    "rs", "toml", "html", "htm", "css", "js", "mjs", "ts", "json", "sql", "proto", "graphql",
    "tera", "j2", "jinja", "hbs",
];

/// Looks at the times of the files below some folders. No notifications: those differ on each system,
/// are missing on network and container file systems, and are limited in number.
#[derive(Debug)]
pub(super) struct Watcher {
    roots: Vec<PathBuf>,
    ignored: Vec<PathBuf>,
    /// As it was when a change was last told.
    known: Files,
    /// As it was at the last look.
    seen: Files,
    next: Instant,
}

type Files = HashMap<PathBuf, (SystemTime, u64)>;

impl Watcher {
    pub(super) fn new(roots: Vec<PathBuf>, ignored: Vec<PathBuf>) -> Self {
        let ignored = ignored
            .into_iter()
            .map(|path| fs::canonicalize(&path).unwrap_or(path))
            .collect();
        let mut watcher = Self {
            roots,
            ignored,
            known: Files::new(),
            seen: Files::new(),
            next: Instant::now(),
        };
        watcher.known = watcher.look();
        watcher.seen.clone_from(&watcher.known);
        watcher
    }

    /// A file that changed since the last one that was told, as soon as two looks in a row agree: an
    /// editor's save and a `git checkout` are one change.
    pub(super) fn poll(&mut self) -> Option<PathBuf> {
        let started = Instant::now();
        if started < self.next {
            return None;
        }
        let now = self.look();
        // A large tree is looked at less often, so that watching never costs more than a twentieth.
        self.next = started + (started.elapsed() * 20).max(Duration::from_millis(90));
        let settled = now == self.seen;
        self.seen = now;
        if !settled {
            return None;
        }
        let changed = difference(&self.known, &self.seen)?;
        self.known.clone_from(&self.seen);
        Some(changed)
    }

    fn look(&self) -> Files {
        let mut files = Files::new();
        for root in &self.roots {
            self.walk(root, &mut files);
        }
        files
    }

    fn walk(&self, folder: &Path, files: &mut Files) {
        // What can't be read is as if it were not there; it is looked at again next time.
        let Ok(entries) = fs::read_dir(folder) else {
            return;
        };
        for entry in entries.flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if name.starts_with('.') || name == "node_modules" || self.ignored.contains(&path) {
                continue;
            }
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if kind.is_dir() {
                self.walk(&path, files);
                continue;
            }
            let relevant = path
                .extension()
                .and_then(|extension| extension.to_str())
                .is_some_and(|extension| EXTENSIONS.contains(&extension));
            // Through a link, so that a change of its target counts.
            if relevant && let Ok(metadata) = fs::metadata(&path) {
                let time = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                files.insert(path, (time, metadata.len()));
            }
        }
    }
}

fn difference(old: &Files, new: &Files) -> Option<PathBuf> {
    let changed = new
        .iter()
        .find(|(path, stamp)| old.get(*path) != Some(stamp));
    let gone = || old.keys().find(|path| !new.contains_key(*path));
    changed.map(|(path, _)| path).or_else(gone).cloned()
}
