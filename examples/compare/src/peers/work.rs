//! What every server does, so that only the way to it differs.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, stream};
use http_body::Body;
use http_body_util::BodyExt;
use rusqlite::{Connection, OpenFlags};
use serde::Serialize;
use tokio::{fs::File, io::AsyncWriteExt};
use tokio_postgres::NoTls;

use super::{BoxError, Settings};

pub(crate) const HELLO: &str = "Hello, world!";
/// How often a gRPC stream says it.
pub(crate) const MESSAGES: usize = 100;
/// How long who is slow waits, as if for a database.
pub(crate) const SLOW: Duration = Duration::from_millis(50);
pub(crate) const PIECES: usize = 10;
pub(crate) static PIECE: [u8; 1 << 10] = [b's'; 1 << 10];
pub(crate) static DOWNLOAD: [u8; 1 << 20] = [b'd'; 1 << 20];
const QUERY: &str = "SELECT id, name, region FROM users WHERE id = $1";

#[derive(Serialize)]
pub(crate) struct Greeting<T> {
    pub hello: T,
}

#[derive(Serialize)]
pub(crate) struct User {
    id: i32,
    name: String,
    region: String,
}

#[derive(Serialize)]
pub(crate) struct Uploaded {
    pub received: u64,
}

#[derive(Serialize)]
pub(crate) struct Primes {
    pub primes: u32,
}

/// Pieces of a body, 5 ms apart.
pub(crate) fn pieces() -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold(0, |sent| async move {
        if sent == PIECES {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        Some((Ok(Bytes::from_static(&PIECE)), sent + 1))
    })
}

pub(crate) fn count_primes(below: u32) -> u32 {
    let is_prime = |n: u32| {
        (2..)
            .take_while(|d| d * d <= n)
            .all(|d| !n.is_multiple_of(d))
    };
    (2..below).filter(|n| is_prime(*n)).count() as u32
}

/// The databases that the harness has filled.
#[derive(Clone)]
pub(crate) struct Databases {
    sqlite: Arc<Sqlite>,
    postgres: Option<deadpool_postgres::Pool>,
}

struct Sqlite {
    path: Option<String>,
    idle: Mutex<Vec<Connection>>,
}

impl Databases {
    pub(super) fn open(settings: &Settings) -> Result<Self, BoxError> {
        let postgres = settings.postgres.as_deref().map(|url| {
            let manager =
                deadpool_postgres::Manager::new(url.parse::<tokio_postgres::Config>()?, NoTls);
            let pool = deadpool_postgres::Pool::builder(manager).max_size(16);
            Ok::<_, BoxError>(pool.build()?)
        });
        Ok(Self {
            sqlite: Arc::new(Sqlite {
                path: settings.sqlite.clone(),
                idle: Mutex::default(),
            }),
            postgres: postgres.transpose()?,
        })
    }

    /// Blocks: for a thread that may.
    pub(crate) fn sqlite(&self, id: i32) -> Result<User, BoxError> {
        let idle = || {
            self.sqlite
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        let kept = idle().pop();
        let connection = match kept {
            Some(connection) => connection,
            None => Connection::open_with_flags(
                self.sqlite.path.as_deref().ok_or("no SQLite")?,
                OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
            )?,
        };
        let user = connection.prepare_cached(QUERY)?.query_row([id], |row| {
            Ok(User {
                id: row.get(0)?,
                name: row.get(1)?,
                region: row.get(2)?,
            })
        })?;
        idle().push(connection);
        Ok(user)
    }

    pub(crate) async fn postgres(&self, id: i32) -> Result<User, BoxError> {
        let client = self.postgres.as_ref().ok_or("no PostgreSQL")?.get().await?;
        let statement = client.prepare_cached(QUERY).await?;
        let row = client.query_one(&statement, &[&id]).await?;
        Ok(User {
            id: row.try_get(0)?,
            name: row.try_get(1)?,
            region: row.try_get(2)?,
        })
    }
}

/// A file to write an upload to; gone from its folder as soon as it is open.
pub(crate) struct Upload {
    file: Option<File>,
    received: u64,
}

impl Upload {
    pub(crate) async fn to_disk(folder: &str) -> Result<Self, BoxError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let path = format!("{folder}/upload-{}-{number}", std::process::id());
        let file = File::create(&path).await?;
        tokio::fs::remove_file(&path).await?;
        Ok(Self {
            file: Some(file),
            received: 0,
        })
    }

    pub(crate) fn to_nowhere() -> Self {
        Self {
            file: None,
            received: 0,
        }
    }

    pub(crate) async fn write(&mut self, data: &[u8]) -> Result<(), BoxError> {
        self.received += data.len() as u64;
        if let Some(file) = &mut self.file {
            file.write_all(data).await?;
        }
        Ok(())
    }

    pub(crate) async fn end(mut self) -> Result<Uploaded, BoxError> {
        if let Some(file) = &mut self.file {
            file.flush().await?;
        }
        Ok(Uploaded {
            received: self.received,
        })
    }

    /// Takes a whole body.
    pub(crate) async fn receive<B>(mut self, body: B) -> Result<Uploaded, BoxError>
    where
        B: Body<Data = Bytes, Error: Into<BoxError>>,
    {
        let mut body = std::pin::pin!(body);
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.map_err(Into::into)?.into_data() {
                self.write(&data).await?;
            }
        }
        self.end().await
    }
}
