//! Warnings for the operator, which the status shows.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// What an operator should see to, by what it is about.
#[derive(Debug, Default)]
pub(crate) struct Warnings(Mutex<BTreeMap<&'static str, String>>);

impl Warnings {
    /// Sets or takes back a warning. Returns whether it is one that was not there before.
    pub fn set(&self, about: &'static str, warning: Option<String>) -> bool {
        let mut warnings = self.0.lock();
        match warning {
            Some(warning) => warnings.insert(about, warning.clone()) != Some(warning),
            None => {
                warnings.remove(about);
                false
            }
        }
    }

    /// As [`set`](Self::set), and tells the log of it, once for as long as it is the same: the status cannot be read
    /// where no client can connect.
    pub fn tell(&self, about: &'static str, warning: Option<String>) {
        if self.set(about, warning.clone())
            && let Some(warning) = warning
        {
            tracing::warn!("{warning}");
        }
    }

    pub fn all(&self) -> Vec<String> {
        self.0.lock().values().cloned().collect()
    }
}
