//! Why a job is not placed, in words for its tenant.
//!
//! Messages hold no times and nothing that changes while the tenant looks on, and their order is fixed, so that a
//! status is written only when the answer changes.

use std::collections::BTreeSet;
use std::fmt;

use super::RejectionCount;
use super::filter::{Property, Rejection, required_topology_key};
use super::near_miss::near_miss;
use super::node_constraints::{is_lasting, lasting_taints};
use super::node_facts::NodeFacts;
use super::request::Request;
use super::resources::{GPU_RESOURCE, Resources};
use super::snapshot::Snapshot;

/// Values that a message lists before it says how many more there are.
const LISTED: usize = 8;

const NO_NODES: &str = "no GPU node is known";

/// No node could take the job, free or not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{nearest_miss}")]
pub struct Unsatisfiable {
    /// What the nodes that come closest lack.
    pub nearest_miss: String,
}

/// Whether the fleet could take all members if every node were empty, well, trusted and offered.
///
/// Looked at are the properties of nodes (models, place, labels, price), their size, and taints that an owner has put
/// there; not looked at are use, health, offer, cordons, bonds, reputation and suspicion, which pass.
///
/// # Errors
/// [`Unsatisfiable`] names the first requirement, in the order of the filters, that leaves no node over, and what the
/// nodes that met all earlier ones have.
pub fn satisfiable(snapshot: &Snapshot, request: &Request) -> Result<(), Unsatisfiable> {
    let all: Vec<&NodeFacts> = snapshot
        .nodes()
        .iter()
        .map(super::snapshot::NodeCapacity::facts)
        .collect();
    if all.is_empty() {
        return miss(NO_NODES.to_owned());
    }
    let mut nodes = all;
    narrow(
        &mut nodes,
        |node| !node.devices.is_empty(),
        |_| "no node shows a GPU".to_owned(),
    )?;
    for property in Property::ALL {
        narrow(
            &mut nodes,
            |node| property.suits(node, request),
            |nodes| missing_property(property, nodes, request),
        )?;
    }
    narrow(
        &mut nodes,
        |node| !has_lasting_untolerated_taint(node, request),
        |nodes| {
            let taints: BTreeSet<String> = nodes
                .iter()
                .flat_map(|node| lasting_taints(&node.taints))
                .collect();
            format!(
                "every matching node has a taint that the template does not tolerate; taints: {}",
                list(taints)
            )
        },
    )?;

    let member = request.per_member();
    let named = [GPU_RESOURCE, "cpu", "memory", "ephemeral-storage", "pods"];
    for name in named
        .into_iter()
        .chain(member.other.keys().map(String::as_str))
    {
        let asked = member.get(name);
        let has = |node: &NodeFacts| node.capacity_at_best().get(name);
        narrow(
            &mut nodes,
            |node| has(node) >= asked,
            |nodes| {
                let most = nodes.iter().map(|node| has(node)).max().unwrap_or(0);
                format!(
                    "the largest matching node has {}, {} asked for",
                    amount(name, most, Rounding::Down),
                    amount(name, asked, Rounding::Up)
                        .split(' ')
                        .next()
                        .unwrap_or_default()
                )
            },
        )?;
    }
    gang_fits(&nodes, request, &member)
}

/// What a job that could be placed waits for: "0/2 nodes fit: 1 InsufficientGpus (needs 4), 1 NotOffered (Drained)".
#[must_use]
pub fn waiting(rejections: &[RejectionCount], request: &Request) -> String {
    if rejections.is_empty() {
        return NO_NODES.to_owned();
    }
    let nodes: u64 = rejections.iter().map(|count| u64::from(count.nodes)).sum();
    let mut sorted: Vec<_> = rejections.iter().collect();
    sorted.sort_by_key(|count| (count.rejection.reason(), count.rejection.particular()));
    let counts: Vec<String> = sorted
        .into_iter()
        .map(|count| {
            format!(
                "{} {}",
                count.nodes,
                Explained {
                    rejection: &count.rejection,
                    request
                }
            )
        })
        .collect();
    format!("0/{nodes} nodes fit: {}", counts.join(", "))
}

