//! One case per filter, and their order.

use std::collections::BTreeMap;

use kube::core::{Expression, Selector};
use serde_json::json;

use super::*;
use crate::scheduler::fixtures::{node, one_node, request, taint};

fn rejected(change: impl FnOnce(&mut NodeFacts, &mut Request)) -> Option<Rejection> {
    let (mut facts, mut request) = (node("n", 8), request(1, 1));
    change(&mut facts, &mut request);
    let snapshot = one_node(facts);
    first_rejection(&snapshot.nodes()[0], &request, &request.per_member())
}

#[test]
fn a_node_that_has_everything_is_accepted() {
    assert_eq!(rejected(|_, _| {}), None);
}

#[test]
fn every_filter_gives_its_own_reason() {
    let text = str::to_owned;
    assert_eq!(
        rejected(|_, r| r.gpu.models = vec![text("A100")]),
        Some(Rejection::ModelMismatch)
    );
    assert_eq!(
        rejected(|_, r| r.gpu.min_memory_mib = Some(100_000)),
        Some(Rejection::GpuMemoryTooSmall)
    );
    assert_eq!(
        rejected(|_, r| r.gpu.min_compute_capability = "10.0".parse().ok()),
        Some(Rejection::ComputeCapabilityTooLow)
    );
    assert_eq!(
        rejected(|_, r| r.regions = vec![text("us")]),
        Some(Rejection::RegionMismatch)
    );
    assert_eq!(
        rejected(|_, r| r.jurisdictions = vec![text("US")]),
        Some(Rejection::JurisdictionMismatch)
    );
    assert_eq!(
        rejected(|n, r| (n.chain, r.chain) = (Some(text("base")), Some(text("anvil")))),
        Some(Rejection::OtherChain)
    );
    assert_eq!(
        rejected(|n, _| n.namespaces = Some(Selector::from(Expression::Exists(text("gpu"))))),
        Some(Rejection::NamespaceExcluded)
    );
    assert_eq!(
        rejected(|_, r| r.constraints.node_selector = BTreeMap::from([(text("disk"), text("ssd"))])),
        Some(Rejection::SelectorMismatch)
    );
    assert_eq!(
        rejected(|_, r| r.topology =
            serde_json::from_value(json!({"key": "rack", "policy": "Required"})).ok()),
        Some(Rejection::TopologyLabelMissing)
    );
    assert_eq!(
        rejected(|_, r| r.max_price = Some(gridstake_crds::TokenAmount::from_nano(1))),
        Some(Rejection::PriceTooHigh)
    );
    assert_eq!(
        rejected(|n, _| n.offer = Err(OfferReason::Drained)),
        Some(Rejection::NotOffered(OfferReason::Drained))
    );
    assert_eq!(
        rejected(|n, _| n.taints = vec![taint("a")]),
        Some(Rejection::Tainted)
    );
    assert_eq!(rejected(|n, _| n.cordoned = true), Some(Rejection::Tainted));
    assert_eq!(
        rejected(|n, r| (n.bonded, r.require_bond) = (false, true)),
        Some(Rejection::Unbonded)
    );
    assert_eq!(
        rejected(|n, r| (n.reputation, r.min_reputation) = (899, 900)),
        Some(Rejection::ReputationTooLow)
    );
    assert_eq!(rejected(|n, _| n.stake = 0), Some(Rejection::NoWeight));
    assert_eq!(
        rejected(|_, r| r.avoid = [text("n")].into()),
        Some(Rejection::Suspect)
    );
    assert_eq!(
        rejected(|_, r| r.same_owner = [text("n")].into()),
        Some(Rejection::SameOwner)
    );
    assert_eq!(
        rejected(|_, r| r.gpu.count = 9),
        Some(Rejection::InsufficientGpus)
    );
    assert_eq!(
        rejected(|_, r| r.resources.cpu_milli = 1 << 40),
        Some(Rejection::InsufficientCpu)
    );
    assert_eq!(
        rejected(|_, r| r.resources.memory_bytes = 1 << 60),
        Some(Rejection::InsufficientMemory)
    );
    assert_eq!(
        rejected(|_, r| r.resources.ephemeral_storage_bytes = 1 << 60),
        Some(Rejection::InsufficientEphemeralStorage)
    );
    assert_eq!(
        rejected(|n, _| n.allocatable.pods = 0),
        Some(Rejection::InsufficientPods)
    );
    assert_eq!(
        rejected(|_, r| r.resources.set("example.com/nic", 1)),
        Some(Rejection::InsufficientResource(text("example.com/nic")))
    );
}

