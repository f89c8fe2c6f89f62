//! The loads in small form, as tests.

#[expect(
    dead_code,
    reason = "the example runs more of it, and prints what it came to"
)]
#[path = "admission/mod.rs"]
mod admission;

pub(crate) use admission::Load;
use admission::{Report, Scale};
use tokio::sync::Mutex;

/// A machine that is busy with another test would be evidence.
static ALONE: Mutex<()> = Mutex::const_new(());

async fn run(server: &str, load: Load) -> Report {
    let _alone = ALONE.lock().await;
    // Twenty seconds are one.
    admission::run(server, load, Scale(20)).await.expect("runs")
}

pub(crate) async fn honest(server: &str, load: Load) {
    let faults = run(server, load).await.faults_if_honest();
    assert!(faults.is_empty(), "{server}, {load:?}: {faults:#?}");
}

pub(crate) async fn hostile(server: &str, load: Load) {
    let faults = run(server, load).await.faults_if_hostile();
    assert!(faults.is_empty(), "{server}, {load:?}: {faults:#?}");
}

/// Tests of a name, the servers and the load, each in servers that start cold and get everybody at once.
macro_rules! rows {
    ($judge:ident: $($name:ident($($server:literal),+; $load:expr);)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
        async fn $name() {
            $($judge($server, $load).await;)+
        }
    )+};
}
pub(crate) use rows;