/// All that is told to a job that could be placed and waits: [`waiting`], what comes closest, and what would let it fit
/// now. `kept_nodes` is how many nodes are kept for it, if it is the first one that waits.
#[must_use]
pub fn waiting_in_full(
    snapshot: &Snapshot,
    request: &Request,
    rejections: &[RejectionCount],
    kept_nodes: Option<usize>,
) -> String {
    let mut text = waiting(rejections, request);
    let found = near_miss(snapshot, request);
    if let Some(nearest) = found.nearest {
        text = format!("{text}; nearest: {nearest}");
    }
    if !found.fits_now_with.is_empty() {
        text = format!(
            "{text}; fits now with {}",
            found.fits_now_with.join(", or ")
        );
    }
    match kept_nodes {
        None => text,
        Some(1) => format!("{text}; first in the queue: 1 node is kept for it"),
        Some(nodes) => format!("{text}; first in the queue: {nodes} nodes are kept for it"),
    }
}

/// A rejection with what the job needs.
struct Explained<'a> {
    rejection: &'a Rejection,
    request: &'a Request,
}

impl fmt::Display for Explained<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rejection, request } = self;
        match rejection {
            Rejection::OtherChain => write!(
                f,
                "{rejection} (the namespace's payer is on {})",
                request.chain.as_deref().unwrap_or_default()
            ),
            Rejection::InsufficientGpus => write!(f, "{rejection} (needs {})", request.gpu.count),
            Rejection::InsufficientCpu => {
                write!(
                    f,
                    "{rejection} (needs {})",
                    amount("cpu", request.resources.cpu_milli, Rounding::Up)
                )
            }
            Rejection::InsufficientMemory => {
                write!(
                    f,
                    "{rejection} (needs {})",
                    amount("memory", request.resources.memory_bytes, Rounding::Up)
                )
            }
            Rejection::GangDoesNotFit => match required_topology_key(request) {
                Some(key) => write!(
                    f,
                    "{rejection} (needs room for {} members with one value of label {key})",
                    request.member_count()
                ),
                None => write!(
                    f,
                    "{rejection} (needs room for {} members)",
                    request.member_count()
                ),
            },
            _ => write!(f, "{rejection}"),
        }
    }
}

fn miss<T>(nearest_miss: String) -> Result<T, Unsatisfiable> {
    Err(Unsatisfiable { nearest_miss })
}

