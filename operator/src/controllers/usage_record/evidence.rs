//! What an agent's evidence is worth. Pure.
//!
//! A statement that cannot be true is refused, with all that come after it: what they cover is not billed, and those before it
//! stand. What no honest agent can bring about is in [`gridstake_ledger::refusal`].

use alloy::primitives::Address;
use gridstake_crds::usage_record::{
    Checkpoint, Counters, Evidence, EvidenceFault, EvidenceGap, RefusedEvidence,
};
use gridstake_ledger::{
    billing::{Share, Span},
    checkpoint,
    refusal::{self, Refusal, Refused},
    signature,
};

/// What the evidence of a record is worth.
#[derive(Clone, Debug, PartialEq)]
pub enum Judgement {
    /// There is none.
    None,
    /// Its chain verifies and its key is the node's.
    Valid(Proof),
    /// It is not about this member's pod, or its key is none; why. It proves nothing.
    Invalid(String),
    /// A statement cannot be true; which, and what those before it prove.
    Refused(Box<RefusedEvidence>, Proof),
    /// Its key is not the node's certified one; why. It proves nothing.
    NotCertified(String),
}

impl Judgement {
    /// What it proves.
    #[must_use]
    pub fn proof(&self) -> Option<&Proof> {
        match self {
            Self::Valid(proof) | Self::Refused(_, proof) => Some(proof),
            Self::None | Self::Invalid(_) | Self::NotCertified(_) => None,
        }
    }

