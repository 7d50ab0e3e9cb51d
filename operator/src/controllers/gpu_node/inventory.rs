//! The GPUs of a node as they are stated on chain. Pure.
//!
//! The operator cannot choose which GPU of a node the kubelet gives to a pod. So while a node shows one that has not been
//! stated, nothing is placed on it; one that has gone keeps nobody from the others.

use gridstake_crds::{
    GpuNode,
    gpu_node::{AgentState, Device, GpuNodeStatus},
};
use gridstake_ledger::statement::{self, Gpu, Statement};
use kube::ResourceExt as _;

use super::guarantee::Guarantee;
use crate::settlement::statements::Declared;

/// What stands on chain about a node's GPUs, and what should.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The hash of what was stated last.
    pub hash: Option<String>,
    /// The UUIDs that it covers.
    pub devices: Vec<String>,
    /// What should stand there.
    pub declare: Option<Declared>,
}

/// What is to be stated about the GPUs of `gpu_node`, for which `provider` answers; `None` while they are not known.
#[must_use]
pub fn statement(gpu_node: &GpuNode, provider: u32) -> Option<Statement> {
    let status = gpu_node.status.as_ref()?;
    let sees = status.agent.as_ref()?.state == AgentState::Ok;
    if !sees || status.devices.is_empty() {
        return None;
    }
    let gpus = status.devices.iter().map(gpu).collect();
    Some(statement::inventory(&gpu_node.name_any(), provider, gpus))
}

fn gpu(device: &Device) -> Gpu {
    Gpu {
        uuid: device.uuid.clone(),
        model: device.model.clone(),
        memoryMiB: device.memory_mib,
        computeCapability: device.compute_capability.clone(),
        pciBusId: device.pci_bus_id.clone().unwrap_or_default(),
        mig: device.mig.as_ref().is_some_and(|mig| mig.enabled),
    }
}

/// What was stated about `gpu_node` when `provider` on `chain` answered for it, as its status says. What stands on another
/// chain says nothing here; a status of a former version names no chain: there was one.
fn posted(gpu_node: &GpuNode, provider: u32, chain: Option<&str>) -> Inventory {
    let is_here = |status: &GpuNodeStatus| {
        let stated = status.chain.as_deref();
        status.provider_id == Some(provider) && (stated.is_none() || stated == chain)
    };
    let status = gpu_node.status.as_ref();
    status
        .filter(|status| is_here(status))
        .map(|status| Inventory {
            hash: status.inventory_hash.clone(),
            devices: status.posted_devices.clone(),
            declare: None,
        })
        .unwrap_or_default()
}

/// Whether every GPU that the node shows has been stated on `chain`.
#[must_use]
pub fn is_posted(gpu_node: &GpuNode, provider: u32, chain: &str) -> bool {
    let posted = posted(gpu_node, provider, Some(chain));
    let devices = gpu_node.status.iter().flat_map(|status| &status.devices);
    devices
        .map(|device| &device.uuid)
        .all(|uuid| posted.devices.contains(uuid))
}

/// What stands on chain and what should. `is_stated`: whether a mined batch has stated it last, if that is known.
///
/// What the status says was posted is withdrawn if its batch is in no block any more.
#[must_use]
pub fn decide(
    gpu_node: &GpuNode,
    guarantee: &Guarantee,
    is_stated: impl Fn(&Statement) -> Option<bool>,
) -> Inventory {
    let Some(provider) = guarantee.backing.provider else {
        return Inventory::default();
    };
    let posted = posted(gpu_node, provider, guarantee.backing.chain.as_deref());
    // Stating costs gas: only for whoever could be offered.
    if guarantee.backing.in_force().is_none() || guarantee.holds().is_err() {
        return posted;
    }
    let Some(current) = statement(gpu_node, provider) else {
        return posted;
    };
    let hash = Some(current.content.to_string());
    let declare = |posted| {
        Some(Declared {
            statement: current,
            posted,
        })
    };
    let stated = is_stated(&current);
    if posted.hash == hash && stated != Some(false) {
        Inventory {
            declare: declare(true),
            ..posted
        }
    } else if posted.hash == hash {
        Inventory {
            declare: declare(false),
            ..Inventory::default()
        }
    } else if stated == Some(true) {
        let devices = gpu_node.status.iter().flat_map(|status| &status.devices);
        let mut devices: Vec<String> = devices.map(|device| device.uuid.clone()).collect();
        devices.sort();
        Inventory {
            hash,
            devices,
            declare: declare(true),
        }
    } else {
        Inventory {
            declare: declare(false),
            ..posted
        }
    }
}

#[cfg(test)]
mod tests {
    use gridstake_crds::gpu_node::GpuNodeReason;
    use serde_json::json;

    use super::*;
    use crate::controllers::stake_binding::bond::{Backing, Bond, Provider};

