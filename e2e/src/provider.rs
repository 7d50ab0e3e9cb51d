//! A provider of GPUs: registered and staked on the chain, bound to a node of the cluster, its agent's key certified.

use std::time::Duration;

use alloy::primitives::{Address, U256};
use anyhow::{Context as _, Result};
use gridstake_crds::{GpuNode, StakeBinding, TokenAmount};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    account::Account,
    chain::Chain,
    contracts::{AgentKey, Settlement, StakeVault},
    tenant,
    wait::watch_until,
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
        registered.activate(chain).await?;
        Ok(registered)
    }

    /// Lets its cooling pass, and makes it payable. While it is bound and has stake, the operator does the latter, too.
    pub async fn activate(&self, chain: &Chain) -> Result<()> {
        chain.warp_to(self.on_chain(chain).await?.payableAt).await?;
        let provider = self.id;
        let call = Settlement::activateProviderCall { provider };
        chain
            .send(self.operator.address(), chain.settlement, call)
            .await
            .map(drop)
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

    /// The StakeBinding of this name that binds a node to it.
    #[must_use]
    pub fn binding(&self, chain: &Chain, name: &str, node: &str) -> Value {
        json!({
            "apiVersion": "gridstake.dev/v1alpha1",
            "kind": "StakeBinding",
            "metadata": {"name": name, "labels": {(tenant::LABEL): "true"}},
            "spec": {
                "chain": chain.name,
                "providerId": self.id,
                "role": "Miner",
                "nodeNames": [node],
                "stakerAddress": self.staker.address(),
                "operatorAddress": self.operator.address(),
                "beneficiary": self.beneficiary,
            },
        })
    }

    /// Binds a node to it, under the name [`binding_of`] the node. Nobody else must be bound to the node.
    pub async fn bind(&self, client: &Client, chain: &Chain, node: &str) -> Result<()> {
        let name = binding_of(node);
        apply_binding(client, &self.binding(chain, &name, node))
            .await
            .with_context(|| format!("bind {node} to provider {}", self.id))
    }

    /// Makes it the node's provider, whoever was it before: binds the node, certifies its agent and sets the price.
    pub async fn take_over(
        &self,
        client: &Client,
        chain: &Chain,
        node: &str,
        price: TokenAmount,
    ) -> Result<()> {
        unbind(client, node).await?;
        self.bind(client, chain, node).await?;
        self.certify(client, chain, node, price).await
    }

    /// Certifies the key that the node's agent shows, for the provider's session of now, and asks this price.
    pub async fn certify(
        &self,
        client: &Client,
        chain: &Chain,
        node: &str,
        price: TokenAmount,
    ) -> Result<()> {
        let nodes = Api::<GpuNode>::all(client.clone());
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
pub async fn patch_spec(nodes: &Api<GpuNode>, node: &str, spec: &Value) -> Result<()> {
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

/// Applies a StakeBinding as its provider.
pub async fn apply_binding(client: &Client, binding: &Value) -> Result<()> {
    let name = binding
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .context("the StakeBinding has no name")?;
    Api::<StakeBinding>::all(client.clone())
        .patch(
            name,
            &PatchParams::apply(MANAGER).force(),
            &Patch::Apply(binding),
        )
        .await
        .map(drop)
        .with_context(|| format!("apply StakeBinding {name}"))
}

/// Removes the StakeBinding of `node`.
pub async fn unbind(client: &Client, node: &str) -> Result<()> {
    remove_binding(client, &binding_of(node)).await
}

/// Removes a StakeBinding, if it is there.
pub async fn remove_binding(client: &Client, name: &str) -> Result<()> {
    let bindings: Api<StakeBinding> = Api::all(client.clone());
    match bindings.delete(name, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        result => result
            .map(drop)
            .with_context(|| format!("remove StakeBinding {name}")),
    }
}

/// Removes the StakeBindings that stories have made.
pub async fn unbind_all(client: &Client) -> Result<()> {
    let ours = ListParams::default().labels(tenant::LABEL);
    Api::<StakeBinding>::all(client.clone())
        .delete_collection(&DeleteParams::default(), &ours)
        .await
        .map(drop)
        .context("remove the StakeBindings of stories")
}

/// Unix seconds as RFC 3339.
pub(crate) fn rfc3339(seconds: u64) -> Result<String> {
    use k8s_openapi::jiff::Timestamp;
    let time = Timestamp::from_second(i64::try_from(seconds)?).context("make a time")?;
    Ok(time.to_string())
}
