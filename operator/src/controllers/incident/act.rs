//! Carries a call to the chain: what is sent is in the status first.

use gridstake_crds::{Incident, IncidentStatus, condition::Fact, transaction::TransactionAttempt};
use kube::ResourceExt as _;

use super::{
    decide::{self, Call, Hindrance, Seen, Sight},
    draft::{self, Draft, DraftError},
    observe, status,
};
use crate::{
    Context,
    settlement::{
        Lane,
        outbox::{Errand, Progress, PursueError},
        send::Obstacle,
        transaction,
    },
    status::{Guard, StatusError},
};

/// Why a call was not carried to the chain.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// The incident makes no call.
    #[error("draft a call")]
    Draft(#[from] DraftError),
    /// The call was not sent.
    #[error("send a call")]
    Pursue(#[from] PursueError<StatusError>),
}

impl ActError {
    /// Whether the object is not any more what it was: a later pass goes by the newer one.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        matches!(
            self,
            Self::Pursue(PursueError::Store(error)) if error.is_conflict() || error.is_not_found()
        )
    }
}

/// What an attempt to send came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Sent {
    /// The status was written along with a new transaction.
    Stored,
    /// Nothing new was stored; what keeps the call from being sent, if anything does.
    Unchanged(Option<Hindrance>),
}

/// Goes one step on with `call`, which is due by what was `seen`.
pub async fn carry(
    context: &Context,
    lane: &Lane,
    incident: &Incident,
    evidence: &Fact,
    seen: &Seen,
    call: Call,
) -> Result<Sent, ActError> {
    let (config, keys) = (lane.chain().config(), lane.keys());
    let log = incident.status.clone().unwrap_or_default();
    let draft = draft::draft(
        incident,
        call,
        &log.authorizations,
        keys.slash.as_ref().unwrap_or(&keys.gas),
        config,
        seen.head.timestamp,
    )?;
    let attempts: Vec<TransactionAttempt> = log
        .attempts
        .iter()
        .filter(|attempt| attempt.valid_until.is_some() == (call == Call::Propose))
        .cloned()
        .collect();
    let call_of = |attempt: &TransactionAttempt| -> Option<transaction::Call> {
        draft::stored(
            incident,
            call,
            attempt.valid_until,
            &log.authorizations,
            config,
        )
        .ok()
    };
    let errand = Errand {
        name: &errand(incident, call),
        call: &draft.call,
        attempts: &attempts,
        call_of: &call_of,
        at: seen.head,
    };
    let now = (context.now)();
    let progress = lane
        .outbox()
        .pursue(lane.client(), config, &errand, now, async |attempt| {
            store(context, incident, evidence, seen, &draft, attempt).await
        })
        .await?;
    Ok(match progress {
        Progress::Sent { new: true, .. } => Sent::Stored,
        Progress::Sent { obstacle, .. } => Sent::Unchanged(
            obstacle.map(|obstacle| Hindrance::Obstacle(words(obstacle).to_owned())),
        ),
        Progress::Waiting(obstacle) => {
            Sent::Unchanged(Some(Hindrance::Obstacle(words(obstacle).to_owned())))
        }
        Progress::Refused(data) => {
            Sent::Unchanged(Some(Hindrance::Refused(observe::refusal(&data))))
        }
    })
}

/// Nothing more is to be sent or asked for `incident`.
pub fn done(lane: &Lane, incident: &Incident) {
    if let Ok(demand) = draft::demand(incident, lane.chain().config()) {
        lane.chain().interest_in(|interest| {
            interest.incidents.remove(&demand.incidentId);
        });
    }
    for call in [Call::Propose, Call::Finalize(0)] {
        lane.outbox().done(&errand(incident, call));
    }
}

/// What names an errand among all that are under way.
fn errand(incident: &Incident, call: Call) -> String {
    let duty = match call {
        Call::Propose => "propose",
        Call::Finalize(_) => "finalize",
    };
    format!("incident/{}/{duty}", incident.name_any())
}

/// Writes the transaction, and the authorization in it, into the very version of the object that was read.
async fn store(
    context: &Context,
    incident: &Incident,
    evidence: &Fact,
    seen: &Seen,
    draft: &Draft,
    attempt: TransactionAttempt,
) -> Result<(), StatusError> {
    let mut next = incident.clone();
    let log: &mut IncidentStatus = next.status.get_or_insert_default();
    log.authorizations.extend(draft.new.clone());
    log.attempts.push(attempt);
    let now = (context.now)();
    let sight = Sight::Seen(Box::new(seen.clone()));
    let plan = decide::decide(&next, evidence, &sight, now);
    let held = next.status.as_ref().and_then(|status| status.held);
    let desired = status::desired(&next, &plan, held, now);
    status::OWNER
        .apply(
            &context.client,
            &context.metrics,
            incident,
            incident.status.as_ref(),
            &desired,
            Guard::ResourceVersion,
        )
        .await?;
    Ok(())
}

fn words(obstacle: Obstacle) -> &'static str {
    match obstacle {
        Obstacle::FeeCap => "gas costs more than fees.maxFeePerGas and fees.maxMultiple allow",
        Obstacle::Balance => "the gas account cannot pay for the transaction: send coin to it",
        Obstacle::Attempts => {
            "so many transactions have been stored that no other is made; the last one is sent on"
        }
    }
}
