//! An agent's statements about one slice: signed, and each covering the one before by its hash.

use std::sync::LazyLock;

use alloy_primitives::{Address, B256, Signature, keccak256};
use alloy_sol_types::{SolStruct as _, SolValue as _};

use crate::{
    signature::signer,
    typed::{Checkpoint as Statement, digest, evidence_domain},
};

/// What was measured in a span. A value that is not available is `None`, never 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Utilisation × time, in milliseconds at 100 %.
    pub busy_millis: Option<u64>,
    /// Memory × time, in MiB-seconds.
    pub memory_mib_seconds: Option<u64>,
    /// Energy in millijoules.
    pub energy_millijoules: Option<u64>,
    /// The most processes at one time.
    pub peak_processes: Option<u32>,
    /// How many samples the values rest on.
    pub samples: Option<u64>,
}

impl Counters {
    /// keccak256 over `(bool, uint64)` of each value in the order of the fields.
    #[must_use]
    pub fn hash(&self) -> B256 {
        let values = [
            self.busy_millis,
            self.memory_mib_seconds,
            self.energy_millijoules,
            self.peak_processes.map(u64::from),
            self.samples,
        ];
        // abi.encode of static values is a word each.
        let mut encoded = [[0_u8; WORD]; 10];
        for (pair, value) in encoded.chunks_exact_mut(2).zip(values) {
            if let ([present, number], Some(value)) = (pair, value) {
                present[WORD - 1] = 1;
                number[WORD - 8..].copy_from_slice(&value.to_be_bytes());
            }
        }
        keccak256(encoded.as_flattened())
    }
}

/// A device that the kubelet gave to the pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    /// Its UUID.
    pub uuid: String,
    /// The physical device that a MIG instance is part of; empty for a physical one.
    pub parent_uuid: String,
    /// The share of the physical device, as numerator and denominator; (1, 1) for all of it.
    pub share: (u32, u32),
}

/// keccak256 over the devices in the order of their UUIDs.
#[must_use]
pub fn devices_hash(devices: &[Device]) -> B256 {
    let mut sorted: Vec<_> = devices.iter().collect();
    sorted.sort();
    let encoded: Vec<_> = sorted
        .into_iter()
        .map(|d| (d.uuid.clone(), d.parent_uuid.clone(), d.share.0, d.share.1))
        .collect();
    keccak256(encoded.abi_encode())
}

/// What all checkpoints of a slice have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject<'a> {
    /// The UsageRecord's name.
    pub record: &'a str,
    /// The pod's uid.
    pub pod_uid: &'a str,
    /// [`devices_hash`].
    pub devices: B256,
}

/// One statement, as far as it differs from the others of its slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Counts starts of the agent that lost sight of the process.
    pub epoch: u64,
    /// Its number within the epoch, from 0.
    pub seq: u64,
    /// Begin of the span, in Unix milliseconds.
    pub from_ms: u64,
    /// End of the span.
    pub to_ms: u64,
    /// How many earlier ones were folded into it.
    pub folded: u32,
    /// What was measured in the span.
    pub counters: Counters,
    /// The head before it; zero for the first of a slice.
    pub previous: B256,
}

impl Checkpoint {
    /// What is signed.
    #[must_use]
    pub fn statement(&self, subject: Subject<'_>) -> Statement {
        Statement {
            record: subject.record.to_owned(),
            podUid: subject.pod_uid.to_owned(),
            epoch: self.epoch,
            seq: self.seq,
            fromMs: self.from_ms,
            toMs: self.to_ms,
            devices: subject.devices,
            counters: self.counters.hash(),
            previous: self.previous,
        }
    }

    /// The head of the chain after it: the EIP-712 hash of the struct.
    #[must_use]
    pub fn head(&self, subject: Subject<'_>) -> B256 {
        self.statement(subject).eip712_hash_struct()
    }

    /// What the agent's key signs.
    #[must_use]
    pub fn digest(&self, subject: Subject<'_>) -> B256 {
        digest(&self.statement(subject), &evidence_domain())
    }
}

/// Hashes the statements about one slice: what they have in common is hashed once. An archive holds millions of them.
#[derive(Clone, Copy, Debug)]
pub struct StatementHasher {
    /// The struct as EIP-712 encodes it: its type's hash and nine fields, a word each.
    words: [u8; 10 * WORD],
}

const WORD: usize = 32;

static TYPE_HASH: LazyLock<B256> =
    LazyLock::new(|| keccak256(Statement::eip712_encode_type().as_bytes()));
static DOMAIN: LazyLock<B256> = LazyLock::new(|| evidence_domain().separator());

