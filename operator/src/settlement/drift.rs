//! Whether the records and the contract say the same of what is paid.
//!
//! A record that says `Final` is paid under all of its numbers; one that no batch holds is not paid under all of them. The contract has
//! one bit for each number of the lane, and is asked for it. What differs is a fault of Gridstake, or of somebody who has written a
//! status by hand or signed for the lane. That log and chain hold the same batches is compared in every pass (`decide`).

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    time::{Duration, Instant},
};

use gridstake_crds::{SettlementBatch, UsageRecord, usage_record::RecordState};
use kube::ResourceExt as _;

use super::{
    observe::{self, ObserveError},
    run::{Settler, held_by, numbers_of},
};
use crate::{chain::ChainView, error::chain as causes};

/// How often records are compared with the chain while nothing differs.
const EVERY: Duration = Duration::from_mins(10);
/// How often while something differs, or not all of it has been asked for.
const SOON: Duration = Duration::from_mins(1);
/// Records that the chain is asked about in one look: settlement waits for it.
const RECORDS: usize = 256;

/// How a record and the chain differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DriftKind {
    /// The record says that it is paid for good, and the contract has not paid all of its numbers.
    Unpaid,
    /// The contract has paid all of its numbers, and the record says otherwise and is in no batch that is under way.
    Unrecorded,
}

impl DriftKind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Unpaid, Self::Unrecorded];

    /// In one word, for metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unpaid => "unpaid",
            Self::Unrecorded => "unrecorded",
        }
    }
}

/// What a sealed record says of its payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The record.
    pub record: String,
    /// The numbers under which it is paid.
    pub numbers: Vec<u64>,
    /// Whether it says that all of it is paid for good.
    pub is_final: bool,
}

impl Claim {
    /// What `record` says; `None` if it owes nothing, or while a batch that is `under_way` holds one of its numbers: then it is on its
    /// way from one to the other, whatever it has been told of that.
    #[must_use]
    pub fn of(record: &UsageRecord, under_way: &BTreeSet<u64>) -> Option<Self> {
        let numbers = numbers_of(record);
        let settlement = record.status.as_ref().and_then(|s| s.settlement.as_ref());
        let state = settlement.map(|settlement| settlement.state);
        let is_final = state == Some(RecordState::Final);
        let moves = !is_final && numbers.iter().any(|number| under_way.contains(number));
        let is_owed = !numbers.is_empty() && state != Some(RecordState::NothingOwed);
        (is_owed && !moves).then(|| Self {
            record: record.name_any(),
            numbers,
            is_final,
        })
    }

    /// How it differs from the chain, which has paid `paid` of its numbers.
    fn differs(&self, paid: &BTreeSet<u64>) -> Option<DriftKind> {
        let all = self.numbers.iter().all(|number| paid.contains(number));
        match (self.is_final, all) {
            (true, false) => Some(DriftKind::Unpaid),
            (false, true) => Some(DriftKind::Unrecorded),
            _ => None,
        }
    }
}

/// What is known of how records and chain differ.
#[derive(Debug, Default)]
pub struct LedgerDrift {
    /// Final records that the chain has paid, by their first number. That does not change any more.
    agreed: BTreeSet<u64>,
    /// Records that differ, by their first number.
    found: BTreeMap<u64, DriftKind>,
    /// Up to which first number it was asked last.
    asked_to: u64,
    /// When to look again.
    next: Option<Instant>,
}

