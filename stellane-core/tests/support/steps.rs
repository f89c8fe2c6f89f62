#![allow(dead_code, reason = "each test uses its part")]

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use tokio::sync::Semaphore;

/// What a handler does in two steps: the second waits for a permit.
#[derive(Clone)]
pub(crate) struct Steps {
    begun: Arc<AtomicUsize>,
    done: Arc<AtomicUsize>,
    pub(crate) gate: Arc<Semaphore>,
}

impl Steps {
    pub(crate) fn new() -> Self {
        Self {
            begun: Arc::default(),
            done: Arc::default(),
            gate: Arc::new(Semaphore::new(0)),
        }
    }

    /// How many have begun.
    pub(crate) fn begun(&self) -> usize {
        self.begun.load(SeqCst)
    }

    /// How many are done.
    pub(crate) fn done(&self) -> usize {
        self.done.load(SeqCst)
    }

    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.begun(), self.done())
    }

    pub(crate) fn begin(&self) {
        self.begun.fetch_add(1, SeqCst);
    }

    pub(crate) async fn pass(&self) {
        self.gate.acquire().await.expect("open").forget();
    }

    pub(crate) fn end(&self) {
        self.done.fetch_add(1, SeqCst);
    }

    pub(crate) async fn run(self) -> String {
        self.begin();
        self.pass().await;
        self.end();
        "done".to_owned()
    }
}
