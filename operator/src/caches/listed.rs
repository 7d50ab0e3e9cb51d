//! When anything was last listed anew. That happens at the start and after a watch broke, and so before anything of an API
//! server is seen that was restored from a backup.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

/// The moment of the newest list of any kind. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Listed(Arc<Mutex<Option<Instant>>>);

impl Listed {
    /// A list is complete. To be said before anybody sees what is in it.
    pub fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// When the newest one was; `None`: there was none.
    #[must_use]
    pub fn at(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
