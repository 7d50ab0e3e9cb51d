//! What a job's UsageRecords say about its use and payment. Pure.

use std::collections::BTreeSet;

use gridstake_crds::{
    TokenAmount, UsageRecord,
    compute_job::{Attempt, JobSettlement, JobUsage},
    usage_record::{Payment, RecordState, SealCause, Sealed},
};

use crate::payer::Account;

/// One slice of a member, as far as its job looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The attempt, counted from 1.
    pub attempt: u32,
    /// The member, counted from 0.
    pub member: u32,
    /// The slice, counted from 0.
    pub slice: u32,
    /// Chain and lane on which it is paid; `None`: nothing is owed for it.
    pub lane: Option<(String, u32)>,
    /// The payer's account.
    pub payer: Option<u32>,
    /// What is billed, once that is final.
    pub bill: Option<Bill>,
    /// How far its payment is.
    pub payment: Progress,
}

/// What is billed for a slice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bill {
    /// GPU-milliseconds.
    pub gpu_millis: u64,
    /// Energy, where it was measured.
    pub energy_millijoules: Option<u64>,
    /// What the payer pays, in nano-tokens.
    pub cost_nano: Option<u128>,
    /// Whether the member went on in another slice.
    pub goes_on: bool,
}

/// How far a slice's payment is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is owed.
    NothingOwed,
    /// It is to be paid.
    Open,
    /// The contract left it out for now, or would.
    LeftOut,
    /// It is final: transaction and block number.
    Final(Option<(u64, String)>),
}

impl Slice {
    /// Reads a record.
    #[must_use]
    pub fn read(record: &UsageRecord) -> Self {
        let spec = &record.spec;
        let status = record.status.as_ref();
        let sealed = status.and_then(|s| s.sealed.as_ref());
        let payment = spec.payment.as_ref();
        Self {
            attempt: spec.attempt,
            member: spec.member,
            slice: spec.slice,
            lane: payment.map(|p| (p.chain.clone(), p.lane)),
            payer: payment.map(|p| p.payer),
            bill: sealed.map(|sealed| bill(sealed, payment)),
            payment: progress(record),
        }
    }
}

/// What a GPU-time of `gpu_millis` costs at `price`, in nano-tokens: rounded down once.
#[must_use]
pub fn cost_nano(gpu_millis: u64, price: TokenAmount) -> u128 {
    u128::from(gpu_millis).saturating_mul(price.nano()) / 1000
}

fn bill(sealed: &Sealed, payment: Option<&Payment>) -> Bill {
    Bill {
        gpu_millis: sealed.gpu_millis,
        energy_millijoules: sealed.energy_millijoules,
        cost_nano: payment.map(|p| cost_nano(sealed.gpu_millis, p.per_gpu_second)),
        goes_on: sealed.cause == SealCause::IntervalElapsed,
    }
}

/// How far a record's payment is, as settlement states it.
fn progress(record: &UsageRecord) -> Progress {
    let status = record.status.as_ref();
    let sealed = status.and_then(|s| s.sealed.as_ref());
    if record.spec.payment.is_none() || sealed.is_some_and(|s| s.job_no.is_none()) {
        return Progress::NothingOwed;
    }
    let Some(settlement) = status.and_then(|s| s.settlement.as_ref()) else {
        return Progress::Open;
    };
    match settlement.state {
        RecordState::Final => Progress::Final(
            settlement
                .block
                .as_ref()
                .map(|block| block.number)
                .zip(settlement.transaction.clone()),
        ),
        RecordState::NothingOwed => Progress::NothingOwed,
        RecordState::Skipped | RecordState::NeedsDecision => Progress::LeftOut,
        RecordState::Sealed | RecordState::Batched | RecordState::Paid => Progress::Open,
    }
}

/// What all records of a job say together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Books {
    slices: Vec<Slice>,
}

impl Books {
    /// The books of a job with these slices.
    #[must_use]
    pub fn new(mut slices: Vec<Slice>) -> Self {
        slices.sort_by_key(|s| (s.attempt, s.member, s.slice));
        Self { slices }
    }

    /// Whether there are any records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }

    /// Whether the member has a record.
    #[must_use]
    pub fn has(&self, attempt: u32, member: u32) -> bool {
        self.of_member(attempt, member).next().is_some()
    }

    /// Whether everything that the member used is billed: its last slice is sealed and none follows.
    #[must_use]
    pub fn is_closed(&self, attempt: u32, member: u32) -> bool {
        let last = self.of_member(attempt, member).last();
        let all_sealed = self
            .of_member(attempt, member)
            .all(|slice| slice.bill.is_some());
        all_sealed && last.is_some_and(|s| s.bill.is_some_and(|bill| !bill.goes_on))
    }

