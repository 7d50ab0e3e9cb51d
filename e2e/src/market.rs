//! A world in which use is paid: a chain, and a staked provider for each node.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use gridstake_crds::{GpuNode, TokenAmount, gpu_node::OfferState};
use kube::{Api, Client, ResourceExt, api::ListParams};

use crate::{
    chain::Chain,
    contracts::{Settlement, StakeVault},
    payer::Payer,
    provider::{ENOUGH_STAKE, Provider, nano, unbind, unbind_all},
    settlement_batch,
    usage::{self, Due},
    wait::{Look, look_until, watch_until},
    world::World,
};

/// What the providers of stories ask for one GPU for one second: 0.000720001 tokens. No whole number of nano-tokens for a
/// millisecond, so that what is rounded shows.
pub const PRICE: TokenAmount = nano(720_001);

/// The chain, and who provides which node.
pub struct Market {
    /// The chain.
    pub chain: Chain,
    /// The provider of each node.
    pub providers: BTreeMap<String, Provider>,
}

impl Market {
    /// Connects to the chain, and gives each node a new provider with enough stake, a certified agent and a price.
    pub async fn open(world: &World) -> Result<Self> {
        let chain = Chain::connect(world).await?;
        // A story that was killed may have left it otherwise.
        chain.mine_every_second().await?;
        unbind_all(&world.client).await?;
        let mut providers = BTreeMap::new();
        for node in nodes(world).await? {
            // Each name is new on this chain.
            let number = chain
                .view(chain.vault, StakeVault::providerCountCall {})
                .await?;
            let name = format!("{node} {number}");
            providers.insert(node, Provider::register_cooling(&chain, &name).await?);
        }
        for (node, provider) in &providers {
            provider.activate(&chain).await?;
            provider.stake(&chain, ENOUGH_STAKE).await?;
            provider
                .take_over(&world.client, &chain, node, PRICE)
                .await?;
        }
        for (node, provider) in &providers {
            until_offered_by(&world.client, node, provider.id).await?;
        }
        Ok(Self { chain, providers })
    }

    /// Fails unless each provider is credited what is due to it and `payer`, of the `deposit` it made (in nano-tokens), is
    /// debited what is due from it.
    pub async fn assert_paid(&self, due: &Due, payer: &Payer, deposit: u64) -> Result<()> {
        for provider in self.providers.values() {
            let credit = self.chain.credit(provider.id).await?;
            ensure!(
                credit == due.credit(provider.id),
                "provider {} is credited {credit}, due {due:?}",
                provider.id
            );
        }
        let balance = payer.balance(&self.chain).await?;
        ensure!(
            deposit - balance == due.paid(),
            "the payer has {balance} of {deposit} left, due {due:?}"
        );
        Ok(())
    }

    /// Fails unless, of the `deposit` it made (in nano-tokens), `payer` is debited and the providers are credited exactly what is
    /// due for `jobs` (by uid), with no number given out or sent twice and no batch that only one side knows. Waits until all
    /// of it is final.
    pub async fn assert_each_is_paid_once(
        &self,
        world: &World,
        payer: &Payer,
        deposit: u64,
        jobs: &[String],
    ) -> Result<()> {
        let chain = &self.chain;
        let mut records = Vec::new();
        for job in jobs {
            records.extend(usage::until_final(world, job).await?);
        }
        usage::assert_numbers_are_distinct(&records)?;
        let due = usage::due(&records)?;
        self.assert_paid(&due, payer, deposit).await?;
        let twice: Vec<_> = chain
            .events::<Settlement::JobsSkipped>(chain.settlement)
            .await?;
        ensure!(twice.is_empty(), "numbers were sent twice: {twice:?}");
        let logged = settlement_batch::count(world, chain).await?;
        let on_chain = chain.batches().await?;
        ensure!(
            u64::try_from(logged)? == on_chain,
            "the log has {logged} batches, the chain {on_chain}"
        );
        Ok(())
    }

    /// Gives a node that has joined since a new provider, too. It is unbound at the story's end.
    pub async fn welcome(&self, world: &World, node: &str) -> Result<Provider> {
        let chain = &self.chain;
        let number = chain
            .view(chain.vault, StakeVault::providerCountCall {})
            .await?;
        let provider = Provider::register(chain, &format!("{node} {number}")).await?;
        provider.stake(chain, ENOUGH_STAKE).await?;
        let (client, left) = (world.client.clone(), node.to_owned());
        world.undo_at_the_end(format!("unbind {node}"), async move {
            unbind(&client, &left).await
        });
        provider
            .take_over(&world.client, chain, node, PRICE)
            .await?;
        until_offered_by(&world.client, node, provider.id).await?;
        Ok(provider)
    }

    /// The provider of a node.
    pub fn provider(&self, node: &str) -> Result<&Provider> {
        self.providers
            .get(node)
            .with_context(|| format!("find the provider of {node}"))
    }

    /// At the story's end the node stands for its provider again, with its agent certified and at the price of stories.
    pub fn put_back_at_the_end(&self, world: &World, node: &str) -> Result<()> {
        let (chain, client) = (self.chain.clone(), world.client.clone());
        let (provider, node) = (self.provider(node)?.clone(), node.to_owned());
        world.undo_at_the_end(format!("bind {node} to its provider"), async move {
            provider.take_over(&client, &chain, &node, PRICE).await
        });
        Ok(())
    }
}

/// Waits until the node is offered, with the stake of this provider behind it.
pub async fn until_offered_by(client: &Client, node: &str, provider: u32) -> Result<()> {
    let nodes: Api<GpuNode> = Api::all(client.clone());
    let what = format!("is offered by provider {provider}");
    watch_until(&nodes, node, &what, |n| {
        let status = n?.status.as_ref()?;
        let offered = status.offer.as_ref()?.state == OfferState::Offered;
        (offered && status.provider_id == Some(provider)).then_some(())
    })
    .await
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
