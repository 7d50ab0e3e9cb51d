//! A provider of GPUs: registered and staked on the chain, bound to a node of the cluster, its agent's key certified.

use std::time::Duration;

use alloy::primitives::{Address, U256};
use anyhow::{Context as _, Result};
use gridstake_crds::{GpuNode, StakeBinding, TokenAmount};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{
    account::Account,
    chain::Chain,
    contracts::{AgentKey, Settlement, StakeVault},
    wait::watch_until,
    world::World,
};

/// Field manager of what a story writes as a provider.
const MANAGER: &str = "gridstake-e2e-provider";
/// For how long the keys of agents are certified: longer than all stories together let the chain's clock jump.
const CERTIFICATE: Duration = Duration::from_hours(24 * 365 * 20);
/// Stake above what a miner needs: 20,000 tokens.
pub const ENOUGH_STAKE: TokenAmount = tokens(30_000);

/// This many whole tokens.
#[must_use]
pub const fn tokens(whole: u64) -> TokenAmount {
    nano(whole as u128 * 1_000_000_000)
}

/// This many nano-tokens.
#[must_use]
pub const fn nano(nano: u128) -> TokenAmount {
    TokenAmount::from_nano(nano)
}

/// A provider of GPUs.
#[derive(Clone, Debug)]
pub struct Provider {
    /// Its account number.
    pub id: u32,
    /// Owns the stake.
    pub staker: Account,
    /// Signs agents' keys.
    pub operator: Account,
    /// Gets the rewards.
    pub beneficiary: Address,
}

impl Provider {
    /// Registers a provider, lets its cooling pass, and makes it payable. It has no stake yet.
    pub async fn register(chain: &Chain, name: &str) -> Result<Self> {
        let registered = Self::register_cooling(chain, name).await?;
        let payable_at = registered.on_chain(chain).await?.payableAt;
        let now = chain.now().await?;
        if payable_at > now {
            chain.warp(Duration::from_secs(payable_at - now)).await?;
        }
        let provider = registered.id;
        chain
            .send(
                registered.operator.address(),
                chain.settlement,
                Settlement::activateProviderCall { provider },
            )
            .await?;
        Ok(registered)
    }

    /// Registers a provider that cannot be paid before its cooling is over.
    pub async fn register_cooling(chain: &Chain, name: &str) -> Result<Self> {
        let staker = chain.account(&format!("{name} staker")).await?;
        let operator = chain.account(&format!("{name} operator")).await?;
        let beneficiary = Account::named(&format!("{name} beneficiary"))?.address();
        let call = StakeVault::registerCall {
            operator: operator.address(),
            beneficiary,
        };
        let receipt = chain.send(staker.address(), chain.vault, call).await?;
        let registered = receipt
            .decoded_log::<StakeVault::Registered>()
            .context("find the event Registered")?;
        Ok(Self {
            id: registered.provider,
            staker,
            operator,
            beneficiary,
        })
    }

    /// The provider of this name that was registered before under this number.
    pub async fn known(chain: &Chain, name: &str, id: u32) -> Result<Self> {
        Ok(Self {
            id,
            staker: chain.account(&format!("{name} staker")).await?,
            operator: chain.account(&format!("{name} operator")).await?,
            beneficiary: Account::named(&format!("{name} beneficiary"))?.address(),
        })
    }

    /// What the contract StakeVault holds of it.
    pub async fn on_chain(&self, chain: &Chain) -> Result<StakeVault::Provider> {
        let provider = self.id;
        chain
            .view(chain.vault, StakeVault::providerOfCall { provider })
            .await
    }

    /// Stakes this much of its own, which it is given before.
    pub async fn stake(&self, chain: &Chain, amount: TokenAmount) -> Result<()> {
        let staker = self.staker.address();
        chain.give_tokens(staker, amount, chain.vault).await?;
        let call = StakeVault::stakeCall {
            provider: self.id,
            amount: amount.nano(),
        };
        chain.send(staker, chain.vault, call).await.map(drop)
    }

