use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64,
            Ordering::{AcqRel, Relaxed},
        },
    },
    task::Waker,
    time::Duration,
};

use crate::connection::{
    reason::CloseReason,
    state::{ConnectionInfo, ConnectionState},
    transport::parked::ParkedSocket,
};

/// The record of one connection. Its task writes it; the sweep and the handle read it.
///
/// All loads and stores are relaxed: each field stands alone, and a reader that is a moment late only
/// acts a moment late.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) id: u64,
    /// Address and port: a `SocketAddr` is half as large again.
    peer: Option<(IpAddr, u16)>,
    /// Whether it is counted among its peer's.
    pub(crate) counted: bool,
    opened: Ticks,
    /// When the state began.
    since: AtomicTicks,
    /// When the socket first took no more, or 0.
    write_stalled: AtomicTicks,
    requests: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
    /// At most two for each of `Http2Config::MOST_STREAMS`.
    in_flight: AtomicU16,
    /// Streams of HTTP/2 that take no more of their responses.
    blocked: AtomicU16,
    /// The number of the latest poll, and in its lowest bit whether it ended waiting for bytes of a body.
    turn: AtomicU32,
    state: AtomicU8,
    command: AtomicU8,
    pub(crate) upgraded: AtomicBool,
    /// Its latest request had a body, which may not have been read to its end.
    had_body: AtomicBool,
    /// It is being taken apart: hyper's end is not the socket's.
    pub(crate) parking: AtomicBool,
    /// Its next response is to be its last.
    close_after_response: AtomicBool,
    /// The response to a request for an upgrade is to be, since bytes behind the request are waiting.
    pub(crate) close_after_upgrade_response: AtomicBool,
    /// Of its task and its socket, the first is done with an upgraded connection.
    half_left: AtomicBool,
    /// Its client makes work without asking for anything.
    #[cfg(feature = "http2")]
    pub(crate) abusive: AtomicBool,
    /// Which call of `serve` it belongs to.
    pub(crate) group: u16,
    /// Its place in the table.
    pub(crate) slot: u32,
    owner: Mutex<SocketOwner>,
}

/// Who holds the socket.
#[derive(Debug)]
pub(crate) enum SocketOwner {
    Task(Waker),
    /// Nobody: it waits for bytes in the [lot](crate::connection::transport::parked).
    Parked(ParkedSocket),
}

impl SocketOwner {
    /// A task that was not polled yet: it sees its commands when it is.
    pub(crate) fn starting() -> Self {
        Self::Task(Waker::noop().clone())
    }
}

/// Hundredths of a second on the manager's coarse clock: half the size of milliseconds, enough for a
/// year, and the record of a connection fits in 128 bytes.
type Ticks = u32;
type AtomicTicks = AtomicU32;

fn ticks(millis: u64) -> Ticks {
    Ticks::try_from(millis / 10).unwrap_or(Ticks::MAX)
}

fn from_ticks(ticks: Ticks) -> u64 {
    u64::from(ticks) * 10
}

/// What the sweep or the handle asks of a connection's task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    None,
    Park,
    Close(CloseReason),
}

/// No poll of a task has this number.
pub(crate) const NO_TURN: u32 = 0;

const STARVED: u32 = 1;