    /// What of it cannot be true.
    #[must_use]
    pub fn refused(&self) -> Option<&RefusedEvidence> {
        match self {
            Self::Refused(refused, _) => Some(refused),
            Self::None | Self::Valid(_) | Self::Invalid(_) | Self::NotCertified(_) => None,
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
    /// From when on nothing is billed, since a statement is refused.
    pub refused_from: Option<u64>,
}

impl Proof {
    /// What those statements of `evidence` prove that come before the one that is `refused`.
    #[must_use]
    pub fn before(evidence: &Evidence, refused: &RefusedEvidence) -> Self {
        let all = Self::of(evidence, None);
        Self {
            started_ms: all.started_ms.filter(|_| refused.accepted_ms.is_some()),
            ended_ms: None,
            last_ms: refused.accepted_ms,
            head: refused.accepted_head.clone(),
            // What the devices measured is told for all statements together.
            energy_millijoules: None,
            refused_from: Some(refused.accepted_ms.unwrap_or(0)),
            ..all
        }
    }

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
            refused_from: None,
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

/// What evidence is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The uid of the member's pod, if it is still there.
    pub pod_uid: Option<&'a str>,
    /// Whether its key may sign for its node.
    pub key: &'a KeyStanding,
    /// The end of the last span that the agent's heartbeat stated.
    pub head_ms: Option<u64>,
    /// When the agent was last heard of, by the operator's clock.
    pub heard_ms: Option<u64>,
    /// How long ago the record was made, in milliseconds, if it is the first slice's.
    pub passed_ms: Option<u64>,
    /// What the record said before.
    pub before: &'a [checkpoint::Signed],
    /// Whether a device is one that another node shows and this one does not.
    pub is_foreign: bool,
    /// What was refused of it before.
    pub refused: Option<&'a RefusedEvidence>,
}

/// What `evidence` of `record` is worth.
#[must_use]
pub fn judge(record: &str, evidence: &Evidence, around: Surroundings<'_>) -> Judgement {
    if let KeyStanding::NotCertified(why) = around.key {
        return Judgement::NotCertified(why.clone());
    }
    if around.pod_uid.is_some_and(|uid| uid != evidence.pod_uid) {
        return Judgement::Invalid(format!(
            "it is about the pod {}, which is not the member's",
            evidence.pod_uid
        ));
    }
    let Ok(key) = evidence.key.parse() else {
        return Judgement::Invalid(format!("{:?} is not the address of a key", evidence.key));
    };
    let refused = around
        .refused
        .cloned()
        .or_else(|| first_refused(record, evidence, key, around));
    if let Some(refused) = refused {
        let proof = Proof::before(evidence, &refused);
        return Judgement::Refused(Box::new(refused), proof);
    }
    let mut proof = Proof::of(evidence, around.head_ms);
    // A heartbeat's word is not signed, and a node's clock may be ahead: nothing is proven of a time in which nobody was heard.
    if let Some(heard) = around.heard_ms {
        let most = heard.saturating_add(refusal::CLOCKS_DIFFER_MS);
        proof.last_ms = proof.last_ms.map(|last| last.min(most));
    }
    Judgement::Valid(proof)
}

/// The first statement that is refused.
fn first_refused(
    record: &str,
    evidence: &Evidence,
    key: Address,
    around: Surroundings<'_>,
) -> Option<RefusedEvidence> {
    if around.is_foreign {
        let refused = Refused {
            index: 0,
            why: Refusal::ForeignDevice,
        };
        return Some(refusal_of(evidence, refused, None));
    }
    let (chain, unreadable) = readable(&evidence.checkpoints);
    let broken = refusal::verify(subject(record, evidence).of(), key, &chain)
        .err()
        .or(unreadable);
    let stands = broken.map_or(chain.len(), |refused| refused.index);
    let sound = chain.get(..stands).unwrap_or(&chain);
    let content: Vec<_> = sound.iter().map(|signed| signed.checkpoint).collect();
    let gaps: Vec<_> = evidence.gaps.iter().map(|g| (g.from_ms, g.to_ms)).collect();
    let fork = refusal::contradiction(around.before, sound);
    let at = |why| move |index| Refused { index, why };
    let others = [
        fork.map(|(index, _)| index).map(at(Refusal::Equivocation)),
        refusal::use_without_energy(&content).map(at(Refusal::UseWithoutEnergy)),
        around
            .passed_ms
            .and_then(|passed| refusal::more_than_time(&content, &gaps, passed))
            .map(at(Refusal::MoreThanTime)),
    ];
    let first = others
        .into_iter()
        .flatten()
        .min_by_key(|refused| refused.index)
        .or(broken)?;
    let other = fork
        .filter(|_| first.why == Refusal::Equivocation)
        .and_then(|(_, earlier)| around.before.get(earlier));
    Some(refusal_of(evidence, first, other))
}

/// As the record says it. `other` is the statement that `refused` contradicts.
fn refusal_of(
    evidence: &Evidence,
    refused: Refused,
    other: Option<&checkpoint::Signed>,
) -> RefusedEvidence {
    let this = evidence.checkpoints.get(refused.index);
    let last = refused
        .index
        .checked_sub(1)
        .and_then(|last| evidence.checkpoints.get(last));
    RefusedEvidence {
        reason: fault(refused.why),
        epoch: this.map_or(0, |checkpoint| checkpoint.epoch),
        seq: this.map_or(0, |checkpoint| checkpoint.seq),
        accepted_ms: last.map(|checkpoint| checkpoint.to_ms),
        accepted_head: last.map(|checkpoint| checkpoint.head.clone()),
        statements: this.cloned().into_iter().chain(other.map(told)).collect(),
    }
}

const fn fault(why: Refusal) -> EvidenceFault {
    match why {
        Refusal::BadSignature => EvidenceFault::BadSignature,
        Refusal::BrokenChain => EvidenceFault::BrokenChain,
        Refusal::Replay => EvidenceFault::Replay,
        Refusal::Overlap => EvidenceFault::Overlap,
        Refusal::UseWithoutEnergy => EvidenceFault::UseWithoutEnergy,
        Refusal::MoreThanTime => EvidenceFault::MoreThanTime,
        Refusal::Equivocation => EvidenceFault::Equivocation,
        Refusal::ForeignDevice => EvidenceFault::ForeignDevice,
    }
}

/// What all statements of a slice have in common, with what they borrow from.
struct About<'a> {
    record: &'a str,
    pod_uid: &'a str,
    devices: alloy::primitives::B256,
}

impl<'a> About<'a> {
    const fn of(&self) -> checkpoint::Subject<'a> {
        checkpoint::Subject {
            record: self.record,
            pod_uid: self.pod_uid,
            devices: self.devices,
        }
    }
}

