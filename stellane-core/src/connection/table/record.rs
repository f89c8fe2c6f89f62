//! The record of one connection. Its task writes it; the sweep and the handle read it.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU64,
    sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::connection::{
    client::client,
    state::{ConnectionInfo, ConnectionState},
    table::{
        budget::{Budget, OpenBudget},
        clock::Moment,
        command::{Command, Commands},
        flags::Flags,
        owner::Owner,
        turn::Turn,
    },
};

/// The record of one connection, of parts. An idle connection is little more than this and its socket: with its
/// reference count it fits in 128 bytes.
///
/// Loads and stores are relaxed: each field stands alone, and a reader that is a moment late only acts a moment late.
#[derive(Debug)]
pub(crate) struct Record {
    identity: Identity,
    traffic: Traffic,
    phase: Phase,
    answers: Answers,
    turn: Turn,
    budget: OpenBudget,
    flags: Flags,
    commands: Commands,
    owner: Owner,
}

// Locks are larger where the system has no futex, as on macOS.
#[cfg(target_os = "linux")]
const _: () = assert!(size_of::<Record>() + 2 * size_of::<usize>() <= 128);

/// What stays as it is from the accept to the end.
#[derive(Debug)]
struct Identity {
    id: u64,
    /// Address and port: a `SocketAddr` is half as large again.
    peer: Option<(IpAddr, u16)>,
    opened: Moment,
    slot: u32,
    group: u16,
    counted: bool,
}

impl Record {
    pub(crate) fn new(
        id: u64,
        slot: u32,
        peer: Option<SocketAddr>,
        counted: bool,
        group: u16,
        now: u64,
    ) -> Self {
        Self {
            identity: Identity {
                id,
                peer: peer.map(|peer| (peer.ip(), peer.port())),
                opened: Moment::at(now),
                slot,
                group,
                counted,
            },
            traffic: Traffic::default(),
            phase: Phase::new(now),
            answers: Answers::default(),
            turn: Turn::new(),
            budget: OpenBudget::new(),
            flags: Flags::default(),
            commands: Commands::new(),
            owner: Owner::new(),
        }
    }

    pub(crate) fn id(&self) -> u64 {
        self.identity.id
    }

    /// Its place in the table.
    pub(crate) fn slot(&self) -> u32 {
        self.identity.slot
    }

    /// Which call of `serve` it belongs to.
    pub(crate) fn group(&self) -> u16 {
        self.identity.group
    }

    /// Whether it is counted among its peer's.
    pub(crate) fn is_counted(&self) -> bool {
        self.identity.counted
    }

    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.identity.peer.map(SocketAddr::from)
    }

    /// A number for who has that address: see [`client`].
    pub(crate) fn client(&self) -> Option<NonZeroU64> {
        client(self.identity.peer?.0)
    }

    pub(crate) fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.identity.opened.millis())
    }

    pub(crate) fn info(&self, now: u64) -> ConnectionInfo {
        let (bytes_read, bytes_written) = self.traffic.bytes();
        ConnectionInfo {
            id: self.id(),
            peer: self.peer(),
            state: self.state(),
            age: Duration::from_millis(self.age(now)),
            requests: self.traffic.requests(),
            bytes_read,
            bytes_written,
        }
    }

    /// What its task is asked.
    pub(crate) fn commands(&self) -> &Commands {
        &self.commands
    }

    /// Who is to be woken for that.
    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Whether asking it to park changes nothing.
    pub(crate) fn is_parked_or_asked(&self) -> bool {
        self.commands.asked() == Command::Park || self.owner.is_parked()
    }

    pub(crate) fn flags(&self) -> &Flags {
        &self.flags
    }

    pub(crate) fn turn(&self) -> &Turn {
        &self.turn
    }

    pub(crate) fn answers(&self) -> &Answers {
        &self.answers
    }

    /// How long a drain waits for its requests.
    pub(crate) fn budget(&self) -> Budget {
        self.budget.get()
    }

    /// A request with a budget begins.
    pub(crate) fn begin_budget(&self, budget: Budget) {
        self.budget.begin(budget, self.answers.in_flight() == 0);
    }

    pub(crate) fn state(&self) -> ConnectionState {
        self.phase.state()
    }

    /// When its state began.
    pub(crate) fn since(&self) -> u64 {
        self.phase.since.millis()
    }

    /// Enters a state; parking continues the idle time it came from.
    pub(crate) fn enter(&self, state: ConnectionState, now: u64) {
        self.phase.enter(state, now);
    }

    /// The state goes on, and its time begins anew.
    pub(crate) fn begin_anew(&self, now: u64) {
        self.phase.since.set(now);
    }

    /// Whether the latest request had a body, which may not have been read to its end.
    pub(crate) fn had_body(&self) -> bool {
        self.phase.had_body.load(Relaxed)
    }

    /// Requests begun.
    pub(crate) fn requests(&self) -> u64 {
        self.traffic.requests()
    }

    /// Bytes read and written.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        self.traffic.bytes()
    }

    // The task is the only writer of what follows: a load and a store are enough.

    /// A request begins: its number on this connection, from one.
    pub(crate) fn begin_request(&self, has_body: bool, now: u64) -> u64 {
        self.phase.enter(ConnectionState::Active, now);
        self.phase.had_body.store(has_body, Relaxed);
        add(&self.traffic.requests, 1)
    }

    pub(crate) fn add_read(&self, n: usize) {
        add(&self.traffic.read, n as u64);
    }

    pub(crate) fn add_written(&self, n: usize) {
        add(&self.traffic.written, n as u64);
        self.answers.write_goes_on();
    }
}

