//! One batch's file against the chain.

#![allow(
    clippy::unnecessary_box_returns,
    reason = "a finding is boxed where it is made, since it goes into a Result"
)]

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, hex};

use super::{
    Fault, Finding,
    chain::{ChainBatch, Contradiction},
    evidence::{self, Keys, Signatures, Worth},
};
use crate::{
    amount,
    archive::{
        self, ArchivedEntry, BatchHead, Certificate, Content, EntryPlace, Head, Malformed, Place,
        Reader, Use,
    },
    batch::{Batch, Group},
    merkle, typed,
};

/// The most bytes that a finding repeats.
const EXCERPT: usize = 48;

/// Why a file is not verified.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// Something is wrong.
    #[error(transparent)]
    Wrong(#[from] Box<Finding>),
    /// What the chain is said to say cannot be.
    #[error("the chain's answers contradict each other")]
    Chain(#[from] Contradiction),
}

/// A file and what it should be.
#[derive(Clone, Copy, Debug)]
pub struct File<'a> {
    /// Its name in findings.
    pub name: &'a str,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Its address, if it was found by one.
    pub address: Option<B256>,
}

/// A file that was verified.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Its name.
    pub name: String,
    /// The batch's number.
    pub sequence: u64,
    /// What it says.
    pub summary: Summary,
    /// Its entries.
    pub entries: Vec<Booked>,
    /// The certificates of agents' keys.
    pub certified: Vec<Certified>,
}

/// A certificate whose signature names somebody. Whether that is the provider's operator, the vault knows.
#[derive(Clone, Debug, PartialEq)]
pub struct Certified {
    /// What is certified.
    pub certificate: Certificate,
    /// Who signed it.
    pub signer: Address,
    /// Where its line is.
    pub line: Place,
}

/// What files say together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many batches.
    pub batches: u64,
    /// Entries.
    pub entries: u64,
    /// Entries that were left out by the contract.
    pub left_out: u64,
    /// GPU-milliseconds that were paid.
    pub gpu_millis: u64,
    /// What was paid, in nano-tokens, by payer and provider. Payer 0 is the lane's reward account.
    pub paid: BTreeMap<(u32, u32), u128>,
    /// Slices whose bill rests on whole, signed evidence.
    pub evidenced: u64,
    /// Slices whose bill rests on the kubelet's times alone.
    pub without_evidence: u64,
    /// Slices whose bill rests on a statement that is not in the archive.
    pub evidence_missing: u64,
    /// Signatures that were checked.
    pub signatures: u64,
    /// Bytes of files.
    pub bytes: u64,
}

impl Summary {
    /// Adds what `other` says.
    pub fn add(&mut self, other: &Self) {
        self.batches += other.batches;
        self.entries += other.entries;
        self.left_out += other.left_out;
        self.gpu_millis = self.gpu_millis.saturating_add(other.gpu_millis);
        for (pair, nano) in &other.paid {
            *self.paid.entry(*pair).or_default() += nano;
        }
        self.evidenced += other.evidenced;
        self.without_evidence += other.without_evidence;
        self.evidence_missing += other.evidence_missing;
        self.signatures += other.signatures;
        self.bytes += other.bytes;
    }
}

/// An entry of a verified file, as far as other files may contradict it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Booked {
    /// Its number.
    pub job_no: u64,
    /// Where its line is.
    pub line: Place,
    /// Whether the contract paid it.
    pub paid: bool,
    /// The slice; `None` for an emission.
    pub slice: Option<Slice>,
}

/// A billed slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The UsageRecord's name.
    pub record: String,
    /// Begin of what is billed, in Unix milliseconds.
    pub start_ms: u64,
    /// End of what is billed.
    pub end_ms: u64,
    /// The physical GPUs that an agent's signature names, each with the share that was held. Empty without whole evidence.
    pub gpus: Vec<(String, (u32, u32))>,
}

