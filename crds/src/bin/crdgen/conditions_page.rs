//! `docs/conditions.md`: every condition, reason and state that an object can show.

use std::fmt::Write as _;

use gridstake_crds::{
    closed_enum::ClosedEnum, compute_job as job, gpu_node as node, incident,
    settlement_batch as batch, stake_binding as binding, usage_record as record,
};

use crate::COMMAND;

const INTRODUCTION: &str = "# Conditions and reasons

Every word that a Gridstake object can show about its state stands on this page, with its meaning. The lists are closed:
the same declarations make the API schema, the operator's code and this page.

How to read them:

- A condition is `True`, `False` or `Unknown` (not known yet, or not any more). `True` is good, with the exceptions that
  say so below. All conditions of an object are there from the operator's first pass.
- `Ready` sums up the others; its reason is the object's state in one word, shown by `kubectl get`.
- `reason` is for programs and comes from the list of the kind; `message` is for people, names objects and fields, and
  holds no times or counters.
- `observedGeneration` says which version of the spec the condition speaks about.
- `lastTransitionTime` moves only when the status does.

```sh
kubectl wait --for=condition=Complete computejob/hello-gpu
kubectl get computejob hello-gpu -o jsonpath='{range .status.conditions[*]}{.type}={.status} {.reason}: {.message}{\"\\n\"}{end}'
```
";

/// One enumeration on the page.
struct List {
    title: &'static str,
    introduction: &'static str,
    meanings: &'static [(&'static str, &'static str)],
}

fn list<E: ClosedEnum>(title: &'static str, introduction: &'static str) -> List {
    List {
        title,
        introduction,
        meanings: E::MEANINGS,
    }
}

#[allow(clippy::too_many_lines, reason = "one statement per list")]
fn kinds() -> Vec<(&'static str, Vec<List>)> {
    vec![
        (
            "GpuNode",
            vec![
                list::<node::GpuNodeCondition>("Conditions", "`status.conditions[].type`"),
                list::<node::GpuNodeReason>(
                    "Reasons",
                    "`status.conditions[].reason` of every condition but `Offered`, whose reasons are those of the offer",
                ),
                list::<node::OfferReason>(
                    "Reasons of the offer",
                    "`status.offer.reason` and the condition `Offered`; the first that applies, in this order",
                ),
                list::<node::OfferState>("States of the offer", "`status.offer.state`"),
                list::<node::OfferMode>("Modes", "`spec.mode`"),
                list::<node::AgentState>("States of the agent", "`status.agent.state`"),
                list::<node::DeviceHealth>("Health of a device", "`status.devices[].health`"),
                list::<node::DeviceReason>(
                    "Reasons of a device's health",
                    "`status.devices[].reasons[]`",
                ),
                list::<node::QuarantineReason>(
                    "Why a GPU or node is in quarantine",
                    "`status.quarantine[].reason`",
                ),
            ],
        ),
        (
            "ComputeJob",
            vec![
                list::<job::ComputeJobCondition>("Conditions", "`status.conditions[].type`"),
                list::<job::ComputeJobReason>("Reasons", "`status.conditions[].reason`"),
                list::<job::JobEndReason>("Why a job ended", "`status.endReason`"),
                list::<job::AttemptEndReason>(
                    "Why an attempt ended",
                    "`status.attempts[].endReason`",
                ),
                list::<job::Verdict>("Verdicts", "`status.attempts[].verdict`"),
                list::<job::VerdictReason>(
                    "On what a verdict rests",
                    "`status.attempts[].verdictReason`, and `status.sealed` of the UsageRecord",
                ),
            ],
        ),
        (
            "StakeBinding",
            vec![
                list::<binding::StakeBindingCondition>("Conditions", "`status.conditions[].type`"),
                list::<binding::StakeBindingReason>("Reasons", "`status.conditions[].reason`"),
                list::<binding::StakeRole>("Roles", "`spec.role`"),
            ],
        ),
        (
            "UsageRecord",
            vec![
                list::<record::UsageRecordCondition>("Conditions", "`status.conditions[].type`"),
                list::<record::UsageRecordReason>("Reasons", "`status.conditions[].reason`"),
                list::<record::GapReason>(
                    "Gaps in the evidence",
                    "`status.evidence.gaps[].reason`",
                ),
                list::<record::EvidenceFault>(
                    "Why a statement is refused",
                    "`status.refused.reason`",
                ),
                list::<record::SealCause>("Why a slice ended", "`status.sealed.cause`"),
                list::<record::RecordState>("States of the payment", "`status.settlement.state`"),
                list::<record::SkipReason>(
                    "Why a payment was left out",
                    "`status.settlement.skipped`, and `status.outcome` of the SettlementBatch",
                ),
            ],
        ),
        (
            "SettlementBatch",
            vec![
                list::<batch::SettlementBatchCondition>("Conditions", "`status.conditions[].type`"),
                list::<batch::SettlementBatchReason>(
                    "Reasons",
                    "`status.conditions[].reason`; `Ready` also gives the states and what blocks the batch",
                ),
                list::<batch::BatchState>("States", "`status.state`"),
                list::<batch::BlockedReason>("What blocks a batch", "`status.blocked`"),
            ],
        ),
        (
            "Incident",
            vec![
                list::<incident::IncidentCondition>("Conditions", "`status.conditions[].type`"),
                list::<incident::IncidentReason>(
                    "Reasons",
                    "`status.conditions[].reason`; `Ready` also gives the states",
                ),
                list::<incident::Offence>("Offences", "`spec.offence`"),
                list::<incident::Sanction>("Sanctions", "`spec.sanction`"),
                list::<incident::IncidentState>("States", "`status.state`"),
                list::<incident::CancellationReason>(
                    "Why nothing was cut",
                    "`status.cancellation`",
                ),
            ],
        ),
    ]
}

/// The page.
pub fn render() -> String {
    let mut page = format!("<!-- Generated by `{COMMAND}`; do not edit. -->\n\n{INTRODUCTION}");
    for (kind, lists) in kinds() {
        let _ = write!(page, "\n## {kind}\n");
        for list in lists {
            let _ = write!(
                page,
                "\n### {kind}: {}\n\n{}.\n\n| value | meaning |\n|---|---|\n",
                list.title, list.introduction
            );
            for (value, meaning) in list.meanings {
                let _ = writeln!(
                    page,
                    "| `{value}` | {} |",
                    meaning.trim().replace('|', "\\|")
                );
            }
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_explained() {
        for (kind, lists) in kinds() {
            for list in lists {
                for (value, meaning) in list.meanings {
                    assert!(
                        meaning.trim().ends_with('.'),
                        "{kind} {} {value}: {meaning:?}",
                        list.title
                    );
                }
            }
        }
    }
}
