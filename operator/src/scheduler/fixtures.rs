//! Nodes and requests for the scheduler's tests.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::B256;
use gridstake_crds::TokenAmount;
use k8s_openapi::api::core::v1::Taint;

use super::Seed;
use super::node_constraints::NodeConstraints;
use super::node_facts::{DeviceFacts, NodeFacts};
use super::request::{ComputeCapability, GpuRequest, JobUid, Request};
use super::resources::Resources;
use super::snapshot::{Snapshot, SnapshotInputs};
use super::weight::STAKE_WITHOUT_CHAIN;

/// An offered node with 64 cores, 512 GiB and this many H100.
pub fn node(name: &str, gpus: u64) -> NodeFacts {
    let device = DeviceFacts {
        model: "NVIDIA H100 80GB HBM3".to_owned(),
        memory_mib: 81_559,
        compute_capability: Some(ComputeCapability { major: 9, minor: 0 }),
        architecture: Some("Hopper".to_owned()),
        usable: true,
    };
    NodeFacts {
        name: name.to_owned(),
        labels: BTreeMap::new(),
        taints: Vec::new(),
        cordoned: false,
        namespaces: None,
        allocatable: Resources {
            cpu_milli: 64_000,
            memory_bytes: 512 << 30,
            ephemeral_storage_bytes: 1 << 40,
            pods: 110,
            gpus,
            other: BTreeMap::new(),
        },
        devices: vec![device; usize::try_from(gpus).unwrap()],
        offer: Ok(()),
        closes_in: None,
        price: TokenAmount::from_nano(720_000),
        region: Some("eu-central".to_owned()),
        jurisdiction: Some("DE".to_owned()),
        reputation: 1000,
        bonded: true,
        provider: None,
        chain: Some("anvil".to_owned()),
        owner: None,
        stake: STAKE_WITHOUT_CHAIN,
    }
}

/// A request for members of this many GPUs, one core and 1 GiB each.
pub fn request(gpus: u32, members: u32) -> Request {
    Request {
        job_uid: JobUid([7; 16]),
        attempt: 1,
        gpu: GpuRequest {
            count: gpus,
            ..GpuRequest::default()
        },
        members,
        resources: Resources {
            cpu_milli: 1000,
            memory_bytes: 1 << 30,
            ..Resources::default()
        },
        constraints: NodeConstraints::default(),
        max_price: None,
        run_limit: None,
        regions: Vec::new(),
        jurisdictions: Vec::new(),
        min_reputation: 0,
        require_bond: false,
        topology: None,
        namespace_labels: BTreeMap::new(),
        chain: None,
        avoid: BTreeSet::new(),
        same_owner: BTreeSet::new(),
        kept: super::holds::Spare::default(),
    }
}

/// A hard taint with this key.
pub fn taint(key: &str) -> Taint {
    Taint {
        key: key.to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    }
}

/// A seed.
pub fn seed() -> Seed {
    Seed {
        block_hash: B256::repeat_byte(0xAB),
        previous_decision: B256::repeat_byte(0xCD),
    }
}

/// Empty nodes.
pub fn snapshot(nodes: Vec<NodeFacts>) -> Snapshot {
    Snapshot::assemble(SnapshotInputs {
        nodes,
        ..SnapshotInputs::default()
    })
}

/// One empty node.
pub fn one_node(facts: NodeFacts) -> Snapshot {
    snapshot(vec![facts])
}
