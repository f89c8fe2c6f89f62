//! A small SQLite database: a bounded set of connections, each used by one worker at a time.

use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;

/// One row of the table `users`.
#[derive(Debug, Serialize)]
pub(crate) struct User {
    pub id: u32,
    pub name: String,
    pub region: String,
}

/// A pool of connections to one database in memory; a cheap handle.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    idle: Arc<Mutex<Vec<Connection>>>,
    uri: Arc<str>,
}

impl Database {
    /// Opens the database and seeds it with `users` rows.
    pub(crate) fn seeded(users: u32) -> rusqlite::Result<Self> {
        // Shared among this process's connections, and gone with the last of them.
        let uri = format!(
            "file:stellane-{}?mode=memory&cache=shared",
            std::process::id()
        );
        let mut connection = Connection::open(&uri)?;
        connection.execute_batch(
            "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, region TEXT NOT NULL)",
        )?;
        let transaction = connection.transaction()?;
        for id in 1..=users {
            let region = ["eu", "us", "ap"][(id % 3) as usize];
            transaction.execute(
                "INSERT INTO users VALUES (?1, ?2, ?3)",
                params![id, format!("user {id}"), region],
            )?;
        }
        transaction.commit()?;
        Ok(Self {
            idle: Arc::new(Mutex::new(vec![connection])),
            uri: uri.into(),
        })
    }

    /// Reads one user. Blocks: call it on the worker pool.
    pub(crate) fn user(&self, id: u32) -> rusqlite::Result<Option<User>> {
        let connection = match self.idle().pop() {
            Some(connection) => connection,
            None => Connection::open(&*self.uri)?,
        };
        let user = connection
            .prepare_cached("SELECT id, name, region FROM users WHERE id = ?1")?
            .query_row([id], |row| {
                Ok(User {
                    id: row.get(0)?,
                    name: row.get(1)?,
                    region: row.get(2)?,
                })
            })
            .optional();
        self.idle().push(connection);
        user
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
