//! Facts about [`super::decide`] and [`super::due`].

use alloy_primitives::B256;
use gridstake_crds::{
    condition::Status, incident::CancellationReason, stake_binding::BlockReference,
};
use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::chain::view::CancelReason;

const TOKEN: u128 = 1_000_000_000;

fn incident() -> Incident {
    serde_json::from_value(json!({
        "apiVersion": "gridstake.dev/v1alpha1", "kind": "Incident", "metadata": {"name": "incident-a", "generation": 1},
        "spec": {
            "offence": "FalseInventory", "subject": {"nodeName": "n1", "providerId": 7},
            "from": "2026-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z", "verdict": "Host",
            "evidenceHash": B256::repeat_byte(1).to_string(), "summary": "s", "sanction": "PartialSlash",
            "slash": "5000", "chain": "anvil",
        },
    }))
    .unwrap()
}

/// The evidence is archived, and it is a day since the incident was opened.
fn decide(incident: &Incident, sight: &Sight) -> Plan {
    let archived = Fact::new(
        IncidentCondition::EvidenceArchived,
        true,
        IncidentReason::Archived,
        "",
    );
    super::decide(
        incident,
        &archived,
        sight,
        "2026-01-02T00:00:00Z".parse().unwrap(),
    )
}

fn inclusion(block: u64) -> Inclusion {
    Inclusion {
        transaction: B256::repeat_byte(2).to_string(),
        block: BlockReference {
            number: block,
            hash: B256::repeat_byte(3).to_string(),
        },
        timestamp: None,
        gas_used: None,
        effective_gas_price: None,
    }
}

fn slash(state: SlashState) -> SlashView {
    SlashView {
        id: 4,
        provider: 7,
        amount: 5000 * TOKEN,
        frozen: 4000 * TOKEN,
        upheld: 1000 * TOKEN,
        evidence: B256::repeat_byte(1),
        counter_evidence: B256::repeat_byte(9),
        dispute_until: 1000,
        resolve_until: 2000,
        state,
        cancelled: (state == SlashState::Cancelled).then_some(CancelReason::NotDecided),
    }
}

fn seen(chain_time: u64, slash: Option<SlashView>, history: History) -> Sight {
    Sight::Seen(Box::new(Seen {
        head: Block {
            timestamp: chain_time,
            ..Block::default()
        },
        slash,
        history,
        hindrance: None,
    }))
}

fn proposed() -> History {
    History {
        proposed: Some(inclusion(5)),
        ..History::default()
    }
}

#[test]
fn a_sanction_that_needs_no_chain_ends_by_itself() {
    for (sanction, state) in [
        ("Repair", IncidentState::Closed),
        ("Warn", IncidentState::InForce),
        ("Hold", IncidentState::InForce),
    ] {
        let mut incident = incident();
        incident.metadata.creation_timestamp =
            serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        incident.spec.sanction = serde_json::from_value(json!(sanction)).unwrap();
        let plan = decide(&incident, &Sight::NotNeeded);
        assert_eq!(plan.state, state, "{sanction}");
        assert_eq!(
            stated(&plan, "Closed").0,
            if state == IncidentState::Closed {
                Status::True
            } else {
                Status::False
            }
        );
    }
}

fn stated(plan: &Plan, condition: &str) -> (Status, &'static str) {
    let fact = plan
        .facts
        .iter()
        .find(|f| f.condition == condition)
        .unwrap();
    (fact.status, fact.reason)
}

/// The incident as it is after this plan was written.
fn after(plan: &Plan) -> Incident {
    let mut incident = incident();
    let record = plan.record.clone();
    incident.status = Some(IncidentStatus {
        state: Some(plan.state),
        proposal: record.proposal,
        dispute: record.dispute,
        resolution: record.resolution,
        execution: record.execution,
        cancellation: record.cancellation,
        ..IncidentStatus::default()
    });
    incident
}

#[test]
fn a_sanction_without_stake_is_in_force_without_a_chain() {
    let plan = decide(&incident(), &Sight::NotNeeded);
    assert_eq!(plan.state, IncidentState::InForce);
    assert_eq!(stated(&plan, "Proposed"), (Status::False, "NotNeeded"));
    assert_eq!(stated(&plan, "Ready"), (Status::True, "InForce"));
    assert_eq!(plan.call, None);
}

