//! [`Merge`] over asynchronous inputs: polls every input it waits for, so that they open and read side by side.

use std::pin::Pin;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use futures::stream::{BoxStream, Stream, StreamExt};

use super::Merge;

/// The merged rows of several streams. After an error it ends.
pub struct MergeStream<E> {
    merge: Merge,
    inputs: Vec<BoxStream<'static, Result<RecordBatch, E>>>,
    failed: bool,
}

impl<E> MergeStream<E> {
    /// Merges `inputs`, the oldest first; the other arguments as for [`Merge::new`].
    ///
    /// # Errors
    /// As [`Merge::new`].
    pub fn new(
        schema: &SchemaRef,
        tags: &[usize],
        inputs: Vec<BoxStream<'static, Result<RecordBatch, E>>>,
        batch_rows: usize,
    ) -> Result<Self, ArrowError> {
        Ok(Self { merge: Merge::new(schema, tags, inputs.len(), batch_rows)?, inputs, failed: false })
    }

    /// Bytes held in batches of inputs.
    pub fn bytes(&self) -> usize {
        self.merge.bytes()
    }
}

impl<E: From<ArrowError>> MergeStream<E> {
    /// Feeds what is ready; `Pending` while an input that is waited for has nothing.
    fn feed(&mut self, context: &mut Context<'_>) -> Poll<Result<(), E>> {
        let mut pending = false;
        for input in self.merge.waiting().to_vec() {
            loop {
                match self.inputs[input].poll_next_unpin(context) {
                    Poll::Pending => pending = true,
                    Poll::Ready(None) => self.merge.end(input),
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                    Poll::Ready(Some(Ok(batch))) if batch.num_rows() == 0 => continue,
                    Poll::Ready(Some(Ok(batch))) => {
                        if let Err(error) = self.merge.push(input, batch) {
                            return Poll::Ready(Err(error.into()));
                        }
                    }
                }
                break;
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

impl<E: From<ArrowError>> Stream for MergeStream<E>
where
    Self: Unpin,
{
    type Item = Result<RecordBatch, E>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while !self.failed {
            let step = match self.merge.pull() {
                Ok(Some(batch)) => return Poll::Ready(Some(Ok(batch))),
                Ok(None) if self.merge.waiting().is_empty() => return Poll::Ready(None),
                Ok(None) => self.feed(context),
                Err(error) => Poll::Ready(Err(error.into())),
            };
            match step {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    self.failed = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        Poll::Ready(None)
    }
}

impl<E> std::fmt::Debug for MergeStream<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MergeStream").field("inputs", &self.inputs.len()).field("failed", &self.failed).finish()
    }
}
