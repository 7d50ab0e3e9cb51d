//! Bytes to a batch, with the place of each part, so that whoever finds something wrong can name the bytes.

use std::ops::Range;

use alloy_primitives::{Address, B256, Signature, keccak256};

use super::{
    ArchivedEntry, Background, BatchHead, Certificate, Content, DeviceUse, Evidence, FORMAT,
    Factors, Gap, Use, VERSION,
};
use crate::{
    batch::Entry,
    checkpoint::{Checkpoint, Counters, Device, Signed},
    signature,
};

/// A span of a file's bytes.
pub type Place = Range<usize>;

/// Where bytes are no line of a file, and what would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {at}: expected {expected}")]
pub struct Malformed {
    /// The first byte that cannot be right. What is wrong may stand before it, as where a quote is missing.
    pub at: usize,
    /// What could stand there.
    pub expected: &'static str,
}

/// The places of a file's lines, their line feeds left out.
#[must_use]
pub fn lines(file: &[u8]) -> Vec<Place> {
    let mut from = 0;
    let mut places = Vec::new();
    for (at, _) in file.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
        places.push(from..at);
        from = at + 1;
    }
    if from < file.len() {
        places.push(from..file.len());
    }
    places
}

/// The end of a line, which all sorts have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What it covers.
    pub body: Place,
    /// The digits.
    pub at: Place,
    /// What it says.
    pub stated: B256,
    /// What it should say.
    pub computed: B256,
}

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The batch.
    pub head: BatchHead,
    /// What it says that keccak256 of the payload is.
    pub data_hash: B256,
    /// What it says that the chain hash after it is.
    pub chain_hash: B256,
    /// How many lines of entries follow.
    pub entries: u64,
    /// How many lines of certificates follow.
    pub certificates: u64,
    /// The value of `decisionHead`.
    pub decision_head_at: Place,
    /// Its end.
    pub check: Check,
}

/// Where the parts of an entry stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryPlace {
    /// The value of `leaf`.
    pub leaf: Place,
    /// The value of `use` or `emissionOf`: what the leaf commits to.
    pub content: Place,
    /// Parts of a slice.
    pub used: UsePlace,
}

/// Where the parts of a slice stand that are named by themselves. All are empty for an emission.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsePlace {
    /// The value of `startMs`.
    pub start_ms: Place,
    /// The value of `endMs`.
    pub end_ms: Place,
    /// The value of `gpuMillis`.
    pub gpu_millis: Place,
    /// The value of the evidence's `podUid`.
    pub pod_uid: Place,
    /// The value of the evidence's `key`.
    pub key: Place,
    /// The value of `devices`.
    pub devices: Place,
    /// Each checkpoint, and the value of its `signature`.
    pub checkpoints: Vec<(Place, Place)>,
}

/// Reads one line.
#[derive(Debug)]
pub struct Reader<'a> {
    file: &'a [u8],
    begin: usize,
    at: usize,
    end: usize,
    /// How far the bytes were those of a field that may be there, when it was not: what is wrong may be the next one.
    far: usize,
}

pub(super) type Read<T> = Result<T, Malformed>;

/// A comma, a quote and the first letter of a name tell a field that may be there from the one after it.
const FIELD: usize = 3;

impl<'a> Reader<'a> {
    /// A reader of the line at `line`.
    #[must_use]
    pub fn new(file: &'a [u8], line: Place) -> Self {
        let end = line.end.min(file.len());
        Self {
            file,
            begin: line.start,
            at: line.start,
            end,
            far: line.start,
        }
    }

