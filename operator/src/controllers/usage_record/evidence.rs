//! What an agent's evidence is worth. Pure.

use alloy::primitives::Address;
use gridstake_crds::usage_record::{Checkpoint, Evidence, EvidenceGap};
use gridstake_ledger::{
    billing::{Share, Span},
    checkpoint, signature,
};

/// What the evidence of a record is worth.
#[derive(Clone, Debug, PartialEq)]
pub enum Judgement {
    /// There is none.
    None,
    /// Its chain verifies and its key is the node's.
    Valid(Proof),
    /// A hash or a signature is wrong; which. It proves nothing.
    Invalid(String),
    /// Its key is not the node's certified one; why. It proves nothing.
    NotCertified(String),
}

impl Judgement {
    /// What it proves.
    #[must_use]
    pub fn proof(&self) -> Option<&Proof> {
        match self {
            Self::Valid(proof) => Some(proof),
            Self::None | Self::Invalid(_) | Self::NotCertified(_) => None,
        }
    }
}

/// What valid evidence proves. Times are in Unix milliseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Proof {
    /// When the container's first process started.
    pub started_ms: Option<u64>,
    /// When its last process exited.
    pub ended_ms: Option<u64>,
    /// The end of the last span that was stated.
    pub last_ms: Option<u64>,
    /// The head of its chain.
    pub head: Option<String>,
    /// The spans without evidence.
    pub gaps: Vec<EvidenceGap>,
    /// The share of each device.
    pub shares: Vec<Share>,
    /// Energy, where the devices measure it.
    pub energy_millijoules: Option<u64>,
}

impl Proof {
    /// What `evidence` proves if it is valid; `head_ms` is the end of the last span that the agent's heartbeat stated.
    #[must_use]
    pub fn of(evidence: &Evidence, head_ms: Option<u64>) -> Self {
        let last = evidence.checkpoints.last();
        Self {
            started_ms: evidence.started_ms,
            ended_ms: evidence.ended_ms,
            last_ms: last.map(|checkpoint| checkpoint.to_ms).max(head_ms),
            head: last.map(|checkpoint| checkpoint.head.clone()),
            gaps: evidence.gaps.clone(),
            shares: evidence
                .devices
                .iter()
                .map(|device| {
                    let share = device.share_numerator.zip(device.share_denominator);
                    share
                        .and_then(|(numerator, denominator)| Share::new(numerator, denominator))
                        .unwrap_or(Share::WHOLE)
                })
                .collect(),
            energy_millijoules: evidence
                .devices
                .iter()
                .filter_map(|device| device.counters?.energy_millijoules)
                .reduce(u64::saturating_add),
        }
    }

    /// `at`, or the end of the gap that it lies in.
    #[must_use]
    pub fn outside_gaps(&self, at: u64) -> u64 {
        let mut at = at;
        // Gaps may touch or overlap: each step leaves one for good.
        for _ in 0..=self.gaps.len() {
            match self.gaps.iter().find(|g| g.from_ms < at && at < g.to_ms) {
                Some(gap) => at = gap.to_ms,
                None => break,
            }
        }
        at
    }

    /// Whether a part of `span` is without evidence.
    #[must_use]
    pub fn has_gaps_in(&self, span: Span) -> bool {
        self.gaps
            .iter()
            .any(|gap| gap.from_ms < span.to_ms && span.from_ms < gap.to_ms)
    }
}

/// Whether an agent's key may sign for its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyStanding {
    /// It may: it is certified, or no chain is configured, which would say by whom.
    InForce,
    /// It may not; why.
    NotCertified(String),
}

/// What `evidence` of `record` is worth; `pod_uid` is that of the member's pod, if it is still there, and `head_ms` the
/// end of the last span that the agent's heartbeat stated.
#[must_use]
pub fn judge(
    record: &str,
    evidence: &Evidence,
    pod_uid: Option<&str>,
    key: &KeyStanding,
    head_ms: Option<u64>,
) -> Judgement {
    if let KeyStanding::NotCertified(why) = key {
        return Judgement::NotCertified(why.clone());
    }
    if pod_uid.is_some_and(|uid| uid != evidence.pod_uid) {
        return Judgement::Invalid(format!(
            "it is about the pod {}, which is not the member's",
            evidence.pod_uid
        ));
    }
    match verify(record, evidence) {
        Err(fault) => Judgement::Invalid(fault),
        Ok(()) => Judgement::Valid(Proof::of(evidence, head_ms)),
    }
}

/// Checks the chain of checkpoints.
fn verify(record: &str, evidence: &Evidence) -> Result<(), String> {
    let key: Address = evidence
        .key
        .parse()
        .map_err(|_| format!("{:?} is not the address of a key", evidence.key))?;
    let devices: Vec<_> = evidence
        .devices
        .iter()
        .map(|device| checkpoint::Device {
            uuid: device.uuid.clone(),
            parent_uuid: device.parent_uuid.clone().unwrap_or_default(),
            share: device
                .share_numerator
                .zip(device.share_denominator)
                .unwrap_or((1, 1)),
        })
        .collect();
    let subject = checkpoint::Subject {
        record,
        pod_uid: &evidence.pod_uid,
        devices: checkpoint::devices_hash(&devices),
    };
    let chain = evidence
        .checkpoints
        .iter()
        .map(signed)
        .collect::<Result<Vec<_>, String>>()?;
    checkpoint::verify(subject, key, &chain).map_err(|fault| fault.to_string())
}

