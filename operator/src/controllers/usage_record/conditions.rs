//! A record's conditions as a function of where it stands. Pure.

use gridstake_crds::{
    UsageRecord, UsageRecordStatus,
    closed_enum::ClosedEnum as _,
    condition::{self, Fact, Status},
    usage_record::{
        RecordState, RefusedEvidence, UsageRecordCondition as C, UsageRecordReason as R,
    },
};

use super::remembered::Difference;

/// What the evidence is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EvidenceFact {
    /// The member has not started, so there can be none.
    NotStarted,
    /// The slice goes on, and so far nothing is wrong.
    SoFarGood,
    /// It covers the slice.
    Complete,
    /// It leaves spans out.
    HasGaps,
    /// There is none.
    Missing,
    /// It is not about the member's pod, or cannot be read; which.
    Invalid(String),
    /// A statement cannot be true; which and why.
    Refused(String),
    /// The key that signed it is not the node's certified one; why.
    NotCertified(String),
}

impl EvidenceFact {
    /// That a statement is refused.
    #[must_use]
    pub fn refused(refused: &RefusedEvidence) -> Self {
        Self::Refused(format!(
            "checkpoint {} of epoch {} is refused: {}; see status.refused and docs/evidence.md",
            refused.seq, refused.epoch, refused.reason
        ))
    }
}

/// Why a slice that has ended gets no number yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The lane's log has not been compared with the chain.
    LogNotCompared,
    /// Its agent remembers that it was sealed, which the cluster does not, and what was signed for it may still be mined.
    MayBeMined,
    /// The API server may have been restored from a backup, and a batch of before may still be mined that pays it.
    MayBeLost {
        /// When that was found, in Unix milliseconds: what began later is in no such batch.
        until_ms: u64,
    },
    /// Payments that no record has may be this one's.
    InDoubt {
        /// How many.
        count: usize,
        /// When they were taken over from the chain: what began later is not among them.
        until_ms: u64,
        /// What speaks against the seal that the agent remembers, if it remembers one.
        differs: Option<Difference>,
    },
}

impl Hold {
    /// Whether it holds a slice that began at `from_ms`.
    #[must_use]
    pub const fn concerns(self, from_ms: u64) -> bool {
        match self {
            Self::LogNotCompared | Self::MayBeMined => true,
            Self::InDoubt { until_ms, .. } | Self::MayBeLost { until_ms } => from_ms < until_ms,
        }
    }

    const fn reason(self) -> R {
        match self {
            Self::LogNotCompared => R::LogNotCompared,
            Self::MayBeMined | Self::MayBeLost { .. } | Self::InDoubt { .. } => R::InDoubt,
        }
    }

    fn message(self) -> String {
        match self {
            Self::LogNotCompared => {
                "it is sealed once the lane's log has been compared with the chain".to_owned()
            }
            Self::MayBeMined => {
                "its agent remembers that it was sealed, and the cluster does not: a batch that was sent before may still pay it; it is sealed anew once nothing that was signed then can be mined any more; see \"Restored from a backup\" in docs/runbook.md".to_owned()
            }
            Self::MayBeLost { .. } => {
                "the API server may have been restored from a backup, and a batch that was sent before and is not in the log may still pay it; it is sealed once a batch that was built since is final, or nothing that was signed then can be mined any more; see \"Restored from a backup\" in docs/runbook.md".to_owned()
            }
            Self::InDoubt { count, differs, .. } => {
                let differs = differs
                    .map(|difference| format!(". The agent remembers a seal: {difference}"))
                    .unwrap_or_default();
                format!(
                    "the chain shows {count} payments of this payer to this provider at this price that no UsageRecord has, and this slice may be one of them{differs}; see \"Restored from a backup\" in docs/runbook.md"
                )
            }
        }
    }
}

/// What is known of the archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ArchiveFact {
    /// None is configured.
    #[default]
    None,
    /// No chain is configured, so there is nothing to archive.
    NothingOwed,
    /// It can be written, as far as is known.
    Open,
    /// It cannot be written; why.
    Unavailable(String),
}

/// How far a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The member has not started.
    NotStarted,
    /// The slice goes on.
    Metering,
    /// The slice has ended and gets no number yet.
    Held(Hold),
    /// The bill is final.
    Sealed {
        /// Whether anything is owed for it.
        owes: bool,
    },
}

/// The facts about `record` at `stage`; `held_by` is what holds its payment back. The evidence is judged until the slice is sealed; then the judgement
/// stands.
#[must_use]
pub fn facts(
    record: &UsageRecord,
    stage: Stage,
    evidence: Option<&EvidenceFact>,
    archive: &ArchiveFact,
    held_by: Option<&str>,
) -> Vec<Fact> {
    let status = record.status.clone().unwrap_or_default();
    vec![
        evidenced(&status, evidence),
        sealed(stage),
        settled(&status, stage, held_by),
        archived(&status, archive),
        ready(&status, stage, held_by),
    ]
}

fn fact(condition: C, status: impl Into<Status>, reason: R, message: impl Into<String>) -> Fact {
    Fact::new(condition, status, reason, message)
}