/// Verifies `file` against what `chain` says about its batch.
pub fn verify(
    file: File<'_>,
    chain: &ChainBatch,
    which: Signatures,
    keys: &mut Keys,
) -> Result<Verified, FileError> {
    let settled = chain.content()?;
    let before = keys.checked;
    let walk = Walk {
        file,
        chain,
        settled: &settled,
        lines: archive::lines(file.bytes),
        which,
    };
    let (head, certified, read) = walk.read(keys)?;
    walk.root(&head, &read)?;
    if let Some(address) = file.address
        && archive::address(file.bytes) != address
    {
        return Err(FileError::Wrong(walk.wrong(
            0..file.bytes.len(),
            Fault::Address,
            hex::encode_prefixed(archive::address(file.bytes)),
            hex::encode_prefixed(address),
        )));
    }
    chain.states(&settled)?;
    let paid = amounts(chain, &settled)?;
    let mut summary = Summary {
        batches: 1,
        entries: read.len() as u64,
        bytes: file.bytes.len() as u64,
        signatures: keys.checked - before,
        ..Summary::default()
    };
    for (group, nano) in &paid {
        *summary
            .paid
            .entry((group.payer, group.provider))
            .or_default() += u128::from(*nano);
    }
    let mut entries = Vec::with_capacity(read.len());
    for line in read {
        let entry = line.entry.entry;
        let is_paid =
            paid.contains_key(&Group::from(&entry)) && !chain.was_paid_before(entry.job_no);
        summary.left_out += u64::from(!is_paid);
        let slice = match line.entry.content {
            Content::Emission { .. } => None,
            Content::Use(used) => {
                match line.worth {
                    Worth::Whole(_) => summary.evidenced += 1,
                    Worth::None => summary.without_evidence += 1,
                    Worth::Missing => summary.evidence_missing += 1,
                }
                if is_paid {
                    summary.gpu_millis = summary.gpu_millis.saturating_add(used.gpu_millis);
                }
                Some(slice(*used, line.worth))
            }
        };
        entries.push(Booked {
            job_no: entry.job_no,
            line: line.at,
            paid: is_paid,
            slice,
        });
    }
    Ok(Verified {
        name: file.name.to_owned(),
        sequence: chain.sequence,
        summary,
        entries,
        certified,
    })
}

fn slice(used: Use, worth: Worth) -> Slice {
    let devices = match (worth, used.evidence) {
        (Worth::Whole(_), Some(evidence)) => evidence.devices,
        _ => Vec::new(),
    };
    let gpus = devices
        .into_iter()
        .map(|used| {
            let device = used.device;
            let whole = if device.parent_uuid.is_empty() {
                device.uuid
            } else {
                device.parent_uuid
            };
            (whole, device.share)
        })
        .collect();
    Slice {
        record: used.record,
        start_ms: used.start_ms,
        end_ms: used.end_ms,
        gpus,
    }
}

/// What each group paid, by the payload and by the event, which must say the same. Groups that were left out are not in
/// it.
pub(super) fn amounts(
    chain: &ChainBatch,
    settled: &Batch,
) -> Result<BTreeMap<Group, u64>, FileError> {
    let wrong = |group: usize, found: String, expected: String| {
        FileError::Wrong(Box::new(Finding {
            file: chain.event_name(),
            at: 8 * group..8 * group + 8,
            fault: Fault::Amount,
            found,
            expected,
        }))
    };
    let stated = &chain.outcome.groups;
    if stated.len() != settled.groups.len() {
        let expected = format!("{} groups", settled.groups.len());
        return Err(wrong(0, format!("{} groups", stated.len()), expected));
    }
    let (mut paid, mut total, mut records) = (BTreeMap::new(), 0_u128, 0_u32);
    for (index, (group, stated)) in settled.groups.iter().zip(stated).enumerate() {
        let Some(stated) = stated else { continue };
        let own = settled
            .entries
            .iter()
            .filter(|entry| Group::from(*entry) == *group && !chain.was_paid_before(entry.job_no));
        let (mut units, mut count) = (0_u64, 0);
        for entry in own {
            units = units.saturating_add(entry.units);
            count += 1;
        }
        let due = amount::group_amount(units, group.price).ok();
        if due != Some(*stated) {
            let due = due.map_or_else(|| "an amount that fits".to_owned(), |due| due.to_string());
            return Err(wrong(index, stated.to_string(), due));
        }
        total += u128::from(*stated);
        records += count;
        paid.insert(*group, *stated);
    }
    let entries = u32::try_from(settled.entries.len()).unwrap_or(u32::MAX);
    let outcome = &chain.outcome;
    let stated = (u128::from(outcome.total), outcome.paid, outcome.skipped);
    let due = (total, records, entries.saturating_sub(records));
    if stated != due {
        let words = |(total, paid, left_out): (u128, u32, u32)| {
            format!("a total of {total}, {paid} entries paid, {left_out} left out")
        };
        // Behind the amounts: the summary.
        return Err(wrong(outcome.groups.len(), words(stated), words(due)));
    }
    Ok(paid)
}

