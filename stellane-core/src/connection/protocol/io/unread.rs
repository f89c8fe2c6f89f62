//! Whether a client that makes no room for more takes what the system still holds for it.

use crate::connection::transport::socket::Socket;

/// A socket holds megabytes, and tells that it takes more only when a third of them is gone: a client that reads 50 kB
/// in a second looks for half a minute as if it read nothing. So the system is asked how much its queue has shrunk.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    /// Bytes that the client had not acknowledged.
    queued: Option<u32>,
    /// When that was, in milliseconds.
    looked: Option<u64>,
}

impl Unread {
    /// The client begins to make no room.
    pub(crate) fn begin(&mut self, socket: &Socket, now: u64) {
        // Once for each tick of the clock: who reads quickly makes the server wait many times in one.
        if self.looked != Some(now) {
            self.look(socket, now);
        }
    }

    /// Whether the client has taken so many bytes in a second since it was looked at last, or anything at all if that
    /// is 0. `false` where the system does not tell.
    pub(crate) fn shrinks(&mut self, socket: &Socket, now: u64, rate: u64) -> bool {
        let (before, since) = (self.queued, self.looked);
        self.look(socket, now);
        let (Some(before), Some(since), Some(queued)) = (before, since, self.queued) else {
            return false;
        };
        // More than before: something was written since, for which there has to be room.
        let taken = u64::from(before.abs_diff(queued));
        taken > 0 && taken >= now.saturating_sub(since).saturating_mul(rate) / 1000
    }

    fn look(&mut self, socket: &Socket, now: u64) {
        self.queued = socket.unacknowledged();
        self.looked = Some(now);
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::{
        io::AsyncReadExt,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// A socket that takes no more, and its client.
    async fn full() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("an address");
        let client = TcpStream::connect(address).await.expect("connects");
        let (server, _) = listener.accept().await.expect("accepts");
        let mut bytes = vec![0; 1 << 20];
        // Again, until what is under way has arrived too.
        for _ in 0..20 {
            while server.try_write(&bytes).is_ok() {}
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        bytes.clear();
        (Socket::Tcp(server), client)
    }

    #[tokio::test]
    async fn a_client_that_takes_what_was_sent_is_told_from_one_that_takes_nothing() {
        let (server, mut client) = full().await;
        let mut unread = Unread::default();
        unread.begin(&server, 1000);
        assert!(!unread.shrinks(&server, 2000, 0), "nothing was read");
        let mut buffer = vec![0; 1 << 20];
        // As much as makes the client's system say that there is room.
        while !unread.shrinks(&server, 3000, 0) {
            client.read_exact(&mut buffer).await.expect("reads");
        }
        assert!(!unread.shrinks(&server, 4000, 1 << 40), "not enough");
    }

    #[tokio::test]
    async fn what_is_in_memory_tells_nothing() {
        let (near, _far) = tokio::io::duplex(10);
        let mut unread = Unread::default();
        let socket = Socket::Other(Box::new(near));
        unread.begin(&socket, 1000);
        assert!(!unread.shrinks(&socket, 2000, 0));
    }
}
