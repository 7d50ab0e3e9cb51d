//! What sealed records are owed, and how far their payment is. Pure.

use std::collections::BTreeMap;

use alloy::primitives::B256;
use gridstake_crds::{
    TokenAmount, UsageRecord,
    settlement_batch::BatchState,
    transaction::Inclusion,
    usage_record::{Payment, RecordSettlement, RecordState, Sealed, SkipReason},
};
use gridstake_ledger::{
    amount::{self, AmountError},
    batch::{EMISSION_PRICE, Entry, Group},
    receipt::Receipt,
};

use super::build_batch::Candidate;

/// The lane's reward account.
pub const REWARD_ACCOUNT: u32 = 0;

/// Why a sealed record cannot be paid as it is. A person must decide.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unpayable {
    /// The price or an amount leaves the range of the contract.
    #[error("{0}")]
    Amount(#[from] AmountError),
    /// The receipt's hash cannot be read.
    #[error("status.sealed.receiptHash is not a hash")]
    ReceiptHash,
}

/// What the lane owes for `record`: its use, and an emission if there is one; nothing if it is not sealed or not of
/// this lane.
pub fn owed(record: &UsageRecord, chain: &str, lane: u32) -> Result<Vec<Candidate>, Unpayable> {
    let Some(payment) = record
        .spec
        .payment
        .as_ref()
        .filter(|payment| payment.chain == chain && payment.lane == lane)
    else {
        return Ok(vec![]);
    };
    let sealed = record.status.as_ref().and_then(|s| s.sealed.as_ref());
    let Some((sealed, job_no)) = sealed.and_then(|sealed| Some((sealed, sealed.job_no?))) else {
        return Ok(vec![]);
    };
    let leaf: B256 = sealed
        .receipt_hash
        .parse()
        .map_err(|_| Unpayable::ReceiptHash)?;
    let usage = Entry {
        job_no,
        payer: payment.payer,
        provider: payment.provider,
        price: amount::price_on_wire(payment.per_gpu_second.nano())?,
        units: sealed.gpu_millis,
    };
    let mut owed = vec![Candidate { entry: usage, leaf }];
    if let Some(emission) = &sealed.emission {
        let entry = Entry {
            job_no: emission.job_no,
            payer: REWARD_ACCOUNT,
            provider: payment.provider,
            price: EMISSION_PRICE,
            units: amount::balance(emission.amount.nano())?,
        };
        owed.push(Candidate {
            entry,
            leaf: emission_leaf(lane, &entry, leaf),
        });
    }
    Ok(owed)
}

/// Who pays whom at which price, as a batch says it; `None` if the price leaves the range of the contract.
#[must_use]
pub fn group_of(payment: &Payment) -> Option<Group> {
    Some(Group {
        payer: payment.payer,
        provider: payment.provider,
        price: amount::price_on_wire(payment.per_gpu_second.nano()).ok()?,
    })
}

/// The leaf of an emission: a receipt whose content is the receipt of the use that it rewards.
#[must_use]
pub fn emission_leaf(lane: u32, entry: &Entry, usage_leaf: B256) -> B256 {
    Receipt {
        lane,
        job_no: entry.job_no,
        payer: entry.payer,
        provider: entry.provider,
        units: entry.units,
        price: entry.price,
        record_hash: usage_leaf,
    }
    .leaf()
}

/// What the payer pays for a record by itself, in nano-tokens, rounded down.
#[must_use]
pub fn amount_of(record: &UsageRecord) -> Option<TokenAmount> {
    let sealed = record.status.as_ref()?.sealed.as_ref()?;
    let price = record.spec.payment.as_ref()?.per_gpu_second.nano();
    let nano = amount::record_amount(sealed.gpu_millis, price).ok()?;
    Some(TokenAmount::from_nano(nano.into()))
}

/// Where a batch stands, for its records.
#[derive(Clone, Debug)]
pub struct BatchStanding<'a> {
    /// The batch's name.
    pub batch: &'a str,
    /// Its state.
    pub state: BatchState,
    /// Where it was found on the chain.
    pub inclusion: Option<&'a Inclusion>,
    /// The numbers that the contract left out.
    pub skipped: &'a BTreeMap<u64, SkipReason>,
}

/// Of a record of which a batch holds a part: where the rest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// There is none, or it has been paid by a batch that is final.
    Paid,
    /// Another batch holds it.
    Batched,
    /// No batch holds it yet.
    Waiting,
}

/// What a batch's state means for its records.
#[must_use]
pub const fn record_state(state: BatchState) -> RecordState {
    match state {
        BatchState::Prepared | BatchState::Signed | BatchState::InFlight | BatchState::Forked => {
            RecordState::Batched
        }
        BatchState::Superseded => RecordState::Sealed,
        BatchState::Included | BatchState::Safe => RecordState::Paid,
        BatchState::Final => RecordState::Final,
    }
}

