//! A world in which use is paid: a chain, and a staked provider for each node.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use gridstake_crds::{StakeBinding, TokenAmount};
use kube::{Api, ResourceExt, api::ListParams};

use crate::{
    chain::Chain,
    contracts::StakeVault,
    provider::{ENOUGH_STAKE, Provider, binding_of, nano},
    wait::{Look, look_until},
    world::World,
};

/// What the providers of stories ask for one GPU for one second: 0.001 tokens.
pub const PRICE: TokenAmount = nano(1_000_000);

/// The chain, and who provides which node.
pub struct Market {
    /// The chain.
    pub chain: Chain,
    /// The provider of each node.
    pub providers: BTreeMap<String, Provider>,
}

impl Market {
    /// Connects to the chain and sees to it that each node has a provider with enough stake, a certified agent and a price.
    pub async fn open(world: &World) -> Result<Self> {
        let chain = Chain::connect(world).await?;
        let mut providers = BTreeMap::new();
        for node in nodes(world).await? {
            let provider = Self::provider_of(world, &chain, &node).await?;
            provider.certify(world, &chain, &node, PRICE).await?;
            providers.insert(node, provider);
        }
        Ok(Self { chain, providers })
    }

    /// The provider of a node.
    pub fn provider(&self, node: &str) -> Result<&Provider> {
        self.providers
            .get(node)
            .with_context(|| format!("find the provider of {node}"))
    }

    /// The node's provider of an earlier story on this chain, or a new one. It has enough stake.
    async fn provider_of(world: &World, chain: &Chain, node: &str) -> Result<Provider> {
        let bindings: Api<StakeBinding> = Api::all(world.client.clone());
        if let Some(binding) = bindings.get_opt(&binding_of(node)).await? {
            let known = Provider::known(chain, node, binding.spec.provider_id).await?;
            let on_chain = known.on_chain(chain).await;
            if on_chain.is_ok_and(|p| p.staker == known.staker.address()) {
                let bonded = StakeVault::isBondedCall {
                    provider: known.id,
                    role: StakeVault::Role::Miner,
                };
                if !chain.view(chain.vault, bonded).await? {
                    known.stake(chain, ENOUGH_STAKE).await?;
                }
                known.bind(world, chain, node).await?;
                return Ok(known);
            }
            // It stood for another chain.
            crate::provider::unbind(world, node).await?;
        }
        let provider = Provider::register(chain, node).await?;
        provider.stake(chain, ENOUGH_STAKE).await?;
        provider.bind(world, chain, node).await?;
        Ok(provider)
    }
}

/// The names of the GpuNodes: one for each agent.
async fn nodes(world: &World) -> Result<Vec<String>> {
    look_until("each device agent has its GpuNode", || async {
        let agents = world.pods_of("device-agent").await?.len();
        let nodes = world.gpu_nodes().list(&ListParams::default()).await?;
        let names: Vec<_> = nodes.iter().map(ResourceExt::name_any).collect();
        let instead = format!("{agents} agents, and GpuNodes {names:?}");
        Ok(Look::at(
            (agents > 1 && names.len() == agents).then_some(names),
            || instead,
        ))
    })
    .await
}