fn evidenced(status: &UsageRecordStatus, evidence: Option<&EvidenceFact>) -> Fact {
    let Some(evidence) = evidence else {
        return stated(status, C::Evidenced)
            .unwrap_or_else(|| fact(C::Evidenced, false, R::EvidenceMissing, ""));
    };
    match evidence {
        EvidenceFact::NotStarted => fact(C::Evidenced, Status::Unknown, R::NotStarted, ""),
        EvidenceFact::SoFarGood => fact(C::Evidenced, Status::Unknown, R::Metering, ""),
        EvidenceFact::Complete => fact(C::Evidenced, true, R::EvidenceComplete, ""),
        EvidenceFact::HasGaps => fact(
            C::Evidenced,
            false,
            R::EvidenceHasGaps,
            "spans without evidence are not billed, but for those that are bridged",
        ),
        EvidenceFact::Missing => fact(
            C::Evidenced,
            false,
            R::EvidenceMissing,
            "the bill rests on the kubelet's times alone",
        ),
        EvidenceFact::Invalid(why) => fact(C::Evidenced, false, R::EvidenceInvalid, why),
        EvidenceFact::Refused(why) => fact(C::Evidenced, false, R::EvidenceRefused, why),
        EvidenceFact::NotCertified(why) => fact(C::Evidenced, false, R::KeyNotCertified, why),
    }
}

/// What the status says already about `condition`.
fn stated(status: &UsageRecordStatus, condition: C) -> Option<Fact> {
    let found = condition::find(&status.conditions, condition)?;
    let reason = R::ALL.iter().find(|r| r.as_str() == found.reason)?;
    let holds = match found.status.as_str() {
        "True" => Status::True,
        "False" => Status::False,
        _ => Status::Unknown,
    };
    Some(fact(condition, holds, *reason, found.message.clone()))
}

fn sealed(stage: Stage) -> Fact {
    match stage {
        Stage::NotStarted => fact(C::Sealed, false, R::NotStarted, ""),
        Stage::Metering => fact(C::Sealed, false, R::Metering, ""),
        Stage::Held(hold) => fact(C::Sealed, false, hold.reason(), hold.message()),
        Stage::Sealed { .. } => fact(C::Sealed, true, R::Sealed, ""),
    }
}

/// Where the payment is, in one word, and what a person should read.
fn payment(status: &UsageRecordStatus, stage: Stage, held_by: Option<&str>) -> (R, String) {
    match stage {
        Stage::NotStarted => return (R::NotStarted, String::new()),
        Stage::Metering => return (R::Metering, String::new()),
        Stage::Held(hold) => return (hold.reason(), hold.message()),
        Stage::Sealed { owes: false } => return (R::NothingOwed, String::new()),
        Stage::Sealed { owes: true } => {}
    }
    let waits = || match held_by {
        Some(what) => (R::HeldBack, what.to_owned()),
        None => (R::Sealed, String::new()),
    };
    let Some(settlement) = &status.settlement else {
        return waits();
    };
    match settlement.state {
        RecordState::Sealed => waits(),
        RecordState::Batched => (R::Batched, String::new()),
        RecordState::Paid => (R::Paid, String::new()),
        RecordState::Final => (R::Final, String::new()),
        RecordState::NothingOwed => (R::NothingOwed, String::new()),
        RecordState::Skipped => (R::Skipped, left_out(settlement)),
        RecordState::NeedsDecision => (R::NeedsDecision, left_out(settlement)),
    }
}

fn left_out(settlement: &gridstake_crds::usage_record::RecordSettlement) -> String {
    let who = match settlement.batch {
        Some(_) => "the contract left it out",
        None => "in no batch, since the contract would leave it out",
    };
    settlement
        .skipped
        .map_or_else(String::new, |reason| format!("{who}: {reason}"))
}

fn settled(status: &UsageRecordStatus, stage: Stage, held_by: Option<&str>) -> Fact {
    let (reason, message) = payment(status, stage, held_by);
    let holds = matches!(reason, R::Final | R::NothingOwed);
    fact(C::Settled, holds, reason, message)
}

fn archived(status: &UsageRecordStatus, archive: &ArchiveFact) -> Fact {
    let settlement = status.settlement.as_ref();
    if settlement.is_some_and(|settlement| settlement.archive_hash.is_some()) {
        return fact(C::Archived, true, R::Archived, "");
    }
    let is_final = settlement.is_some_and(|settlement| settlement.state == RecordState::Final);
    match archive {
        ArchiveFact::None => fact(
            C::Archived,
            false,
            R::NotArchived,
            "no archive is configured",
        ),
        ArchiveFact::NothingOwed => fact(
            C::Archived,
            false,
            R::NotArchived,
            "no chain is configured: nothing is paid, and what is not paid is not archived",
        ),
        ArchiveFact::Unavailable(why) if is_final => {
            fact(C::Archived, false, R::ArchiveUnavailable, why.clone())
        }
        ArchiveFact::Open | ArchiveFact::Unavailable(_) => fact(
            C::Archived,
            false,
            R::NotArchived,
            "it is archived with its batch, once that is final",
        ),
    }
}

/// The summary. Its reason is the column STATE of `kubectl get usagerecords`.
fn ready(status: &UsageRecordStatus, stage: Stage, held_by: Option<&str>) -> Fact {
    let (reason, message) = payment(status, stage, held_by);
    let well = !matches!(reason, R::Skipped | R::NeedsDecision | R::InDoubt);
    fact(C::Ready, well, reason, message)
}
