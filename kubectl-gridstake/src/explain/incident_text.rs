//! An incident, explained to people.

use super::{conditions, incident::IncidentReport, next_steps::meaning};
use crate::output::Report;

impl Report for IncidentReport {
    fn text(&self) -> String {
        let mut lines = vec![
            format!("Incident {}: {}", self.name, self.state),
            String::new(),
            format!("What happened: {}: {}", self.offence, meaning(self.offence)),
            format!("  {}", self.summary),
            format!("  from {} to {}", self.from.0, self.to.0),
        ];
        let provider = self.subject.provider_id.map_or_else(
            || " (bound to no provider)".to_owned(),
            |id| format!(" of provider {id}"),
        );
        lines.push(format!("  node {}{provider}", self.subject.node_name));
        lines.extend(
            self.subject
                .devices
                .iter()
                .map(|gpu| format!("  GPU {gpu}")),
        );
        lines.extend(
            self.job
                .iter()
                .map(|job| format!("  job {}/{} ({})", job.namespace, job.name, job.uid)),
        );
        lines.extend(
            self.usage_records
                .iter()
                .map(|name| format!("  UsageRecord {name}")),
        );
        let reason = self.verdict_reason.map_or_else(String::new, |reason| {
            format!(", by {reason}: {}", meaning(reason))
        });
        lines.push(format!("Verdict: {}{reason}", self.verdict));
        let places = [
            (
                self.carries_evidence,
                ", in the annotation gridstake.dev/evidence",
            ),
            (self.archived, ", in the archive"),
        ];
        let carried: String = places
            .into_iter()
            .filter_map(|(is_there, place)| is_there.then_some(place))
            .collect();
        lines.push(format!("Evidence: {}{carried}", self.evidence_hash));
        lines.push(format!(
            "Sanction: {}: {}",
            self.sanction,
            meaning(self.sanction)
        ));
        lines.extend(self.stake());
        lines.extend(conditions::lines("Kept up by", &self.blocked_by));
        if !self.answer.is_empty() {
            lines.extend([String::new(), "What can be done".to_owned()]);
            lines.extend(self.answer.iter().map(|line| format!("  {line}")));
        }
        lines.join("\n")
    }
}

impl IncidentReport {
    fn stake(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(slash) = self.slash {
            let chain = self
                .chain
                .as_ref()
                .map_or_else(String::new, |chain| format!(" on chain {chain}"));
            lines.push(format!("  asked for: {slash} tokens of stake{chain}"));
        }
        if let Some(held) = self.held {
            lines.push(format!("  held back: {held} tokens of rewards"));
        }
        if let Some(proposal) = &self.proposal {
            lines.push(format!(
                "  proposal {}: {} tokens frozen, in transaction {}",
                proposal.id, proposal.frozen, proposal.inclusion.transaction
            ));
        }
        if let Some(dispute) = &self.dispute {
            lines.push(format!(
                "  disputed with counter-evidence {}, in transaction {}",
                dispute.counter_evidence_hash, dispute.inclusion.transaction
            ));
        }
        if let Some(resolution) = &self.resolution {
            lines.push(format!(
                "  the arbiter upheld {} tokens, in transaction {}",
                resolution.upheld, resolution.inclusion.transaction
            ));
        }
        if let Some(execution) = &self.execution {
            lines.push(format!(
                "  cut: {} tokens of stake and {} of stake on its way out, in transaction {}",
                execution.from_stake, execution.from_unbonding, execution.inclusion.transaction
            ));
        }
        lines
    }
}
