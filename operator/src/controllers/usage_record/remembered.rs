//! A seal that the API server has lost and the agent remembers: it is written again if the chain has paid just that. Pure.
//!
//! An agent's word alone changes no bill: number, units and price are those of a payment that the chain shows and no
//! record has, and the receipt's hash is that of this record with this seal.

use std::fmt;

use gridstake_crds::{TokenAmount, UsageRecord, usage_record::Sealed};

use super::receipt;
use crate::settlement::doubt::Doubts;

/// A seal that is to be written as it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Remembered(pub Sealed);

/// What speaks against a seal that an agent remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// It bears no number.
    NoNumber,
    /// Its number is none of those that are in doubt for this payer, provider and price.
    Number {
        /// The number.
        number: u64,
    },
    /// The chain has paid something else under its number.
    Units {
        /// The number.
        number: u64,
        /// The seal's GPU-milliseconds.
        sealed: u64,
        /// The chain's.
        paid: u64,
    },
    /// Its price is not that of the record.
    Price {
        /// The seal's, if it has one.
        sealed: Option<TokenAmount>,
        /// The record's.
        agreed: TokenAmount,
    },
    /// The number of its emission is none of those that no record has and that were paid to this provider.
    EmissionNumber {
        /// The number.
        number: u64,
    },
    /// The chain has paid another emission under its number.
    Emission {
        /// The number.
        number: u64,
        /// The seal's amount.
        sealed: TokenAmount,
        /// The chain's.
        paid: TokenAmount,
    },
    /// Its receipt is not that of this record.
    Receipt,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNumber => f.write_str("it has no jobNo"),
            Self::Number { number } => {
                write!(f, "its jobNo {number} is not one of these payments")
            }
            Self::Units {
                number,
                sealed,
                paid,
            } => write!(
                f,
                "its gpuMillis are {sealed}, and the chain has paid {paid} under number {number}"
            ),
            Self::Price { sealed, agreed } => match sealed {
                Some(sealed) => write!(f, "its price is {sealed} and not {agreed}"),
                None => write!(f, "it has no price, which is {agreed}"),
            },
            Self::EmissionNumber { number } => write!(
                f,
                "its emission.jobNo {number} is no emission to this provider that no UsageRecord has"
            ),
            Self::Emission {
                number,
                sealed,
                paid,
            } => write!(
                f,
                "its emission.amount is {sealed}, and the chain has paid {paid} under number {number}"
            ),
            Self::Receipt => {
                f.write_str("its receiptHash is not that of this UsageRecord with this seal")
            }
        }
    }
}