#[test]
fn each_step_is_due_exactly_when_the_chains_clock_says_so() {
    for (state, time, call) in [
        (SlashState::Proposed, 999, None),
        (SlashState::Proposed, 1000, Some(Call::Finalize(4))),
        (SlashState::Disputed, 1999, None),
        (SlashState::Disputed, 2000, Some(Call::Finalize(4))),
        (SlashState::Upheld, 1, Some(Call::Finalize(4))),
        (SlashState::Executed, 9999, None),
        (SlashState::Cancelled, 9999, None),
    ] {
        assert_eq!(due(Some(&slash(state)), time), call, "{state:?} {time}");
    }
    assert_eq!(due(None, 0), Some(Call::Propose));
}

#[test]
fn an_undisputed_slash_goes_from_proposal_to_execution() {
    use IncidentState as S;
    use SlashState as C;
    let executed = History {
        executed: Some(Cut {
            from_stake: 3000 * TOKEN,
            from_unbonding: 1000 * TOKEN,
            inclusion: inclusion(8),
        }),
        ..proposed()
    };
    let mut incident = incident();
    for (sight, state, call, proposed, answered, closed) in [
        (
            seen(0, None, History::default()),
            S::Proposing,
            Some(Call::Propose),
            "NotSent",
            "NotSent",
            "InProgress",
        ),
        // In a block that may still go away.
        (
            seen(10, Some(slash(C::Proposed)), History::default()),
            S::Proposing,
            None,
            "InFlight",
            "InFlight",
            "InProgress",
        ),
        (
            seen(20, Some(slash(C::Proposed)), proposed()),
            S::Proposed,
            None,
            "Proposed",
            "WaitingForAnswer",
            "InProgress",
        ),
        (
            seen(1000, Some(slash(C::Proposed)), History::default()),
            S::Finalizing,
            Some(Call::Finalize(4)),
            "Proposed",
            "Unanswered",
            "InProgress",
        ),
        // Cut, but not for good yet.
        (
            seen(1010, Some(slash(C::Executed)), History::default()),
            S::Finalizing,
            None,
            "Proposed",
            "Unanswered",
            "InProgress",
        ),
        (
            seen(1020, Some(slash(C::Executed)), executed),
            S::Executed,
            None,
            "Proposed",
            "Unanswered",
            "Executed",
        ),
    ] {
        let plan = decide(&incident, &sight);
        assert_eq!((plan.state, plan.call), (state, call), "{sight:?}");
        assert_eq!(stated(&plan, "Proposed").1, proposed);
        assert_eq!(stated(&plan, "Answered").1, answered);
        assert_eq!(stated(&plan, "Closed").1, closed);
        assert_eq!(stated(&plan, "Ready").0, Status::True);
        incident = after(&plan);
    }
    let record = Record::of(incident.status.as_ref().unwrap());
    let proposal = record.proposal.unwrap();
    assert_eq!(
        (proposal.id.as_str(), proposal.frozen.to_string()),
        ("4", "4000".to_owned())
    );
    assert_eq!(
        proposal.dispute_until.0,
        Timestamp::from_second(1000).unwrap()
    );
    let execution = record.execution.unwrap();
    assert_eq!(execution.from_stake.to_string(), "3000");
    assert_eq!(execution.from_unbonding.to_string(), "1000");
}

#[test]
fn a_dispute_that_nobody_decides_ends_in_a_cancellation_with_its_reason() {
    let disputed = History {
        disputed: Some(inclusion(6)),
        ..proposed()
    };
    let first = decide(
        &incident(),
        &seen(500, Some(slash(SlashState::Disputed)), disputed),
    );
    assert_eq!(first.state, IncidentState::Disputed);
    assert_eq!(stated(&first, "Answered"), (Status::True, "Disputed"));
    let dispute = first.record.dispute.clone().unwrap();
    assert_eq!(
        dispute.counter_evidence_hash,
        B256::repeat_byte(9).to_string()
    );

    let over = seen(2000, Some(slash(SlashState::Disputed)), History::default());
    let second = decide(&after(&first), &over);
    assert_eq!(
        (second.state, second.call),
        (IncidentState::Finalizing, Some(Call::Finalize(4)))
    );

    let cancelled = History {
        cancelled: Some(inclusion(9)),
        ..History::default()
    };
    let end = decide(
        &after(&second),
        &seen(2010, Some(slash(SlashState::Cancelled)), cancelled),
    );
    assert_eq!(end.state, IncidentState::Cancelled);
    assert_eq!(
        end.record.cancellation,
        Some(CancellationReason::NotDecided)
    );
    assert_eq!(stated(&end, "Closed"), (Status::True, "Cancelled"));
    assert!(end.record.execution.is_none());
}