/// How far the payment of `record` is, whose `numbers` are in a batch, and the `rest` of whose numbers is elsewhere.
///
/// What was left out is told once it is final: until then a reorganisation may pay it after all. A record is final when
/// all of it is.
#[must_use]
pub fn settlement(
    record: &UsageRecord,
    numbers: &[u64],
    standing: &BatchStanding<'_>,
    rest: Rest,
) -> RecordSettlement {
    // A number that was paid before is paid.
    let left_out = |number: &u64| {
        standing
            .skipped
            .get(number)
            .copied()
            .filter(|reason| *reason != SkipReason::AlreadyPaid)
    };
    let skipped = numbers.iter().find_map(left_out);
    let state = match (record_state(standing.state), skipped) {
        (RecordState::Final, Some(_)) => RecordState::Skipped,
        (RecordState::Paid, Some(_)) => RecordState::Batched,
        (RecordState::Final, None) if rest == Rest::Batched => RecordState::Paid,
        (RecordState::Final, None) if rest == Rest::Waiting => RecordState::Sealed,
        (state, _) => state,
    };
    let present = record.status.as_ref().and_then(|s| s.settlement.as_ref());
    let told = matches!(
        state,
        RecordState::Final | RecordState::Paid | RecordState::Skipped
    );
    let inclusion = standing.inclusion.filter(|_| told);
    RecordSettlement {
        state,
        batch: (state != RecordState::Sealed).then(|| standing.batch.to_owned()),
        amount: amount_of(record),
        transaction: inclusion.map(|inclusion| inclusion.transaction.clone()),
        block: inclusion.map(|inclusion| inclusion.block.clone()),
        skipped: skipped.filter(|_| state == RecordState::Skipped),
        archive_hash: present.and_then(|present| present.archive_hash.clone()),
    }
}

/// That `record`, which no batch holds, is left out for this reason. What a batch has told of it stays told.
#[must_use]
pub fn left_out(record: &UsageRecord, reason: SkipReason) -> RecordSettlement {
    let present = record.status.as_ref().and_then(|s| s.settlement.clone());
    let told = present.filter(|present| present.state == RecordState::Skipped);
    RecordSettlement {
        state: RecordState::Skipped,
        skipped: Some(reason),
        amount: amount_of(record),
        ..told.unwrap_or_else(|| in_no_batch(RecordState::Skipped))
    }
}

/// That a record of which no batch has told anything is in this state.
#[must_use]
pub const fn in_no_batch(state: RecordState) -> RecordSettlement {
    RecordSettlement {
        state,
        batch: None,
        amount: None,
        transaction: None,
        block: None,
        skipped: None,
        archive_hash: None,
    }
}

/// The seal of a record that is in no batch: its payment can still be kept back.
#[must_use]
pub fn seal_in_no_batch(record: &UsageRecord) -> Option<&Sealed> {
    let status = record.status.as_ref()?;
    let settlement = status.settlement.as_ref();
    let is_in_a_batch = settlement.is_some_and(|settlement| settlement.batch.is_some());
    status.sealed.as_ref().filter(|_| !is_in_a_batch)
}

/// Whether it was the contract that left the record out, in a batch that was mined.
#[must_use]
pub fn was_left_out_on_chain(settlement: &RecordSettlement) -> bool {
    settlement.state == RecordState::Skipped && settlement.batch.is_some()
}

#[cfg(test)]
mod tests {
    use gridstake_crds::stake_binding::BlockReference;

    use super::*;

    fn record(extra: &str) -> UsageRecord {
        serde_saphyr::from_str(&format!(
            "apiVersion: gridstake.dev/v1alpha1
kind: UsageRecord
metadata: {{name: u-1-0-0}}
spec:
  job: {{namespace: a, name: j, uid: u}}
  attempt: 1
  member: 0
  slice: 0
  podName: j-1-0
  nodeName: n1
  gpuCount: 1
  payment: {{chain: anvil, lane: 7, payer: 3, provider: 9, perGpuSecond: '0.00072'}}
status:
  sealed: {{jobNo: 256, startMs: 0, endMs: 1000, gpuMillis: 1500, price: '0.00072', cause: MemberEnded, receiptHash: '0x{}'{extra}}}
",
            "ab".repeat(32)
        ))
        .unwrap()
    }

    const EMISSION: &str = ", emission: {jobNo: 257, amount: '0.000000100'}";