/// Whether the seal in the evidence of `record` is one that the chain has paid without any record having it; `None` if
/// nothing on `lane` is in doubt that could be this record, or its agent remembers no seal.
#[must_use]
pub fn check(
    record: &UsageRecord,
    doubts: &Doubts,
    lane: u32,
) -> Option<Result<Remembered, Difference>> {
    let payment = record.spec.payment.as_ref()?;
    let doubt = doubts.about(record, lane)?;
    let evidence = record.status.as_ref()?.evidence.as_ref()?;
    let sealed = evidence.sealed.as_ref()?;
    let checked = || {
        let number = sealed.job_no.ok_or(Difference::NoNumber)?;
        let paid = *doubt
            .numbers
            .get(&number)
            .ok_or(Difference::Number { number })?;
        if paid != sealed.gpu_millis {
            return Err(Difference::Units {
                number,
                sealed: sealed.gpu_millis,
                paid,
            });
        }
        if sealed.price != Some(payment.per_gpu_second) {
            return Err(Difference::Price {
                sealed: sealed.price,
                agreed: payment.per_gpu_second,
            });
        }
        if let Some(emission) = &sealed.emission {
            let number = emission.job_no;
            let paid = doubts
                .emission(number, payment.provider)
                .ok_or(Difference::EmissionNumber { number })?;
            let paid = TokenAmount::from_nano(paid.into());
            if emission.amount != paid {
                return Err(Difference::Emission {
                    number,
                    sealed: emission.amount,
                    paid,
                });
            }
        }
        if receipt::hash(record, sealed).ok().as_ref() != Some(&sealed.receipt_hash) {
            return Err(Difference::Receipt);
        }
        Ok(Remembered(sealed.clone()))
    };
    Some(checked())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use gridstake_crds::usage_record::{Emission, Evidence, SealCause};
    use gridstake_ledger::batch::{EMISSION_PRICE, Entry};

    use super::*;

    const LANE: u32 = 7;

    fn paid(job_no: u64, payer: u32, provider: u32, units: u64) -> Entry {
        let price = if payer == 0 {
            EMISSION_PRICE
        } else {
            720_000_000_000
        };
        Entry {
            job_no,
            payer,
            provider,
            price,
            units,
        }
    }

    /// Numbers 256 and 258 of our group, the emissions of both, and a number of another payer.
    fn doubts() -> Doubts {
        let entries = [
            paid(256, 3, 9, 1500),
            paid(257, 0, 9, 100),
            paid(258, 3, 9, 4000),
            paid(259, 0, 8, 100),
            paid(260, 4, 9, 1500),
            paid(261, 3, 9, 1500),
        ];
        Doubts::of(&entries, 5000, &BTreeSet::from([261]))
    }

    fn seal() -> Sealed {
        Sealed {
            job_no: Some(256),
            start_ms: 1000,
            end_ms: 2500,
            gpu_millis: 1500,
            price: Some(TokenAmount::from_nano(720_000)),
            cause: SealCause::IntervalElapsed,
            verdict: None,
            verdict_reason: None,
            energy_millijoules: Some(5),
            factors: None,
            emission: Some(Emission {
                job_no: 257,
                amount: TokenAmount::from_nano(100),
            }),
            evidence_head: Some(format!("0x{}", "1".repeat(64))),
            certificate: None,
            receipt_hash: String::new(),
        }
    }

    /// The open record of which the agent says `sealed`.
    fn record(sealed: Option<Sealed>) -> UsageRecord {
        let mut record: UsageRecord = serde_saphyr::from_str(
            "apiVersion: gridstake.dev/v1alpha1
kind: UsageRecord
metadata: {name: u-1-0-0}
spec:
  job: {namespace: a, name: j, uid: u}
  attempt: 1
  member: 0
  slice: 0
  podName: j-1-0
  nodeName: n1
  gpuCount: 1
  payment: {chain: anvil, lane: 7, payer: 3, provider: 9, perGpuSecond: '0.00072'}
",
        )
        .unwrap();
        record.status.get_or_insert_default().evidence = Some(Evidence {
            pod_uid: "p".into(),
            key: "0x52908400098527886E0F7030069857D2E4169EE7".into(),
            devices: vec![],
            started_ms: Some(1000),
            ended_ms: None,
            checkpoints: vec![],
            gaps: vec![],
            foreign_processes: None,
            sealed,
        });
        record
    }

    fn with_receipt(mut sealed: Sealed) -> Sealed {
        sealed.receipt_hash = receipt::hash(&record(None), &sealed).unwrap();
        sealed
    }

    fn checked(record: &UsageRecord) -> Option<Result<Sealed, Difference>> {
        check(record, &doubts(), LANE).map(|checked| checked.map(|Remembered(sealed)| sealed))
    }

    #[test]
    fn a_seal_that_the_chain_has_paid_and_no_record_has_is_taken_as_it_was() {
        let with_emission = with_receipt(seal());
        let without = with_receipt(Sealed {
            emission: None,
            ..seal()
        });
        for sealed in [with_emission, without] {
            let found = checked(&record(Some(sealed.clone())));
            assert_eq!(found, Some(Ok(sealed)));
        }
    }

    fn nano(nano: u128) -> TokenAmount {
        TokenAmount::from_nano(nano)
    }

    /// `change` makes another seal, with its own receipt; it is not taken for `expected`, which says `words`.
    fn assert_differs(change: impl Fn(&mut Sealed), expected: Difference, words: &str) {
        let mut sealed = seal();
        change(&mut sealed);
        let found = checked(&record(Some(with_receipt(sealed))));
        assert_eq!(found, Some(Err(expected)));
        assert!(expected.to_string().contains(words), "{expected}");
    }

    #[test]
    fn a_number_that_is_not_in_doubt_for_the_record_is_not_taken() {
        assert_differs(|s| s.job_no = None, Difference::NoNumber, "no jobNo");
        // Not paid; of another payer; an emission; of another record.
        for number in [300, 260, 257, 261] {
            let expected = Difference::Number { number };
            let words = number.to_string();
            assert_differs(|s| s.job_no = Some(number), expected, &words);
        }
    }

    #[test]
    fn what_differs_from_what_was_paid_is_not_taken_and_is_named() {
        let units = Difference::Units {
            number: 258,
            sealed: 1500,
            paid: 4000,
        };
        assert_differs(|s| s.job_no = Some(258), units, "paid 4000");
        let agreed = nano(720_000);
        for (sealed, words) in [
            (Some(nano(720_001)), "0.000720001 and not 0.00072"),
            (None, "no price"),
        ] {
            let price = Difference::Price { sealed, agreed };
            assert_differs(|s| s.price = sealed, price, words);
        }
    }

    #[test]
    fn an_emission_that_differs_from_what_was_paid_is_not_taken_and_is_named() {
        // Of another provider; use and no emission.
        for number in [259, 256] {
            let amount = nano(100);
            let emission = Some(Emission {
                job_no: number,
                amount,
            });
            let expected = Difference::EmissionNumber { number };
            let words = format!("emission.jobNo {number}");
            assert_differs(|s| s.emission.clone_from(&emission), expected, &words);
        }
        let amount = Difference::Emission {
            number: 257,
            sealed: nano(101),
            paid: nano(100),
        };
        let more = |s: &mut Sealed| {
            if let Some(emission) = &mut s.emission {
                emission.amount = nano(101);
            }
        };
        assert_differs(more, amount, "0.000000101");
    }

    #[test]
    fn a_receipt_of_anything_else_is_not_taken() {
        let sealed = with_receipt(seal());
        let refused = |record: &UsageRecord| checked(record) == Some(Err(Difference::Receipt));
        // The seal was changed after it was made.
        for change in [
            (|sealed: &mut Sealed| sealed.start_ms += 1) as fn(&mut Sealed),
            |sealed| sealed.end_ms -= 1,
            |sealed| sealed.cause = SealCause::MemberEnded,
            |sealed| sealed.evidence_head = None,
            |sealed| sealed.receipt_hash.push('0'),
        ] {
            let mut changed = sealed.clone();
            change(&mut changed);
            assert!(refused(&record(Some(changed.clone()))), "{changed:?}");
        }
        // It is another record's, or another pod's.
        let mut other = record(Some(sealed.clone()));
        other.metadata.name = Some("u-1-0-1".into());
        assert!(refused(&other));
        let mut other = record(Some(sealed.clone()));
        other.spec.node_name = "n2".into();
        assert!(refused(&other));
        let mut other = record(Some(sealed));
        let evidence = other.status.as_mut().unwrap().evidence.as_mut().unwrap();
        evidence.pod_uid = "q".into();
        assert!(refused(&other));
    }

    #[test]
    fn without_a_doubt_or_a_memory_there_is_nothing_to_check() {
        let sealed = with_receipt(seal());
        let remembering = record(Some(sealed));
        assert_eq!(checked(&record(None)), None);
        assert_eq!(check(&remembering, &doubts(), LANE + 1), None);
        assert_eq!(check(&remembering, &Doubts::default(), LANE), None);
        let mut nothing_owed = remembering.clone();
        nothing_owed.spec.payment = None;
        assert_eq!(checked(&nothing_owed), None);
        let mut other_payer = remembering;
        other_payer.spec.payment.as_mut().unwrap().payer = 5;
        assert_eq!(checked(&other_payer), None);
    }
}
