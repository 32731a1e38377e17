//! A file on its way to a remote store in parts, while its end is still being encoded.
//!
//! At most [`PARTS_IN_FLIGHT`] parts of [`PART_BYTES`] are on their way; whoever has more waits. Each part is a call within the store's
//! bounds. An upload that does not come to its end is given up, so that its parts do not take room for ever: at once when it fails, and
//! by a task of its own when it is dropped. What even that does not reach, as after a kill, is left to the store's own rules.

use std::fmt;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, Result};
use tokio::task::JoinSet;

/// Size of a part, and of the largest file that goes as one request. All parts but the last are alike, which some stores want.
pub(super) const PART_BYTES: usize = 16 << 20;
/// Parts that are sent at once.
pub(super) const PARTS_IN_FLIGHT: usize = 4;

/// See above. Every error ends it.
pub(super) struct PartsUpload {
    /// None once it is completed or given up.
    upload: Option<Box<dyn MultipartUpload>>,
    sending: JoinSet<Result<()>>,
    bytes: u64,
}

impl fmt::Debug for PartsUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartsUpload").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl PartsUpload {
    pub(super) async fn begin(objects: &dyn ObjectStore, place: &Path) -> Result<Self> {
        let upload = objects.put_multipart(place).await?;
        Ok(Self { upload: Some(upload), sending: JoinSet::new(), bytes: 0 })
    }

    /// Bytes that were put.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Sends the next bytes as soon as there is room for them.
    pub(super) async fn put(&mut self, mut bytes: Bytes) -> Result<()> {
        while !bytes.is_empty() {
            self.wait_for(PARTS_IN_FLIGHT - 1).await?;
            let part = bytes.split_to(bytes.len().min(PART_BYTES));
            self.bytes += part.len() as u64;
            if let Some(upload) = &mut self.upload {
                self.sending.spawn(upload.put_part(part.into()));
            }
        }
        Ok(())
    }

    /// Makes the object of its parts.
    pub(super) async fn complete(mut self) -> Result<()> {
        self.wait_for(0).await?;
        let Some(mut upload) = self.upload.take() else { return Ok(()) };
        let done = upload.complete().await;
        if done.is_err() {
            self.upload = Some(upload);
            self.give_up().await;
        }
        done.map(drop)
    }

    /// Waits until at most `most` parts are on their way.
    async fn wait_for(&mut self, most: usize) -> Result<()> {
        while self.sending.len() > most
            && let Some(sent) = self.sending.join_next().await
        {
            let sent = sent.map_err(|error| object_store::Error::JoinError { source: error }).flatten();
            if let Err(error) = sent {
                self.give_up().await;
                return Err(error);
            }
        }
        Ok(())
    }

    async fn give_up(&mut self) {
        self.sending.shutdown().await;
        if let Some(mut upload) = self.upload.take() {
            // What cannot be given up now is left to the store's own rules; no version names it.
            let _ = upload.abort().await;
        }
    }
}

impl Drop for PartsUpload {
    fn drop(&mut self) {
        if let (Some(mut upload), Ok(runtime)) = (self.upload.take(), tokio::runtime::Handle::try_current()) {
            let mut sending = std::mem::take(&mut self.sending);
            runtime.spawn(async move {
                sending.shutdown().await;
                let _ = upload.abort().await;
            });
        }
    }
}
