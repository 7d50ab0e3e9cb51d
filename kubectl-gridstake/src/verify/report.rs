//! What was found, for people and for programs.

use std::{collections::BTreeSet, fmt::Write as _};

use gridstake_crds::TokenAmount;
use gridstake_ledger::verify::{
    Finding,
    all::VerifiedLane,
    earnings::{Earnings, Reported},
    file::{Booked, Summary},
};
use serde_json::{Value, json};

use super::{
    answers::Answers,
    uptime::{self, Uptime},
};
use crate::cli::{Output, VerifyArgs};

/// What came of it.
pub enum Verdict {
    /// Everything is right.
    Right(Box<Right>),
    /// Something is wrong.
    Wrong(Finding),
}

/// What was verified.
pub struct Right {
    summary: Summary,
    first: u64,
    last: u64,
    certificates: usize,
    record: Option<(u64, Booked)>,
    earnings: Option<Earnings>,
    uptime: Option<Uptime>,
}

/// A result with its circumstances.
pub struct Report {
    chain_id: u64,
    settlement: String,
    lane: u32,
    block: u64,
    vault: bool,
    /// What came of it.
    pub verdict: Verdict,
}

impl Report {
    fn of(args: &VerifyArgs, answers: &Answers, verdict: Verdict) -> Self {
        Self {
            chain_id: answers.chain_id,
            settlement: answers.settlement.to_string(),
            lane: answers.lane,
            block: answers.block,
            vault: args.vault.is_some(),
            verdict,
        }
    }

    /// Something is wrong.
    pub fn wrong(args: &VerifyArgs, answers: &Answers, finding: Finding) -> Self {
        Self::of(args, answers, Verdict::Wrong(finding))
    }

    /// Everything is right.
    pub fn right(
        args: &VerifyArgs,
        answers: &Answers,
        lane: VerifiedLane,
        earnings: Option<Earnings>,
        uptime: Option<Uptime>,
    ) -> Self {
        let record = args.record.as_ref().and_then(|name| {
            lane.files.iter().find_map(|file| {
                let entry = file.entries.iter().find(|entry| {
                    entry
                        .slice
                        .as_ref()
                        .is_some_and(|slice| slice.record == *name)
                })?;
                Some((file.sequence, entry.clone()))
            })
        });
        let right = Right {
            first: lane.files.first().map_or(0, |file| file.sequence),
            last: lane.files.last().map_or(0, |file| file.sequence),
            certificates: lane.files.iter().map(|file| file.certified.len()).sum(),
            summary: lane.summary,
            record,
            earnings,
            uptime,
        };
        Self::of(args, answers, Verdict::Right(Box::new(right)))
    }

    /// As it is printed.
    pub fn written(&self, output: Output) -> String {
        match output {
            Output::Text => self.text(),
            Output::Json => self.json().to_string(),
        }
    }

