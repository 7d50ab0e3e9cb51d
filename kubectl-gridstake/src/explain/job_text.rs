//! A job, explained to people.

use super::{
    conditions,
    job::{
        AttemptReport, JobReport, PlacementReport, QueueReport, ReplacedReport, VerificationReport,
        told,
    },
    next_steps::meaning,
};
use crate::output::{Report, columns, count, gpu_seconds, or_hyphen, percent};

impl Report for JobReport {
    fn text(&self) -> String {
        let mut lines = vec![format!(
            "ComputeJob {}/{}: {}",
            self.namespace, self.name, self.state
        )];
        lines.extend(conditions::lines("Blocked by", &self.blocked_by));
        lines.extend(self.queue.iter().flat_map(queue));
        lines.extend(self.placement.iter().flat_map(placement));
        lines.extend(replaced(&self.replaced));
        lines.extend(attempts(&self.attempts));
        lines.extend(self.money());
        lines.extend(self.verification.iter().flat_map(verification));
        lines.extend(
            self.not_read
                .iter()
                .flat_map(|what| [String::new(), format!("Not read: {what}")]),
        );
        lines.join("\n")
    }
}

fn queue(queue: &QueueReport) -> Vec<String> {
    let mut lines = vec![String::new(), "Queue".to_owned()];
    if let Some(position) = queue.position {
        let starts = queue.starts_by.as_ref().map_or_else(String::new, |by| {
            format!(
                "; it starts by {}, if what it waits for ends by its timeouts.run and no job comes before it",
                by.0
            )
        });
        lines.push(format!("  place {}{starts}", told(position)));
    }
    let Some(waiting) = &queue.waits_for else {
        return lines;
    };
    lines.push(format!(
        "  {}, none of which fits now:",
        count(waiting.nodes, "node", "nodes")
    ));
    let rows: Vec<Vec<String>> = waiting
        .counts
        .iter()
        .map(|count| {
            vec![
                count.nodes.to_string(),
                count.reason.clone(),
                or_hyphen(count.particular.as_ref()),
                count.next.to_owned(),
            ]
        })
        .collect();
    let header = ["NODES", "REASON", "PARTICULAR", "WHAT WOULD HELP"];
    lines.extend(columns("    ", &header, &rows));
    lines.extend(
        waiting
            .nearest
            .iter()
            .map(|near| format!("  nearest: {near}")),
    );
    lines.extend(
        waiting
            .fits_now_with
            .iter()
            .map(|change| format!("  it would fit now with {change}")),
    );
    if !waiting.fits_now_with.is_empty() {
        lines.push(
            "  (spec.gpu, pricing, policy and topology cannot be changed: delete the job and create it anew)"
                .to_owned(),
        );
    }
    lines.extend(waiting.kept_nodes.map(|nodes| {
        format!(
            "  it is the first in the queue: room is kept for it on {}",
            count(nodes, "node", "nodes")
        )
    }));
    lines
}

fn placement(placed: &PlacementReport) -> Vec<String> {
    let state = if placed.in_progress {
        ""
    } else {
        ", which has ended"
    };
    let mut lines = vec![
        String::new(),
        format!(
            "Attempt {}{state}: placed {} by a draw among {}, whose weights are {} together ({})",
            placed.attempt,
            placed.decided_at.0,
            count(placed.candidates, "node", "nodes"),
            placed.total_weight,
            placed.draw
        ),
    ];
    let rows: Vec<Vec<String>> = placed
        .draws
        .iter()
        .map(|draw| {
            let weight = draw.weight.as_ref();
            vec![
                if draw.rank == draw.member {
                    draw.member.to_string()
                } else {
                    format!("{} (rank {})", draw.member, draw.rank)
                },
                draw.node.clone(),
                or_hyphen(draw.provider_id),
                or_hyphen(draw.number.as_ref()),
                or_hyphen(weight.map(|w| w.weight)),
                or_hyphen(draw.odds_permille.map(percent)),
                or_hyphen(weight.map(|w| w.stake)),
                or_hyphen(weight.map(|w| w.reputation)),
                or_hyphen(weight.map(|w| w.price.nano())),
            ]
        })
        .collect();
    let header = [
        "MEMBER",
        "NODE",
        "PROVIDER",
        "DRAWN",
        "WEIGHT",
        "OF ALL",
        "STAKE",
        "REPUTATION",
        "PRICE",
    ];
    lines.extend(columns("  ", &header, &rows));
    if placed.draws.iter().any(|draw| draw.weight.is_some()) {
        lines.push(
            "  weight = stake · reputation · 2^20 ÷ price (nano-tokens a GPU-second): the price of then, stake and reputation of now."
                .to_owned(),
        );
        let cut = placed.draws.iter().filter(|draw| {
            let weight = draw.weight.as_ref();
            weight.is_some_and(|weight| weight.owner_cut.is_some())
        });
        let cut: Vec<&str> = cut.map(|draw| draw.node.as_str()).collect();
        if !cut.is_empty() {
            lines.push(format!(
                "  Of {} a part is left: its owner has a greater share of the GPU model than one owner may have.",
                cut.join(", ")
            ));
        }
        lines.push(
            "  Where some nodes are partly used, a member is drawn among those alone: then the odds were better"
                .to_owned(),
        );
    }
    if !placed.rejections.is_empty() {
        let ruled_out: Vec<String> = placed
            .rejections
            .iter()
            .map(|count| format!("{} {}", count.nodes, count.reason))
            .collect();
        lines.push(format!("  ruled out: {}", ruled_out.join(", ")));
    }
    lines.push(format!(
        "  seed: block {}, decision before {}",
        placed.block_hash, placed.previous
    ));
    lines.push(format!(
        "  to draw it again: kubectl gridstake replay --archive ARCHIVE --decision {}",
        placed.hash
    ));
    lines
}