#[test]
fn a_job_that_could_outlast_the_nodes_window_is_not_placed_there() {
    let closes = |hours: i64, limit: Option<u64>| {
        rejected(|n, r| {
            n.closes_in = Some(k8s_openapi::jiff::SignedDuration::from_hours(hours));
            r.run_limit = limit.map(|hours| std::time::Duration::from_secs(hours * 3600));
        })
    };
    assert_eq!(closes(2, Some(3)), Some(Rejection::ClosesTooSoon));
    assert_eq!(closes(2, Some(2)), None);
    assert_eq!(
        closes(2, None),
        None,
        "a job without a limit is queued again then"
    );
}

#[test]
fn the_first_filter_that_fails_is_the_reason() {
    assert_eq!(
        rejected(|n, r| {
            n.offer = Err(OfferReason::AgentSilent);
            r.gpu.count = 9;
            r.avoid = ["n".to_owned()].into();
        }),
        Some(Rejection::NotOffered(OfferReason::AgentSilent))
    );
}

#[test]
fn a_node_serves_payers_of_its_own_chain() {
    let on = |node: Option<&str>, payer: Option<&str>| {
        rejected(|n, r| {
            n.chain = node.map(str::to_owned);
            r.chain = payer.map(str::to_owned);
        })
    };
    assert_eq!(on(Some("base"), Some("base")), None);
    assert_eq!(on(Some("base"), Some("anvil")), Some(Rejection::OtherChain));
    // Where no chain is configured, nobody pays on any; a bond may be left from before.
    assert_eq!(on(Some("base"), None), None);
    // A node that is bound to no chain is withheld for that.
    assert_eq!(on(None, Some("anvil")), None);
    assert_eq!(
        rejected(|n, r| {
            (n.chain, r.chain) = (None, Some("anvil".to_owned()));
            n.offer = Err(OfferReason::Unbonded);
        }),
        Some(Rejection::NotOffered(OfferReason::Unbonded))
    );
}

#[test]
fn a_lost_gpu_is_not_offered() {
    assert_eq!(rejected(|_, r| r.gpu.count = 8), None);
    assert_eq!(
        rejected(|n, r| {
            n.devices[3].usable = false;
            r.gpu.count = 8;
        }),
        Some(Rejection::InsufficientGpus)
    );
}

#[test]
fn a_node_with_mixed_gpus_meets_only_what_all_of_them_meet() {
    let mixed = |n: &mut NodeFacts| n.devices[7].model = "NVIDIA A100-SXM4-80GB".to_owned();
    assert_eq!(
        rejected(|n, r| {
            mixed(n);
            r.gpu.models = vec!["H100".to_owned()];
        }),
        Some(Rejection::ModelMismatch)
    );
    assert_eq!(
        rejected(|n, r| {
            mixed(n);
            r.gpu.models = vec!["H100".to_owned(), "A100".to_owned()];
        }),
        None
    );
}

#[test]
fn a_node_that_shows_no_gpus_is_rejected_for_why_it_shows_none() {
    assert_eq!(
        rejected(|n, r| {
            n.devices.clear();
            n.offer = Err(OfferReason::NvmlUnavailable);
            r.gpu.models = vec!["H100".to_owned()];
        }),
        Some(Rejection::NotOffered(OfferReason::NvmlUnavailable))
    );
    assert_eq!(
        rejected(|n, _| n.devices.clear()),
        Some(Rejection::InsufficientGpus)
    );
}

#[test]
fn regions_and_jurisdictions_are_compared_regardless_of_case() {
    assert_eq!(
        rejected(|_, r| r.regions = vec!["EU-Central".to_owned()]),
        None
    );
    assert_eq!(
        rejected(|n, r| {
            n.region = None;
            r.regions = vec!["eu-central".to_owned()];
        }),
        Some(Rejection::RegionMismatch)
    );
}
