//! Writes a record's seal and conditions.

use gridstake_crds::{UsageRecord, condition, names::MANAGER_USAGE_RECORD, usage_record::Sealed};

use super::{decide::Plan, evidence::Judgement};
use crate::{
    context::Context,
    status::{Guard, StatusError, StatusOwner},
};

/// `evidence` is the agent's, `settlement` that of settlement.
const OWNER: StatusOwner = StatusOwner {
    manager: MANAGER_USAGE_RECORD,
    fields: &["observedGeneration", "refused", "sealed"],
    conditions: &["Evidenced", "Sealed", "Settled", "Archived", "Ready"],
};

/// What became of the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It says what it should.
    Yes {
        /// Whether a write was sent.
        sent: bool,
    },
    /// The record had changed since it was read, or is gone.
    Outdated,
}

/// How a status write ended.
pub type StatusWrite = Result<Written, StatusError>;

/// Writes what `plan` says about `record`, what of its `evidence` is refused, and `seal` with both: number and bill are one write, which the API server takes
/// only for the version on which it was decided, and only once.
pub async fn write(
    ctx: &Context,
    record: &UsageRecord,
    plan: &Plan,
    evidence: &Judgement,
    seal: Option<&Sealed>,
) -> StatusWrite {
    let before = record.status.clone().unwrap_or_default();
    let mut desired = before.clone();
    desired.observed_generation = record.metadata.generation;
    desired.refused = evidence.refused().cloned().or(desired.refused);
    desired.sealed = seal.cloned().or(desired.sealed);
    desired.conditions = condition::conditions(
        &before.conditions,
        &plan.facts,
        record.metadata.generation,
        (ctx.now)(),
    );
    let written = OWNER
        .apply(
            &ctx.client,
            &ctx.metrics,
            record,
            record.status.as_ref(),
            &desired,
            Guard::ResourceVersion,
        )
        .await;
    match written {
        Ok(written) => Ok(Written::Yes {
            sent: written.is_applied(),
        }),
        Err(error) if error.is_conflict() || error.is_not_found() => Ok(Written::Outdated),
        Err(error) => Err(error),
    }
}