    #[test]
    fn a_sealed_record_is_owed_its_use_and_its_emission() {
        let owed = owed(&record(EMISSION), "anvil", 7).unwrap();
        assert_eq!(
            owed[0].entry,
            Entry {
                job_no: 256,
                payer: 3,
                provider: 9,
                price: 720_000_000_000,
                units: 1500
            }
        );
        assert_eq!(
            owed[1].entry,
            Entry {
                job_no: 257,
                payer: 0,
                provider: 9,
                price: EMISSION_PRICE,
                units: 100
            }
        );
        assert_eq!(owed[0].leaf, B256::repeat_byte(0xab));
        assert_ne!(owed[1].leaf, owed[0].leaf);
        assert_eq!(amount_of(&record("")).unwrap().nano(), 1_080_000);
    }

    #[test]
    fn another_chain_or_lane_and_what_is_not_sealed_is_owed_nothing() {
        assert!(owed(&record(""), "other", 7).unwrap().is_empty());
        assert!(owed(&record(""), "anvil", 8).unwrap().is_empty());
        let mut open = record("");
        open.status.as_mut().unwrap().sealed = None;
        assert!(owed(&open, "anvil", 7).unwrap().is_empty());
    }

    #[test]
    fn a_record_goes_with_its_batch() {
        let inclusion = Inclusion {
            transaction: "0x1".into(),
            block: BlockReference {
                number: 5,
                hash: "0x2".into(),
            },
            timestamp: None,
            gas_used: None,
            effective_gas_price: None,
        };
        let none = BTreeMap::new();
        let poor = BTreeMap::from([(257, SkipReason::InsufficientEscrow)]);
        let twice = BTreeMap::from([(256, SkipReason::AlreadyPaid)]);
        for (state, skipped, expected, reason) in [
            (BatchState::InFlight, &none, RecordState::Batched, None),
            (BatchState::Superseded, &none, RecordState::Sealed, None),
            (BatchState::Safe, &none, RecordState::Paid, None),
            (BatchState::Final, &none, RecordState::Final, None),
            (BatchState::Safe, &poor, RecordState::Batched, None),
            (
                BatchState::Final,
                &poor,
                RecordState::Skipped,
                Some(SkipReason::InsufficientEscrow),
            ),
            (BatchState::Final, &twice, RecordState::Final, None),
        ] {
            let standing = BatchStanding {
                batch: "lane-7-1",
                state,
                inclusion: Some(&inclusion),
                skipped,
            };
            let settled = settlement(&record(EMISSION), &[256, 257], &standing, Rest::Paid);
            assert_eq!(
                (settled.state, settled.skipped),
                (expected, reason),
                "{state:?}"
            );
            let told = !matches!(expected, RecordState::Batched | RecordState::Sealed);
            assert_eq!(settled.transaction.is_some(), told);
            assert_eq!(settled.batch.is_some(), expected != RecordState::Sealed);
            // Skipped entries of other records change nothing.
            let other = settlement(&record(""), &[1], &standing, Rest::Paid);
            assert_eq!(other.state, record_state(state));
        }
    }

    #[test]
    fn a_record_is_final_when_all_of_it_is() {
        let none = BTreeMap::new();
        let poor = BTreeMap::from([(256, SkipReason::InsufficientEscrow)]);
        for (state, skipped, rest, expected) in [
            (BatchState::Final, &none, Rest::Paid, RecordState::Final),
            (BatchState::Final, &none, Rest::Batched, RecordState::Paid),
            (BatchState::Final, &none, Rest::Waiting, RecordState::Sealed),
            (
                BatchState::Final,
                &poor,
                Rest::Waiting,
                RecordState::Skipped,
            ),
            (BatchState::Safe, &none, Rest::Waiting, RecordState::Paid),
        ] {
            let standing = BatchStanding {
                batch: "lane-7-1",
                state,
                inclusion: None,
                skipped,
            };
            let settled = settlement(&record(EMISSION), &[256], &standing, rest);
            assert_eq!(settled.state, expected, "{state:?} {rest:?}");
        }
    }

    #[test]
    fn what_is_left_out_of_a_batch_names_none_unless_one_has_left_it_out() {
        let mut record = record("");
        let own = left_out(&record, SkipReason::ProviderCooling);
        assert_eq!(
            (own.state, own.skipped, own.batch.clone()),
            (
                RecordState::Skipped,
                Some(SkipReason::ProviderCooling),
                None
            )
        );
        assert!(!was_left_out_on_chain(&own));
        let on_chain = RecordSettlement {
            batch: Some("lane-7-1".into()),
            transaction: Some("0x1".into()),
            ..own
        };
        assert!(was_left_out_on_chain(&on_chain));
        record.status.as_mut().unwrap().settlement = Some(on_chain.clone());
        let again = left_out(&record, SkipReason::InsufficientEscrow);
        assert_eq!(
            again,
            RecordSettlement {
                skipped: Some(SkipReason::InsufficientEscrow),
                ..on_chain
            }
        );
    }
}