    fn gpu_node(uuids: &[&str]) -> GpuNode {
        let devices: Vec<_> = uuids
            .iter()
            .map(|uuid| {
                json!({
                    "uuid": uuid, "index": 0, "model": "NVIDIA H100", "memoryMiB": 81_559,
                    "computeCapability": "9.0", "health": "Healthy",
                })
            })
            .collect();
        serde_json::from_value(json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "GpuNode", "metadata": {"name": "n1"},
            "spec": {},
            "status": {"agent": {"version": "1", "state": "Ok"}, "devices": devices},
        }))
        .unwrap()
    }

    fn backed(provider: u32) -> Guarantee {
        Guarantee {
            backing: Backing {
                provider: Some(provider),
                chain: Some("anvil".into()),
                bond: Bond::InForce(Provider {
                    id: provider,
                    chain: "anvil".into(),
                    staker: alloy_primitives::Address::ZERO,
                    operator: alloy::primitives::Address::ZERO,
                    session_epoch: 0,
                    share: 30_000,
                }),
            },
            ..Guarantee::default()
        }
    }

    /// Writes down what was decided, as the controller does.
    fn write(gpu_node: &mut GpuNode, provider: u32, inventory: &Inventory) {
        let status = gpu_node.status.as_mut().unwrap();
        status.provider_id = Some(provider);
        status.chain = Some("anvil".to_owned());
        status.inventory_hash.clone_from(&inventory.hash);
        status.posted_devices.clone_from(&inventory.devices);
    }

    fn posted_by(uuids: &[&str], provider: u32) -> GpuNode {
        let mut node = gpu_node(uuids);
        let inventory = decide(&node, &backed(provider), |_| Some(true));
        write(&mut node, provider, &inventory);
        node
    }

    #[test]
    fn a_new_node_is_stated_and_then_posted() {
        let mut node = gpu_node(&["GPU-b", "GPU-a"]);
        assert!(!is_posted(&node, 7, "anvil"));
        let waits = decide(&node, &backed(7), |_| None);
        let declared = waits.declare.unwrap().statement;
        assert_eq!(
            (declared.number, waits.hash, waits.devices.len()),
            (2, None, 0)
        );
        let said = decide(&node, &backed(7), |statement| Some(*statement == declared));
        assert_eq!(said.devices, ["GPU-a", "GPU-b"]);
        assert_eq!(said.hash, Some(declared.content.to_string()));
        write(&mut node, 7, &said);
        assert!(is_posted(&node, 7, "anvil"));
        // What the process remembered is gone after a restart: the status says it.
        assert_eq!(decide(&node, &backed(7), |_| None), said);
    }

    #[test]
    fn a_gpu_whose_uuid_has_changed_is_not_posted_until_it_is_stated() {
        let mut node = posted_by(&["GPU-a", "GPU-b"], 7);
        node.status.as_mut().unwrap().devices[1].uuid = "GPU-c".to_owned();
        assert!(!is_posted(&node, 7, "anvil"));
        let waits = decide(&node, &backed(7), |_| None);
        assert!(!waits.declare.unwrap().posted);
        // What stands on chain is not forgotten meanwhile.
        assert_eq!(waits.devices, ["GPU-a", "GPU-b"]);
        write(&mut node, 7, &waits);
        let said = decide(&node, &backed(7), |_| Some(true));
        write(&mut node, 7, &said);
        assert!(is_posted(&node, 7, "anvil"));
    }

    #[test]
    fn what_was_posted_and_is_in_no_block_any_more_is_not_posted() {
        let mut node = posted_by(&["GPU-a"], 7);
        let withdrawn = decide(&node, &backed(7), |_| Some(false));
        assert!(!withdrawn.declare.unwrap().posted && withdrawn.hash.is_none());
        write(&mut node, 7, &withdrawn);
        assert!(!is_posted(&node, 7, "anvil"));
        let stated = decide(&node, &backed(7), |_| Some(true));
        write(&mut node, 7, &stated);
        assert!(is_posted(&node, 7, "anvil"));
    }

    #[test]
    fn a_gpu_that_has_gone_is_stated_and_keeps_nobody_from_the_others() {
        let mut node = posted_by(&["GPU-a", "GPU-b"], 7);
        node.status.as_mut().unwrap().devices.pop();
        assert!(is_posted(&node, 7, "anvil"));
        assert_eq!(
            decide(&node, &backed(7), |_| None)
                .declare
                .unwrap()
                .statement
                .number,
            1
        );
    }

    #[test]
    fn another_provider_answers_anew() {
        let node = posted_by(&["GPU-a"], 7);
        assert!(is_posted(&node, 7, "anvil") && !is_posted(&node, 8, "anvil"));
        let waits = decide(&node, &backed(8), |_| None);
        assert!(!waits.declare.unwrap().posted && waits.hash.is_none() && waits.devices.is_empty());
    }

    #[test]
    fn what_was_stated_on_another_chain_is_stated_anew_where_the_node_is_now() {
        let node = posted_by(&["GPU-a"], 7);
        assert!(is_posted(&node, 7, "anvil") && !is_posted(&node, 7, "base"));
        let mut there = backed(7);
        there.backing.chain = Some("base".into());
        let waits = decide(&node, &there, |_| None);
        assert!(!waits.declare.unwrap().posted && waits.hash.is_none() && waits.devices.is_empty());
        // A status of a former version names no chain.
        let mut old = node;
        old.status.as_mut().unwrap().chain = None;
        assert!(is_posted(&old, 7, "anvil"));
    }

    #[test]
    fn nothing_is_stated_of_a_node_without_a_bond_or_while_its_gpus_are_not_known() {
        let bare = gpu_node(&["GPU-a"]);
        assert_eq!(
            decide(&bare, &Guarantee::default(), |_| Some(true)),
            Inventory::default()
        );
        let unbonded = Guarantee {
            backing: Backing {
                provider: Some(7),
                chain: Some("anvil".into()),
                bond: Bond::Missing(GpuNodeReason::StakeTooSmall, String::new()),
            },
            ..Guarantee::default()
        };
        assert_eq!(decide(&bare, &unbonded, |_| None).declare, None);
        let mut blind = posted_by(&["GPU-a"], 7);
        let status = blind.status.as_mut().unwrap();
        status.agent.as_mut().unwrap().state = AgentState::CallFailing;
        status.devices.clear();
        let kept = decide(&blind, &backed(7), |_| None);
        assert_eq!(
            (kept.declare, kept.devices),
            (None, vec!["GPU-a".to_owned()])
        );
    }
}