impl StatementHasher {
    /// A hasher of statements about `subject`.
    #[must_use]
    pub fn new(subject: Subject<'_>) -> Self {
        let mut hasher = Self {
            words: [0; 10 * WORD],
        };
        hasher.set(0, TYPE_HASH.as_slice());
        hasher.set(1, keccak256(subject.record).as_slice());
        hasher.set(2, keccak256(subject.pod_uid).as_slice());
        hasher.set(7, subject.devices.as_slice());
        hasher
    }

    /// [`Checkpoint::head`].
    #[must_use]
    pub fn head(&self, checkpoint: &Checkpoint) -> B256 {
        let mut filled = *self;
        let numbers = [
            checkpoint.epoch,
            checkpoint.seq,
            checkpoint.from_ms,
            checkpoint.to_ms,
        ];
        for (word, number) in (3..).zip(numbers) {
            filled.set(word, &number.to_be_bytes());
        }
        filled.set(8, checkpoint.counters.hash().as_slice());
        filled.set(9, checkpoint.previous.as_slice());
        keccak256(filled.words)
    }

    /// Writes `bytes` at the end of a word.
    fn set(&mut self, word: usize, bytes: &[u8]) {
        let end = (word + 1) * WORD;
        if let Some(place) = self.words.get_mut(end - bytes.len()..end) {
            place.copy_from_slice(bytes);
        }
    }
}

/// What an agent's key signs for a statement with this head.
#[must_use]
pub fn digest_of(head: B256) -> B256 {
    keccak256([[0x19, 0x01].as_slice(), DOMAIN.as_slice(), head.as_slice()].concat())
}

/// A checkpoint as it is published.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Signed {
    /// The statement.
    pub checkpoint: Checkpoint,
    /// The head that it claims.
    pub head: B256,
    /// The agent's signature.
    pub signature: Signature,
}

/// What is wrong with a chain of checkpoints, and with which of them (counted from 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("checkpoint {index}: {what}")]
pub struct ChainFault {
    /// Which.
    pub index: usize,
    /// What.
    pub what: Fault,
}

/// What is wrong with a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It does not follow from the one before.
    #[error("its previous hash is not the head before it")]
    Previous,
    /// Its content has another hash.
    #[error("its head is not the hash of its content")]
    Head,
    /// Another key signed it, or what was signed is something else.
    #[error("its signature is not the agent key's")]
    Signature,
    /// Numbers are missing that it does not say it folded, or go back.
    #[error("its number does not follow, and it does not say that so many were folded into it")]
    Sequence,
    /// It ends before it begins, or begins before the one before ended.
    #[error("its span overlaps the one before or ends before it begins")]
    Span,
}

/// Checks that `chain` is whole: each follows from the one before, says what was hashed, and was signed by `key`.
pub fn verify(subject: Subject<'_>, key: Address, chain: &[Signed]) -> Result<(), ChainFault> {
    let hasher = StatementHasher::new(subject);
    let mut before: Option<&Signed> = None;
    for (index, signed) in chain.iter().enumerate() {
        follows(&hasher, before, signed)
            .and_then(
                |()| match signer(digest_of(signed.head), &signed.signature) {
                    Ok(signer) if signer == key => Ok(()),
                    _ => Err(Fault::Signature),
                },
            )
            .map_err(|what| ChainFault { index, what })?;
        before = Some(signed);
    }
    Ok(())
}

