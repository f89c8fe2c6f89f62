//! What the kernel says of a thread.

use std::fmt::Display;

/// The state of a thread of this process, as Linux names it: `R` has a CPU or waits for one, `S` and `D` wait for something
/// else. `None` where nothing is said of it.
pub(crate) fn thread_state(id: impl Display) -> Option<u8> {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{id}/stat")).ok()?;
    // It follows the name, which is in parentheses and may hold anything.
    stat.rsplit_once(") ")?.1.bytes().next()
}
