//! Events on objects: best effort, and only on transitions.

use std::time::Duration;

use gridstake_crds::condition::Fact;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};

use crate::error::chain;

/// The API's limit on an event's note is 1024 bytes.
const NOTE_LIMIT: usize = 1000;
/// An event is not worth waiting for longer than this.
const PATIENCE: Duration = Duration::from_secs(5);

/// Publishes events in the operator's name.
#[derive(Clone)]
pub struct Events {
    client: Client,
    reporter: Reporter,
}

impl Events {
    /// Events are published as `gridstake-operator`, by the replica `identity`.
    #[must_use]
    pub fn new(client: Client, identity: &str) -> Self {
        Self {
            client,
            reporter: Reporter {
                controller: "gridstake-operator".to_owned(),
                instance: Some(identity.to_owned()),
            },
        }
    }

    /// Publishes an event about `object`. A failure is logged and nothing else: it must not hide what the event is
    /// about.
    pub async fn publish<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        type_: EventType,
        reason: &str,
        action: &str,
        note: &str,
    ) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(shortened(note).to_owned()),
            action: action.to_owned(),
            secondary: None,
        };
        // A recorder re-sends the first note of a series. One per event, so that a changed cause is shown.
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        let reference = object.object_ref(&());
        match tokio::time::timeout(PATIENCE, recorder.publish(&event, &reference)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(reason, error = chain(&error), "could not publish an event");
            }
            Err(_) => tracing::warn!(reason, "could not publish an event in time"),
        }
    }

    /// Publishes `fact` about `object` if its status or reason is news compared with `before`. `False` is a warning.
    pub async fn publish_news<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        before: &[Condition],
        fact: &Fact,
    ) {
        if is_news(before, fact) {
            let type_ = match fact.status {
                gridstake_crds::condition::Status::False => EventType::Warning,
                _ => EventType::Normal,
            };
            self.publish(object, type_, fact.reason, fact.condition, &fact.message)
                .await;
        }
    }
}

/// Whether `before` does not yet say this, whatever the words.
#[must_use]
pub fn is_news(before: &[Condition], fact: &Fact) -> bool {
    !before.iter().any(|condition| {
        condition.type_ == fact.condition
            && condition.status == fact.status.as_str()
            && condition.reason == fact.reason
    })
}

fn shortened(note: &str) -> &str {
    &note[..note.floor_char_boundary(NOTE_LIMIT)]
}

#[cfg(test)]
mod tests {
    use gridstake_crds::gpu_node::{GpuNodeCondition, GpuNodeReason};
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    #[test]
    fn only_a_new_status_or_reason_is_news() {
        let fact = |holds: bool, reason, words: &str| {
            Fact::new(GpuNodeCondition::Reporting, holds, reason, words)
        };
        let before = gridstake_crds::condition::conditions(
            &[],
            &[fact(true, GpuNodeReason::AgentReporting, "a")],
            None,
            Timestamp::UNIX_EPOCH,
        );
        assert!(!is_news(
            &before,
            &fact(true, GpuNodeReason::AgentReporting, "b")
        ));
        assert!(is_news(
            &before,
            &fact(false, GpuNodeReason::AgentReporting, "a")
        ));
        assert!(is_news(
            &before,
            &fact(true, GpuNodeReason::AgentSilent, "a")
        ));
        assert!(is_news(
            &[],
            &fact(true, GpuNodeReason::AgentReporting, "a")
        ));
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let note = "ä".repeat(600);
        assert_eq!(shortened(&note).len(), 1000);
        assert_eq!(shortened(&"x".repeat(999)).len(), 999);
        let odd = format!("x{}", "ä".repeat(600));
        assert_eq!(shortened(&odd).len(), 999);
    }
}
