//! Triggers: which objects a controller should look at, told by the watches.
//!
//! They are hints. A receiver that falls behind is told to look at everything, so a slow controller can neither miss
//! a change nor hold up a watch.

use std::fmt::Debug;

use futures::{Stream, stream};
use kube::{Resource, runtime::reflector::ObjectRef};
use tokio::sync::{broadcast, watch};

/// What a controller should look at.
pub enum Trigger<K: Resource> {
    /// One object.
    One(ObjectRef<K>),
    /// Every object: something may have been missed.
    All,
}

// Derives would ask for `K: Clone` and `K: Debug`.
impl<K: Resource<DynamicType = ()>> Clone for Trigger<K> {
    fn clone(&self) -> Self {
        match self {
            Self::One(object) => Self::One(object.clone()),
            Self::All => Self::All,
        }
    }
}

impl<K: Resource<DynamicType = ()>> Debug for Trigger<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One(object) => write!(f, "One({object})"),
            Self::All => f.write_str("All"),
        }
    }
}

/// How many triggers a receiver may lag behind before it is told to look at everything.
const CAPACITY: usize = 4096;

/// Where watches announce what a controller should look at.
#[derive(Debug)]
pub struct TriggerHub<K: Resource<DynamicType = ()>>(broadcast::Sender<Trigger<K>>);

impl<K: Resource<DynamicType = ()>> Clone for TriggerHub<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Resource<DynamicType = ()> + 'static> TriggerHub<K> {
    /// A hub without receivers.
    #[must_use]
    pub fn new() -> Self {
        Self(broadcast::channel(CAPACITY).0)
    }

    /// Announces one object by its name.
    pub fn one(&self, namespace: Option<&str>, name: &str) {
        let mut object = ObjectRef::new(name);
        object.namespace = namespace.map(str::to_owned);
        self.send(Trigger::One(object));
    }

    /// Announces that anything may have changed.
    pub fn all(&self) {
        self.send(Trigger::All);
    }

    fn send(&self, trigger: Trigger<K>) {
        // Without a receiver (a standby replica) there is nobody to tell.
        let _ = self.0.send(trigger);
    }

    /// Triggers from now on, with [`Trigger::All`] as the first. Ends with the watches.
    pub fn stream(&self) -> impl Stream<Item = Trigger<K>> + Send + use<K> {
        let receiver = self.0.subscribe();
        stream::unfold((receiver, true), |(mut receiver, first)| async move {
            if first {
                return Some((Trigger::All, (receiver, false)));
            }
            match receiver.recv().await {
                Ok(trigger) => Some((trigger, (receiver, false))),
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    Some((Trigger::All, (receiver, false)))
                }
                Err(broadcast::error::RecvError::Closed) => None,
            }
        })
    }
}

impl<K: Resource<DynamicType = ()> + 'static> Default for TriggerHub<K> {
    fn default() -> Self {
        Self::new()
    }
}

/// A counter that rises with every change of one sort. Changes between two looks count as one.
#[derive(Clone, Debug)]
pub struct Pulse(watch::Sender<u64>);

impl Default for Pulse {
    fn default() -> Self {
        Self(watch::channel(0).0)
    }
}

impl Pulse {
    /// Announces a change.
    pub fn beat(&self) {
        self.0.send_modify(|count| *count += 1);
    }

    /// How many changes there have been.
    #[must_use]
    pub fn count(&self) -> u64 {
        *self.0.borrow()
    }

    /// A receiver that has seen everything so far.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use gridstake_crds::GpuNode;

    use super::*;

    #[tokio::test]
    async fn a_new_receiver_looks_at_everything_first() {
        let hub = TriggerHub::<GpuNode>::new();
        let mut triggers = Box::pin(hub.stream());
        hub.one(None, "n1");
        assert_eq!(format!("{:?}", triggers.next().await.unwrap()), "All");
        let next = triggers.next().await.unwrap();
        assert!(matches!(next, Trigger::One(object) if object.name == "n1"));
    }

    #[tokio::test]
    async fn a_receiver_that_fell_behind_looks_at_everything() {
        let hub = TriggerHub::<GpuNode>::new();
        let mut triggers = Box::pin(hub.stream());
        assert!(matches!(triggers.next().await, Some(Trigger::All)));
        for number in 0..=CAPACITY {
            hub.one(None, &format!("n{number}"));
        }
        assert!(matches!(triggers.next().await, Some(Trigger::All)));
        assert!(matches!(triggers.next().await, Some(Trigger::One(_))));
    }

    #[tokio::test]
    async fn changes_between_two_looks_count_as_one() {
        let pulse = Pulse::default();
        let mut changes = pulse.changes();
        pulse.beat();
        pulse.beat();
        changes.changed().await.unwrap();
        assert_eq!(*changes.borrow_and_update(), 2);
        assert!(!changes.has_changed().unwrap());
    }
}