    fn text(&self) -> String {
        let place = format!(
            "lane {} of {} on chain {}, up to block {}",
            self.lane, self.settlement, self.chain_id, self.block
        );
        let right = match &self.verdict {
            Verdict::Wrong(finding) => return format!("NOT VERIFIED: {place}\n{finding}"),
            Verdict::Right(right) => right,
        };
        let summary = &right.summary;
        let mut text = format!("verified: {place}\n");
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "  batches {} to {}: {} entries, {} of them left out by the contract",
            right.first, right.last, summary.entries, summary.left_out
        );
        let _ = writeln!(
            text,
            "  {} GPU-milliseconds; evidence: {} slices with, {} without, {} whose last statement is not archived",
            summary.gpu_millis,
            summary.evidenced,
            summary.without_evidence,
            summary.evidence_missing
        );
        let certified = if self.vault {
            "signed by the providers' operators"
        } else {
            "whose signers were not looked up (--vault)"
        };
        let _ = writeln!(
            text,
            "  {} signatures of agents; {} certificates of their keys, {certified}",
            summary.signatures, right.certificates
        );
        for ((payer, provider), nano) in &summary.paid {
            let amount = TokenAmount::from_nano(*nano);
            let payer = match payer {
                0 => "the reward account".to_owned(),
                payer => format!("payer {payer}"),
            };
            let _ = writeln!(text, "  {payer} paid provider {provider}: {amount} tokens");
        }
        if let Some((sequence, entry)) = &right.record
            && let Some(slice) = &entry.slice
        {
            let gpus: Vec<&str> = slice.gpus.iter().map(|(uuid, _)| uuid.as_str()).collect();
            let paid = if entry.paid { "paid" } else { "left out" };
            let _ = writeln!(
                text,
                "  {}: {paid} by batch {sequence} as number {}, from {} to {} (Unix ms), on {}",
                slice.record,
                entry.job_no,
                slice.start_ms,
                slice.end_ms,
                if gpus.is_empty() {
                    "GPUs that nobody stated".to_owned()
                } else {
                    gpus.join(", ")
                }
            );
        }
        for line in right.earnings.iter().flat_map(earned) {
            let _ = writeln!(text, "  {line}");
        }
        for line in right.uptime.iter().flat_map(uptime::lines) {
            let _ = writeln!(text, "  {line}");
        }
        text.trim_end().to_owned()
    }

    fn json(&self) -> Value {
        let mut value = json!({
            "chainId": self.chain_id,
            "settlement": self.settlement,
            "lane": self.lane,
            "block": self.block,
        });
        match &self.verdict {
            Verdict::Wrong(finding) => {
                value["verified"] = json!(false);
                value["finding"] = json!({
                    "file": finding.file,
                    "from": finding.at.start,
                    "to": finding.at.end,
                    "fault": finding.fault.to_string(),
                    "found": finding.found,
                    "expected": finding.expected,
                });
            }
            Verdict::Right(right) => {
                let summary = &right.summary;
                value["verified"] = json!(true);
                value["batches"] = json!({"first": right.first, "last": right.last});
                value["entries"] = json!(summary.entries);
                value["leftOut"] = json!(summary.left_out);
                value["gpuMillis"] = json!(summary.gpu_millis);
                value["slices"] = json!({
                    "evidenced": summary.evidenced,
                    "withoutEvidence": summary.without_evidence,
                    "evidenceMissing": summary.evidence_missing,
                });
                value["signatures"] = json!(summary.signatures);
                if let Some(found) = &right.uptime {
                    value["uptime"] = uptime::json(found);
                }
                value["certificates"] = json!(right.certificates);
                let paid = summary.paid.iter().map(|((payer, provider), nano)| {
                    let amount = TokenAmount::from_nano(*nano).to_string();
                    json!({"payer": payer, "provider": provider, "amount": amount})
                });
                value["paid"] = paid.collect();
                if let Some(earnings) = &right.earnings {
                    value["earnings"] = earned_json(earnings);
                }
                if let Some((sequence, entry)) = &right.record
                    && let Some(slice) = &entry.slice
                {
                    value["record"] = json!({
                        "name": slice.record,
                        "batch": sequence,
                        "jobNo": entry.job_no,
                        "paid": entry.paid,
                        "startMs": slice.start_ms,
                        "endMs": slice.end_ms,
                        "gpus": slice.gpus.iter().map(|(uuid, _)| uuid).collect::<Vec<_>>(),
                    });
                }
            }
        }
        value
    }
}

/// GPU-milliseconds as seconds.
fn seconds(millis: u64) -> String {
    format!("{}.{:03}", millis / 1000, millis % 1000)
}

fn list(batches: &BTreeSet<u64>) -> String {
    let numbers: Vec<String> = batches.iter().map(u64::to_string).collect();
    numbers.join(", ")
}

/// A line a provider.
fn earned(earnings: &Earnings) -> Vec<String> {
    let week = earnings.week;
    let line = |(provider, reported): (&u32, &Reported)| {
        let report = &reported.report;
        let tokens = TokenAmount::from_nano;
        let posted = if !earnings.over {
            "the week is not over".to_owned()
        } else if reported.batches.is_empty() {
            "not reported yet".to_owned()
        } else {
            format!("reported in batch {}", list(&reported.batches))
        };
        format!(
            "provider {provider} in {week}: {} jobs, {} GPU-seconds, {} tokens paid, {} emissions, {} slashed; report {}: {posted}",
            report.jobs,
            seconds(report.gpuMillis),
            tokens(report.paid.into()),
            tokens(report.emissions.into()),
            tokens(report.slashed),
            reported.hash,
        )
    };
    earnings.providers.iter().map(line).collect()
}

fn earned_json(earnings: &Earnings) -> Value {
    let provider = |(provider, reported): (&u32, &Reported)| {
        let report = &reported.report;
        let tokens = |nano: u128| TokenAmount::from_nano(nano).to_string();
        json!({
            "provider": provider,
            "jobs": report.jobs,
            "gpuMillis": report.gpuMillis,
            "paid": tokens(report.paid.into()),
            "emissions": tokens(report.emissions.into()),
            "slashed": tokens(report.slashed),
            "hash": reported.hash,
            "reportedIn": reported.batches,
        })
    };
    json!({
        "week": earnings.week.to_string(),
        "over": earnings.over,
        "providers": earnings.providers.iter().map(provider).collect::<Vec<_>>(),
    })
}
