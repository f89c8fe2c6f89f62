//! What a handler leaves in SQLite when its client goes: it is dropped at each of its awaits, and the database is looked at.

use std::sync::Arc;

use rusqlite::Connection;
use stellane_core::cancel_points::{CancelPoints, Points};
use tokio::{sync::Mutex, task::spawn_blocking};

#[derive(Clone)]
struct Database(Arc<Mutex<Connection>>);

impl Database {
    fn empty() -> rusqlite::Result<Self> {
        let connection = Connection::open_in_memory()?;
        connection.execute_batch("CREATE TABLE orders (id); CREATE TABLE items (order_id)")?;
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    /// On a thread for what blocks.
    async fn execute(&self, sql: &'static str) -> rusqlite::Result<()> {
        let connection = Arc::clone(&self.0).lock_owned().await;
        let done = spawn_blocking(move || connection.execute_batch(sql)).await;
        done.expect("SQLite does not panic")
    }

    /// The check: no order is without its item.
    async fn is_whole(&self) -> Result<(), String> {
        let sql = "SELECT count(*) FROM orders WHERE id NOT IN (SELECT order_id FROM items)";
        let half: u32 = self
            .0
            .lock()
            .await
            .query_row(sql, [], |row| row.get(0))
            .map_err(|e| e.to_string())?;
        if half == 0 {
            Ok(())
        } else {
            Err(format!("{half} order without its item"))
        }
    }
}

/// An await stands between the two: the client may leave there.
async fn two_statements(database: Database) -> rusqlite::Result<()> {
    database.execute("INSERT INTO orders VALUES (7)").await?;
    database.execute("INSERT INTO items VALUES (7)").await
}

async fn one_transaction(database: Database) -> rusqlite::Result<()> {
    database
        .execute("BEGIN; INSERT INTO orders VALUES (7); INSERT INTO items VALUES (7); COMMIT")
        .await
}

#[test]
fn two_statements_leave_half_an_order() {
    let report = CancelPoints::at(Points::Operations).run(async || {
        let database = Database::empty().expect("SQLite in memory");
        (two_statements(database.clone()), async move || {
            database.is_whole().await
        })
    });
    let failure = report.failures.first().expect("it is found");
    println!("{failure}");
    assert_eq!(failure.message, "1 order without its item");
}

#[test]
fn one_transaction_leaves_none() {
    CancelPoints::at(Points::Operations).assert(async || {
        let database = Database::empty().expect("SQLite in memory");
        (one_transaction(database.clone()), async move || {
            database.is_whole().await
        })
    });
}
