//! A batch to bytes.

use std::fmt::Write as _;

use alloy_primitives::{hex, keccak256};

use super::{
    ArchivedBatch, ArchivedEntry, Background, BatchHead, Certificate, Content, DeviceUse, Evidence,
    FORMAT, Gap, Use, VERSION,
};
use crate::{
    batch::{Entry, data_hash},
    checkpoint::{Counters, Signed},
    signature,
};

/// The file of `batch`. Whoever calls it has put entries and certificates in their order.
#[must_use]
pub fn encode(batch: &ArchivedBatch) -> Vec<u8> {
    let mut file = Vec::new();
    let mut head = Line(head_prefix(&batch.head, batch.entries.len()));
    head.hex(r#","decisionHead":"#, batch.head.decision_head.as_slice());
    head.number(r#","certificates":"#, batch.certificates.len() as u64);
    head.end(&mut file);
    for certificate in &batch.certificates {
        certificate_line(certificate).end(&mut file);
    }
    for entry in &batch.entries {
        entry_line(entry).end(&mut file);
    }
    file
}

/// The head line as far as it follows from what is settled on the chain. It is compared byte by byte.
#[must_use]
pub fn head_prefix(head: &BatchHead, entries: usize) -> String {
    let mut line = Line(String::new());
    line.text(r#"{"format":"#, FORMAT);
    line.number(r#","version":"#, VERSION);
    line.number(r#","chainId":"#, head.chain_id);
    line.hex(r#","contract":"#, head.contract.as_slice());
    line.number(r#","lane":"#, head.lane.into());
    line.number(r#","sequence":"#, head.sequence);
    line.hex(r#","previous":"#, head.previous.as_slice());
    line.hex(r#","usageRoot":"#, head.usage_root.as_slice());
    line.hex(r#","dataHash":"#, data_hash(&head.data).as_slice());
    line.hex(r#","chainHash":"#, head.chain_hash().as_slice());
    line.hex(r#","data":"#, &head.data);
    line.number(r#","entries":"#, entries as u64);
    line.0
}

/// An entry's line as far as it follows from the payload.
#[must_use]
pub fn entry_prefix(entry: &Entry) -> String {
    let mut line = Line(String::new());
    line.number(r#"{"jobNo":"#, entry.job_no);
    line.number(r#","payer":"#, entry.payer.into());
    line.number(r#","provider":"#, entry.provider.into());
    line.number(r#","price":"#, entry.price);
    line.number(r#","units":"#, entry.units);
    line.0
}

/// A line that is being written. Each step takes what stands before the value.
pub(super) struct Line(pub(super) String);

impl Line {
    pub(super) fn number(&mut self, before: &str, value: u64) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "{before}{value}");
    }

    fn maybe(&mut self, before: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.number(before, value);
        }
    }

    pub(super) fn hex(&mut self, before: &str, bytes: &[u8]) {
        self.0.push_str(before);
        self.0.push('"');
        self.0.push_str(&hex::encode_prefixed(bytes));
        self.0.push('"');
    }

    pub(super) fn text(&mut self, before: &str, text: &str) {
        self.0.push_str(before);
        self.0.push('"');
        for letter in text.chars() {
            match letter {
                '"' => self.0.push_str("\\\""),
                '\\' => self.0.push_str("\\\\"),
                '\0'..='\u{1f}' => {
                    let _ = write!(self.0, "\\u{:04x}", u32::from(letter));
                }
                other => self.0.push(other),
            }
        }
        self.0.push('"');
    }

    fn list<T>(&mut self, before: &str, items: &[T], mut one: impl FnMut(&mut Self, &T)) {
        self.0.push_str(before);
        self.0.push('[');
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.0.push(',');
            }
            one(self, item);
        }
        self.0.push(']');
    }

    fn counters(&mut self, counters: &Counters) {
        self.0.push_str(r#","counters":{"#);
        let before = self.0.len();
        for (name, value) in [
            ("busyMillis", counters.busy_millis),
            ("memoryMiBSeconds", counters.memory_mib_seconds),
            ("energyMillijoules", counters.energy_millijoules),
            ("peakProcesses", counters.peak_processes.map(u64::from)),
            ("samples", counters.samples),
        ] {
            if let Some(value) = value {
                let comma = if self.0.len() > before { "," } else { "" };
                let _ = write!(self.0, "{comma}\"{name}\":{value}");
            }
        }
        self.0.push('}');
    }

    pub(super) fn end(mut self, file: &mut Vec<u8>) {
        let check = keccak256(self.0.as_bytes());
        self.hex(r#","check":"#, check.as_slice());
        self.0.push_str("}\n");
        file.extend(self.0.into_bytes());
    }
}

fn certificate_line(certificate: &Certificate) -> Line {
    let mut line = Line(String::new());
    line.number(r#"{"provider":"#, certificate.provider.into());
    line.text(r#","node":"#, &certificate.node);
    line.hex(r#","key":"#, certificate.key.as_slice());
    line.number(r#","epoch":"#, certificate.epoch);
    line.number(r#","notAfter":"#, certificate.not_after);
    line.hex(r#","vault":"#, certificate.vault.as_slice());
    line.text(
        r#","signature":"#,
        &signature::text(&normal(&certificate.signature)),
    );
    line
}

fn normal(signature: &alloy_primitives::Signature) -> alloy_primitives::Signature {
    signature.normalize_s().unwrap_or(*signature)
}

fn entry_line(entry: &ArchivedEntry) -> Line {
    let mut line = Line(entry_prefix(&entry.entry));
    line.hex(r#","leaf":"#, entry.leaf.as_slice());
    match &entry.content {
        Content::Emission { usage_leaf } => line.hex(r#","emissionOf":"#, usage_leaf.as_slice()),
        Content::Use(used) => use_part(&mut line, used),
    }
    line
}

fn use_part(line: &mut Line, used: &Use) {
    line.text(r#","use":{"record":"#, &used.record);
    line.text(r#","podUid":"#, &used.pod_uid);
    line.text(r#","node":"#, &used.node);
    line.number(r#","startMs":"#, used.start_ms);
    line.number(r#","endMs":"#, used.end_ms);
    line.number(r#","gpuMillis":"#, used.gpu_millis);
    line.text(r#","cause":"#, &used.cause);
    line.text(r#","verdict":"#, &used.verdict);
    line.hex(r#","evidenceHead":"#, used.evidence_head.as_slice());
    line.0.push('}');
    if let Some(evidence) = &used.evidence {
        evidence_part(line, evidence);
    }
    background_part(line, &used.background);
}

fn evidence_part(line: &mut Line, evidence: &Evidence) {
    line.text(r#","evidence":{"podUid":"#, &evidence.pod_uid);
    line.hex(r#","key":"#, evidence.key.as_slice());
    line.list(r#","devices":"#, &evidence.devices, device);
    line.list(r#","checkpoints":"#, &evidence.checkpoints, checkpoint);
    line.maybe(r#","startedMs":"#, evidence.started_ms);
    line.maybe(r#","endedMs":"#, evidence.ended_ms);
    line.list(r#","gaps":"#, &evidence.gaps, gap);
    line.maybe(
        r#","foreignProcesses":"#,
        evidence.foreign_processes.map(u64::from),
    );
    line.0.push('}');
}

fn device(line: &mut Line, used: &DeviceUse) {
    line.text(r#"{"uuid":"#, &used.device.uuid);
    line.text(r#","parentUuid":"#, &used.device.parent_uuid);
    line.number(r#","share":["#, used.device.share.0.into());
    line.number(",", used.device.share.1.into());
    line.0.push(']');
    line.counters(&used.counters);
    line.0.push('}');
}

fn checkpoint(line: &mut Line, signed: &Signed) {
    line.number(r#"{"epoch":"#, signed.checkpoint.epoch);
    line.number(r#","seq":"#, signed.checkpoint.seq);
    line.number(r#","fromMs":"#, signed.checkpoint.from_ms);
    line.number(r#","toMs":"#, signed.checkpoint.to_ms);
    line.number(r#","folded":"#, signed.checkpoint.folded.into());
    line.counters(&signed.checkpoint.counters);
    line.hex(r#","head":"#, signed.head.as_slice());
    line.text(
        r#","signature":"#,
        &signature::text(&normal(&signed.signature)),
    );
    line.0.push('}');
}

fn gap(line: &mut Line, gap: &Gap) {
    line.number(r#"{"fromMs":"#, gap.from_ms);
    line.number(r#","toMs":"#, gap.to_ms);
    line.text(r#","reason":"#, &gap.reason);
    line.0.push_str(r#","bridged":"#);
    line.0.push_str(if gap.bridged { "true" } else { "false" });
    line.0.push('}');
}

fn background_part(line: &mut Line, background: &Background) {
    line.text(r#","background":{"namespace":"#, &background.namespace);
    line.text(r#","job":"#, &background.job);
    line.text(r#","pod":"#, &background.pod);
    line.number(r#","gpus":"#, background.gpus.into());
    line.maybe(r#","energyMillijoules":"#, background.energy_millijoules);
    if let Some(factors) = &background.factors {
        line.number(
            r#","factors":{"performancePermille":"#,
            factors.performance_permille.into(),
        );
        line.number(
            r#","stabilityPermille":"#,
            factors.stability_permille.into(),
        );
        line.text(r#","reference":"#, &factors.reference);
        line.0.push('}');
    }
    line.0.push('}');
}
