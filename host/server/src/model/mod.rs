//! All keys of the model, and how large it may become.

mod checks;
pub(crate) mod key;
mod rounds;

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use stepbox_wire::{ElementType, ErrorCode, TensorType};
use tokio::sync::watch;

use crate::config::Limits;
use crate::names::{Answered, Refusal};

pub(crate) use checks::{check_gradient, check_loss, check_magnitude, check_rows, check_type, row_ids, row_layout};
pub(crate) use key::{Key, NewWeights, Placement, PullState, Pushed};
pub(crate) use rounds::WrongRound;

/// The keys by name.
#[derive(Default)]
pub(crate) struct Model {
    keys: RwLock<BTreeMap<String, Arc<Key>>>,
    /// Keys that workers wait for. An entry goes when its key comes or its last waiter has left, so there are never more
    /// than requests that may be outstanding.
    awaited: Mutex<HashMap<String, watch::Sender<()>>>,
    taken: Mutex<Taken>,
}

/// What the model's keys take of its limits, those included whose values are being read or bound. Counted as they come,
/// so that making a key costs the same however many there are.
#[derive(Default)]
struct Taken {
    keys: usize,
    bytes: u64,
}

/// Room for a key that is being made. Given back when it is dropped, unless the key was [added](Model::add).
pub(crate) struct Room {
    model: Arc<Model>,
    bytes: u64,
    is_filled: bool,
}

impl Drop for Room {
    fn drop(&mut self) {
        if !self.is_filled {
            let mut taken = self.model.taken.lock();
            taken.keys -= 1;
            taken.bytes -= self.bytes;
        }
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

    /// Looks at the keys after this name, in order of name. No key is added meanwhile.
    pub fn after<T>(&self, name: Option<&str>, look: impl FnOnce(&mut dyn Iterator<Item = &Key>) -> T) -> T {
        let start = name.map_or(Bound::Unbounded, Bound::Excluded);
        let keys = self.keys.read();
        look(&mut keys.range::<str, _>((start, Bound::Unbounded)).map(|(_, key)| &**key))
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
        let mut taken = self.taken.lock();
        let Taken { keys, bytes: held } = *taken;
        if keys >= limits.keys {
            return Err(Refusal::new(
                ErrorCode::Busy,
                format!("no room for key `{name}`: the model has {keys} keys, the limit (limits.keys)"),
            ));
        }
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
        taken.keys += 1;
        taken.bytes += bytes;
        Ok(Room { model: Arc::clone(self), bytes, is_filled: false })
    }

    /// Makes a key known, for which there is room, and wakes who waits for it.
    pub fn add(&self, key: Arc<Key>, mut room: Room) {
        debug_assert_eq!(room.bytes, key.bytes() as u64);
        room.is_filled = true;
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
