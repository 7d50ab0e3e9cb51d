//! What a job that waits was told, taken apart: the message of `Scheduled` (docs/queue.md). Pure.

use serde::Serialize;

/// What the message of `Scheduled` says.
#[derive(Serialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// Nodes that were looked at; none of them fits now.
    pub nodes: u64,
    /// How many of them each reason rules out.
    pub counts: Vec<Count>,
    /// What comes nearest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nearest: Option<String>,
    /// What would let the job fit now; each alone is enough.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fits_now_with: Vec<String>,
    /// For the first one that waits: how many nodes are kept for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept_nodes: Option<u64>,
}

/// How many nodes a reason rules out.
#[derive(Serialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Count {
    /// How many nodes.
    pub nodes: u64,
    /// The reason.
    pub reason: String,
    /// Its particular, such as what the job needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub particular: Option<String>,
    /// What the tenant can do about it.
    pub next: &'static str,
}

/// Takes the message apart; `None` if it is another one.
#[must_use]
pub fn read(message: &str) -> Option<Waiting> {
    let (nodes, rest) = message.strip_prefix("0/")?.split_once(" nodes fit: ")?;
    let (rest, kept_nodes) = match rest.rsplit_once("; first in the queue: ") {
        Some((rest, kept)) => (rest, Some(number(kept.split(' ').next()?)?)),
        None => (rest, None),
    };
    let (rest, fits) = cut(rest, "; fits now with ");
    let (counts, nearest) = cut(rest, "; nearest: ");
    Some(Waiting {
        nodes: number(nodes)?,
        counts: listed(counts)
            .into_iter()
            .map(counted)
            .collect::<Option<_>>()?,
        nearest: nearest.map(str::to_owned),
        fits_now_with: fits
            .map(|all| all.split(", or ").map(str::to_owned).collect())
            .unwrap_or_default(),
        kept_nodes,
    })
}

fn cut<'a>(text: &'a str, at: &str) -> (&'a str, Option<&'a str>) {
    text.split_once(at)
        .map_or((text, None), |(before, after)| (before, Some(after)))
}

fn number(text: &str) -> Option<u64> {
    text.parse().ok()
}

/// The parts between commas that stand in no parentheses.
fn listed(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut from) = (Vec::new(), 0_u32, 0);
    for (at, letter) in text.char_indices() {
        match letter {
            '(' => depth = depth.saturating_add(1),
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(text.get(from..at).unwrap_or_default().trim());
                from = at.saturating_add(1);
            }
            _ => {}
        }
    }
    parts.push(text.get(from..).unwrap_or_default().trim());
    parts
}

fn counted(part: &str) -> Option<Count> {
    let (nodes, rest) = part.split_once(' ')?;
    let (reason, particular) = match rest.split_once(" (") {
        Some((reason, particular)) => (reason, Some(particular.strip_suffix(')')?.to_owned())),
        None => (rest, None),
    };
    Some(Count {
        nodes: number(nodes)?,
        reason: reason.to_owned(),
        particular,
        next: what_would_help(reason),
    })
}

