//! Who goes first at the API server: while a batch of placements is written, controllers begin nothing new. A burst of jobs is decided
//! as fast as the API server takes it, and started afterwards, instead of both at half the pace.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

/// Nobody waits for longer: whoever goes first may be stuck.
const MOST: Duration = Duration::from_secs(1);

/// Cloning shares it.
#[derive(Clone, Debug)]
pub struct Precedence(Arc<watch::Sender<usize>>);

/// Goes first until it is dropped.
#[derive(Debug)]
pub struct First(Arc<watch::Sender<usize>>);

impl Default for Precedence {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Precedence {
    /// Goes first from now on.
    #[must_use]
    pub fn take(&self) -> First {
        self.0
            .send_modify(|holders| *holders = holders.saturating_add(1));
        First(Arc::clone(&self.0))
    }

    /// Whether nobody goes first.
    #[must_use]
    pub fn is_free(&self) -> bool {
        *self.0.borrow() == 0
    }

    /// Waits until nobody goes first any more, a second at most.
    pub async fn yield_to_it(&self) {
        self.yield_for(MOST).await;
    }

    async fn yield_for(&self, most: Duration) {
        let mut holders = self.0.subscribe();
        let _ = tokio::time::timeout(most, holders.wait_for(|holders| *holders == 0)).await;
    }
}

impl Drop for First {
    fn drop(&mut self) {
        self.0
            .send_modify(|holders| *holders = holders.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn others_wait_for_whoever_goes_first_but_not_for_ever() {
        let precedence = Precedence::default();
        assert!(precedence.is_free() && precedence.yield_to_it().now_or_never().is_some());
        let first = precedence.take();
        assert!(!precedence.is_free());
        assert!(precedence.yield_to_it().now_or_never().is_none());
        precedence.yield_for(Duration::from_millis(1)).await;
        drop(first);
        assert!(precedence.yield_to_it().now_or_never().is_some());
    }
}
