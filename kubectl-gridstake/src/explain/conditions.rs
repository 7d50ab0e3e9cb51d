//! The conditions of an object that keep it from where it should be. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Serialize;

use super::next_steps::{Reason, next_step};

/// A condition that keeps the object from where it should be.
#[derive(Serialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Block {
    /// The condition.
    pub condition: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why, in one word.
    pub reason: String,
    /// Why, for people.
    pub message: String,
    /// What to do next.
    pub next: String,
}

/// The summary among conditions.
const READY: &str = "Ready";

/// Those of `conditions` that do not hold and call for something; of several with one reason and message the first. Of the
/// conditions `bad_if_true`, those that hold. `Ready` only where no other one is left: it sums up the others.
#[must_use]
pub fn blocks<E: Reason>(conditions: &[Condition], bad_if_true: &[&str]) -> Vec<Block> {
    let is_bad = |c: &&Condition| {
        if bad_if_true.contains(&c.type_.as_str()) {
            c.status == "True"
        } else {
            c.status != "True"
        }
    };
    let mut found: Vec<Block> = Vec::new();
    let (summary, facts): (Vec<&Condition>, Vec<&Condition>) = conditions
        .iter()
        .filter(is_bad)
        .partition(|c| c.type_ == READY);
    for condition in facts {
        push::<E>(&mut found, condition);
    }
    if found.is_empty() {
        for condition in summary {
            push::<E>(&mut found, condition);
        }
    }
    found
}

fn push<E: Reason>(found: &mut Vec<Block>, condition: &Condition) {
    let is_told = found
        .iter()
        .any(|b| b.reason == condition.reason && b.message == condition.message);
    let Some(next) = next_step::<E>(&condition.reason).filter(|_| !is_told) else {
        return;
    };
    found.push(Block {
        condition: condition.type_.clone(),
        status: condition.status.clone(),
        reason: condition.reason.clone(),
        message: condition.message.clone(),
        next: next.to_owned(),
    });
}

/// The lines about `blocks`, the first one their heading.
#[must_use]
pub fn lines(heading: &str, blocks: &[Block]) -> Vec<String> {
    if blocks.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![String::new(), heading.to_owned()];
    for block in blocks {
        let Block {
            condition,
            status,
            reason,
            message,
            next,
        } = block;
        let words = if message.is_empty() {
            String::new()
        } else {
            format!(": {message}")
        };
        lines.push(format!("  {condition}={status} {reason}{words}"));
        lines.push(format!("    next: {next}"));
    }
    lines
}

#[cfg(test)]
pub(crate) mod tests {
    use gridstake_crds::compute_job::ComputeJobReason;
    use serde_json::json;

    use super::*;

    /// Conditions from type, status, reason and message.
    pub(crate) fn conditions(all: &[[&str; 4]]) -> serde_json::Value {
        all.iter()
            .map(|[kind, status, reason, message]| {
                json!({
                    "type": kind, "status": status, "reason": reason, "message": message,
                    "lastTransitionTime": "2027-01-31T22:00:00Z",
                })
            })
            .collect()
    }

    fn found(all: &[[&str; 4]]) -> Vec<String> {
        let conditions: Vec<Condition> = serde_json::from_value(conditions(all)).unwrap();
        blocks::<ComputeJobReason>(&conditions, &["Failed"])
            .into_iter()
            .map(|block| block.condition)
            .collect()
    }

    #[test]
    fn what_holds_or_is_only_not_yet_so_blocks_nothing() {
        let all = [
            ["Validated", "True", "Valid", ""],
            ["Scheduled", "True", "Placed", ""],
            ["Complete", "False", "NotEnded", ""],
            ["Failed", "False", "NotEnded", ""],
            ["Ready", "True", "Running", ""],
        ];
        assert_eq!(found(&all), [""; 0]);
    }

    #[test]
    fn the_summary_speaks_only_where_nothing_else_does() {
        let summary = ["Ready", "False", "Retrying", "quota"];
        let waits = [
            "Scheduled",
            "False",
            "InsufficientCapacity",
            "0/1 nodes fit",
        ];
        assert_eq!(found(&[summary]), ["Ready"]);
        assert_eq!(found(&[summary, waits]), ["Scheduled"]);
    }

    #[test]
    fn a_failure_blocks_where_it_holds_and_what_says_the_same_is_told_once() {
        let all = [
            ["Complete", "False", "RunTimeout", ""],
            ["Failed", "True", "RunTimeout", "it ran for 1h"],
            ["Running", "False", "RunTimeout", ""],
        ];
        assert_eq!(found(&all), ["Complete", "Failed"]);
    }
}