/// A line of an entry that was read.
struct Line {
    entry: ArchivedEntry,
    worth: Worth,
    at: Place,
}

/// The way through a file's lines.
struct Walk<'a> {
    file: File<'a>,
    chain: &'a ChainBatch,
    settled: &'a Batch,
    lines: Vec<Place>,
    which: Signatures,
}

type Wrong = Box<Finding>;

impl Walk<'_> {
    fn wrong(&self, at: Place, fault: Fault, found: String, expected: String) -> Wrong {
        Box::new(Finding {
            file: self.file.name.to_owned(),
            at,
            fault,
            found,
            expected,
        })
    }

    /// What stands at `at`, cut to what a person can read.
    fn excerpt(&self, at: &Place) -> String {
        let end = at.end.min(at.start + EXCERPT).min(self.file.bytes.len());
        let bytes = self.file.bytes.get(at.start..end).unwrap_or_default();
        if bytes.is_empty() {
            return "the end of the file".to_owned();
        }
        let more = if end < at.end { "…" } else { "" };
        format!("{}{more}", bytes.escape_ascii())
    }

    fn malformed(&self, known: usize, error: Malformed, fault: Fault) -> Wrong {
        // Up to `known` it is right; what could not be read may begin anywhere after.
        let at = known.min(error.at)..error.at + 1;
        let found = format!(
            "{} at byte {}",
            self.excerpt(&(error.at..error.at + 16)),
            error.at
        );
        self.wrong(at, fault, found, error.expected.to_owned())
    }

    /// Compares what the line says up to where it follows from the chain. Returns where that ends.
    fn compare(&self, line: &Place, expected: &str, fault: Fault) -> Result<usize, Wrong> {
        let found = self.file.bytes.get(line.clone()).unwrap_or_default();
        let expected = expected.as_bytes();
        let same = found
            .iter()
            .zip(expected)
            .take_while(|(found, expected)| found == expected)
            .count();
        if same == expected.len() {
            return Ok(line.start + same);
        }
        let at = line.start + same;
        let rest = expected.get(same..).unwrap_or_default();
        let shown = rest.get(..EXCERPT.min(rest.len())).unwrap_or_default();
        Err(self.wrong(
            at..at + 1,
            fault,
            self.excerpt(&(at..at + shown.len())),
            shown.escape_ascii().to_string(),
        ))
    }

    fn line(&self, index: usize) -> Result<Place, Wrong> {
        let end = self.file.bytes.len();
        self.lines.get(index).cloned().ok_or_else(|| {
            let found = format!("{} lines", self.lines.len());
            self.wrong(end..end, Fault::Lines, found, "another line".to_owned())
        })
    }

    /// Reads and judges every line.
    fn read(&self, keys: &mut Keys) -> Result<(Head, Vec<Certified>, Vec<Line>), Wrong> {
        let head = self.head()?;
        let certificates = usize::try_from(head.certificates).unwrap_or(usize::MAX);
        let mut certified: Vec<Certified> = Vec::new();
        for index in 0..certificates {
            let at = self.line(1 + index)?;
            let next = self.certificate(&at, certified.last().map(|last| &last.certificate))?;
            certified.push(next);
        }
        let mut read = Vec::with_capacity(self.settled.entries.len());
        for index in 0..self.settled.entries.len() {
            let at = self.line(1 + certificates + index)?;
            read.push(self.entry(index, at, certificates, &head, keys)?);
        }
        if let Some(more) = self
            .lines
            .get(1 + certificates + self.settled.entries.len())
        {
            let found = self.excerpt(more);
            let end = "the end of the file".to_owned();
            return Err(self.wrong(more.clone(), Fault::Lines, found, end));
        }
        Ok((head, certified, read))
    }

    fn head(&self) -> Result<Head, Wrong> {
        let at = self.line(0)?;
        let settled = BatchHead {
            chain_id: self.chain.chain_id,
            contract: self.chain.contract,
            lane: self.chain.lane,
            sequence: self.chain.sequence,
            previous: self.chain.previous,
            usage_root: self.chain.usage_root,
            data: self.chain.data.clone(),
            decision_head: B256::ZERO,
        };
        let expected = archive::head_prefix(&settled, self.settled.entries.len());
        let known = self.compare(&at, &expected, Fault::Head)?;
        let head = Reader::new(self.file.bytes, at.clone())
            .head()
            .map_err(|error| self.malformed(known, error, Fault::Form))?;
        self.check(&head.check, known..at.end)?;
        Ok(head)
    }

    /// Compares the line's own hash. `at` is what is wrong if it differs and nothing better is known.
    fn check(&self, check: &archive::Check, at: Place) -> Result<(), Wrong> {
        if check.stated == check.computed {
            return Ok(());
        }
        Err(self.wrong(
            at,
            Fault::Check,
            check.stated.to_string(),
            check.computed.to_string(),
        ))
    }

    fn certificate(&self, at: &Place, before: Option<&Certificate>) -> Result<Certified, Wrong> {
        let (certificate, signature, check) = Reader::new(self.file.bytes, at.clone())
            .certificate()
            .map_err(|error| self.malformed(at.start, error, Fault::Form))?;
        self.check(&check, at.clone())?;
        let key = |c: &Certificate| (c.provider, c.node.clone(), c.key);
        if before.is_some_and(|before| key(before) >= key(&certificate)) {
            let found = self.excerpt(at);
            return Err(self.wrong(at.clone(), Fault::Order, found, "a later one".to_owned()));
        }
        let domain = typed::vault_domain(self.chain.chain_id, certificate.vault);
        let statement = archive::certificate_statement(&certificate);
        match typed::signer_of(&statement, &domain, &certificate.signature) {
            Ok(signer) => Ok(Certified {
                certificate,
                signer,
                line: at.clone(),
            }),
            Err(_) => {
                let found = self.excerpt(&signature);
                let expected = "a signature that names its signer".to_owned();
                Err(self.wrong(signature, Fault::Certificate, found, expected))
            }
        }
    }

    fn entry(
        &self,
        index: usize,
        at: Place,
        certificates: usize,
        head: &Head,
        keys: &mut Keys,
    ) -> Result<Line, Wrong> {
        let Some(settled) = self.settled.entries.get(index) else {
            return Err(self.wrong(at, Fault::Lines, "an entry".to_owned(), "none".to_owned()));
        };
        let known = self.compare(&at, &archive::entry_prefix(settled), Fault::Entry)?;
        let (entry, place, check) = Reader::new(self.file.bytes, at.clone())
            .entry()
            .map_err(|error| self.malformed(known, error, Fault::Form))?;
        let computed = entry.computed_leaf(self.chain.lane);
        if computed != entry.leaf {
            return Err(self.leaf(index, certificates, head, &entry, &place, computed));
        }
        let sound = check.stated == check.computed;
        let Content::Use(used) = &entry.content else {
            self.check(&check, known..at.end)?;
            return Ok(Line {
                entry,
                worth: Worth::None,
                at,
            });
        };
        // In a line that was changed, every signature may tell where.
        let which = if sound { self.which } else { Signatures::Every };
        let worth = evidence::judge(used, &place.used, which, keys).map_err(|(at, fault)| {
            let found = self.excerpt(&at);
            self.wrong(at, fault, found, expectation(fault).to_owned())
        })?;
        self.check(&check, place.content.end..at.end)?;
        self.bill(&entry, used, &place, worth)?;
        Ok(Line { entry, worth, at })
    }

    /// What is wrong where the leaf is not the hash of what it commits to: the root tells which of the two was settled.
    fn leaf(
        &self,
        index: usize,
        certificates: usize,
        head: &Head,
        entry: &ArchivedEntry,
        place: &EntryPlace,
        computed: B256,
    ) -> Wrong {
        let with = |own: B256| {
            let leaves: Option<Vec<B256>> = (0..self.settled.entries.len())
                .map(|other| {
                    if other == index {
                        return Some(own);
                    }
                    let at = self.lines.get(1 + certificates + other)?.clone();
                    let (entry, _, _) = Reader::new(self.file.bytes, at).entry().ok()?;
                    Some(entry.leaf)
                })
                .collect();
            leaves.is_some_and(|leaves| {
                merkle::usage_root(&leaves, head.head.decision_head) == self.chain.usage_root
            })
        };
        if with(entry.leaf) {
            let found = format!("content of the leaf {computed}");
            let expected = format!("content of the leaf {}", entry.leaf);
            self.wrong(place.content.clone(), Fault::Content, found, expected)
        } else if with(computed) {
            let written = hex::encode_prefixed(computed);
            let at = place.leaf.start + 1..place.leaf.end - 1;
            match self.compare(&at, &written, Fault::Leaf) {
                Err(finding) => finding,
                Ok(_) => self.wrong(at, Fault::Leaf, entry.leaf.to_string(), written),
            }
        } else {
            let at = place.leaf.start..place.content.end;
            let expected = "a leaf and its content, which make up the settled root".to_owned();
            self.wrong(at, Fault::UsageRoot, entry.leaf.to_string(), expected)
        }
    }

    /// Whether the bill is within its span and evidence.
    fn bill(
        &self,
        entry: &ArchivedEntry,
        used: &Use,
        place: &EntryPlace,
        worth: Worth,
    ) -> Result<(), Wrong> {
        if used.end_ms < used.start_ms {
            let at = place.used.start_ms.start..place.used.end_ms.end;
            let (found, expected) = (used.end_ms, used.start_ms);
            return Err(self.wrong(
                at,
                Fault::Span,
                format!("the end {found}"),
                format!("{expected} or later"),
            ));
        }
        let at = place.used.gpu_millis.clone();
        if used.gpu_millis != entry.entry.units {
            return Err(self.wrong(
                at,
                Fault::Units,
                used.gpu_millis.to_string(),
                entry.entry.units.to_string(),
            ));
        }
        let most = evidence::most_billed(used, worth);
        if used.gpu_millis > most {
            return Err(self.wrong(
                at,
                Fault::Billed,
                used.gpu_millis.to_string(),
                format!("at most {most}"),
            ));
        }
        Ok(())
    }

    /// Every leaf commits to its content; whether they are those that were settled, the root tells.
    fn root(&self, head: &Head, read: &[Line]) -> Result<(), Wrong> {
        let leaves: Vec<B256> = read.iter().map(|line| line.entry.leaf).collect();
        let root = merkle::usage_root(&leaves, head.head.decision_head);
        if root == self.chain.usage_root {
            return Ok(());
        }
        // Each of them is sound by itself, so that the bytes cannot be told from each other.
        let at = head.decision_head_at.start..self.file.bytes.len();
        Err(self.wrong(
            at,
            Fault::UsageRoot,
            root.to_string(),
            self.chain.usage_root.to_string(),
        ))
    }
}

/// What should be there instead of a fault of evidence.
fn expectation(fault: Fault) -> &'static str {
    match fault {
        Fault::Pod => "the uid of the pod that is billed",
        Fault::Evidence(crate::checkpoint::Fault::Signature) => {
            "the key that signed, and its signature"
        }
        _ => "a statement that follows from the one before it",
    }
}