impl LedgerDrift {
    /// Chooses the records to ask the chain about, of all `claims` by their first number: those that differed when it was asked last, and as
    /// many others as there is room for, in turn.
    fn choose<'c>(&mut self, claims: &'c BTreeMap<u64, Claim>) -> Vec<(u64, &'c Claim)> {
        self.agreed.retain(|first| claims.contains_key(first));
        self.found.retain(|first, _| claims.contains_key(first));
        let again = self
            .found
            .keys()
            .filter_map(|first| claims.get_key_value(first));
        let after = claims.range((Bound::Excluded(self.asked_to), Bound::Unbounded));
        let before = claims.range(..=self.asked_to);
        let others = after
            .chain(before)
            .filter(|(first, claim)| !(claim.is_final && self.agreed.contains(first)))
            .filter(|(first, _)| !self.found.contains_key(first));
        let again = again.take(RECORDS / 2);
        let mut ask: Vec<_> = again.map(|(first, claim)| (*first, claim)).collect();
        let room = RECORDS - ask.len();
        let others: Vec<_> = others
            .take(room)
            .map(|(first, claim)| (*first, claim))
            .collect();
        if let Some((last, _)) = others.last() {
            self.asked_to = *last;
        }
        ask.extend(others);
        ask
    }

    /// The chain has paid `paid` of the numbers of those that were `asked` about.
    fn learn(&mut self, asked: &[(u64, &Claim)], paid: &BTreeSet<u64>) {
        for (first, claim) in asked {
            match claim.differs(paid) {
                Some(kind) => {
                    let news = self.found.insert(*first, kind) != Some(kind);
                    if news {
                        tracing::error!(
                            record = claim.record,
                            number = first,
                            kind = kind.as_str(),
                            "the record and the chain differ"
                        );
                    }
                }
                None => {
                    self.found.remove(first);
                    if claim.is_final {
                        self.agreed.insert(*first);
                    }
                }
            }
        }
    }

    /// How many records differ in this way.
    #[must_use]
    pub fn count(&self, kind: DriftKind) -> usize {
        self.found.values().filter(|found| **found == kind).count()
    }
}

impl Settler {
    /// Compares the lane's records with the chain, now and then; `open` are the batches that are not final. A failure is logged and
    /// counted: no payment waits for it.
    pub(super) async fn look_for_drift(&mut self, open: &[SettlementBatch], view: &ChainView) {
        if self.drift.next.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let pause = match self.compare(open, view).await {
            Ok(pause) => pause,
            Err(error) => {
                self.metrics.failed(error.category());
                tracing::warn!(
                    chain = self.lane.chain().name(),
                    error = causes(&error),
                    "the records are not compared with the chain"
                );
                SOON
            }
        };
        self.drift.next = Some(Instant::now() + pause);
    }

