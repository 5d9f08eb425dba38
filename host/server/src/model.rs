//! All keys of the model, and how large it may become.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use stepbox_wire::{ElementType, ErrorCode, TensorType};
use tokio::sync::watch;

use crate::key::Key;
use crate::limits::Limits;
use crate::refusal::{Answered, Refusal};

/// The keys by name.
#[derive(Default)]
pub(crate) struct Model {
    keys: RwLock<BTreeMap<String, Arc<Key>>>,
    /// Keys that workers wait for. An entry goes when its key comes or its last waiter has left, so there are never more
    /// than requests that may be outstanding.
    awaited: Mutex<HashMap<String, watch::Sender<()>>>,
    on_their_way: Mutex<OnTheirWay>,
}

/// Keys whose values are being read or bound.
#[derive(Default)]
struct OnTheirWay {
    keys: usize,
    bytes: u64,
}

/// Room for a key that is being made; given back when dropped, by when the key is known or refused.
pub(crate) struct Room {
    model: Arc<Model>,
    bytes: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut on_their_way = self.model.on_their_way.lock();
        on_their_way.keys -= 1;
        on_their_way.bytes -= self.bytes;
    }
}

impl Model {
    pub fn find(&self, name: &str) -> Option<Arc<Key>> {
        self.keys.read().get(name).cloned()
    }

    /// As [`Model::find`], for a request that cannot do without.
    pub fn require(&self, name: &str) -> Answered<Arc<Key>> {
        self.find(name).ok_or_else(|| {
            Refusal::new(
                ErrorCode::UnknownKey,
                format!("no key `{name}`: the worker of rank 0 makes it known with init"),
            )
        })
    }

    /// All keys in order of name.
    pub fn all(&self) -> Vec<Arc<Key>> {
        self.keys.read().values().cloned().collect()
    }

    /// Room for a key of this type, asked for before its value is read. It counts against the limits until it is
    /// dropped, so that values on their way are bounded as those that are there.
    pub fn room(self: &Arc<Self>, name: &str, tensor: &TensorType, limits: &Limits) -> Answered<Room> {
        if tensor.element != ElementType::F32 {
            return Err(Refusal::new(
                ErrorCode::WrongElementType,
                format!("key `{name}` cannot hold {}: weights are f32, convert them", tensor.element),
            ));
        }
        let mut on_their_way = self.on_their_way.lock();
        let keys = self.keys.read();
        let count = keys.len() + on_their_way.keys;
        if count >= limits.keys {
            return Err(Refusal::new(
                ErrorCode::Busy,
                format!("no room for key `{name}`: the model has {count} keys, the limit (limits.keys)"),
            ));
        }
        let held = keys.values().map(|key| key.bytes() as u64).sum::<u64>() + on_their_way.bytes;
        let bytes = tensor.bytes().unwrap_or(u64::MAX);
        if held.saturating_add(bytes) > limits.model_bytes {
            return Err(Refusal::new(
                ErrorCode::Busy,
                format!(
                    "no room for key `{name}` of {bytes} bytes: the model has {held} of {} bytes (limits.model_bytes)",
                    limits.model_bytes
                ),
            ));
        }
        on_their_way.keys += 1;
        on_their_way.bytes += bytes;
        Ok(Room { model: Arc::clone(self), bytes })
    }

    /// Makes a key known and wakes who waits for it.
    pub fn add(&self, key: Arc<Key>) {
        let name = key.name.clone();
        self.keys.write().insert(name.clone(), key);
        // Dropping the sender is what wakes them.
        self.awaited.lock().remove(&name);
    }

    /// To be asked before looking for a key that may come: it wakes, once, when the key has come.
    pub fn arrival(&self, name: &str) -> Arrival<'_> {
        let mut awaited = self.awaited.lock();
        let woken = match awaited.get(name) {
            Some(sender) => sender.subscribe(),
            None => {
                let (sender, receiver) = watch::channel(());
                awaited.insert(name.to_owned(), sender);
                receiver
            }
        };
        Arrival { model: self, name: name.to_owned(), woken: Some(woken) }
    }
}

/// Wakes when a key has come. Forgets itself when dropped.
pub(crate) struct Arrival<'a> {
    model: &'a Model,
    name: String,
    woken: Option<watch::Receiver<()>>,
}

impl Arrival<'_> {
    /// Ends when the key has come.
    pub fn signal(&self) -> watch::Receiver<()> {
        match &self.woken {
            Some(woken) => woken.clone(),
            None => unreachable!("only dropping takes it"),
        }
    }
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        let mut awaited = self.model.awaited.lock();
        self.woken = None;
        if awaited.get(&self.name).is_some_and(|sender| sender.receiver_count() == 0) {
            awaited.remove(&self.name);
        }
    }
}
