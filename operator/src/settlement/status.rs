//! The statuses that settlement writes.

use alloy::primitives::B256;
use gridstake_crds::{
    SettlementBatch, SettlementBatchStatus, UsageRecord,
    closed_enum::ClosedEnum as _,
    condition,
    condition::Fact,
    names::MANAGER_SETTLEMENT,
    settlement_batch::{
        BatchState, BlockedReason, SettlementBatchCondition as Is, SettlementBatchReason as Why,
    },
};
use k8s_openapi::jiff::Timestamp;
use kube::Client;

use crate::{
    metrics::Metrics,
    status::{Guard, StatusError, StatusOwner, Written},
};

/// What settlement owns of a batch: everything.
pub const BATCH: StatusOwner = StatusOwner {
    manager: MANAGER_SETTLEMENT,
    fields: &[
        "observedGeneration",
        "state",
        "blocked",
        "authorizations",
        "attempts",
        "inclusion",
        "outcome",
        "supersededBy",
        "archiveHash",
    ],
    conditions: &["Authorized", "Included", "Final", "Archived", "Ready"],
};

/// What settlement owns of a record.
pub const RECORD: StatusOwner = StatusOwner {
    manager: MANAGER_SETTLEMENT,
    fields: &["settlement"],
    conditions: &[],
};

/// Writes what `change` makes of a batch's status, if nobody else has written since it was read.
pub async fn write_batch(
    client: &Client,
    metrics: &Metrics,
    now: Timestamp,
    batch: &SettlementBatch,
    change: impl FnOnce(&mut SettlementBatchStatus),
) -> Result<Option<SettlementBatch>, StatusError> {
    write_facts(client, metrics, now, batch, None, change).await
}

/// How far the archiving of a final batch is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Archival {
    /// The archive holds it under this address.
    Archived(B256),
    /// The archive cannot be written; why.
    Unavailable(String),
    /// Not everything is there that belongs into the file; what is missing.
    Incomplete(String),
}

impl Archival {
    fn fact(&self) -> Fact {
        match self {
            Self::Archived(_) => Fact::new(Is::Archived, true, Why::Archived, "in the archive"),
            Self::Unavailable(why) => Fact::new(
                Is::Archived,
                false,
                Why::ArchiveUnavailable,
                format!("{why}; nothing is lost, it is tried again"),
            ),
            Self::Incomplete(why) => Fact::new(Is::Archived, false, Why::NotArchived, why.clone()),
        }
    }
}

/// Writes how far the archiving of a final batch is. Tells whether a write was sent.
pub async fn write_archival(
    client: &Client,
    metrics: &Metrics,
    now: Timestamp,
    batch: &SettlementBatch,
    archival: &Archival,
) -> Result<bool, StatusError> {
    let archived = Some(archival.fact());
    let written = write_facts(client, metrics, now, batch, archived, |status| {
        status.archive_hash = match archival {
            Archival::Archived(address) => Some(address.to_string()),
            // What it said before is not there any more.
            Archival::Unavailable(_) | Archival::Incomplete(_) => None,
        };
    })
    .await?;
    Ok(written.is_some())
}

async fn write_facts(
    client: &Client,
    metrics: &Metrics,
    now: Timestamp,
    batch: &SettlementBatch,
    archived: Option<Fact>,
    change: impl FnOnce(&mut SettlementBatchStatus),
) -> Result<Option<SettlementBatch>, StatusError> {
    let mut desired = batch.status.clone().unwrap_or_default();
    change(&mut desired);
    desired.observed_generation = batch.metadata.generation;
    let mut facts = facts(&desired, batch.status.as_ref());
    if let Some(archived) = archived {
        facts.retain(|fact| fact.condition != archived.condition);
        facts.push(archived);
    }
    desired.conditions =
        condition::conditions(&desired.conditions, &facts, batch.metadata.generation, now);
    let written = BATCH
        .apply(
            client,
            metrics,
            batch,
            batch.status.as_ref(),
            &desired,
            Guard::ResourceVersion,
        )
        .await?;
    Ok(match written {
        Written::Unchanged => None,
        Written::Applied(batch) => Some(*batch),
    })
}