/// What it is doing.
#[derive(Debug)]
struct Phase {
    since: Moment,
    state: AtomicU8,
    had_body: AtomicBool,
}

impl Phase {
    fn new(now: u64) -> Self {
        Self {
            since: Moment::at(now),
            state: AtomicU8::new(ConnectionState::New as u8),
            had_body: AtomicBool::new(false),
        }
    }

    fn state(&self) -> ConnectionState {
        ConnectionState::from_u8(self.state.load(Relaxed))
    }

    fn enter(&self, state: ConnectionState, now: u64) {
        if self.state() == state {
            return;
        }
        self.state.store(state as u8, Relaxed);
        if state != ConnectionState::Parked {
            self.since.set(now);
        }
    }
}

/// What has passed over it.
#[derive(Debug, Default)]
struct Traffic {
    requests: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
}

impl Traffic {
    fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    fn bytes(&self) -> (u64, u64) {
        (self.read.load(Relaxed), self.written.load(Relaxed))
    }
}

/// Adds to a number that nobody else writes, and returns it.
fn add(to: &AtomicU64, n: u64) -> u64 {
    let sum = to.load(Relaxed) + n;
    to.store(sum, Relaxed);
    sum
}

/// What is under way to the client.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// When the socket first took no more, if it takes none.
    write_stalled: Moment,
    /// At most two for each of `Http2Config::MOST_STREAMS`.
    in_flight: AtomicU16,
    /// Streams of HTTP/2 whose client is or was waited for.
    #[cfg(feature = "http2")]
    waiting: AtomicU16,
}

impl Answers {
    /// Requests whose handlers wait, and streams of HTTP/2 whose responses are not sent.
    pub(crate) fn in_flight(&self) -> u16 {
        self.in_flight.load(Relaxed)
    }

    /// A handler was not done at once. HTTP/2 runs several, on any thread.
    pub(crate) fn wait_begins(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// How many are left.
    pub(crate) fn wait_ends(&self) -> u16 {
        self.in_flight.fetch_sub(1, Relaxed) - 1
    }

    /// A stream waits for its client.
    #[cfg(feature = "http2")]
    pub(crate) fn stream_waits(&self) {
        self.waiting.fetch_add(1, Relaxed);
    }

    /// A stream that did is over.
    #[cfg(feature = "http2")]
    pub(crate) fn stream_is_over(&self) {
        self.waiting.fetch_sub(1, Relaxed);
    }

    /// Whether its client keeps streams waiting, or did: their task is to look at them now and then.
    #[cfg(feature = "http2")]
    pub(crate) fn have_waited(&self) -> bool {
        self.waiting.load(Relaxed) != 0
    }

    /// Whether the socket takes no more of a response.
    pub(crate) fn are_unread(&self) -> bool {
        self.write_stalled.is_some()
    }

    /// The socket took no more; whether it had taken something since the last time.
    pub(crate) fn stall_write(&self, now: u64) -> bool {
        let begins = !self.write_stalled.is_some();
        if begins {
            self.write_stalled.set_some(now);
        }
        begins
    }

    /// The socket takes no more, but the client has taken what was in it.
    pub(crate) fn stall_write_anew(&self, now: u64) {
        self.write_stalled.set_some(now);
    }

    /// Since when the client has not read, or 0.
    pub(crate) fn write_stalled(&self) -> u64 {
        self.write_stalled.millis()
    }

    fn write_goes_on(&self) {
        if self.write_stalled.is_some() {
            self.write_stalled.set(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let peer = SocketAddr::from(([192, 0, 2, 1], 4711));
        Record::new(7, 3, Some(peer), true, 2, 1000)
    }

    #[test]
    fn a_state_begins_when_it_is_entered_and_parking_goes_on_with_the_idle_time() {
        use ConnectionState::{Active, Idle, Parked};
        let record = record();
        for (state, now, since) in [
            (Active, 2000, 2000),
            (Active, 2500, 2000),
            (Idle, 3000, 3000),
            (Parked, 9000, 3000),
            (Active, 9500, 9500),
        ] {
            record.enter(state, now);
            assert_eq!((record.state(), record.since()), (state, since));
        }
        assert_eq!(record.age(11_000), 10_000);
    }

    #[test]
    fn requests_and_bytes_are_counted() {
        let record = record();
        assert_eq!(record.begin_request(true, 2000), 1);
        assert_eq!(record.begin_request(false, 2000), 2);
        assert!(!record.had_body());
        record.add_read(10);
        record.add_written(20);
        let info = record.info(2000);
        assert_eq!(
            (info.requests, info.bytes_read, info.bytes_written),
            (2, 10, 20)
        );
        assert_eq!(info.state, ConnectionState::Active);
    }

    #[test]
    fn a_write_is_stalled_from_the_first_time_that_the_socket_takes_nothing_until_it_takes_something()
     {
        let record = record();
        assert!(record.answers().stall_write(0));
        assert!(record.answers().are_unread(), "also at the very start");
        record.add_written(1);
        assert!(!record.answers().are_unread());
        assert!(record.answers().stall_write(5000) && !record.answers().stall_write(6000));
        assert_eq!(record.answers().write_stalled(), 5000);
        record.answers().stall_write_anew(7000);
        assert_eq!(record.answers().write_stalled(), 7000);
        record.add_written(0);
        assert_eq!(record.answers().write_stalled(), 0);
        assert!(!record.answers().are_unread());
    }
}