fn subject<'a>(record: &'a str, evidence: &'a Evidence) -> About<'a> {
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
    About {
        record,
        pod_uid: &evidence.pod_uid,
        devices: checkpoint::devices_hash(&devices),
    }
}

/// The statements up to the first that cannot be read, and that one.
#[must_use]
pub fn readable(stated: &[Checkpoint]) -> (Vec<checkpoint::Signed>, Option<Refused>) {
    let mut chain = Vec::with_capacity(stated.len());
    for (index, checkpoint) in stated.iter().enumerate() {
        match signed(checkpoint) {
            Ok(signed) => chain.push(signed),
            Err(_) => {
                let why = Refusal::BadSignature;
                return (chain, Some(Refused { index, why }));
            }
        }
    }
    (chain, None)
}

/// A statement as the API holds it.
fn told(signed: &checkpoint::Signed) -> Checkpoint {
    let content = &signed.checkpoint;
    Checkpoint {
        epoch: content.epoch,
        seq: content.seq,
        from_ms: content.from_ms,
        to_ms: content.to_ms,
        folded: Some(content.folded).filter(|folded| *folded > 0),
        counters: Counters {
            busy_millis: content.counters.busy_millis,
            memory_mib_seconds: content.counters.memory_mib_seconds,
            energy_millijoules: content.counters.energy_millijoules,
            peak_processes: content.counters.peak_processes,
            samples: content.counters.samples,
        },
        previous: content.previous.to_string(),
        head: signed.head.to_string(),
        signature: signature::text(&signed.signature),
    }
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
    use gridstake_crds::usage_record::GapReason;

    use super::*;

    fn key() -> PrivateKeySigner {
        PrivateKeySigner::from_bytes(&B256::repeat_byte(1)).unwrap()
    }

    /// Evidence of two checkpoints, each of 100 ms.
    fn evidence() -> Evidence {
        evidence_until(200)
    }

    /// Evidence of two checkpoints, the first of which ends at 100 ms.
    fn evidence_until(end: u64) -> Evidence {
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
                to_ms: if seq == 0 { 100 } else { end },
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

    /// A node of which nothing is known that speaks against the evidence.
    const NOTHING: Surroundings<'_> = Surroundings {
        pod_uid: Some("p"),
        key: &KeyStanding::InForce,
        head_ms: None,
        heard_ms: None,
        passed_ms: None,
        before: &[],
        is_foreign: false,
        refused: None,
    };

    fn judged(evidence: &Evidence) -> Judgement {
        judge("u-1-0-0", evidence, NOTHING)
    }

    /// Why it is refused, and until when what stands reaches.
    fn refused(judgement: &Judgement) -> Option<(EvidenceFault, Option<u64>)> {
        let (refused, proof) = judgement.refused().zip(judgement.proof())?;
        assert_eq!(proof.last_ms, refused.accepted_ms);
        assert_eq!(proof.refused_from, Some(refused.accepted_ms.unwrap_or(0)));
        Some((refused.reason, refused.accepted_ms))
    }

    #[test]
    fn a_chain_of_signed_checkpoints_proves_how_far_it_reaches() {
        let evidence = evidence();
        let judgement = judged(&evidence);
        let proof = judgement.proof().unwrap();
        assert_eq!(proof.last_ms, Some(200));
        assert_eq!(proof.head.as_ref(), Some(&evidence.checkpoints[1].head));
        let around = Surroundings {
            pod_uid: None,
            head_ms: Some(250),
            ..NOTHING
        };
        let head = judge("u-1-0-0", &evidence, around);
        assert_eq!(
            head.proof().unwrap().last_ms,
            Some(250),
            "a heartbeat tells more"
        );
    }

    #[test]
    fn a_heartbeat_that_tells_of_a_time_in_which_nobody_was_heard_proves_nothing_of_it() {
        let around = Surroundings {
            head_ms: Some(10_000_000),
            heard_ms: Some(1_000),
            ..NOTHING
        };
        let last = judge("u-1-0-0", &evidence(), around)
            .proof()
            .unwrap()
            .last_ms;
        assert_eq!(last, Some(1_000 + refusal::CLOCKS_DIFFER_MS));
    }

    #[test]
    fn what_was_changed_afterwards_is_refused_and_what_comes_before_it_stands() {
        use EvidenceFault as F;
        let changed = |change: fn(&mut Evidence)| {
            let mut evidence = evidence();
            change(&mut evidence);
            refused(&judged(&evidence))
        };
        let other_key = |e: &mut Evidence| e.key = Address::repeat_byte(9).to_string();
        assert_eq!(
            changed(|e| e.checkpoints[1].to_ms += 1),
            Some((F::Replay, Some(100)))
        );
        assert_eq!(changed(other_key), Some((F::BadSignature, None)));
        assert_eq!(
            changed(|e| e.checkpoints[1].signature = e.checkpoints[0].signature.clone()),
            Some((F::BadSignature, Some(100)))
        );
        assert_eq!(
            changed(|e| e.checkpoints[1].signature = "0x".into()),
            Some((F::BadSignature, Some(100)))
        );
        assert_eq!(
            changed(|e| drop(e.checkpoints.remove(0))),
            Some((F::BrokenChain, None))
        );
        let elsewhere = judge("u-1-0-1", &evidence(), NOTHING);
        assert_eq!(refused(&elsewhere), Some((F::Replay, None)));
    }

    #[test]
    fn evidence_about_another_pod_proves_nothing() {
        let mut other = evidence();
        other.pod_uid = "q".into();
        assert!(matches!(judged(&other), Judgement::Invalid(_)));
    }

    #[test]
    fn a_device_that_only_another_node_shows_is_refused_with_all() {
        let around = Surroundings {
            is_foreign: true,
            ..NOTHING
        };
        let judgement = judge("u-1-0-0", &evidence(), around);
        assert_eq!(
            refused(&judgement),
            Some((EvidenceFault::ForeignDevice, None))
        );
    }

    #[test]
    fn a_second_word_about_the_same_is_refused_and_both_are_kept() {
        let (before, _) = readable(&evidence().checkpoints);
        let around = Surroundings {
            before: &before,
            ..NOTHING
        };
        assert_eq!(judge("u-1-0-0", &evidence(), around).refused(), None);
        let forked = evidence_until(210);
        let judgement = judge("u-1-0-0", &forked, around);
        assert_eq!(
            refused(&judgement),
            Some((EvidenceFault::Equivocation, Some(100)))
        );
        let kept = &judgement.refused().unwrap().statements;
        assert_eq!(kept[0], forked.checkpoints[1]);
        assert_eq!(kept[1], evidence().checkpoints[1]);
    }

    #[test]
    fn more_time_than_has_passed_is_refused() {
        let passed = |passed_ms| {
            let around = Surroundings {
                passed_ms: Some(passed_ms),
                ..NOTHING
            };
            refused(&judge("u-1-0-0", &evidence_until(100_000), around))
        };
        assert_eq!(passed(50_000), None);
        assert_eq!(
            passed(30_000),
            Some((EvidenceFault::MoreThanTime, Some(100)))
        );
    }

    #[test]
    fn what_was_refused_once_stays_refused_whatever_is_stated_after_it() {
        let mut broken = evidence();
        broken.checkpoints[1].to_ms += 1;
        let judgement = judged(&broken);
        let stated = judgement.refused().unwrap();
        let around = Surroundings {
            refused: Some(stated),
            head_ms: Some(900),
            ..NOTHING
        };
        let mended = judge("u-1-0-0", &evidence_until(800), around);
        assert_eq!(mended.refused(), Some(stated));
        assert_eq!(mended.proof().unwrap().last_ms, Some(100));
    }

    #[test]
    fn a_key_that_is_not_certified_proves_nothing() {
        let standing = KeyStanding::NotCertified("why".into());
        let around = Surroundings {
            key: &standing,
            ..NOTHING
        };
        let judgement = judge("u-1-0-0", &evidence(), around);
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
