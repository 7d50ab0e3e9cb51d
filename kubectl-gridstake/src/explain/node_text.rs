//! A node, explained to people.

use gridstake_crds::gpu_node::WHOLE_NODE;
use k8s_openapi::jiff::Timestamp;

use super::{
    conditions,
    next_steps::meaning,
    node::{BondReport, DeviceReport, JobOnNode, NodeReport},
};
use crate::output::{Report, columns, count, or_hyphen, percent};

impl Report for NodeReport {
    fn text(&self) -> String {
        let mut lines = vec![
            format!("GpuNode {}: {}", self.name, self.state),
            format!("  mode {}: {}", self.mode, meaning(self.mode)),
            format!(
                "  {} can be allocated, {} free",
                count(self.capacity.unwrap_or(0), "GPU", "GPUs"),
                or_hyphen(self.free)
            ),
        ];
        lines.extend(conditions::lines("Not as it should be", &self.blocked_by));
        if let Some(agent) = &self.agent {
            let words = agent.message.as_deref().unwrap_or(meaning(agent.state));
            lines.push(String::new());
            lines.push(format!("Agent {}: {words}", agent.state));
        }
        lines.extend(devices(&self.devices));
        lines.extend(self.quarantine());
        lines.extend(self.standing());
        lines.extend(jobs("Jobs on it", &self.jobs));
        lines.extend(self.incidents());
        lines.extend(
            self.not_read
                .iter()
                .flat_map(|what| [String::new(), format!("Not read: {what}")]),
        );
        lines.join("\n")
    }
}

fn devices(devices: &[DeviceReport]) -> Vec<String> {
    if devices.is_empty() {
        return Vec::new();
    }
    let rows: Vec<Vec<String>> = devices
        .iter()
        .map(|device| {
            let figures = device.performance.as_ref();
            vec![
                device.index.to_string(),
                device.uuid.clone(),
                device.model.clone(),
                device.memory_mib.to_string(),
                device.health.to_string(),
                or_hyphen(figures.map(|f| percent(u64::from(f.permille)))),
            ]
        })
        .collect();
    let header = ["INDEX", "UUID", "MODEL", "MIB", "HEALTH", "SPEED"];
    let mut lines = vec![
        String::new(),
        "GPUs (speed: of the reference device)".to_owned(),
    ];
    lines.extend(columns("  ", &header, &rows));
    for device in devices {
        for reason in &device.reasons {
            lines.push(format!(
                "  {} {}: {}",
                device.uuid,
                reason.reason,
                meaning(reason.reason)
            ));
            lines.extend(reason.next.map(|next| format!("    next: {next}")));
        }
        for fault in &device.faults {
            let xid = fault
                .xid
                .map_or_else(String::new, |number| format!(" {number}"));
            lines.push(format!(
                "  {} reported {}{xid}, {}, last {}",
                device.uuid,
                fault.kind,
                count(fault.count, "time", "times"),
                unix(fault.last_ms)
            ));
        }
    }
    lines
}

/// A time in Unix milliseconds as people write it.
fn unix(milliseconds: u64) -> String {
    i64::try_from(milliseconds)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| milliseconds.to_string(), |time| format!("{time:.0}"))
}

impl NodeReport {
    fn quarantine(&self) -> Vec<String> {
        if self.quarantine.is_empty() {
            return Vec::new();
        }
        let mut lines = vec![String::new(), "Quarantine".to_owned()];
        for quarantine in &self.quarantine {
            let shown = &quarantine.shown;
            let subject = if shown.subject == WHOLE_NODE {
                "the whole node"
            } else {
                &shown.subject
            };
            lines.push(format!(
                "  {subject} until {}, after {}: {}",
                shown.until.0,
                count(shown.failures, "failure", "failures"),
                meaning(shown.reason)
            ));
            lines.extend(quarantine.next.map(|next| format!("    next: {next}")));
        }
        lines
    }