    /// Compares them once; tells how long to wait before the next time.
    async fn compare(
        &mut self,
        open: &[SettlementBatch],
        view: &ChainView,
    ) -> Result<Duration, ObserveError> {
        let (client, namespace) = (&self.context.client, &self.context.namespace);
        let records = observe::sealed_records(client, namespace, &self.lane).await?;
        let under_way = held_by(open)?;
        let claims: BTreeMap<u64, Claim> = records
            .iter()
            .filter_map(|record| Claim::of(record, &under_way))
            .filter_map(|claim| Some((*claim.numbers.first()?, claim)))
            .collect();
        let asked = self.drift.choose(&claims);
        let numbers: Vec<u64> = asked
            .iter()
            .flat_map(|(_, claim)| claim.numbers.iter().copied())
            .collect();
        let paid = self.lane.reader().paid(numbers, view.head.hash).await?;
        self.drift.learn(&asked, &paid);
        for kind in DriftKind::ALL {
            self.metrics.drift(kind, self.drift.count(kind));
        }
        let is_done = asked.len() < RECORDS && self.drift.found.is_empty();
        Ok(if is_done { EVERY } else { SOON })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records by the number of their use, with that of their emission, and whether they say that they are final.
    fn claims(claims: impl IntoIterator<Item = (u64, Option<u64>, bool)>) -> BTreeMap<u64, Claim> {
        let claim = |(first, emission, is_final): (u64, Option<u64>, bool)| {
            let claim = Claim {
                record: format!("record-{first}"),
                numbers: std::iter::once(first).chain(emission).collect(),
                is_final,
            };
            (first, claim)
        };
        claims.into_iter().map(claim).collect()
    }

    fn record(settlement: &str) -> UsageRecord {
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
status:
  sealed: {{jobNo: 256, startMs: 0, endMs: 1000, gpuMillis: 1500, price: '0.00072', cause: MemberEnded, receiptHash: '0x{}', emission: {{jobNo: 257, amount: '0.1'}}}}
{settlement}",
            "ab".repeat(32)
        ))
        .unwrap()
    }

    fn look(drift: &mut LedgerDrift, claims: &BTreeMap<u64, Claim>, paid: &[u64]) -> Vec<u64> {
        let asked = drift.choose(claims);
        drift.learn(&asked, &paid.iter().copied().collect());
        asked.iter().map(|(first, _)| *first).collect()
    }

    fn counts(drift: &LedgerDrift) -> [usize; 2] {
        DriftKind::ALL.map(|kind| drift.count(kind))
    }

    #[test]
    fn a_record_claims_that_all_of_its_numbers_are_paid_or_that_they_are_not() {
        let none = BTreeSet::new();
        let claim = |settlement: &str, under_way: &BTreeSet<u64>| {
            Claim::of(&record(settlement), under_way).map(|claim| (claim.numbers, claim.is_final))
        };
        assert_eq!(claim("", &none), Some((vec![256, 257], false)));
        let in_final = "  settlement: {state: Final, batch: lane-7-1}";
        assert_eq!(claim(in_final, &none), Some((vec![256, 257], true)));
        assert_eq!(claim("  settlement: {state: NothingOwed}", &none), None);
        // While a batch of one of its numbers is under way, it is on its way too, also where it has not been told of that.
        let under_way = BTreeSet::from([257]);
        for settlement in ["", "  settlement: {state: Paid, batch: lane-7-2}"] {
            assert_eq!(claim(settlement, &under_way), None);
        }
        assert!(claim("", &BTreeSet::from([258])).is_some());
        assert!(claim(in_final, &under_way).is_some());
    }

    #[test]
    fn records_that_agree_with_the_chain_are_no_drift() {
        let mut drift = LedgerDrift::default();
        let claims = claims([
            (256, Some(257), true),
            (258, None, true),
            // Its emission is not covered yet.
            (260, Some(261), false),
            (262, None, false),
        ]);
        let asked = look(&mut drift, &claims, &[256, 257, 258, 260]);
        assert_eq!((asked, counts(&drift)), (vec![256, 258, 260, 262], [0, 0]));
        // What is paid for good is asked once.
        assert_eq!(look(&mut drift, &claims, &[256, 257, 258, 260]), [260, 262]);
    }

    #[test]
    fn what_differs_is_counted_until_it_agrees_or_is_gone() {
        let mut drift = LedgerDrift::default();
        let all = claims([
            (256, Some(257), true),
            (258, None, false),
            (259, None, true),
        ]);
        look(&mut drift, &all, &[256, 258]);
        assert_eq!(counts(&drift), [2, 1]);
        look(&mut drift, &all, &[256, 257, 258]);
        assert_eq!(counts(&drift), [1, 1]);
        let fewer = claims([(256, Some(257), true), (258, None, true)]);
        look(&mut drift, &fewer, &[256, 257, 258]);
        assert_eq!(counts(&drift), [0, 0]);
        assert_eq!(look(&mut drift, &fewer, &[]), Vec::<u64>::new());
    }

    #[test]
    fn of_very_many_records_each_is_asked_about_in_its_turn() {
        let mut drift = LedgerDrift::default();
        let numbers = 0..3 * RECORDS as u64;
        let many = claims(numbers.clone().map(|number| (number, None, false)));
        let mut seen = BTreeSet::new();
        for _ in 0..4 {
            seen.extend(look(&mut drift, &many, &[7]));
        }
        assert_eq!(seen, numbers.collect());
        assert_eq!(counts(&drift), [0, 1]);
    }
}
