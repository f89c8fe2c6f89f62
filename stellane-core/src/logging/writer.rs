//! Lines on their way to where they are written, by a thread of their own.

use std::{
    fmt, io,
    io::Write,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use tracing_subscriber::fmt::MakeWriter;

/// How many bytes may wait to be written.
const MOST: usize = 1 << 20;
/// What is kept of the memory of a burst.
const KEPT: usize = 64 << 10;
/// How long a pipe that is full and does not block is left alone.
const PAUSE: Duration = Duration::from_millis(10);

/// Writes lines without ever waiting for whoever reads them: those that find a mebibyte waiting are lost and counted, and
/// a line says how many there were once there is room. A cheap handle; the thread ends with the last one, when it has
/// written what was given.
///
/// It is what [`init`](super::init) logs through: see [`writer`](super::writer) for lines of one's own, such as those of an
/// access log, in the same place.
///
/// ```
/// use std::{io::Write, time::Duration};
///
/// use stellane_core::logging::LogWriter;
///
/// let log = LogWriter::new(std::io::sink(), |lost| format!("{lost} lines lost"))?;
/// log.line(b"GET / 200");
/// assert!(log.flush(Duration::from_secs(10)));
/// assert_eq!(log.lost(), 0);
/// # Ok::<_, std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct LogWriter {
    shared: Arc<Shared>,
    /// Its end is seen by the thread.
    _open: Arc<Open>,
}

struct Open(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    /// There is something to write, or nobody left to give something.
    given: Condvar,
    /// All that was given is written.
    written: Condvar,
    lost: AtomicU64,
}

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    /// Lines that came after these bytes and found no room.
    lost: u64,
    is_writing: bool,
    is_closed: bool,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.lost == 0
    }
}

impl LogWriter {
    /// A writer to `to`, which may block for as long as it likes. `report` makes the line that tells of lost ones.
    ///
    /// # Errors
    /// A thread that can't be spawned.
    pub fn new(
        to: impl Write + Send + 'static,
        report: impl Fn(u64) -> String + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            given: Condvar::new(),
            written: Condvar::new(),
            lost: AtomicU64::new(0),
        });
        let writing = shared.clone();
        let thread = thread::Builder::new().name("stellane-log".to_owned());
        thread.spawn(move || writing.write(to, report))?;
        Ok(Self {
            _open: Arc::new(Open(shared.clone())),
            shared,
        })
    }

    /// Gives a line to be written; a line feed is added if it has none.
    pub fn line(&self, line: &[u8]) {
        let mut queue = self.shared.queue();
        if queue.lost > 0 || queue.bytes.len() + line.len() >= MOST {
            queue.lost += 1;
            self.shared.lost.fetch_add(1, Relaxed);
            return;
        }
        let was_empty = queue.bytes.is_empty();
        queue.bytes.extend_from_slice(line);
        if !line.ends_with(b"\n") {
            queue.bytes.push(b'\n');
        }
        drop(queue);
        if was_empty {
            self.shared.given.notify_one();
        }
    }

    /// Waits until all that was given is written, or for this long; whether it is.
    #[must_use = "what is not written yet may be lost when the process ends"]
    pub fn flush(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut queue = self.shared.queue();
        while queue.is_writing || !queue.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let woken = self.shared.written.wait_timeout(queue, left);
            queue = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// How many lines were lost so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Relaxed)
    }
}

impl Shared {
    fn write(&self, mut to: impl Write, report: impl Fn(u64) -> String) {
        let mut bytes = Vec::new();
        loop {
            let mut queue = self.queue();
            queue.is_writing = false;
            while queue.is_empty() {
                self.written.notify_all();
                if queue.is_closed {
                    return;
                }
                queue = self
                    .given
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            std::mem::swap(&mut bytes, &mut queue.bytes);
            let lost = std::mem::take(&mut queue.lost);
            queue.is_writing = true;
            drop(queue);
            if lost > 0 {
                bytes.extend_from_slice(report(lost).as_bytes());
                bytes.push(b'\n');
            }
            if let Err(unwritten) = write_all(&mut to, &bytes) {
                let lines = unwritten.iter().filter(|byte| **byte == b'\n').count();
                self.lost.fetch_add(lines as u64, Relaxed);
            }
            bytes.clear();
            bytes.shrink_to(KEPT);
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes, and waits where standard error was made not to block. An error is what is left.
fn write_all<'a>(to: &mut impl Write, mut bytes: &'a [u8]) -> Result<(), &'a [u8]> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(bytes),
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(PAUSE),
            Err(_) => return Err(bytes),
        }
    }
    // What it can do about that it has done.
    let _ = to.flush();
    Ok(())
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.queue().is_closed = true;
        self.0.given.notify_one();
    }
}

impl fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogWriter")
            .field("lost", &self.lost())
            .finish_non_exhaustive()
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

/// Each call is a line.
impl Write for &LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