    /// What it weighs in the draw, and why.
    fn standing(&self) -> Vec<String> {
        let price = self.per_gpu_second.map_or_else(
            || "free of charge".to_owned(),
            |price| format!("{price} tokens a GPU-second"),
        );
        let mut lines = vec![String::new(), format!("Price: {price}")];
        lines.extend(self.bond.iter().flat_map(bond));
        if let Some(weight) = &self.weight {
            lines.push(format!(
                "Weight in the draw: {} = stake {} · reputation {} · 2^20 ÷ price {} (nano-tokens a GPU-second), at most 2^40",
                weight.weight,
                weight.stake,
                weight.reputation,
                weight.price.nano()
            ));
            lines.extend(weight.owner_cut.as_ref().map(|cut| {
                format!(
                    "  of which {} / {} is left: its owner has a greater share of this GPU model than one owner may have",
                    cut.level, cut.sum
                )
            }));
        }
        match self.reputation {
            Some(reputation) => lines.push(format!(
                "Reputation: {reputation} of 1000, that of the GPU with the lowest"
            )),
            None => {
                lines.push("Reputation: not known yet; it counts as 500, a newcomer's".to_owned());
            }
        }
        for terms in self.devices.iter().filter_map(|d| d.reputation.as_ref()) {
            lines.push(format!(
                "  {}: {} = base {} + experience {} ({}) − incidents {} − gaps {}",
                terms.uuid,
                terms.score,
                terms.base,
                terms.experience,
                count(terms.gpu_hours, "GPU-hour", "GPU-hours"),
                terms.incidents,
                terms.gaps
            ));
        }
        if let Some(stability) = &self.stability {
            lines.push(format!(
                "Stability: {} = uptime {} · completion {}",
                percent(u64::from(stability.permille)),
                percent(u64::from(stability.uptime_permille)),
                percent(u64::from(stability.completion_permille))
            ));
        }
        lines
    }

    fn incidents(&self) -> Vec<String> {
        if self.incidents.is_empty() {
            return Vec::new();
        }
        let rows: Vec<Vec<String>> = self
            .incidents
            .iter()
            .map(|incident| {
                vec![
                    incident.name.clone(),
                    incident.offence.to_string(),
                    incident.sanction.to_string(),
                    or_hyphen(incident.state),
                    incident.to.0.to_string(),
                ]
            })
            .collect();
        let mut lines = vec![
            String::new(),
            "Incidents (kubectl gridstake explain incident NAME says more)".to_owned(),
        ];
        let header = ["NAME", "OFFENCE", "SANCTION", "STATE", "WHEN"];
        lines.extend(columns("  ", &header, &rows));
        lines
    }
}

fn bond(bond: &BondReport) -> Vec<String> {
    let by = match (&bond.binding, bond.provider_id) {
        (Some(binding), Some(provider)) => format!(
            "provider {provider} on chain {}, by StakeBinding {binding}",
            or_hyphen(bond.chain.as_ref())
        ),
        (None, Some(provider)) => {
            format!(
                "provider {provider} on chain {}",
                or_hyphen(bond.chain.as_ref())
            )
        }
        (_, None) => "nobody".to_owned(),
    };
    let amounts = bond.bonded.map_or_else(String::new, |own| {
        let delegated = bond.delegated.unwrap_or_default();
        let frozen = bond.frozen.map_or_else(String::new, |frozen| {
            format!(", of which {frozen} is frozen")
        });
        format!(": own stake {own}, delegated {delegated}{frozen}")
    });
    let mut lines = vec![format!("Bond: {by}{amounts}")];
    for block in &bond.blocked_by {
        lines.push(format!(
            "  {}={} {}: {}",
            block.condition, block.status, block.reason, block.message
        ));
        lines.push(format!("    next: {}", block.next));
    }
    lines
}

/// The lines about jobs on a node, the first one their heading.
#[must_use]
pub fn jobs(heading: &str, jobs: &[JobOnNode]) -> Vec<String> {
    if jobs.is_empty() {
        return Vec::new();
    }
    let rows: Vec<Vec<String>> = jobs
        .iter()
        .map(|job| {
            vec![
                format!("{}/{}", job.namespace, job.name),
                job.attempt.to_string(),
                job.members.to_string(),
                job.gpus.to_string(),
                job.since.to_string(),
            ]
        })
        .collect();
    let mut lines = vec![String::new(), heading.to_owned()];
    let header = ["JOB", "ATTEMPT", "MEMBERS", "GPUS", "SINCE"];
    lines.extend(columns("  ", &header, &rows));
    lines
}