    /// Binds a node to it, under the name [`binding_of`] the node.
    pub async fn bind(&self, world: &World, chain: &Chain, node: &str) -> Result<()> {
        let name = binding_of(node);
        let bindings: Api<StakeBinding> = Api::all(world.client.clone());
        let binding = json!({
            "apiVersion": "gridstake.dev/v1alpha1",
            "kind": "StakeBinding",
            "metadata": {"name": name},
            "spec": {
                "chain": chain.name,
                "providerId": self.id,
                "role": "Miner",
                "nodeNames": [node],
                "stakerAddress": self.staker.address(),
                "operatorAddress": self.operator.address(),
                "beneficiary": self.beneficiary,
            },
        });
        bindings
            .patch(
                &name,
                &PatchParams::apply(MANAGER).force(),
                &Patch::Apply(&binding),
            )
            .await
            .map(drop)
            .with_context(|| format!("bind {node} to provider {}", self.id))
    }

    /// Certifies the key that the node's agent shows, for the provider's session of now, and asks this price.
    pub async fn certify(
        &self,
        world: &World,
        chain: &Chain,
        node: &str,
        price: TokenAmount,
    ) -> Result<()> {
        let nodes = world.gpu_nodes();
        let key = watch_until(&nodes, node, "its agent shows a key", |n| {
            n.and_then(|n| {
                n.status
                    .as_ref()?
                    .agent
                    .as_ref()?
                    .key
                    .as_ref()
                    .map(|k| k.address.clone())
            })
        })
        .await?;
        let epoch = chain
            .view(
                chain.vault,
                StakeVault::sessionEpochCall { provider: self.id },
            )
            .await?;
        let not_after = chain.now().await? + CERTIFICATE.as_secs();
        let statement = AgentKey {
            provider: self.id,
            node: node.into(),
            key: key.parse()?,
            epoch,
            notAfter: not_after,
        };
        let signature = self.operator.sign(&statement, &chain.vault_domain())?;
        let spec = json!({
            "pricing": {"perGpuSecond": price},
            "agentCertificate": {
                "key": key,
                "epoch": epoch,
                "notAfter": rfc3339(not_after)?,
                "signature": signature,
            },
        });
        patch_spec(&nodes, node, &spec).await
    }

    /// Its part of what was earned, paid out after the claim's delay; returns what the beneficiary got of the token, in its
    /// smallest unit.
    pub async fn claim(&self, chain: &Chain) -> Result<U256> {
        let provider = self.id;
        let before = chain.tokens_of(self.beneficiary).await?;
        let anyone = self.operator.address();
        chain
            .send(
                anyone,
                chain.settlement,
                Settlement::requestClaimCall { provider },
            )
            .await?;
        let delay = chain
            .view(chain.settlement, Settlement::claimDelayCall {})
            .await?;
        chain.warp(Duration::from_secs(delay)).await?;
        chain
            .send(anyone, chain.settlement, Settlement::claimCall { provider })
            .await?;
        Ok(chain.tokens_of(self.beneficiary).await? - before)
    }
}

/// Changes the spec of a GpuNode as its provider.
pub async fn patch_spec(nodes: &Api<GpuNode>, node: &str, spec: &serde_json::Value) -> Result<()> {
    nodes
        .patch(
            node,
            &PatchParams::default(),
            &Patch::Merge(json!({"spec": spec})),
        )
        .await
        .map(drop)
        .with_context(|| format!("change the spec of GpuNode {node}"))
}

/// The name of the StakeBinding that binds `node`.
#[must_use]
pub fn binding_of(node: &str) -> String {
    format!("e2e-{node}")
}

/// Removes the StakeBinding of `node`.
pub async fn unbind(world: &World, node: &str) -> Result<()> {
    let bindings: Api<StakeBinding> = Api::all(world.client.clone());
    match bindings
        .delete(&binding_of(node), &DeleteParams::default())
        .await
    {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        result => result.map(drop).with_context(|| format!("unbind {node}")),
    }
}

/// Unix seconds as RFC 3339.
pub(crate) fn rfc3339(seconds: u64) -> Result<String> {
    use k8s_openapi::jiff::Timestamp;
    let time = Timestamp::from_second(i64::try_from(seconds)?).context("make a time")?;
    Ok(time.to_string())
}