/// A checkpoint as the ledger hashes it; or what of it cannot be read.
pub fn signed(stated: &Checkpoint) -> Result<checkpoint::Signed, String> {
    let unreadable = |what: &str| {
        format!(
            "{what} of checkpoint {} of epoch {} cannot be read",
            stated.seq, stated.epoch
        )
    };
    Ok(checkpoint::Signed {
        checkpoint: checkpoint::Checkpoint {
            epoch: stated.epoch,
            seq: stated.seq,
            from_ms: stated.from_ms,
            to_ms: stated.to_ms,
            folded: stated.folded.unwrap_or(0),
            counters: checkpoint::Counters {
                busy_millis: stated.counters.busy_millis,
                memory_mib_seconds: stated.counters.memory_mib_seconds,
                energy_millijoules: stated.counters.energy_millijoules,
                peak_processes: stated.counters.peak_processes,
                samples: stated.counters.samples,
            },
            previous: stated
                .previous
                .parse()
                .map_err(|_| unreadable("previous"))?,
        },
        head: stated.head.parse().map_err(|_| unreadable("head"))?,
        signature: signature::parse(&stated.signature).map_err(|_| unreadable("signature"))?,
    })
}

#[cfg(test)]
mod tests {
    use alloy::{
        primitives::B256,
        signers::{SignerSync as _, local::PrivateKeySigner},
    };
    use gridstake_crds::usage_record::{Counters, GapReason};

    use super::*;

    fn key() -> PrivateKeySigner {
        PrivateKeySigner::from_bytes(&B256::repeat_byte(1)).unwrap()
    }

    /// Evidence of two checkpoints, each of 100 ms.
    fn evidence() -> Evidence {
        let subject = checkpoint::Subject {
            record: "u-1-0-0",
            pod_uid: "p",
            devices: checkpoint::devices_hash(&[]),
        };
        let mut previous = B256::ZERO;
        let mut checkpoints = Vec::new();
        for seq in 0..2 {
            let checkpoint = checkpoint::Checkpoint {
                epoch: 1,
                seq,
                from_ms: seq * 100,
                to_ms: seq * 100 + 100,
                folded: 0,
                counters: checkpoint::Counters::default(),
                previous,
            };
            let head = checkpoint.head(subject);
            let signature = key().sign_hash_sync(&checkpoint.digest(subject)).unwrap();
            checkpoints.push(Checkpoint {
                epoch: 1,
                seq,
                from_ms: checkpoint.from_ms,
                to_ms: checkpoint.to_ms,
                folded: None,
                counters: Counters::default(),
                previous: previous.to_string(),
                head: head.to_string(),
                signature: signature::text(&signature),
            });
            previous = head;
        }
        Evidence {
            pod_uid: "p".into(),
            key: key().address().to_string(),
            devices: vec![],
            started_ms: Some(0),
            ended_ms: None,
            checkpoints,
            gaps: vec![],
            foreign_processes: None,
            sealed: None,
        }
    }

    fn judged(evidence: &Evidence) -> Judgement {
        judge("u-1-0-0", evidence, Some("p"), &KeyStanding::InForce, None)
    }

    #[test]
    fn a_chain_of_signed_checkpoints_proves_how_far_it_reaches() {
        let evidence = evidence();
        let judgement = judged(&evidence);
        let proof = judgement.proof().unwrap();
        assert_eq!(proof.last_ms, Some(200));
        assert_eq!(proof.head.as_ref(), Some(&evidence.checkpoints[1].head));
        let head = judge("u-1-0-0", &evidence, None, &KeyStanding::InForce, Some(250));
        assert_eq!(
            head.proof().unwrap().last_ms,
            Some(250),
            "a heartbeat tells more"
        );
    }

    #[test]
    fn what_was_changed_afterwards_proves_nothing() {
        let changed = |change: fn(&mut Evidence)| {
            let mut evidence = evidence();
            change(&mut evidence);
            judged(&evidence)
        };
        for judgement in [
            changed(|e| e.checkpoints[1].to_ms += 1),
            changed(|e| e.key = Address::repeat_byte(9).to_string()),
            changed(|e| e.checkpoints[1].signature = e.checkpoints[0].signature.clone()),
            changed(|e| drop(e.checkpoints.remove(0))),
            changed(|e| e.pod_uid = "q".into()),
            judge(
                "u-1-0-1",
                &evidence(),
                Some("p"),
                &KeyStanding::InForce,
                None,
            ),
        ] {
            assert!(matches!(judgement, Judgement::Invalid(_)), "{judgement:?}");
        }
    }

    #[test]
    fn a_key_that_is_not_certified_proves_nothing() {
        let standing = KeyStanding::NotCertified("why".into());
        let judgement = judge("u-1-0-0", &evidence(), Some("p"), &standing, None);
        assert_eq!(judgement, Judgement::NotCertified("why".into()));
    }

    #[test]
    fn a_cut_within_gaps_moves_to_their_end() {
        let gap = |from_ms, to_ms| EvidenceGap {
            from_ms,
            to_ms,
            reason: GapReason::AgentAway,
            bridged: false,
        };
        let proof = Proof {
            gaps: vec![gap(15, 30), gap(10, 20)],
            ..Proof::default()
        };
        for (at, expected) in [(9, 9), (10, 10), (11, 30), (29, 30), (30, 30), (31, 31)] {
            assert_eq!(proof.outside_gaps(at), expected, "{at}");
        }
    }
}
