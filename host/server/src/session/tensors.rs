//! Requests that carry tensors: first values, gradients, weights.

use std::slice;
use std::sync::Arc;

use stepbox_reduce::Format;
use stepbox_wire::{ErrorCode, Response, TensorType};
use tokio::io::AsyncRead;
use tokio::sync::OwnedSemaphorePermit;

use super::answers::{Content, RowIds};
use super::context::Context;
use super::requests::{Asked, Stopped, done};
use crate::audit::{Action, Event};
use crate::deploy::create;
use crate::job::{off_the_runtime, panicked};
use crate::model::{Key, check_gradient, check_magnitude, check_rows, check_type, row_ids, row_layout};
use crate::names::{Answered, Rank, Refusal};
use crate::round;
use crate::tensor::{Contribution, Dense, Gradient, Rows};

impl<Stream: AsyncRead + Unpin> Asked<'_, Stream> {
    pub(super) async fn init(
        mut self,
        key: String,
        tensor: TensorType,
        tags: Vec<String>,
    ) -> Result<Option<Content>, Stopped> {
        let worker = self.worker()?;
        let job = Arc::clone(&self.context.job);
        let identity = &self.context.identity;
        // Whoever makes a key known writes to it; the others learn of it, to push or to pull.
        if worker.rank == 0 || job.access.require_pull(identity, &key).is_err() {
            job.access.require_push(identity, &key)?;
        }
        if let Some(known) = job.model.find(&key) {
            check_type(&known, &tensor)?;
            return done(Response::Initialized { version: known.version(), created: false });
        }
        if worker.rank > 0 {
            if self.body_bytes > 0 {
                let message = "the first value counts from the worker of rank 0 only; send the type with an empty body";
                return Err(Refusal::new(ErrorCode::WrongLength, message).into());
            }
            let name = key.clone();
            return self.later(key, async move {
                let known = job.known(&name, &tensor).await?;
                Ok(Content::Message(Response::Initialized { version: known.version(), created: false }))
            });
        }
        if Some(self.body_bytes) != tensor.bytes() {
            let message = format!("the worker of rank 0 sends key `{key}`'s first value with its type");
            return Err(Refusal::new(ErrorCode::WrongLength, message).into());
        }
        let room = job.model.room(&key, &tensor, &job.config.limits)?;
        let permit = self.permit()?;
        let _room = self.room().await?;
        let mut value = vec![0; self.body_bytes as usize];
        self.finite_body(&key, Format::F32, slice::from_mut(&mut value)).await?;
        self.may_still_push(&key)?;
        // In a task of its own: once begun, it is not undone by the connection's end.
        let name = key.clone();
        let identity = &self.context.identity;
        job.audit.note(&Event::allowed(Action::Init).by(identity).about(&key));
        let creation = tokio::spawn(create(job, key, tensor, value, tags, room));
        self.later_with(permit, name, async move {
            let (known, created) = creation.await.unwrap_or_else(|panic| Err(panicked(&panic)))?;
            Ok(Content::Message(Response::Initialized { version: known.version(), created }))
        })
    }

    pub(super) async fn push(
        mut self,
        key: &str,
        round: u64,
        tensor: &TensorType,
        loss: Option<f32>,
    ) -> Result<Option<Content>, Stopped> {
        let worker = self.worker()?;
        let context = Arc::clone(self.context);
        context.job.access.require_push(&context.identity, key)?;
        let key = context.job.model.require(key)?;
        let format = check_gradient(&key, tensor, &context.job.config.job.gradient_types)?;
        if context.job.check_push(&key, worker.rank, round, loss)? {
            return self.repeated(&key, round);
        }
        let _room = self.room().await?;
        let mut gradient = Dense { format, chunks: key.gradient_buffers(format) };
        let largest = self.finite_body(&key.name, format, &mut gradient.chunks).await?;
        self.may_still_count(&key, largest)?;
        let contribution = Contribution { gradient: Gradient::Dense(gradient), largest, loss };
        let repeated = round::push(&context.job, &key, worker, round, contribution)?;
        done(Response::Pushed { repeated })
    }

    pub(super) async fn push_rows(
        mut self,
        key: &str,
        round: u64,
        values: &TensorType,
        loss: Option<f32>,
    ) -> Result<Option<Content>, Stopped> {
        let worker = self.worker()?;
        let context = Arc::clone(self.context);
        context.job.access.require_push(&context.identity, key)?;
        let key = context.job.model.require(key)?;
        let layout = check_rows(&key, values)?;
        if context.job.check_push(&key, worker.rank, round, loss)? {
            return self.repeated(&key, round);
        }
        let held = self.row_ids(&key, values.shape.first().copied().unwrap_or(0))?;
        let _room = self.room().await?;
        // The lengths add up to the body's, which is within the limit of a frame.
        let value_bytes = values.bytes().unwrap_or(0);
        let ids = {
            let mut raw = vec![0; (self.body_bytes - value_bytes) as usize];
            self.reader.body(&mut raw, |_| {}).await?;
            row_ids(&key, layout, &raw)?
        };
        let mut values = vec![0; value_bytes as usize];
        let largest = self.finite_body(&key.name, Format::F32, slice::from_mut(&mut values)).await?;
        let name = key.name.clone();
        let rows = off_the_runtime(move || {
            Rows::combined(ids, values, layout.row_bytes).map_err(|row| {
                let message = format!("the values of row {row} of key `{name}` add up to no finite number");
                Refusal::new(ErrorCode::NotFinite, format!("{message}; nothing of it was used"))
            })
        });
        let rows = Rows { held: Some(held), ..rows.await? };
        let contribution = Contribution { gradient: Gradient::Rows(rows), largest, loss };
        self.may_still_count(&key, largest)?;
        let repeated = round::push(&context.job, &key, worker, round, contribution)?;
        done(Response::Pushed { repeated })
    }

    /// Asked once more when the body is there, which a peer can take its time to send.
    fn may_still_push(&self, key: &str) -> Answered<()> {
        self.context.job.access.require_push(&self.context.identity, key)
    }

    /// As above, for a gradient, of which this is the largest magnitude.
    fn may_still_count(&self, key: &Key, largest: f32) -> Answered<()> {
        self.may_still_push(&key.name)?;
        check_magnitude(key, largest, self.context.job.config.job.max_gradient_magnitude)
    }

    fn repeated(&self, key: &Key, round: u64) -> Result<Option<Content>, Stopped> {
        tracing::debug!(identity = %self.context.identity, key = key.name, round, "a repeated push is not counted");
        done(Response::Pushed { repeated: true })
    }

    pub(super) async fn pull_rows(self, key: &str, version: u64, rows: u64) -> Result<Option<Content>, Stopped> {
        let rank = self.reader(key)?;
        let job = Arc::clone(&self.context.job);
        let key = job.model.require(key)?;
        let layout = row_layout(&key)?;
        self.context.note_read(&key);
        let (bytes, limit) = (rows.saturating_mul(layout.row_bytes as u64), job.config.limits.body_bytes);
        if bytes > limit {
            let message =
                format!("{rows} rows of key `{}` are {bytes} bytes, above {limit} (limits.body_bytes)", key.name);
            return Err(Refusal::new(ErrorCode::WrongLength, message).into());
        }
        let held = self.row_ids(&key, rows)?;
        let _room = self.room().await?;
        let mut ids = vec![0; self.body_bytes as usize];
        self.reader.body(&mut ids, |_| {}).await?;
        let rows = RowIds { ids: row_ids(&key, layout, &ids)?, layout, held: Some(held) };
        if let Some(found) = job.try_pull(&key, rank, version) {
            found?;
            return Ok(Some(Content::Rows(key, rows)));
        }
        let (context, ahead) = (Arc::clone(self.context), self.context.ahead.enter(&key, version)?);
        self.later(key.name.clone(), async move {
            context.wait_for(&key, rank, version).await?;
            drop(ahead);
            Ok(Content::Rows(key, rows))
        })
    }

    /// Room for the ids of rows, to be held as long as they are.
    fn row_ids(&self, key: &Key, rows: u64) -> Answered<OwnedSemaphorePermit> {
        self.context.account.row_ids(rows).ok_or_else(|| {
            let (identity, limit) = (&self.context.identity, self.context.job.config.limits.row_ids);
            let message = format!(
                "{rows} rows of key `{}` would make more than {limit} row ids that are held for `{identity}` \
                 (limits.row_ids); send fewer at a time, or the whole tensor",
                key.name
            );
            Refusal::new(ErrorCode::Busy, message)
        })
    }

    pub(super) fn pull(self, key: &str, version: u64, evaluation: bool) -> Result<Option<Content>, Stopped> {
        let rank = self.reader(key)?;
        let job = Arc::clone(&self.context.job);
        let key = job.model.require(key)?;
        self.context.note_read(&key);
        let content = if evaluation { Content::Evaluation } else { Content::Weights };
        if let Some(found) = job.try_pull(&key, rank, version) {
            found?;
            return Ok(Some(content(key)));
        }
        let (context, ahead) = (Arc::clone(self.context), self.context.ahead.enter(&key, version)?);
        self.later(key.name.clone(), async move {
            context.wait_for(&key, rank, version).await?;
            drop(ahead);
            Ok(content(key))
        })
    }

    /// Reads the body, the elements of a tensor in any number of chunks, and refuses it where one is no number. Returns the
    /// largest magnitude.
    async fn finite_body(&mut self, key: &str, format: Format, chunks: &mut [Vec<u8>]) -> Result<f32, Stopped> {
        let mut largest = 0.0_f32;
        self.reader.chunks(chunks, |piece| largest = largest.max(format.largest_magnitude(piece))).await?;
        if largest.is_finite() {
            return Ok(largest);
        }
        let mut before = 0;
        let found = chunks.iter().find_map(|chunk| {
            let found = format.first_not_finite(chunk).map(|found| (before + found.index, found.value));
            before += chunk.len() / format.element_bytes();
            found
        });
        let message = match found {
            Some((index, value)) => format!("element {index} of the tensor for key `{key}` is {value}"),
            None => format!("an element of the tensor for key `{key}` is not finite"),
        };
        Err(Refusal::new(ErrorCode::NotFinite, format!("{message}; nothing of it was used")).into())
    }
}

impl Context {
    /// Waits until a key has reached a version. The right to it may have been taken away meanwhile.
    async fn wait_for(&self, key: &Key, rank: Option<Rank>, version: u64) -> Answered<()> {
        self.job.pull(key, rank, version).await?;
        self.job.access.require_pull(&self.identity, &key.name)
    }
}
