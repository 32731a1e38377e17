//! One computation per key, over threads (a slot in this table) and processes (a kernel lock on a file of the key's hash).

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use weir_base::checksum::{blake3, hex};
use weir_base::{Clock, FileLock, FileSystem};
use weir_limits::Deadline;

/// Keys being computed by this process.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    busy: Mutex<HashMap<Box<[u8]>, u64>>,
    landed: Condvar,
}

/// The right to compute a key; named lease with a deadline, given up when dropped.
#[derive(Debug)]
pub(crate) struct Flight<'a> {
    flights: &'a Flights,
    key: Box<[u8]>,
    file: Option<(FileLock, Arc<dyn FileSystem>)>,
}

impl Flights {
    /// Whether this process is computing `key`.
    pub(crate) fn is_busy(&self, key: &[u8]) -> bool {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).contains_key(key)
    }

    /// Waits for the right to compute `key`; `dir` is the namespace's folder, if there is a disk level. `None` at the
    /// deadline. Whoever gets it looks again before computing: another may have finished meanwhile.
    pub(crate) fn board(
        &self,
        key: &[u8],
        dir: Option<(&Path, &Arc<dyn FileSystem>)>,
        clock: &dyn Clock,
        deadline: Deadline,
    ) -> Option<Flight<'_>> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        while busy.contains_key(key) {
            let remaining = deadline.remaining(clock);
            if remaining.is_zero() {
                return None;
            }
            busy = self.landed.wait_timeout(busy, remaining).unwrap_or_else(PoisonError::into_inner).0;
        }
        busy.insert(key.into(), 1);
        drop(busy);
        // From here on `Flight` gives the slot back on every path.
        let mut flight = Flight { flights: self, key: key.into(), file: None };
        let Some((dir, fs)) = dir else {
            return Some(flight);
        };
        let folder = dir.join("flights");
        let path = folder.join(hex(&blake3(key)[..16]));
        // Without the folder (a full disk) processes may compute twice: slower, not wrong.
        let _ = fs.create_dir_all(&folder);
        match FileLock::acquire(&path, "weir cache", std::time::Duration::ZERO) {
            Ok(lock) => flight.file = Some((lock, Arc::clone(fs))),
            Err(weir_base::LockError::Held { .. }) => {
                match FileLock::acquire(&path, "weir cache", deadline.remaining(clock)) {
                    Ok(lock) => flight.file = Some((lock, Arc::clone(fs))),
                    Err(_) => return None,
                }
            }
            Err(weir_base::LockError::Io(_)) => {}
        }
        Some(flight)
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if let Some((lock, fs)) = self.file.take() {
            // Removed while held: whoever waits on the old file looks into the cache again before computing.
            let _ = fs.remove_file(lock.path());
        }
        self.flights.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        self.flights.landed.notify_all();
    }
}