/// What a tenant can do about a reason by which the scheduler rules a node out (docs/scheduling.md, Filters).
#[must_use]
pub fn what_would_help(reason: &str) -> &'static str {
    match reason {
        "ModelMismatch" => "allow for other models in spec.gpu.models",
        "GpuMemoryTooSmall" => "ask for less memory in spec.gpu.minMemoryMiB",
        "ComputeCapabilityTooLow" => "ask for less in spec.gpu.minComputeCapability",
        "RegionMismatch" => "allow for other regions in spec.policy.regions",
        "JurisdictionMismatch" => "allow for other jurisdictions in spec.policy.jurisdictions",
        "NamespaceExcluded" => "give the namespace the labels that the provider asks for",
        "SelectorMismatch" => "widen the template's nodeSelector or node affinity",
        "TopologyLabelMissing" => "set spec.topology.policy to Preferred",
        "OtherChain" => "have a payer on that chain consent for the namespace",
        "PriceTooHigh" => "raise spec.pricing.maxPerGpuSecond",
        "NotOffered" => "wait until the provider offers it",
        "ClosesTooSoon" => "give the job a shorter timeouts.run",
        "Tainted" => "tolerate the taint in the template, or wait until it is gone",
        "Unbonded" => "wait for its stake, or set spec.policy.requireBond to false",
        "ReputationTooLow" => "ask for less in spec.policy.minReputation",
        "NoWeight" => "wait: its stake or its reputation is 0",
        "Suspect" => "wait: it failed this job, and counts again after a while",
        "SameOwner" => "wait for a node of another owner",
        "InsufficientGpus" => "wait until jobs end, or ask for fewer GPUs a member",
        "InsufficientCpu" => "wait until pods end, or ask for less cpu",
        "InsufficientMemory" => "wait until pods end, or ask for less memory",
        "InsufficientEphemeralStorage" => "wait until pods end, or ask for less ephemeral storage",
        "InsufficientPods" => "wait until pods end: the node is full of them",
        "InsufficientResource" => "wait until pods end, or ask for less of that resource",
        "Held" => "wait, or give the job a timeouts.run: what ends in time may use the room",
        "GangDoesNotFit" => "wait until jobs end, ask for fewer members, or for less closeness",
        _ => "see docs/scheduling.md",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SCHEDULING: &str = include_str!("../../../docs/scheduling.md");
    const QUEUE: &str = include_str!("../../../docs/queue.md");

    fn count(nodes: u64, reason: &str, particular: Option<&str>) -> Count {
        Count {
            nodes,
            reason: reason.to_owned(),
            particular: particular.map(str::to_owned),
            next: what_would_help(reason),
        }
    }

    #[test]
    fn the_message_of_the_documentation_is_taken_apart() {
        let message = QUEUE
            .lines()
            .find_map(|line| Some(line.trim()).filter(|line| line.starts_with("0/3 nodes fit")))
            .unwrap();
        assert_eq!(
            read(message).unwrap(),
            Waiting {
                nodes: 3,
                counts: vec![
                    count(2, "InsufficientGpus", Some("needs 4")),
                    count(1, "PriceTooHigh", None),
                ],
                nearest: Some("a node with 3 of 4 GPUs free".to_owned()),
                fits_now_with: vec!["pricing.maxPerGpuSecond 0.002".to_owned()],
                kept_nodes: None,
            }
        );
    }

    #[test]
    fn what_is_no_such_message_is_not_taken_apart() {
        for message in [
            "",
            "no GPU node is known",
            "waits for Admitted",
            "0/x nodes fit: 1 Held",
            "0/3 nodes fit: many Held",
            "0/3 nodes fit: 1 Held (open",
            "0/3 nodes fit: 1 Held; first in the queue: some nodes are kept for it",
        ] {
            assert_eq!(read(message), None, "{message}");
        }
    }

    #[test]
    fn every_reason_that_rules_a_node_out_has_something_that_would_help() {
        let other = what_would_help("");
        let mut reasons = 0;
        for line in SCHEDULING.lines().filter(|line| line.starts_with("| ")) {
            let is_filter = line
                .trim_start_matches("| ")
                .starts_with(|c: char| c.is_ascii_digit());
            let cell = line.split('|').nth(2).filter(|_| is_filter);
            for name in cell.into_iter().flat_map(|cell| cell.split('`')) {
                let name = name.replace('…', "Insufficient");
                if name.starts_with(|c: char| c.is_ascii_uppercase())
                    && name.chars().all(char::is_alphanumeric)
                {
                    assert_ne!(what_would_help(&name), other, "{name}");
                    reasons += 1;
                }
            }
        }
        assert!(reasons >= 25, "{reasons}");
        assert_ne!(what_would_help("Held"), other);
    }

    proptest! {
        #[test]
        fn what_is_written_is_taken_apart(
            nodes in any::<u64>(),
            counts in prop::collection::vec((any::<u64>(), "[A-Z][a-z]{1,9}", prop::option::of("[a-z0-9, ]{1,9}")), 1..6),
            nearest in prop::option::of("[a-z0-9 ]{1,20}"),
            fits in prop::collection::vec("[a-z.]{1,9} [a-z0-9]{1,9}", 0..3),
            kept in prop::option::of(any::<u64>()),
        ) {
            let part = |(nodes, reason, particular): &(u64, String, Option<String>)| match particular {
                Some(particular) => format!("{nodes} {reason} ({particular})"),
                None => format!("{nodes} {reason}"),
            };
            let parts: Vec<String> = counts.iter().map(part).collect();
            let mut text = format!("0/{nodes} nodes fit: {}", parts.join(", "));
            if let Some(nearest) = &nearest {
                text = format!("{text}; nearest: {nearest}");
            }
            if !fits.is_empty() {
                text = format!("{text}; fits now with {}", fits.join(", or "));
            }
            if let Some(kept) = kept {
                text = format!("{text}; first in the queue: {kept} nodes are kept for it");
            }
            let expected = Waiting {
                nodes,
                counts: counts.iter().map(|(nodes, reason, particular)| count(*nodes, reason, particular.as_deref())).collect(),
                nearest,
                fits_now_with: fits,
                kept_nodes: kept,
            };
            prop_assert_eq!(read(&text), Some(expected));
        }

        #[test]
        fn no_message_makes_it_fail_otherwise_than_by_saying_so(text in ".*") {
            let _ = read(&text);
            let _ = read(&format!("0/3 nodes fit: {text}"));
        }
    }
}
