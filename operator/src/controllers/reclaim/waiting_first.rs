//! The job that is first in the queue and finds no place, as placement last saw it and as this loop reads it.

use std::sync::Arc;

use tokio::sync::watch;

use super::preempt::Preemptor;

/// Cloning shares it.
#[derive(Clone, Debug)]
pub struct WaitingFirst(Arc<watch::Sender<Option<Arc<Preemptor>>>>);

impl Default for WaitingFirst {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl WaitingFirst {
    /// Who it is; `None`: nobody waits for room.
    #[must_use]
    pub fn get(&self) -> Option<Arc<Preemptor>> {
        self.0.borrow().clone()
    }

    /// It is `preemptor` from now on. Who watches is woken if that is news.
    pub fn set(&self, preemptor: Option<Preemptor>) {
        self.0.send_if_modified(|known| {
            let is_news = known.as_deref() != preemptor.as_ref();
            if is_news {
                *known = preemptor.map(Arc::new);
            }
            is_news
        });
    }

    /// Its changes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Option<Arc<Preemptor>>> {
        self.0.subscribe()
    }
}
