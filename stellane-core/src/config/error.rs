use std::{fmt, path::PathBuf};

use super::Secrets;

/// Who has made more mistakes has given another file.
const MOST: usize = 100;

/// Everything that is wrong with a configuration, in the order of its sources; the first hundred.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    problems: Vec<Problem>,
}

impl ConfigErrors {
    /// `Ok` when there is nothing to report.
    pub(crate) fn check(mut problems: Vec<Problem>) -> Result<(), Self> {
        let more = problems.len().saturating_sub(MOST);
        if more > 0 {
            problems.truncate(MOST);
            let origin = problems[0].origin.clone();
            problems.push(Problem::new(origin, "", format!("{more} more mistakes")));
        }
        // As one reads a file: from top to bottom. Equal places keep the order they were found in.
        problems.sort_by_key(|problem| match &problem.origin {
            Origin::File { line, .. } => (0, line.unwrap_or(0)),
            Origin::Env(_) => (1, 0),
            Origin::Program => (2, 0),
        });
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Self { problems })
        }
    }

    #[cfg(feature = "reload")]
    pub(super) fn one(problem: Problem) -> Self {
        Self {
            problems: vec![problem],
        }
    }

    /// The problems; never empty.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

/// As [`Display`](fmt::Display): it is what `main` prints of an error that it returns.
impl fmt::Debug for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// One mistake in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// Where the value was written.
    pub origin: Origin,
    /// The full key, such as `connection.idle_timeout`; empty when the source as a whole is unreadable.
    pub key: String,
    /// What is wrong, with the value and what would be valid.
    pub message: String,
}

impl Problem {
    pub(crate) fn new(origin: Origin, key: &str, message: impl Into<String>) -> Self {
        Self {
            origin,
            key: key.to_owned(),
            message: Secrets::default().text(&message.into()).into_owned(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.key.is_empty() {
            write!(f, "`{}`: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Where a configuration value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// A default, a profile, or a value that the program set itself.
    Program,
    /// A file, and the line in it (counted from one).
    File {
        /// The path as it was given.
        path: PathBuf,
        /// The line; `None` when the file could not be read.
        line: Option<usize>,
    },
    /// An environment variable.
    Env(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program => f.write_str("configuration"),
            Self::File { path, line } => {
                let path = path.display().to_string();
                f.write_str(&Secrets::default().text(&path))?;
                line.map_or(Ok(()), |line| write!(f, ":{line}"))
            }
            Self::Env(name) => f.write_str(name),
        }
    }
}