/// Keeps the nodes that pass; if none does, says why in view of those that came this far.
fn narrow<'a>(
    nodes: &mut Vec<&'a NodeFacts>,
    passes: impl Fn(&NodeFacts) -> bool,
    why_none: impl FnOnce(&[&'a NodeFacts]) -> String,
) -> Result<(), Unsatisfiable> {
    let left: Vec<&NodeFacts> = nodes.iter().copied().filter(|node| passes(node)).collect();
    if left.is_empty() {
        return miss(why_none(nodes));
    }
    *nodes = left;
    Ok(())
}

fn missing_property(property: Property, nodes: &[&NodeFacts], request: &Request) -> String {
    let devices = || nodes.iter().flat_map(|node| &node.devices);
    let declared = |pick: fn(&NodeFacts) -> Option<&String>| {
        let values: BTreeSet<String> = nodes
            .iter()
            .filter_map(|node| pick(node))
            .cloned()
            .collect();
        if values.is_empty() {
            "none declared".to_owned()
        } else {
            list(values)
        }
    };
    match property {
        Property::Model => format!(
            "no node offers GPU model {}; on offer: {}",
            request.gpu.models.join(" or "),
            list(devices().map(|device| device.model.clone()).collect())
        ),
        Property::GpuMemory => format!(
            "the largest matching GPU has {} MiB of memory, {} asked for",
            devices().map(|device| device.memory_mib).max().unwrap_or(0),
            request.gpu.min_memory_mib.unwrap_or(0)
        ),
        Property::ComputeCapability => format!(
            "the highest compute capability of matching GPUs is {}, {} asked for",
            shown(
                devices()
                    .filter_map(|device| device.compute_capability)
                    .max()
            ),
            shown(request.gpu.min_compute_capability)
        ),
        Property::Region => format!(
            "no matching node is in region {}; regions on offer: {}",
            request.regions.join(" or "),
            declared(|node| node.region.as_ref())
        ),
        Property::Jurisdiction => format!(
            "no matching node is in jurisdiction {}; jurisdictions on offer: {}",
            request.jurisdictions.join(" or "),
            declared(|node| node.jurisdiction.as_ref())
        ),
        Property::Namespace => {
            "no matching node serves this namespace: see spec.namespaceSelector of the GpuNodes"
                .to_owned()
        }
        Property::Selector => {
            "no matching node is accepted by the template's nodeSelector and node affinity"
                .to_owned()
        }
        Property::TopologyLabel => format!(
            "no matching node has the label {}, which spec.topology requires",
            required_topology_key(request).unwrap_or_default()
        ),
        Property::Chain => format!(
            "the namespace's payer is on the chain {}, and no matching node's provider is; chains on offer: {}",
            request.chain.as_deref().unwrap_or_default(),
            declared(|node| node.chain.as_ref())
        ),
        Property::Price => format!(
            "the cheapest matching node costs {} per GPU-second, at most {} offered",
            shown(nodes.iter().map(|node| node.price).min()),
            shown(request.max_price)
        ),
    }
}

fn has_lasting_untolerated_taint(node: &NodeFacts, request: &Request) -> bool {
    node.taints
        .iter()
        .filter(|taint| is_lasting(taint))
        .any(|taint| {
            request
                .constraints
                .untolerated(std::slice::from_ref(taint))
                .is_some()
        })
}

fn gang_fits(
    nodes: &[&NodeFacts],
    request: &Request,
    member: &Resources,
) -> Result<(), Unsatisfiable> {
    let members = u64::from(request.member_count());
    let room = |within: &mut dyn Iterator<Item = &&NodeFacts>| {
        within
            .map(|node| node.capacity_at_best().holds(member))
            .fold(0, u64::saturating_add)
    };
    let Some(key) = required_topology_key(request) else {
        let most = room(&mut nodes.iter());
        return if most >= members {
            Ok(())
        } else {
            miss(format!(
                "matching nodes have room for {most} of {members} members, even when empty"
            ))
        };
    };
    let values: BTreeSet<&String> = nodes
        .iter()
        .filter_map(|node| node.labels.get(key))
        .collect();
    let most = values
        .into_iter()
        .map(|value| {
            room(
                &mut nodes
                    .iter()
                    .filter(|node| node.labels.get(key) == Some(value)),
            )
        })
        .max()
        .unwrap_or(0);
    if most >= members {
        Ok(())
    } else {
        miss(format!(
            "matching nodes with one value of label {key} have room for {most} of {members} members, even when empty"
        ))
    }
}

#[derive(Clone, Copy)]
pub(super) enum Rounding {
    Up,
    Down,
}

pub(super) fn amount(resource: &str, amount: u64, rounding: Rounding) -> String {
    let mebibytes = match rounding {
        Rounding::Up => amount.div_ceil(1 << 20),
        Rounding::Down => amount >> 20,
    };
    match resource {
        GPU_RESOURCE if amount == 1 => "1 GPU".to_owned(),
        GPU_RESOURCE => format!("{amount} GPUs"),
        "cpu" => format!("{amount}m CPU"),
        "memory" => format!("{mebibytes}Mi memory"),
        "ephemeral-storage" => format!("{mebibytes}Mi ephemeral-storage"),
        _ => format!("{amount} {resource}"),
    }
}

fn shown<T: fmt::Display>(value: Option<T>) -> String {
    value.map_or_else(|| "unknown".to_owned(), |value| value.to_string())
}

pub(super) fn list(values: BTreeSet<String>) -> String {
    let more = values.len().saturating_sub(LISTED);
    let mut text = values
        .into_iter()
        .take(LISTED)
        .collect::<Vec<_>>()
        .join(", ");
    if more > 0 {
        text = format!("{text} and {more} more");
    }
    text
}

#[cfg(test)]
mod tests;
