//! A thread for work that nobody waits for: merges of files. It lets writes, flushes and queries go first.

use std::io;

use tokio::runtime::{Builder, Runtime};
use tokio_util::task::AbortOnDropHandle;
use weir_base::Kind;

use crate::error::{Error, Result};

/// How many steps of niceness behind the rest; queries are five behind.
const NICE_STEPS: i32 = 10;

/// The thread, with a runtime of its own.
#[derive(Debug)]
pub(crate) struct Upkeep {
    /// There until it is dropped.
    runtime: Option<Runtime>,
}

impl Upkeep {
    pub(crate) fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("weir-upkeep")
            .on_thread_start(|| weir_base::machine::lower_thread_priority(NICE_STEPS))
            .enable_all()
            .build()?;
        Ok(Self { runtime: Some(runtime) })
    }

    /// Runs `work` there; it is given up when the caller is.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let runtime = self.runtime.as_ref().expect("the runtime is there until the drop");
        let outcome = AbortOnDropHandle::new(runtime.spawn(work)).await;
        outcome.map_err(|error| Error::wrap(Kind::Internal, "a merge of files panicked", error))?
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // The last to hold it may be a task, which must not wait.
            runtime.shutdown_background();
        }
    }
}