const CLOSE_BASE: u8 = 2;

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
            id,
            peer: peer.map(|peer| (peer.ip(), peer.port())),
            counted,
            opened: ticks(now),
            since: AtomicTicks::new(ticks(now)),
            write_stalled: AtomicTicks::new(0),
            requests: AtomicU64::new(0),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            in_flight: AtomicU16::new(0),
            blocked: AtomicU16::new(0),
            turn: AtomicU32::new(NO_TURN),
            state: AtomicU8::new(ConnectionState::New as u8),
            command: AtomicU8::new(0),
            upgraded: AtomicBool::new(false),
            had_body: AtomicBool::new(false),
            parking: AtomicBool::new(false),
            close_after_response: AtomicBool::new(false),
            close_after_upgrade_response: AtomicBool::new(false),
            half_left: AtomicBool::new(false),
            #[cfg(feature = "http2")]
            abusive: AtomicBool::new(false),
            group,
            slot,
            owner: Mutex::new(SocketOwner::starting()),
        }
    }

    pub(crate) fn info(&self, now: u64) -> ConnectionInfo {
        ConnectionInfo {
            id: self.id,
            peer: self.peer.map(SocketAddr::from),
            state: self.state(),
            age: Duration::from_millis(self.age(now)),
            requests: self.requests(),
            bytes_read: self.read.load(Relaxed),
            bytes_written: self.written.load(Relaxed),
        }
    }

    /// Commands wake this task from now on.
    pub(crate) fn hear_commands(&self, waker: &Waker) {
        let mut owner = self.socket_owner();
        if !matches!(&*owner, SocketOwner::Task(old) if old.will_wake(waker)) {
            *owner = SocketOwner::Task(waker.clone());
        }
    }

    /// True for the second who is done with an upgraded connection.
    pub(crate) fn leave_upgraded(&self) -> bool {
        self.half_left.swap(true, AcqRel)
    }

    /// Makes the next response the last; whether it was not to be before.
    pub(crate) fn close_after_response(&self) -> bool {
        !self.close_after_response.swap(true, Relaxed)
    }

    pub(crate) fn closes_after_response(&self) -> bool {
        self.close_after_response.load(Relaxed)
    }

    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.peer.map(SocketAddr::from)
    }

    pub(crate) fn peer_ip(&self) -> Option<IpAddr> {
        self.peer.map(|(ip, _)| ip)
    }

    pub(crate) fn state(&self) -> ConnectionState {
        ConnectionState::from_u8(self.state.load(Relaxed))
    }

    /// Enters a state; parking continues the idle time it came from.
    pub(crate) fn enter(&self, state: ConnectionState, now: u64) {
        if self.state() == state {
            return;
        }
        self.state.store(state as u8, Relaxed);
        if state != ConnectionState::Parked {
            self.since.store(ticks(now), Relaxed);
        }
    }

    pub(crate) fn since(&self) -> u64 {
        from_ticks(self.since.load(Relaxed))
    }

    pub(crate) fn age(&self, now: u64) -> u64 {
        now.saturating_sub(from_ticks(self.opened))
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.read.load(Relaxed), self.written.load(Relaxed))
    }

    /// Whether the latest request had a body, which may not have been read to its end.
    pub(crate) fn had_body(&self) -> bool {
        self.had_body.load(Relaxed)
    }

    /// Requests whose handlers wait, and streams of HTTP/2 whose responses are not sent.
    pub(crate) fn in_flight(&self) -> u16 {
        self.in_flight.load(Relaxed)
    }

    // The task is the only writer of what follows, handlers that wait apart: a load and a store are enough.

    /// The task is polled: a new turn.
    pub(crate) fn begin_turn(&self) {
        let next = (self.turn.load(Relaxed) | STARVED).wrapping_add(1);
        self.turn.store(next.max(NO_TURN + 2), Relaxed);
    }

    /// Names the latest poll of the task.
    pub(crate) fn turn(&self) -> u32 {
        self.turn.load(Relaxed) & !STARVED
    }

    /// hyper wants more of a body than the client has sent, until the next turn.
    pub(crate) fn starve(&self) {
        self.turn.store(self.turn.load(Relaxed) | STARVED, Relaxed);
    }

    /// Whether the service waits for the client's bytes.
    pub(crate) fn starved(&self) -> bool {
        self.turn.load(Relaxed) & STARVED != 0
    }

    /// A request begins: its number on this connection, from one.
    pub(crate) fn begin_request(&self, has_body: bool, now: u64) -> u64 {
        self.enter(ConnectionState::Active, now);
        self.had_body.store(has_body, Relaxed);
        let number = self.requests.load(Relaxed) + 1;
        self.requests.store(number, Relaxed);
        number
    }

    /// A handler was not done at once. HTTP/2 runs several, on any thread.
    pub(crate) fn wait_begins(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// How many are left.
    pub(crate) fn wait_ends(&self) -> u16 {
        self.in_flight.fetch_sub(1, Relaxed) - 1
    }

    /// A stream has been given a piece of its response, and asks for no other.
    pub(crate) fn block_stream(&self) {
        self.blocked.fetch_add(1, Relaxed);
    }

    pub(crate) fn unblock_stream(&self) {
        self.blocked.fetch_sub(1, Relaxed);
    }

    /// Whether the client has room for no more of a response.
    pub(crate) fn unread(&self) -> bool {
        self.write_stalled.load(Relaxed) != 0 || self.blocked.load(Relaxed) != 0
    }

    pub(crate) fn add_read(&self, n: usize) {
        self.read.store(self.read.load(Relaxed) + n as u64, Relaxed);
    }

    pub(crate) fn add_written(&self, n: usize) {
        self.written
            .store(self.written.load(Relaxed) + n as u64, Relaxed);
        if self.write_stalled.load(Relaxed) != 0 {
            self.write_stalled.store(0, Relaxed);
        }
    }

    /// The socket took no more.
    pub(crate) fn stall_write(&self, now: u64) {
        if self.write_stalled.load(Relaxed) == 0 {
            // Zero means "not stalled", also at the very start.
            self.write_stalled.store(ticks(now).max(1), Relaxed);
        }
    }

    /// Since when the client has not read, or 0.
    pub(crate) fn write_stalled(&self) -> u64 {
        from_ticks(self.write_stalled.load(Relaxed))
    }

    pub(crate) fn socket_owner(&self) -> MutexGuard<'_, SocketOwner> {
        self.owner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the task for something; it sees it when it is polled. A close gives way only to one that spares
    /// less. False if that is asked already.
    pub(crate) fn set_command(&self, command: Command) -> bool {
        let new = match command {
            Command::None => 0,
            Command::Park => 1,
            Command::Close(reason) => CLOSE_BASE + reason as u8,
        };
        self.command
            .fetch_update(Relaxed, Relaxed, |old| {
                let stronger = match (as_command(old), command) {
                    (Command::Close(old), Command::Close(new)) => {
                        old.yields_to_a_request() && !new.yields_to_a_request()
                    }
                    (Command::Close(_), _) => false,
                    (old, new) => old != new,
                };
                stronger.then_some(new)
            })
            .is_ok()
    }

    pub(crate) fn wake(&self) {
        if let SocketOwner::Task(waker) = &*self.socket_owner() {
            waker.wake_by_ref();
        }
    }

    /// Takes a close back, when the connection turned out to be in use.
    pub(crate) fn forget_command(&self) {
        self.command.store(0, Relaxed);
    }

    /// Whether asking it to park changes nothing.
    pub(crate) fn is_parked_or_asked(&self) -> bool {
        as_command(self.command.load(Relaxed)) == Command::Park
            || matches!(&*self.socket_owner(), SocketOwner::Parked(_))
    }

    pub(crate) fn asked_to_close(&self) -> bool {
        self.command.load(Relaxed) >= CLOSE_BASE
    }

    /// What was asked; a park is answered by asking.
    pub(crate) fn take_command(&self) -> Command {
        let command = as_command(self.command.load(Relaxed));
        if command == Command::Park {
            let _ = self.command.compare_exchange(1, 0, Relaxed, Relaxed);
        }
        command
    }
}

fn as_command(n: u8) -> Command {
    match n {
        0 => Command::None,
        1 => Command::Park,
        n => CloseReason::from_u8(n - CLOSE_BASE).map_or(Command::None, Command::Close),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_with_its_reference_count_fits_in_128_bytes() {
        assert!(size_of::<Record>() + 16 <= 128, "{}", size_of::<Record>());
    }
}
