//! What the two halves share: the secrets from which the next keys come, that the peer wants new ones, and what it is told
//! in the end.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

use rustls::kernel::KernelConnection;
use rustls::{AlertDescription, ConnectionTrafficSecrets, Error};

/// The number of the next record, and what protects it.
pub(crate) type Traffic = (u64, ConnectionTrafficSecrets);

/// Locked for key updates only. Ours are as far apart as the cipher suite allows, millions of records; how far apart the
/// peer's are is the peer's affair, as long as data comes between them.
pub(crate) struct Keys {
    secrets: Mutex<Box<dyn NextSecrets>>,
    asked: AtomicBool,
    /// An `AlertDescription`; at first `close_notify`, which is 0.
    farewell: AtomicU8,
}

/// Both sides' connections.
trait NextSecrets: Send {
    fn transmit(&mut self) -> Result<Traffic, Error>;
    fn receive(&mut self) -> Result<Traffic, Error>;
}

impl<Side: Send + Sync> NextSecrets for KernelConnection<Side> {
    fn transmit(&mut self) -> Result<Traffic, Error> {
        self.update_tx_secret()
    }

    fn receive(&mut self) -> Result<Traffic, Error> {
        self.update_rx_secret()
    }
}

impl Keys {
    pub fn new<Side: Send + Sync + 'static>(connection: KernelConnection<Side>) -> Self {
        Self {
            secrets: Mutex::new(Box::new(connection)),
            asked: AtomicBool::new(false),
            farewell: AtomicU8::new(AlertDescription::CloseNotify.into()),
        }
    }

    /// The next keys for what is sent.
    pub fn next_for_sending(&self) -> Result<Traffic, Error> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner).transmit()
    }

    /// The next keys for what is received.
    pub fn next_for_receiving(&self) -> Result<Traffic, Error> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner).receive()
    }

    /// The peer wants what it is sent to have new keys. However often it asks before more is sent, it gets them once.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Whether the peer has asked since this was asked last.
    pub fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed) && self.asked.swap(false, Ordering::Relaxed)
    }

    /// What was read is wrong: the peer is to be told so when the other half is shut down.
    pub fn refuse(&self, alert: AlertDescription) {
        self.farewell.store(alert.into(), Ordering::Relaxed);
    }

    /// What the peer is told last.
    pub fn farewell(&self) -> AlertDescription {
        self.farewell.load(Ordering::Relaxed).into()
    }
}