/// Checks that `signed` follows from the one `before` it and says what was hashed. Who signed it is not looked at.
pub fn follows(
    hasher: &StatementHasher,
    before: Option<&Signed>,
    signed: &Signed,
) -> Result<(), Fault> {
    let this = &signed.checkpoint;
    if this.previous != before.map(|b| b.head).unwrap_or_default() {
        return Err(Fault::Previous);
    }
    if signed.head != hasher.head(this) {
        return Err(Fault::Head);
    }
    // A folded checkpoint has the number of the last one in it.
    let first = this.seq.checked_sub(this.folded.into());
    let follows = match before.map(|b| b.checkpoint) {
        Some(b) if b.epoch == this.epoch => first == b.seq.checked_add(1),
        // Folding across epochs keeps the last epoch's number.
        Some(b) => this.epoch > b.epoch && first.is_none_or(|first| first == 0 || this.folded > 0),
        None => first.is_none_or(|first| first == 0 || this.folded > 0),
    };
    if !follows {
        return Err(Fault::Sequence);
    }
    let begins = before.map_or(0, |b| b.checkpoint.to_ms);
    if this.from_ms > this.to_ms || this.from_ms < begins {
        return Err(Fault::Span);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use k256::ecdsa::SigningKey;

    use super::*;

    const SUBJECT: Subject<'_> = Subject {
        record: "uid-1-0-0",
        pod_uid: "pod",
        devices: B256::repeat_byte(1),
    };

    fn key(byte: u8) -> SigningKey {
        SigningKey::from_slice(&[byte; 32]).unwrap()
    }

    fn address(key: &SigningKey) -> Address {
        Address::from_public_key(key.verifying_key())
    }

    fn sign(key: &SigningKey, checkpoint: Checkpoint) -> Signed {
        let (signature, parity) = key
            .sign_prehash_recoverable(checkpoint.digest(SUBJECT).as_slice())
            .unwrap();
        Signed {
            checkpoint,
            head: checkpoint.head(SUBJECT),
            signature: Signature::from((signature, parity)),
        }
    }

    /// A chain of `(epoch, seq, folded, from, to)`.
    fn chain(key: &SigningKey, spans: &[(u64, u64, u32, u64, u64)]) -> Vec<Signed> {
        let mut chain: Vec<Signed> = Vec::new();
        for (epoch, seq, folded, from_ms, to_ms) in spans.iter().copied() {
            let previous = chain.last().map(|last| last.head).unwrap_or_default();
            let checkpoint = Checkpoint {
                epoch,
                seq,
                from_ms,
                to_ms,
                folded,
                counters: Counters::default(),
                previous,
            };
            chain.push(sign(key, checkpoint));
        }
        chain
    }

    fn fault(spans: &[(u64, u64, u32, u64, u64)]) -> Option<(usize, Fault)> {
        let key = key(7);
        verify(SUBJECT, address(&key), &chain(&key, spans))
            .err()
            .map(|fault| (fault.index, fault.what))
    }

    #[test]
    fn a_whole_chain_is_accepted_also_with_a_new_epoch_and_with_folded_ones() {
        assert_eq!(fault(&[(0, 0, 0, 5, 5), (0, 1, 0, 5, 9)]), None);
        assert_eq!(fault(&[(0, 0, 0, 5, 9), (1, 0, 0, 30, 40)]), None);
        assert_eq!(fault(&[(0, 3, 3, 5, 9), (0, 4, 0, 9, 40)]), None);
    }

    #[test]
    fn what_does_not_follow_is_named() {
        assert_eq!(
            fault(&[(0, 0, 0, 5, 5), (0, 2, 0, 5, 9)]),
            Some((1, Fault::Sequence))
        );
        assert_eq!(
            fault(&[(1, 0, 0, 5, 5), (0, 1, 0, 5, 9)]),
            Some((1, Fault::Sequence))
        );
        assert_eq!(
            fault(&[(0, 0, 0, 5, 9), (0, 1, 0, 8, 9)]),
            Some((1, Fault::Span))
        );
        assert_eq!(fault(&[(0, 0, 0, 9, 5)]), Some((0, Fault::Span)));
    }

    #[test]
    fn a_changed_or_foreign_statement_is_found() {
        let mine = key(7);
        let whole = chain(&mine, &[(0, 0, 0, 5, 5), (0, 1, 0, 5, 9), (0, 2, 0, 9, 12)]);
        let verdict = |chain: &[Signed]| {
            verify(SUBJECT, address(&mine), chain).map_err(|f| (f.index, f.what))
        };
        assert_eq!(verdict(&whole), Ok(()));
        let mut changed = whole.clone();
        changed[1].checkpoint.to_ms = 8;
        assert_eq!(verdict(&changed), Err((1, Fault::Head)));
        let mut dropped = whole.clone();
        dropped.remove(1);
        assert_eq!(verdict(&dropped), Err((1, Fault::Previous)));
        let mut foreign = whole.clone();
        foreign[2] = sign(&key(8), foreign[2].checkpoint);
        assert_eq!(verdict(&foreign), Err((2, Fault::Signature)));
        let elsewhere = Subject {
            record: "other",
            ..SUBJECT
        };
        assert_eq!(
            verify(elsewhere, address(&mine), &whole).map_err(|f| f.index),
            Err(0)
        );
    }

    #[test]
    fn the_hasher_gives_what_eip_712_does() {
        let checkpoint = Checkpoint {
            epoch: 3,
            seq: u64::MAX,
            from_ms: 1,
            to_ms: 2,
            folded: 4,
            counters: Counters {
                samples: Some(9),
                ..Counters::default()
            },
            previous: B256::repeat_byte(5),
        };
        let head = StatementHasher::new(SUBJECT).head(&checkpoint);
        assert_eq!(head, checkpoint.head(SUBJECT));
        assert_eq!(digest_of(head), checkpoint.digest(SUBJECT));
    }

    #[test]
    fn nothing_measured_is_not_zero() {
        let zero = Counters {
            busy_millis: Some(0),
            ..Counters::default()
        };
        assert_ne!(zero.hash(), Counters::default().hash());
    }

    #[test]
    fn the_order_of_devices_does_not_matter() {
        let device = |uuid: &str| Device {
            uuid: uuid.into(),
            parent_uuid: String::new(),
            share: (1, 1),
        };
        assert_eq!(
            devices_hash(&[device("a"), device("b")]),
            devices_hash(&[device("b"), device("a")])
        );
    }
}
