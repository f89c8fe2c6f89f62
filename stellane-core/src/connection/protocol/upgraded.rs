//! The end of an upgraded connection.

use std::sync::Arc;

use crate::connection::{lifecycle::Shared, table::record::Record};

/// Ends an upgraded connection when both its task and its socket are done with it. The socket goes to whoever
/// asked for the upgrade, and may come to its end before or after the task.
#[derive(Debug)]
pub(crate) struct Tracked {
    pub(crate) record: Arc<Record>,
    pub(crate) shared: Arc<Shared>,
}

impl Drop for Tracked {
    fn drop(&mut self) {
        if self.record.flags().is_upgraded() && self.record.flags().leave_upgraded() {
            self.shared.end_upgraded(&self.record);
        }
    }
}