/// Writes a record's settlement.
pub async fn write_record(
    client: &Client,
    metrics: &Metrics,
    record: &UsageRecord,
    settlement: gridstake_crds::usage_record::RecordSettlement,
    guard: Guard,
) -> Result<bool, StatusError> {
    let desired = gridstake_crds::UsageRecordStatus {
        settlement: Some(settlement),
        ..Default::default()
    };
    RECORD
        .apply(
            client,
            metrics,
            record,
            record.status.as_ref(),
            &desired,
            guard,
        )
        .await
        .map(|written| written.is_applied())
}

/// The conditions of a batch.
fn facts(status: &SettlementBatchStatus, before: Option<&SettlementBatchStatus>) -> Vec<Fact> {
    let state = status.state.unwrap_or(BatchState::Prepared);
    let on_chain = state.is_on_chain();
    let was_included = before
        .and_then(|before| condition::find(&before.conditions, Is::Included))
        .is_some_and(|c| c.status == "True" || c.reason == Why::Reorganised.as_str());
    let authorized = if status.authorizations.is_empty() {
        Fact::new(Is::Authorized, false, Why::NotSigned, "nothing is signed")
    } else {
        Fact::new(
            Is::Authorized,
            true,
            Why::Signed,
            "the lane's signer has signed the batch",
        )
    };
    let included = match state {
        BatchState::Superseded => Fact::new(
            Is::Included,
            false,
            Why::Superseded,
            "another batch takes its place",
        ),
        BatchState::Forked => Fact::new(
            Is::Included,
            false,
            Why::Forked,
            "the chain holds something else under this number; nothing is sent on this lane",
        ),
        _ if on_chain => Fact::new(
            Is::Included,
            true,
            Why::Included,
            "the lane's head has reached the batch",
        ),
        _ if was_included => Fact::new(
            Is::Included,
            false,
            Why::Reorganised,
            "the block that held it was reorganised away; what is stored is sent again",
        ),
        BatchState::InFlight => Fact::new(
            Is::Included,
            false,
            Why::InFlight,
            "sent, and in no block yet",
        ),
        _ => Fact::new(Is::Included, false, Why::NotSent, "not sent yet"),
    };
    let last = if state == BatchState::Final {
        Fact::new(
            Is::Final,
            true,
            Why::Final,
            "the block that holds it is final",
        )
    } else {
        Fact::new(Is::Final, false, Why::NotFinal, "no final block holds it")
    };
    let archived = if status.archive_hash.is_some() {
        Fact::new(Is::Archived, true, Why::Archived, "in the archive")
    } else {
        Fact::new(Is::Archived, false, Why::NotArchived, "not in the archive")
    };
    let ready = match status.blocked {
        Some(blocked) => Fact::new(Is::Ready, false, blocked, words(blocked)),
        None => Fact::new(
            Is::Ready,
            state == BatchState::Final,
            state,
            included.message.clone(),
        ),
    };
    vec![authorized, included, last, archived, ready]
}

/// What a person should know, and do.
#[must_use]
pub const fn words(blocked: BlockedReason) -> &'static str {
    match blocked {
        BlockedReason::ChainUnavailable => "the chain cannot be reached; it goes on by itself",
        BlockedReason::RateLimited => {
            "the contract's limit per time is used up; it refills by itself"
        }
        BlockedReason::Paused => {
            "the contract is paused; it goes on when the guardian lifts the pause"
        }
        BlockedReason::LaneRevoked => {
            "the lane is closed; open it again with the lane admin's account"
        }
        BlockedReason::SignerMismatch => {
            "the lane has another signer; correct keys.laneSigner, or the lane"
        }
        BlockedReason::EncodingRefused => {
            "the contract refuses the payload; report it, nothing is lost"
        }
        BlockedReason::GasBalanceEmpty => "the gas account cannot pay; send coins to it",
        BlockedReason::FeeCapReached => "gas costs more than fees allows; raise the cap, or wait",
        BlockedReason::NonceTaken => {
            "a transaction that is not ours took the nonce; use the gas key for nothing else"
        }
        BlockedReason::ContractMismatch => {
            "the chain or a contract is not what is configured; correct the chains file"
        }
        BlockedReason::Halted => {
            "the chain contradicts the log: nothing is sent on this lane until a person has found out why"
        }
        BlockedReason::WaitingForPrevious => "the batch before it is in no block yet",
    }
}
