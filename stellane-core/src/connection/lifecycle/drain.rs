//! How a drain ends: each connection has its time, and a moment to say goodbye.

use std::time::Duration;

use crate::connection::{
    lifecycle::Shared,
    reason::CloseReason,
    table::{command::Command, record::Record},
};

/// How long streams that are told to say goodbye may take to end, and connections that are aborted to notice.
const MOMENT: Duration = Duration::from_secs(1);
/// The time of a connection changes with its next request.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl Shared {
    /// Waits until all connections have ended, and ends each whose time is over. A handler that blocks its thread is
    /// not waited for.
    pub(crate) async fn end_in_time(&self) {
        while let Some(next) = self.next_end() {
            let wait = Duration::from_millis(next.saturating_sub(self.clock.tick()));
            let drained = self.quiet.wait_until(|| self.totals.open() == 0);
            let drained = tokio::time::timeout(wait.min(LOOK_AGAIN), drained).await;
            let now = self.clock.tick();
            if drained.is_ok() || self.next_end().is_none_or(|next| next > now) {
                continue;
            }
            self.drain.look(now);
            self.table.for_each(|record| {
                if self.is_over(record, now) {
                    // Of streams of HTTP/2 each hears it itself.
                    record.owner().wake();
                }
            });
            self.wait_for_those_over(now).await;
            self.command_each(|record| match self.is_over(record, now) {
                true => Command::Close(CloseReason::Aborted),
                false => Command::None,
            });
            // Each ends at its next poll.
            self.wait_for_those_over(now).await;
        }
    }

    fn is_over(&self, record: &Record, now: u64) -> bool {
        self.drain.end_of(record) <= now
    }

    /// When the time of a connection is over that was not told to end for good yet.
    fn next_end(&self) -> Option<u64> {
        let mut next = None;
        self.table.for_each(|record| {
            let told = matches!(record.commands().asked(),
                Command::Close(reason) if !reason.yields_to_a_request());
            if !told {
                let end = self.drain.end_of(record);
                next = Some(next.map_or(end, |next: u64| next.min(end)));
            }
        });
        next
    }

    async fn wait_for_those_over(&self, now: u64) {
        let gone = async {
            loop {
                let mut left = false;
                self.table
                    .for_each(|record| left |= self.is_over(record, now));
                if !left {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(MOMENT, gone).await;
    }
}