    /// Reads the first line.
    pub fn head(mut self) -> Read<Head> {
        self.literal(r#"{"format":""#, "the begin of an archived batch")?;
        self.literal(FORMAT, "the format's name")?;
        self.literal(r#"","version":"#, "version")?;
        let at = self.at;
        if self.number()? != VERSION {
            return Err(Malformed {
                at,
                expected: "version 1",
            });
        }
        self.field(r#","chainId":"#)?;
        let chain_id = self.number()?;
        self.field(r#","contract":"#)?;
        let contract = self.address()?;
        self.field(r#","lane":"#)?;
        let lane = self.number32()?;
        self.field(r#","sequence":"#)?;
        let sequence = self.number()?;
        self.field(r#","previous":"#)?;
        let previous = self.hash()?;
        self.field(r#","usageRoot":"#)?;
        let usage_root = self.hash()?;
        self.field(r#","dataHash":"#)?;
        let data_hash = self.hash()?;
        self.field(r#","chainHash":"#)?;
        let chain_hash = self.hash()?;
        self.field(r#","data":"#)?;
        let data = self.hex(None)?;
        self.field(r#","entries":"#)?;
        let entries = self.number()?;
        self.field(r#","decisionHead":"#)?;
        let from = self.at;
        let decision_head = self.hash()?;
        let decision_head_at = from..self.at;
        self.field(r#","certificates":"#)?;
        let certificates = self.number()?;
        Ok(Head {
            head: BatchHead {
                chain_id,
                contract,
                lane,
                sequence,
                previous,
                usage_root,
                data,
                decision_head,
            },
            data_hash,
            chain_hash,
            entries,
            certificates,
            decision_head_at,
            check: self.check()?,
        })
    }

    /// Reads the line of a certificate. Returns also the place of its signature.
    pub fn certificate(mut self) -> Read<(Certificate, Place, Check)> {
        self.literal(r#"{"provider":"#, "the line of a certificate")?;
        let provider = self.number32()?;
        self.field(r#","node":"#)?;
        let node = self.text()?;
        self.field(r#","key":"#)?;
        let key = self.address()?;
        self.field(r#","epoch":"#)?;
        let epoch = self.number()?;
        self.field(r#","notAfter":"#)?;
        let not_after = self.number()?;
        self.field(r#","vault":"#)?;
        let vault = self.address()?;
        self.field(r#","signature":"#)?;
        let from = self.at;
        let signature = self.signature()?;
        let place = from..self.at;
        let certificate = Certificate {
            provider,
            node,
            key,
            epoch,
            not_after,
            vault,
            signature,
        };
        Ok((certificate, place, self.check()?))
    }

    /// Reads the line of an entry.
    pub fn entry(mut self) -> Read<(ArchivedEntry, EntryPlace, Check)> {
        self.literal(r#"{"jobNo":"#, "the line of an entry")?;
        let job_no = self.number()?;
        self.field(r#","payer":"#)?;
        let payer = self.number32()?;
        self.field(r#","provider":"#)?;
        let provider = self.number32()?;
        self.field(r#","price":"#)?;
        let price = self.number()?;
        self.field(r#","units":"#)?;
        let units = self.number()?;
        self.field(r#","leaf":"#)?;
        let from = self.at;
        let leaf = self.hash()?;
        let leaf_at = from..self.at;
        let mut places = UsePlace::default();
        let from = self.at;
        let (content, content_end) = if self.option(r#","emissionOf":"#, FIELD)? {
            let usage_leaf = self.hash()?;
            (Content::Emission { usage_leaf }, self.at)
        } else {
            let (used, end) = self.used(&mut places)?;
            (Content::Use(Box::new(used)), end)
        };
        let entry = ArchivedEntry {
            entry: Entry {
                job_no,
                payer,
                provider,
                price,
                units,
            },
            leaf,
            content,
        };
        let place = EntryPlace {
            leaf: leaf_at,
            content: from..content_end,
            used: places,
        };
        Ok((entry, place, self.check()?))
    }

    fn used(&mut self, places: &mut UsePlace) -> Read<(Use, usize)> {
        self.field(r#","use":{"record":"#)?;
        let record = self.text()?;
        self.field(r#","podUid":"#)?;
        let pod_uid = self.text()?;
        self.field(r#","node":"#)?;
        let node = self.text()?;
        self.field(r#","startMs":"#)?;
        let start_ms = self.placed_number(&mut places.start_ms)?;
        self.field(r#","endMs":"#)?;
        let end_ms = self.placed_number(&mut places.end_ms)?;
        self.field(r#","gpuMillis":"#)?;
        let gpu_millis = self.placed_number(&mut places.gpu_millis)?;
        self.field(r#","cause":"#)?;
        let cause = self.text()?;
        self.field(r#","verdict":"#)?;
        let verdict = self.text()?;
        self.field(r#","evidenceHead":"#)?;
        let evidence_head = self.hash()?;
        self.field("}")?;
        let content_end = self.at;
        let evidence = if self.option(r#","evidence":{"podUid":"#, FIELD)? {
            Some(self.evidence(places)?)
        } else {
            None
        };
        let used = Use {
            record,
            pod_uid,
            node,
            start_ms,
            end_ms,
            gpu_millis,
            cause,
            verdict,
            evidence_head,
            evidence,
            background: self.background()?,
        };
        Ok((used, content_end))
    }

    fn evidence(&mut self, places: &mut UsePlace) -> Read<Evidence> {
        let from = self.at;
        let pod_uid = self.text()?;
        places.pod_uid = from..self.at;
        self.field(r#","key":"#)?;
        let from = self.at;
        let key = self.address()?;
        places.key = from..self.at;
        self.field(r#","devices":"#)?;
        let from = self.at;
        let devices = self.list(Self::device)?;
        places.devices = from..self.at;
        self.field(r#","checkpoints":"#)?;
        let mut previous = B256::ZERO;
        let read = self.list(|reader| reader.checkpoint(&mut previous))?;
        let mut checkpoints = Vec::with_capacity(read.len());
        for (signed, whole, signature) in read {
            checkpoints.push(signed);
            places.checkpoints.push((whole, signature));
        }
        let started_ms = self.maybe(r#","startedMs":"#)?;
        let ended_ms = self.maybe(r#","endedMs":"#)?;
        self.field(r#","gaps":"#)?;
        let gaps = self.list(Self::gap)?;
        let foreign_processes = if self.option(r#","foreignProcesses":"#, FIELD)? {
            Some(self.number32()?)
        } else {
            None
        };
        self.field("}")?;
        Ok(Evidence {
            pod_uid,
            key,
            devices,
            checkpoints,
            started_ms,
            ended_ms,
            gaps,
            foreign_processes,
        })
    }

    fn device(&mut self) -> Read<DeviceUse> {
        self.field(r#"{"uuid":"#)?;
        let uuid = self.text()?;
        self.field(r#","parentUuid":"#)?;
        let parent_uuid = self.text()?;
        self.field(r#","share":["#)?;
        let numerator = self.number32()?;
        self.field(",")?;
        let denominator = self.number32()?;
        self.field("]")?;
        let counters = self.counters()?;
        self.field("}")?;
        Ok(DeviceUse {
            device: Device {
                uuid,
                parent_uuid,
                share: (numerator, denominator),
            },
            counters,
        })
    }

    fn checkpoint(&mut self, previous: &mut B256) -> Read<(Signed, Place, Place)> {
        let begin = self.at;
        self.field(r#"{"epoch":"#)?;
        let epoch = self.number()?;
        self.field(r#","seq":"#)?;
        let seq = self.number()?;
        self.field(r#","fromMs":"#)?;
        let from_ms = self.number()?;
        self.field(r#","toMs":"#)?;
        let to_ms = self.number()?;
        self.field(r#","folded":"#)?;
        let folded = self.number32()?;
        let counters = self.counters()?;
        self.field(r#","head":"#)?;
        let head = self.hash()?;
        self.field(r#","signature":"#)?;
        let from = self.at;
        let signature = self.signature()?;
        let signature_at = from..self.at;
        self.field("}")?;
        let signed = Signed {
            checkpoint: Checkpoint {
                epoch,
                seq,
                from_ms,
                to_ms,
                folded,
                counters,
                previous: *previous,
            },
            head,
            signature,
        };
        *previous = head;
        Ok((signed, begin..self.at, signature_at))
    }

    fn counters(&mut self) -> Read<Counters> {
        self.field(r#","counters":{"#)?;
        let mut first = true;
        let busy_millis = self.counter(&mut first, r#""busyMillis":"#)?;
        let memory_mib_seconds = self.counter(&mut first, r#""memoryMiBSeconds":"#)?;
        let energy_millijoules = self.counter(&mut first, r#""energyMillijoules":"#)?;
        let peak_processes = self.counter(&mut first, r#""peakProcesses":"#)?;
        let peak_processes = match peak_processes.map(u32::try_from) {
            None => None,
            Some(Ok(number)) => Some(number),
            Some(Err(_)) => return self.expected("a number below 2^32 before this"),
        };
        let samples = self.counter(&mut first, r#""samples":"#)?;
        if !self.skips("}") {
            if !first {
                self.skips(",");
            }
            self.literal("\"", "a counter, or the end of the counters")?;
            return self.expected("the name of a counter, in its order");
        }
        Ok(Counters {
            busy_millis,
            memory_mib_seconds,
            energy_millijoules,
            peak_processes,
            samples,
        })
    }

    /// One of several fields that may each be there, the first of them without a comma.
    fn counter(&mut self, first: &mut bool, name: &'static str) -> Read<Option<u64>> {
        let begin = self.at;
        if !*first && !self.skips(",") {
            return Ok(None);
        }
        // The first letter tells them apart.
        if !self.option(name, 2)? {
            self.at = begin;
            return Ok(None);
        }
        *first = false;
        self.number().map(Some)
    }

    fn gap(&mut self) -> Read<Gap> {
        self.field(r#"{"fromMs":"#)?;
        let from_ms = self.number()?;
        self.field(r#","toMs":"#)?;
        let to_ms = self.number()?;
        self.field(r#","reason":"#)?;
        let reason = self.text()?;
        self.field(r#","bridged":"#)?;
        let bridged = if self.option("true", 1)? {
            true
        } else {
            self.literal("false", "true or false")?;
            false
        };
        self.field("}")?;
        Ok(Gap {
            from_ms,
            to_ms,
            reason,
            bridged,
        })
    }

    fn background(&mut self) -> Read<Background> {
        self.field(r#","background":{"namespace":"#)?;
        let namespace = self.text()?;
        self.field(r#","job":"#)?;
        let job = self.text()?;
        self.field(r#","pod":"#)?;
        let pod = self.text()?;
        self.field(r#","gpus":"#)?;
        let gpus = self.number32()?;
        let energy_millijoules = self.maybe(r#","energyMillijoules":"#)?;
        let factors = if self.option(r#","factors":{"performancePermille":"#, FIELD)? {
            let performance_permille = self.number32()?;
            self.field(r#","stabilityPermille":"#)?;
            let stability_permille = self.number32()?;
            self.field(r#","reference":"#)?;
            let reference = self.text()?;
            self.field("}")?;
            Some(Factors {
                performance_permille,
                stability_permille,
                reference,
            })
        } else {
            None
        };
        self.field("}")?;
        Ok(Background {
            namespace,
            job,
            pod,
            gpus,
            energy_millijoules,
            factors,
        })
    }

    /// The end of the line.
    pub(super) fn check(mut self) -> Read<Check> {
        let body = self.begin..self.at;
        let computed = keccak256(self.file.get(body.clone()).unwrap_or_default());
        self.field(r#","check":"#)?;
        let from = self.at;
        let stated = self.hash()?;
        let at = from..self.at;
        self.field("}")?;
        if self.at != self.end {
            return self.expected("the end of the line");
        }
        if self.file.get(self.end) != Some(&b'\n') {
            return self.expected("a line feed");
        }
        Ok(Check {
            body,
            at,
            stated,
            computed,
        })
    }

    fn expected<T>(&self, expected: &'static str) -> Read<T> {
        Err(Malformed {
            at: self.at.max(self.far),
            expected,
        })
    }

    fn left(&self) -> &'a [u8] {
        self.file.get(self.at..self.end).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.left().first().copied()
    }

    /// Steps over `text` if it stands here.
    fn skips(&mut self, text: &str) -> bool {
        let there = self.left().starts_with(text.as_bytes());
        if there {
            self.at += text.len();
        }
        there
    }

    /// Steps over `text`; if it does not stand here, the error names the first byte that differs.
    pub(super) fn literal(&mut self, text: &str, expected: &'static str) -> Read<()> {
        let same = self.same(text);
        self.at += same;
        if same == text.len() {
            Ok(())
        } else {
            self.expected(expected)
        }
    }

    /// How many bytes of `text` stand here.
    fn same(&self, text: &str) -> usize {
        self.left()
            .iter()
            .zip(text.bytes())
            .take_while(|(found, wanted)| **found == *wanted)
            .count()
    }

    pub(super) fn field(&mut self, text: &'static str) -> Read<()> {
        self.literal(text, text)
    }

    pub(super) fn number(&mut self) -> Read<u64> {
        const EXPECTED: &str = "a decimal number without leading zeros, below 2^64";
        let begin = self.at;
        let mut value: u64 = 0;
        while let Some(digit) = self.peek().filter(u8::is_ascii_digit) {
            if self.at > begin && value == 0 {
                return self.expected(EXPECTED);
            }
            value = value
                .checked_mul(10)
                .and_then(|value| value.checked_add(u64::from(digit - b'0')))
                .ok_or(Malformed {
                    at: self.at,
                    expected: EXPECTED,
                })?;
            self.at += 1;
        }
        if self.at == begin {
            return self.expected(EXPECTED);
        }
        Ok(value)
    }

    fn placed_number(&mut self, place: &mut Place) -> Read<u64> {
        let from = self.at;
        let value = self.number()?;
        *place = from..self.at;
        Ok(value)
    }

    pub(super) fn number16(&mut self) -> Read<u16> {
        let value = self.number()?;
        u16::try_from(value).map_err(|_| Malformed {
            at: self.at.saturating_sub(1),
            expected: "a number below 2^16",
        })
    }

    pub(super) fn number32(&mut self) -> Read<u32> {
        let value = self.number()?;
        u32::try_from(value).map_err(|_| Malformed {
            // Its last digit is the one too many.
            at: self.at.saturating_sub(1),
            expected: "a number below 2^32",
        })
    }

    fn maybe(&mut self, field: &'static str) -> Read<Option<u64>> {
        if self.option(field, FIELD)? {
            return self.number().map(Some);
        }
        Ok(None)
    }

    /// Steps over `text` if its first `telling` bytes stand here; then all of it must. So an error is never told before the
    /// byte that is wrong.
    fn option(&mut self, text: &'static str, telling: usize) -> Read<bool> {
        let mark = text.get(..telling).unwrap_or(text);
        let there = self.left().starts_with(mark.as_bytes());
        if there {
            self.field(text)?;
        } else {
            self.far = self.far.max(self.at + self.same(text));
        }
        Ok(there)
    }

    /// `"0x…"` in lower case; of `length` bytes, if that is given.
    fn hex(&mut self, length: Option<usize>) -> Read<Vec<u8>> {
        self.literal("\"0x", "0x in quotes")?;
        let mut bytes = Vec::with_capacity(length.unwrap_or_default());
        loop {
            if length.is_some_and(|length| bytes.len() == length)
                || (length.is_none() && self.peek() == Some(b'"'))
            {
                break;
            }
            let high = self.digit()?;
            let low = self.digit()?;
            bytes.push(high << 4 | low);
        }
        self.literal("\"", "a closing quote")?;
        Ok(bytes)
    }

    fn digit(&mut self) -> Read<u8> {
        let value = match self.peek() {
            Some(digit @ b'0'..=b'9') => digit - b'0',
            Some(digit @ b'a'..=b'f') => digit - b'a' + 10,
            _ => return self.expected("a hexadecimal digit in lower case"),
        };
        self.at += 1;
        Ok(value)
    }

    pub(super) fn hash(&mut self) -> Read<B256> {
        self.hex(Some(32)).map(|bytes| B256::from_slice(&bytes))
    }

    pub(super) fn address(&mut self) -> Read<Address> {
        self.hex(Some(20)).map(|bytes| Address::from_slice(&bytes))
    }

    fn signature(&mut self) -> Read<Signature> {
        const EXPECTED: &str = "a signature with a low s and v 27 or 28";
        let at = self.at;
        let refused = Malformed {
            at,
            expected: EXPECTED,
        };
        let begin = self.at;
        let bytes = self.hex(Some(65))?;
        let after = Malformed {
            at: self.at.saturating_sub(1),
            ..refused
        };
        let bytes: [u8; 65] = bytes.try_into().map_err(|_| after)?;
        let signature = Signature::from_raw_array(&bytes).map_err(|_| after)?;
        let text = signature::text(&signature.normalize_s().unwrap_or(signature));
        let written = self.file.get(begin + 1..self.at - 1).unwrap_or_default();
        if written == text.as_bytes() {
            Ok(signature)
        } else {
            Err(after)
        }
    }

    pub(super) fn text(&mut self) -> Read<String> {
        const LETTER: &str = "a letter, or an escape as the format writes it";
        self.literal("\"", "a quote")?;
        let mut bytes = Vec::new();
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    self.at += 1;
                    bytes.push(self.escaped()?);
                }
                Some(byte) if byte >= 0x20 => {
                    bytes.push(byte);
                    self.at += 1;
                }
                _ => return self.expected(LETTER),
            }
        }
        let at = self.at;
        self.at += 1;
        String::from_utf8(bytes).map_err(|_| Malformed {
            at,
            expected: "text in UTF-8",
        })
    }

    fn escaped(&mut self) -> Read<u8> {
        const EXPECTED: &str = r#"\", \\ or \u00 with two digits below 20"#;
        if let Some(byte @ (b'"' | b'\\')) = self.peek() {
            self.at += 1;
            return Ok(byte);
        }
        self.literal("u00", EXPECTED)?;
        let at = self.at;
        let byte = self.digit()? << 4 | self.digit()?;
        if byte < 0x20 {
            Ok(byte)
        } else {
            Err(Malformed {
                at: at + 1,
                expected: EXPECTED,
            })
        }
    }

    fn list<T>(&mut self, mut one: impl FnMut(&mut Self) -> Read<T>) -> Read<Vec<T>> {
        self.field("[")?;
        let mut items = Vec::new();
        if self.skips("]") {
            return Ok(items);
        }
        loop {
            items.push(one(self)?);
            if self.skips("]") {
                return Ok(items);
            }
            self.literal(",", "a comma or the end of the list")?;
        }
    }
}