    /// Whether everything that the job used is billed.
    #[must_use]
    pub fn are_closed(&self) -> bool {
        self.slices
            .iter()
            .all(|slice| self.is_closed(slice.attempt, slice.member))
    }

    fn of_member(&self, attempt: u32, member: u32) -> impl Iterator<Item = &Slice> {
        self.slices
            .iter()
            .filter(move |s| s.attempt == attempt && s.member == member)
    }

    /// What the attempt used, once all of that is billed.
    #[must_use]
    pub fn gpu_millis(&self, attempt: u32) -> Option<u64> {
        let mut slices = self
            .slices
            .iter()
            .filter(|s| s.attempt == attempt)
            .peekable();
        slices.peek()?;
        slices.try_fold(0_u64, |sum, slice| {
            self.is_closed(attempt, slice.member)
                .then(|| sum.saturating_add(slice.bill.map_or(0, |bill| bill.gpu_millis)))
        })
    }

    /// What the job has used, and what that costs: everything that is billed, and attempts that left no record.
    /// `before` is what was said so far: use never shrinks.
    #[must_use]
    pub fn usage(&self, before: Option<&JobUsage>, attempts: &[Attempt]) -> Option<JobUsage> {
        let bills: Vec<_> = self.slices.iter().filter_map(|s| s.bill).collect();
        let unrecorded = attempts
            .iter()
            .filter(|a| !self.slices.iter().any(|s| s.attempt == a.attempt))
            .map(|a| a.gpu_millis);
        if bills.is_empty() && attempts.is_empty() && before.is_none() {
            return None;
        }
        let before = before.cloned().unwrap_or_default();
        let gpu_millis = bills
            .iter()
            .map(|bill| bill.gpu_millis)
            .chain(unrecorded)
            .fold(0, u64::saturating_add);
        let energy = bills
            .iter()
            .filter_map(|bill| bill.energy_millijoules)
            .reduce(u64::saturating_add);
        let cost = bills
            .iter()
            .filter_map(|bill| bill.cost_nano)
            .reduce(u128::saturating_add)
            .map(TokenAmount::from_nano);
        Some(JobUsage {
            gpu_millis: gpu_millis.max(before.gpu_millis),
            energy_millijoules: energy.max(before.energy_millijoules),
            cost: cost.max(before.cost),
        })
    }

    /// How far the job's payment is; `None` if none of it is owed on any chain.
    #[must_use]
    pub fn settlement(&self, before: Option<&JobSettlement>) -> Option<JobSettlement> {
        let Some((chain, lane)) = self.slices.iter().rev().find_map(|s| s.lane.clone()) else {
            return before.cloned();
        };
        let count = |wanted: fn(&Slice) -> bool| {
            let counted = self.slices.iter().filter(|s| s.lane.is_some() && wanted(s));
            u32::try_from(counted.count()).unwrap_or(u32::MAX)
        };
        let last = self
            .slices
            .iter()
            .filter_map(|slice| match &slice.payment {
                Progress::Final(Some((block, transaction))) => Some((block, transaction)),
                _ => None,
            })
            .max();
        Some(JobSettlement {
            chain,
            lane,
            sealed: count(|s| s.bill.is_some()),
            finalized: count(|s| s.bill.is_some() && s.is_settled()),
            last_transaction: last.map(|(_, transaction)| transaction.clone()),
        })
    }

    /// Whether every slice's payment is final.
    #[must_use]
    pub fn are_settled(&self) -> bool {
        self.slices.iter().all(Slice::is_settled)
    }

    /// Whether the contract left some slice out.
    #[must_use]
    pub fn has_left_out(&self) -> bool {
        self.slices.iter().any(|s| s.payment == Progress::LeftOut)
    }

    /// The accounts that pay for slices that are not billed yet.
    #[must_use]
    pub fn paying(&self) -> BTreeSet<Account> {
        let open = self.slices.iter().filter(|s| s.bill.is_none());
        open.filter_map(|slice| {
            let (chain, lane) = slice.lane.clone()?;
            let payer = slice.payer?;
            Some(Account { chain, lane, payer })
        })
        .collect()
    }
}

impl Slice {
    fn is_settled(&self) -> bool {
        matches!(self.payment, Progress::NothingOwed | Progress::Final(_))
    }
}

#[cfg(test)]
#[path = "usage_tests.rs"]
mod tests;