#[test]
fn what_the_arbiter_upheld_is_recorded() {
    let history = History {
        disputed: Some(inclusion(6)),
        resolved: Some(inclusion(7)),
        ..proposed()
    };
    let plan = decide(
        &incident(),
        &seen(1500, Some(slash(SlashState::Upheld)), history),
    );
    assert_eq!(
        (plan.state, plan.call),
        (IncidentState::Finalizing, Some(Call::Finalize(4)))
    );
    assert_eq!(plan.record.resolution.unwrap().upheld.to_string(), "1000");
}

#[test]
fn a_refusal_reaches_the_object_by_its_name() {
    let refusal = |error: &str, passing| {
        Sight::Seen(Box::new(Seen {
            hindrance: Some(Hindrance::Refused(Refusal {
                error: error.to_owned(),
                passing,
            })),
            ..Seen::default()
        }))
    };
    let plan = decide(&incident(), &refusal("FreezeCapReached", false));
    assert_eq!(
        stated(&plan, "Proposed"),
        (Status::False, "ContractRefused")
    );
    assert_eq!(stated(&plan, "Ready"), (Status::False, "ContractRefused"));
    let words = &plan.facts.last().unwrap().message;
    assert!(words.contains("FreezeCapReached"), "{words}");

    // Another replica was faster: the next block shows it.
    let plan = decide(&incident(), &refusal("IncidentKnown", true));
    assert_eq!(stated(&plan, "Ready"), (Status::True, "Proposing"));

    let poor = Sight::Seen(Box::new(Seen {
        hindrance: Some(Hindrance::Obstacle("no coin".to_owned())),
        ..Seen::default()
    }));
    let plan = decide(&incident(), &poor);
    assert_eq!(stated(&plan, "Ready"), (Status::False, "NotSent"));
    assert_eq!(stated(&plan, "Proposed"), (Status::False, "NotSent"));
}

#[test]
fn while_the_chain_is_away_what_was_known_stays() {
    let known = decide(
        &incident(),
        &seen(20, Some(slash(SlashState::Proposed)), proposed()),
    );
    let away = Sight::Blocked(IncidentReason::ChainUnavailable, "away".to_owned());
    let plan = decide(&after(&known), &away);
    assert_eq!(plan.state, IncidentState::Proposed);
    assert_eq!(plan.record, known.record);
    assert_eq!(stated(&plan, "Proposed"), (Status::True, "Proposed"));
    assert_eq!(stated(&plan, "Ready"), (Status::False, "ChainUnavailable"));
    assert_eq!(plan.call, None);
    let new = decide(&incident(), &away);
    assert_eq!(
        stated(&new, "Proposed"),
        (Status::False, "ChainUnavailable")
    );
}

proptest! {
    #[test]
    fn what_is_final_never_changes_and_an_ended_incident_sends_nothing(
        steps in prop::collection::vec((0_u64..3000, 0_usize..6, any::<[bool; 5]>()), 1..12),
    ) {
        let states = [
            SlashState::Proposed, SlashState::Disputed, SlashState::Upheld, SlashState::Executed, SlashState::Cancelled,
        ];
        let mut incident = incident();
        let mut last = Record::default();
        for (time, state, [proposed, disputed, resolved, executed, cancelled]) in steps {
            let history = History {
                proposed: proposed.then(|| inclusion(1)),
                disputed: disputed.then(|| inclusion(2)),
                resolved: resolved.then(|| inclusion(3)),
                executed: executed.then(|| Cut { from_stake: 1, from_unbonding: 0, inclusion: inclusion(4) }),
                cancelled: cancelled.then(|| inclusion(5)),
            };
            let plan = decide(&incident, &seen(time, states.get(state).copied().map(slash), history));
            prop_assert!(last.proposal.is_none() || plan.record.proposal == last.proposal);
            prop_assert!(last.dispute.is_none() || plan.record.dispute == last.dispute);
            prop_assert!(last.execution.is_none() || plan.record.execution == last.execution);
            prop_assert!(last.cancellation.is_none() || plan.record.cancellation == last.cancellation);
            if plan.record.has_ended() {
                prop_assert_eq!(plan.call, None);
            }
            let stated: Vec<&str> = plan.facts.iter().map(|fact| fact.condition).collect();
            prop_assert_eq!(stated, super::super::status::OWNER.conditions);
            last = plan.record.clone();
            incident = after(&plan);
        }
    }
}