fn replaced(replaced: &[ReplacedReport]) -> Vec<String> {
    if replaced.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![
        String::new(),
        "Members that were lost while the others ran".to_owned(),
    ];
    for lost in replaced {
        let shown = &lost.shown;
        lines.push(format!(
            "  {} of attempt {} (rank {}): {} on {}, {}",
            shown.member, shown.attempt, shown.rank, shown.why, shown.node, shown.at.0
        ));
        lines.push(format!("    {}", lost.meaning));
        lines.extend(
            shown
                .message
                .iter()
                .map(|words| format!("    message: {words}")),
        );
        if let Some((verdict, reason)) = shown.verdict.zip(shown.verdict_reason) {
            lines.push(format!(
                "    verdict: {verdict} by {reason}: {}",
                meaning(reason)
            ));
        }
        if let Some((member, node)) = lost.by.zip(lost.on.as_ref()) {
            let since = shown.started_at.as_ref().map_or_else(
                || ", where it has not started yet".to_owned(),
                |at| format!(", where it has run since {}", at.0),
            );
            lines.push(format!(
                "    its rank is now that of member {member} on {node}{since}"
            ));
        }
        lines.extend(lost.hash.iter().map(|hash| {
            format!(
                "    to draw it again: kubectl gridstake replay --archive ARCHIVE --decision {hash}"
            )
        }));
    }
    lines
}

fn attempts(attempts: &[AttemptReport]) -> Vec<String> {
    if attempts.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![String::new(), "Attempts that have ended".to_owned()];
    for attempt in attempts {
        let code = attempt
            .exit_code
            .map_or_else(String::new, |code| format!(", exit code {code}"));
        lines.push(format!(
            "  {}: {} on {}{code}, {}, {} GPU-seconds",
            attempt.attempt,
            attempt.end_reason,
            attempt.nodes.join(", "),
            attempt.ended_at.0,
            gpu_seconds(attempt.gpu_millis)
        ));
        lines.push(format!("    {}", attempt.meaning));
        lines.extend(
            attempt
                .message
                .iter()
                .map(|words| format!("    message: {words}")),
        );
        if let Some(verdict) = attempt.verdict {
            let reason = attempt.verdict_reason.map_or_else(String::new, |reason| {
                format!(" by {reason}: {}", meaning(reason))
            });
            let members: Vec<String> = attempt.verdict_members.iter().map(u32::to_string).collect();
            let members = if members.is_empty() {
                String::new()
            } else {
                format!(" (members {})", members.join(", "))
            };
            lines.push(format!("    verdict: {verdict}{members}{reason}"));
        }
        lines.extend(attempt.cost.map(|cost| format!("    {cost}")));
        if !attempt.suspects.is_empty() {
            lines.push(format!(
                "    left alone for a while: {}",
                attempt.suspects.join(", ")
            ));
        }
        lines.extend(attempt.next.map(|next| format!("    next: {next}")));
    }
    lines
}

impl JobReport {
    fn money(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(usage) = &self.usage {
            let energy = usage
                .energy_millijoules
                .map_or_else(String::new, |millijoules| {
                    format!(", {} J", millijoules / 1000)
                });
            let cost = usage
                .cost
                .map_or_else(String::new, |cost| format!(", {cost} tokens"));
            lines.push(format!(
                "Used: {} GPU-seconds{energy}{cost}",
                gpu_seconds(usage.gpu_millis)
            ));
        }
        if let Some(settlement) = &self.settlement {
            lines.push(format!(
                "Paid: {} of {} on chain {}, lane {}",
                settlement.finalized,
                count(settlement.sealed, "sealed slice", "sealed slices"),
                settlement.chain,
                settlement.lane
            ));
            lines.extend(
                settlement
                    .last_transaction
                    .iter()
                    .map(|hash| format!("  last transaction: {hash}")),
            );
        }
        for record in &self.unpaid {
            let words = if record.message.is_empty() {
                String::new()
            } else {
                format!(": {}", record.message)
            };
            lines.push(format!("  {} {}{words}", record.record, record.reason));
            lines.push(format!("    next: {}", record.next));
        }
        if !lines.is_empty() {
            lines.insert(0, String::new());
        }
        lines
    }
}

fn verification(checked: &VerificationReport) -> Vec<String> {
    let shown = &checked.shown;
    let mut lines = vec![
        String::new(),
        format!("Result: {}: {}", shown.state, meaning(shown.state)),
    ];
    lines.extend(
        shown
            .digest
            .iter()
            .map(|digest| format!("  agreed digest: {digest}")),
    );
    let rows: Vec<Vec<String>> = shown
        .runs
        .iter()
        .map(|run| {
            vec![
                run.job.clone(),
                run.outcome.to_string(),
                or_hyphen(run.node.as_ref()),
                or_hyphen(run.digest.as_ref()),
            ]
        })
        .collect();
    if !rows.is_empty() {
        lines.extend(columns("  ", &["JOB", "OUTCOME", "NODE", "DIGEST"], &rows));
    }
    lines.extend(checked.next.map(|next| format!("  next: {next}")));
    lines
}
