//! Who goes first at the API server. While a batch of placements is written, controllers begin nothing new: a burst of jobs is decided
//! as fast as the API server takes it, and started afterwards, instead of both at half the pace. While members are started, only a few
//! other passes are at work beside them: what has happened is told a little later, and what was decided happens sooner.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Nobody waits for longer: whoever goes first may be stuck.
const MOST: Duration = Duration::from_secs(1);
/// From so many starts at a time on, others wait for them.
const MANY_STARTS: usize = 8;
/// So many other passes are at work beside them, of all controllers together.
const BESIDE_STARTS: usize = 2;
/// Beside starts nobody waits for longer.
const MOST_BESIDE_STARTS: Duration = Duration::from_secs(5);

/// Cloning shares it.
#[derive(Clone, Debug)]
pub struct Precedence {
    first: Arc<watch::Sender<usize>>,
    starts: Arc<AtomicUsize>,
    beside: Arc<Semaphore>,
}

/// Goes first until it is dropped.
#[derive(Debug)]
pub struct First(Arc<watch::Sender<usize>>);

/// Members are being started, or about to be, until it is dropped.
#[derive(Debug)]
pub struct Start(Arc<AtomicUsize>);

impl Default for Precedence {
    fn default() -> Self {
        Self {
            first: Arc::new(watch::Sender::new(0)),
            starts: Arc::default(),
            beside: Arc::new(Semaphore::new(BESIDE_STARTS)),
        }
    }
}

impl Precedence {
    /// Goes first from now on.
    #[must_use]
    pub fn take(&self) -> First {
        self.first
            .send_modify(|holders| *holders = holders.saturating_add(1));
        First(Arc::clone(&self.first))
    }

    /// Members are started from now on.
    #[must_use]
    pub fn start(&self) -> Start {
        self.starts.fetch_add(1, Ordering::Relaxed);
        Start(Arc::clone(&self.starts))
    }

    /// Whether nobody goes first.
    #[must_use]
    pub fn is_free(&self) -> bool {
        *self.first.borrow() == 0
    }

    /// Whether so many members are being started that others wait for them.
    #[must_use]
    pub fn is_starting(&self) -> bool {
        self.starts.load(Ordering::Relaxed) >= MANY_STARTS
    }

    /// Waits until nobody goes first any more, a second at most.
    pub async fn yield_to_it(&self) {
        self.yield_for(MOST).await;
    }

    /// Waits until whoever goes first is done, and beside starts for one's turn, at most 5 s. What it returns is kept until the work is done.
    pub async fn yield_to_starts(&self) -> Option<OwnedSemaphorePermit> {
        self.yield_to_it().await;
        if !self.is_starting() {
            return None;
        }
        let turn = Arc::clone(&self.beside).acquire_owned();
        tokio::time::timeout(MOST_BESIDE_STARTS, turn)
            .await
            .ok()?
            .ok()
    }

    async fn yield_for(&self, most: Duration) {
        let mut holders = self.first.subscribe();
        let _ = tokio::time::timeout(most, holders.wait_for(|holders| *holders == 0)).await;
    }
}

impl Drop for First {
    fn drop(&mut self) {
        self.0
            .send_modify(|holders| *holders = holders.saturating_sub(1));
    }
}

impl Drop for Start {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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

    #[tokio::test]
    async fn beside_many_starts_two_others_are_at_work_and_beside_a_few_everybody() {
        let precedence = Precedence::default();
        let mut starts: Vec<Start> = (1..MANY_STARTS).map(|_| precedence.start()).collect();
        for _ in 0..=BESIDE_STARTS {
            let turn = precedence.yield_to_starts().now_or_never();
            assert!(turn.is_some_and(|turn| turn.is_none()));
        }
        starts.push(precedence.start());
        let turns: Vec<_> = (0..BESIDE_STARTS)
            .filter_map(|_| precedence.yield_to_starts().now_or_never().flatten())
            .collect();
        assert_eq!(turns.len(), BESIDE_STARTS);
        assert!(precedence.yield_to_starts().now_or_never().is_none());
        drop(turns);
        assert!(precedence.yield_to_starts().now_or_never().is_some());
        starts.pop();
        assert!(!precedence.is_starting());
    }
}
