//! Agents' statements about a slice: whether they are whole, who signed them, and whether they carry the bill.

use std::collections::HashMap;

use alloy_primitives::{Address, B256, Signature};
use k256::ecdsa::{VerifyingKey, signature::hazmat::PrehashVerifier as _};

use super::Fault;
use crate::{
    archive::{Evidence, Place, Use, UsePlace},
    checkpoint::{self, Device, StatementHasher, Subject, devices_hash, digest_of, follows},
    signature,
};

/// Which signatures are checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Signatures {
    /// Of each slice the one of the statement on which the bill rests. It covers all statements before it, since each
    /// holds the hash of the one before.
    #[default]
    Last,
    /// Of every statement.
    Every,
}

/// What the evidence of a slice is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// The bill rests on no evidence.
    None,
    /// The bill rests on a statement that is not in the file. Without it, it is worth as much as without evidence.
    Missing,
    /// The bill rests on this statement, counted from 0; it and those before it are whole and signed.
    Whole(usize),
}

/// The public keys of agents that were met. To check a signature by a known key takes half the time of finding the key.
#[derive(Debug, Default)]
pub struct Keys {
    known: HashMap<Address, VerifyingKey>,
    /// How many signatures were checked.
    pub checked: u64,
}

impl Keys {
    /// Whether `key` signed `digest`.
    fn signed(&mut self, key: Address, digest: B256, signature: &Signature) -> bool {
        self.checked += 1;
        if let Some(public) = self.known.get(&key) {
            return signature.to_k256().is_ok_and(|signature| {
                public.verify_prehash(digest.as_slice(), &signature).is_ok()
            });
        }
        let Ok(public) = signature.recover_from_prehash(&digest) else {
            return false;
        };
        let is_key = Address::from_public_key(&public) == key;
        if is_key {
            self.known.insert(key, public);
        }
        is_key
    }
}

/// What is wrong with a slice's evidence, and where.
pub type Wrong = (Place, Fault);

/// What the evidence of `used` is worth.
pub fn judge(
    used: &Use,
    places: &UsePlace,
    which: Signatures,
    keys: &mut Keys,
) -> Result<Worth, Wrong> {
    if used.evidence_head.is_zero() {
        return Ok(Worth::None);
    }
    let Some(evidence) = &used.evidence else {
        return Ok(Worth::Missing);
    };
    let rests_on = evidence
        .checkpoints
        .iter()
        .position(|signed| signed.head == used.evidence_head);
    let Some(last) = rests_on else {
        return Ok(Worth::Missing);
    };
    if evidence.pod_uid != used.pod_uid {
        return Err((places.pod_uid.clone(), Fault::Pod));
    }
    let devices: Vec<Device> = evidence.devices.iter().map(|d| d.device.clone()).collect();
    let hasher = StatementHasher::new(Subject {
        record: &used.record,
        pod_uid: &evidence.pod_uid,
        devices: devices_hash(&devices),
    });
    let place = |index: usize| places.checkpoints.get(index).cloned().unwrap_or_default();
    let mut before = None;
    for (index, signed) in evidence.checkpoints.iter().enumerate().take(last + 1) {
        follows(&hasher, before, signed).map_err(|fault| {
            let (whole, _) = place(index);
            // Already the first one does not hold: it may be what all of them have in common that is wrong.
            let common = index == 0 && fault == checkpoint::Fault::Head;
            let from = if common {
                places.devices.start
            } else {
                whole.start
            };
            (from..whole.end, Fault::Evidence(fault))
        })?;
        if (which == Signatures::Every || index == last)
            && !keys.signed(evidence.key, digest_of(signed.head), &signed.signature)
        {
            let at = foreign_signature(evidence, places, index, digest_of(signed.head));
            return Err((at, Fault::Evidence(checkpoint::Fault::Signature)));
        }
        before = Some(signed);
    }
    Ok(Worth::Whole(last))
}

/// Which bytes are wrong where the signature of statement `index` is not the key's: the key, if another statement's
/// signer is the same as this one's; the signature, if another one's is the key; and all from one to the other, if there is
/// no other to tell.
fn foreign_signature(evidence: &Evidence, places: &UsePlace, index: usize, digest: B256) -> Place {
    let (_, own) = places.checkpoints.get(index).cloned().unwrap_or_default();
    let signer = |digest: B256, signature| signature::signer(digest, signature).ok();
    let this = evidence
        .checkpoints
        .get(index)
        .and_then(|signed| signer(digest, &signed.signature));
    let others = evidence
        .checkpoints
        .iter()
        .enumerate()
        .filter(|(other, _)| *other != index);
    for (_, other) in others {
        let other = signer(digest_of(other.head), &other.signature);
        if other == Some(evidence.key) {
            return own;
        }
        if other.is_some() && other == this {
            return places.key.clone();
        }
    }
    places.key.start..own.end
}

/// The most that can be billed for a slice, in GPU-milliseconds: its span less what is not bridged, times the share of
/// each device. Each part is rounded up, since shares are rounded over a lease as a whole. Without whole evidence it is
/// the number of GPUs that the job asked for.
#[must_use]
pub fn most_billed(used: &Use, worth: Worth) -> u64 {
    let length = used.end_ms.saturating_sub(used.start_ms);
    let asked_for = length.saturating_mul(used.background.gpus.into());
    let (Worth::Whole(last), Some(evidence)) = (worth, &used.evidence) else {
        return asked_for;
    };
    if evidence.devices.is_empty() {
        return asked_for;
    }
    let (missing, gaps) = unbridged(used, evidence, last);
    let length = length.saturating_sub(missing);
    evidence
        .devices
        .iter()
        .map(|used| {
            let (numerator, denominator) = used.device.share;
            let part = u128::from(length) * u128::from(numerator);
            let part = part.div_ceil(u128::from(denominator.max(1)));
            u64::try_from(part).unwrap_or(u64::MAX).saturating_add(gaps)
        })
        .fold(0, u64::saturating_add)
}

/// How long the gaps within the billed span are that are not bridged, and how many. Only what lies before the end of
/// statement `last` was known when the bill was made.
fn unbridged(used: &Use, evidence: &Evidence, last: usize) -> (u64, u64) {
    let known = evidence.checkpoints.get(last);
    let known = known.map_or(0, |signed| signed.checkpoint.to_ms);
    let mut gaps: Vec<(u64, u64)> = evidence
        .gaps
        .iter()
        .filter(|gap| !gap.bridged && gap.to_ms <= known)
        .map(|gap| (gap.from_ms.max(used.start_ms), gap.to_ms.min(used.end_ms)))
        .filter(|(from, to)| from < to)
        .collect();
    gaps.sort_unstable();
    let (mut reached, mut sum) = (used.start_ms, 0);
    for (from, to) in &gaps {
        let from = reached.max(*from);
        sum += to.saturating_sub(from);
        reached = reached.max(*to);
    }
    (sum, gaps.len() as u64)
}
