//! What a GpuNode is judged by. Reads the caches and what is known of the chain; decides nothing.

use std::{collections::BTreeSet, sync::Arc};

use gridstake_crds::{
    GpuNode,
    gpu_node::{OfferMode, OwnerCut},
};
use k8s_openapi::{api::core::v1::Node, jiff::Timestamp};
use kube::ResourceExt as _;

use super::{
    decide::CutSeen,
    guarantee::{Guarantee, Vault, certificate},
    local_use::{LocalPods, idle_since},
    mode::ModeSight,
    quarantine,
};
use crate::{
    Context,
    caches::{Caches, failures::Failure},
    chain::{Chain, Chains},
    controllers::stake_binding::{
        bond,
        observe::{resolutions, sight},
    },
    failover,
    reputation::{self, key::Owner, standing::Appraisal},
    scheduler::NodeFacts,
    settlement::statements::Statements,
    snapshot::{GpuCounts, gpu_counts},
};

/// A GpuNode's surroundings.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The Node of the same name.
    pub node: Option<Arc<Node>>,
    /// When the agent was last heard of.
    pub heartbeat: Option<Timestamp>,
    /// After which time an agent counts as silent.
    pub failover: failover::Terms,
    /// How long what has failed is left alone.
    pub quarantine: quarantine::Terms,
    /// Whether too many nodes are silent for it to be their own fault.
    pub amnesty: bool,
    /// Its GPUs.
    pub gpus: GpuCounts,
    /// The stake behind the node, and its agent's key.
    pub guarantee: Guarantee,
    /// What has failed on it lately, by no program's fault.
    pub failures: Vec<Failure>,
    /// The other nodes that show one of its GPUs.
    pub rivals: BTreeSet<String>,
    /// What is stated on the chain of that stake.
    pub stated: Option<Statements>,
    /// What the node's mode looks at.
    pub mode: ModeSight,
    /// What is to be said of its reputation and stability; `None` while that is not known.
    pub appraisal: Option<Appraisal>,
    /// How its owner's weights are cut; `None` while that is not known.
    pub owner_cut: Option<CutSeen>,
}

/// Looks around `gpu_node` at `now`.
#[must_use]
pub fn observe(context: &Context, gpu_node: &GpuNode, now: Timestamp) -> Observed {
    let (caches, chains) = (&context.caches, &context.chains);
    let name = gpu_node.name_any();
    let guarantee = guarantee(caches, chains, gpu_node, now);
    let chain = guarantee.backing.chain.as_deref();
    let lane = chain.and_then(|chain| context.lanes.on(chain));
    let heartbeat = caches.last_heartbeat(&name);
    let terms = caches.failover();
    let mode = mode(caches, gpu_node, || local_pods(caches), now);
    let owner = Owner::find(chains, chain, guarantee.backing.provider);
    Observed {
        owner_cut: caches.owner_cuts().get().map(|cuts| {
            let owner = guarantee.backing.owner();
            let cut = cuts.get(NodeFacts::model_of(gpu_node), owner.as_deref());
            CutSeen(cut.map(|cut| OwnerCut {
                level: cut.level.to_string(),
                sum: cut.sum.to_string(),
            }))
        }),
        appraisal: caches
            .standings()
            .known()
            .and_then(|known| known.appraise(owner, reputation::observe::uuids(gpu_node))),
        failover: *terms,
        quarantine: context.quarantine,
        amnesty: terms.is_silent(heartbeat, now) && failover::amnesty_now(caches, now).is_some(),
        stated: lane.map(|lane| lane.statements().clone()),
        node: caches.node(&name),
        failures: now
            .checked_sub(quarantine::MEMORY)
            .map_or_else(|_| Vec::new(), |since| caches.failures_on(&name, since)),
        heartbeat,
        gpus: gpu_counts(caches, chains, gpu_node, &mode, now),
        rivals: caches.shown_gpus().rivals(&name),
        guarantee,
        mode,
    }
}

/// The pods of others that hold or await GPUs.
#[must_use]
pub fn local_pods(caches: &Caches) -> LocalPods {
    let pods = caches.other_pods.state();
    LocalPods::read(pods.iter().map(|pod| &**pod))
}

/// What the mode of `gpu_node` looks at, as things stand at `now`. `pods` is asked where it matters.
#[must_use]
pub fn mode<P: std::borrow::Borrow<LocalPods>>(
    caches: &Caches,
    gpu_node: &GpuNode,
    pods: impl FnOnce() -> P,
    now: Timestamp,
) -> ModeSight {
    let name = gpu_node.name_any();
    match gpu_node.spec.mode {
        OfferMode::Always | OfferMode::Drained => ModeSight::default(),
        OfferMode::Scheduled => {
            let windows = &gpu_node.spec.windows;
            ModeSight {
                windows: Some(caches.windows().standing(&name, windows, now)),
                ..ModeSight::default()
            }
        }
        OfferMode::IdleOnly => {
            let rule = gpu_node.spec.idle.clone().unwrap_or_default();
            let lease = caches.heartbeat_lease(&name);
            let idle = lease
                .zip(caches.last_heartbeat(&name))
                .and_then(|(lease, heard)| idle_since(&lease, heard, &rule))
                .map(|idle| idle.max(caches.last_held(&name).unwrap_or(idle)));
            let local = caches
                .node(&name)
                .map(|node| pods().borrow().on(&node, idle));
            ModeSight {
                local: local.unwrap_or_default(),
                ..ModeSight::default()
            }
        }
    }
}

/// The stake behind `gpu_node` and its agent's key, as things stand at `now`.
#[must_use]
pub fn guarantee(
    caches: &Caches,
    chains: &Chains,
    gpu_node: &GpuNode,
    now: Timestamp,
) -> Guarantee {
    let backing = bond::backing(
        &gpu_node.name_any(),
        &resolutions(caches),
        !chains.is_empty(),
        |spec| {
            (
                sight(chains, spec, now),
                chains.with_the_vault_of(&spec.chain),
            )
        },
    );
    let provider = backing.in_force();
    let config = provider
        .and_then(|provider| chains.get(&provider.chain))
        .map(Chain::config);
    let certificate = match provider {
        Some(provider) => {
            let signer =
                config.and_then(|config| caches.signers().of(gpu_node, provider.id, config));
            certificate(gpu_node, provider, signer, now)
        }
        None => Ok(()),
    };
    let vault = config.map(|config| Vault {
        chain_id: config.chain_id,
        address: config.vault.address,
    });
    Guarantee {
        backing,
        certificate,
        vault,
    }
}
