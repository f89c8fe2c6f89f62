//! Reading a configuration file without waiting for it, and no more of it than makes sense.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use super::{Origin, Problem};

/// The longest file that is read; a `ConfigMap` of Kubernetes is no longer either.
const MOST_BYTES: u64 = 1 << 20;

/// The text, from a file or from a pipe such as `<(decrypt app.toml)`: what a process starts with it may wait for.
pub(super) fn read_to_start(path: &Path) -> Result<String, String> {
    let file = File::open(path).map_err(|error| say(&error))?;
    read(file)
}

/// The text of a regular file: what is no more than looked at must not be waited for.
#[cfg(feature = "reload")]
pub(super) fn read_again(path: &Path) -> Result<String, String> {
    let is_regular = |metadata: io::Result<std::fs::Metadata>| match metadata {
        Ok(metadata) if metadata.is_file() => Ok(()),
        Ok(metadata) if metadata.is_dir() => Err("it is a directory".to_owned()),
        Ok(_) => Err("it is no regular file".to_owned()),
        Err(error) => Err(say(&error)),
    };
    // Before it is opened, which waits for the other end of a FIFO.
    is_regular(std::fs::metadata(path))?;
    read(File::open(path).map_err(|error| say(&error))?)
}

fn read(file: File) -> Result<String, String> {
    let mut bytes = Vec::new();
    let read = file.take(MOST_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| say(&error))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(format!("it is longer than {MOST_BYTES} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

fn say(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
        _ => error.to_string(),
    }
}

pub(super) fn unreadable(path: &Path, why: &str) -> Problem {
    let path = path.to_owned();
    let message = format!("can't be read: {why}");
    Problem::new(Origin::File { path, line: None }, "", message)
}
