//! How a drain ends: each connection has its time, and a moment to say goodbye.

use std::time::Duration;

use crate::connection::{
    lifecycle::Shared,
    reason::CloseReason,
    state::ConnectionState,
    table::{clock::millis, command::Command, record::Record},
};

/// How long streams that are told to say goodbye may take to end, and connections that are aborted to notice.
const MOMENT: Duration = Duration::from_secs(1);
/// The time of a connection changes with its next request.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl Shared {
    /// Waits until all connections have ended, and ends each whose time is over. A handler that blocks its thread is
    /// not waited for.
    pub(crate) async fn end_in_time(&self) {
        use ConnectionState::{Idle, Parked};
        let mut looked = 0;
        // Who stands outside may come in: looked at first, so that it is not missed.
        while self.quiet.outside() > 0 || self.next_end(looked).is_some() {
            let wait = match self.next_end(looked) {
                Some(next) => Duration::from_millis(next.saturating_sub(self.clock.tick())),
                None => LOOK_AGAIN,
            };
            let none_left = || self.quiet.outside() == 0 && self.totals.open() == 0;
            let drained = self.quiet.wait_until(none_left);
            let drained = tokio::time::timeout(wait.min(LOOK_AGAIN), drained).await;
            let now = self.clock.tick();
            if drained.is_ok() || self.next_end(looked).is_none_or(|next| next > now) {
                continue;
            }
            // Streams of events and of gRPC hear it themselves.
            let mut say_goodbye = self.drain.look(now);
            self.table.for_each(|record| {
                if record.flags().is_websocket() && self.is_over(record, now) {
                    say_goodbye = true;
                    record.owner().wake();
                }
            });
            if say_goodbye {
                self.wait_for_those_over(now).await;
            }
            self.command_each(|record| match record.state() {
                _ if !self.is_over(record, now) => Command::None,
                // Of a stream that has just ended: there is nothing to cut.
                Idle | Parked => Command::Close(CloseReason::Drained),
                _ => Command::Close(CloseReason::Aborted),
            });
            looked = now;
            // Each ends at its next poll.
            self.wait_for_those_over(now).await;
        }
        // What goes on without its client has its time, too. One that blocks its thread is not waited for.
        let latest = || self.drain.end_of_abandoned().saturating_add(millis(MOMENT));
        while self.abandoned.running() > 0 && self.clock.tick() < latest() {
            self.drain.look(self.clock.now());
            let _ = tokio::time::timeout(MOMENT / 10, self.abandoned.none_runs()).await;
        }
    }

    fn is_over(&self, record: &Record, now: u64) -> bool {
        self.drain.end_of(record) <= now
    }

    /// When the time of a connection is over, those aside that were told so at a time before.
    fn next_end(&self, looked: u64) -> Option<u64> {
        let mut next = None;
        self.table.for_each(|record| {
            let end = self.drain.end_of(record);
            let told = matches!(record.commands().asked(),
                Command::Close(reason) if !reason.yields_to_a_request());
            if end > looked || !told {
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
