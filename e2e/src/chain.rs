//! The chain of the world: an anvil in the cluster, reached through a forwarded port.

use std::{process::Stdio, sync::Arc, time::Duration};

use alloy::{
    eips::BlockNumberOrTag,
    primitives::{Address, B256, Bytes, U256, hex},
    providers::{Provider as _, ProviderBuilder, RootProvider},
    rpc::types::{Filter, TransactionReceipt, TransactionRequest},
    sol_types::{Eip712Domain, SolCall, SolEvent, SolInterface, eip712_domain},
    transports::{RpcError, TransportErrorKind},
};
use anyhow::{Context as _, Result, bail, ensure};
use gridstake_crds::TokenAmount;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap};
use kube::{Api, api::ListParams};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    account::Account,
    contracts::{Settlement, Token},
    wait::{Look, look_until, patience},
    world::World,
};

/// Where the chart's hook writes what it deployed.
const DEPLOYED: &str = "gridstake-chains-deployed";
/// The namespace of the chain, from `e2e/chain/anvil.yaml`.
pub(crate) const NAMESPACE: &str = "chain";
/// The pause after which a port is forwarded again that was not.
const FORWARD_AGAIN: Duration = Duration::from_millis(500);
/// The environment variable of the operator that says that a chain is configured.
const CHAINS_FILE: &str = "GRIDSTAKE_CHAINS_FILE";
/// The first of anvil's well-known accounts: it deployed the contracts, holds the tokens and every office, such as the
/// arbiter's and that of the reward account's owner.
pub const DEPLOYER: Address = Address::new(hex!("f39Fd6e51aad88F6F4ce6aB8827279cffFb92266"));

/// The chain, and Gridstake's contracts on it. Cloning shares the connection.
#[derive(Clone)]
pub struct Chain {
    pub(crate) rpc: RootProvider,
    /// Its name in the operator's configuration.
    pub name: String,
    /// Its id.
    pub chain_id: u64,
    /// The cluster's lane.
    pub lane: u32,
    /// The contract Settlement.
    pub settlement: Address,
    /// The contract StakeVault.
    pub vault: Address,
    /// The token.
    pub token: Address,
    /// Its JSON-RPC endpoint, for programs on this machine.
    pub url: String,
    /// The chain's Secret-free configuration, as the operator reads it.
    pub config: Value,
    /// Ends with the last clone.
    _forwarding: Arc<Forwarding>,
}

impl Chain {
    /// Whether the release is configured for a chain.
    pub async fn is_configured(world: &World) -> Result<bool> {
        let deployments: Api<Deployment> = Api::namespaced(world.client.clone(), &world.namespace);
        let operators = deployments
            .list(&ListParams::default().labels(crate::world::OPERATOR))
            .await?;
        let mut variables = operators
            .into_iter()
            .filter_map(|d| d.spec?.template.spec)
            .flat_map(|pod| pod.containers)
            .flat_map(|container| container.env.unwrap_or_default());
        Ok(variables.any(|variable| variable.name == CHAINS_FILE))
    }

    /// Connects to the chain that the release is configured for.
    pub async fn connect(world: &World) -> Result<Self> {
        let deployed: Api<ConfigMap> = Api::namespaced(world.client.clone(), &world.namespace);
        let deployed = deployed.get_opt(DEPLOYED).await?.context(
            "this story needs a chain: e2e/chain/chain.sh up, and e2e/install.sh after it",
        )?;
        let text = deployed
            .data
            .and_then(|mut d| d.remove("chains.yaml"))
            .with_context(|| format!("find chains.yaml in ConfigMap {DEPLOYED}"))?;
        let file: Value = serde_saphyr::from_str(&text).context("read chains.yaml")?;
        let config = file
            .pointer("/chains/0")
            .cloned()
            .context("find the chain in chains.yaml")?;
        let text = |pointer: &str| {
            config
                .pointer(pointer)
                .and_then(Value::as_str)
                .with_context(|| format!("find {pointer} in chains.yaml"))
        };
        let number = |pointer: &str| {
            config
                .pointer(pointer)
                .and_then(Value::as_u64)
                .with_context(|| format!("find {pointer} in chains.yaml"))
        };
        let (forwarding, port) = Forwarding::begin().await?;
        // reqwest asks for it, although no TLS is spoken here.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = format!("http://127.0.0.1:{port}");
        let rpc = ProviderBuilder::new()
            .disable_recommended_fillers()
            .connect_http(url.parse()?);
        let chain = Self {
            rpc,
            url,
            name: text("/name")?.to_owned(),
            chain_id: number("/chainId")?,
            lane: u32::try_from(number("/lane")?)?,
            settlement: text("/settlement/address")?.parse()?,
            vault: text("/vault/address")?.parse()?,
            token: text("/token")?.parse()?,
            config: config.clone(),
            _forwarding: Arc::new(forwarding),
        };
        chain
            .call("anvil_autoImpersonateAccount", json!([true]))
            .await?;
        Ok(chain)
    }

    /// Another lane of the cluster on this chain, in the same contracts, by the name that its entry has in the operator's
    /// configuration.
    #[must_use]
    pub fn lane(&self, name: &str, lane: u32) -> Self {
        Self {
            name: name.to_owned(),
            lane,
            ..self.clone()
        }
    }

    /// Calls a JSON-RPC method.
    pub async fn call(&self, method: &str, parameters: Value) -> Result<Value> {
        self.rpc
            .raw_request::<_, Value>(method.to_owned().into(), parameters)
            .await
            .with_context(|| format!("call {method}"))
    }

    /// The account of this name, with coins for gas.
    pub async fn account(&self, name: &str) -> Result<Account> {
        let account = Account::named(name)?;
        self.give_coins(account.address()).await?;
        Ok(account)
    }

    /// Gives an account 100 coins for gas.
    pub async fn give_coins(&self, to: Address) -> Result<()> {
        let coins = U256::from(100) * U256::from(10).pow(U256::from(18));
        self.call("anvil_setBalance", json!([to, coins]))
            .await
            .map(drop)
    }

    /// Gives an account this much of the token, and lets `spender` take it.
    pub async fn give_tokens(
        &self,
        to: Address,
        amount: TokenAmount,
        spender: Address,
    ) -> Result<()> {
        let units = self.units(amount).await?;
        let token = self.token;
        self.send(DEPLOYER, token, Token::transferCall { to, amount: units })
            .await?;
        self.send(
            to,
            token,
            Token::approveCall {
                spender,
                amount: units,
            },
        )
        .await?;
        Ok(())
    }

    /// An amount in the token's smallest unit.
    pub async fn units(&self, amount: TokenAmount) -> Result<U256> {
        let decimals = self.view(self.token, Token::decimalsCall {}).await?;
        let scale = U256::from(10).pow(U256::from(decimals)) / U256::from(1_000_000_000_u64);
        Ok(U256::from(amount.nano()) * scale)
    }

    /// What an account holds of the token, in its smallest unit.
    pub async fn tokens_of(&self, account: Address) -> Result<U256> {
        self.view(self.token, Token::balanceOfCall { account })
            .await
    }

    /// Sends a call, mines it, and returns its receipt. A call that would revert is an error.
    pub async fn send<C: SolCall>(
        &self,
        from: Address,
        to: Address,
        call: C,
    ) -> Result<TransactionReceipt> {
        let sent: Result<B256, _> = self
            .rpc
            .raw_request("eth_sendTransaction".into(), (request(from, to, &call),))
            .await;
        let hash = sent
            .map_err(readable)
            .with_context(|| format!("send {}", C::SIGNATURE))?;
        self.mine().await?;
        let receipt = look_until("the transaction is mined", || async {
            let receipt = self.rpc.get_transaction_receipt(hash).await?;
            Ok(Look::at(receipt, || format!("{hash} has no receipt")))
        })
        .await?;
        ensure!(receipt.status(), "{} was mined and reverted", C::SIGNATURE);
        Ok(receipt)
    }

    /// What a call returns now.
    pub async fn view<C: SolCall>(&self, to: Address, call: C) -> Result<C::Return> {
        self.view_as(DEPLOYER, to, call).await
    }

    /// What a call of `from` would return in a block with the last one's time.
    pub async fn view_as<C: SolCall>(
        &self,
        from: Address,
        to: Address,
        call: C,
    ) -> Result<C::Return> {
        let answer = self
            .rpc
            .call(request(from, to, &call))
            .await
            .map_err(readable)
            .with_context(|| format!("read {}", C::SIGNATURE))?;
        C::abi_decode_returns(&answer)
            .with_context(|| format!("decode the answer of {}", C::SIGNATURE))
    }

    /// What a call returned in the block of this number.
    pub async fn view_at<C: SolCall>(&self, block: u64, to: Address, call: C) -> Result<C::Return> {
        let answer = self
            .rpc
            .call(request(DEPLOYER, to, &call))
            .block(block.into())
            .await
            .map_err(readable)
            .with_context(|| format!("read {} in block {block}", C::SIGNATURE))?;
        C::abi_decode_returns(&answer)
            .with_context(|| format!("decode the answer of {}", C::SIGNATURE))
    }

    /// The named error with which the contract refuses a call; an error if it does not refuse it.
    pub async fn refusal<E: SolInterface>(
        &self,
        from: Address,
        to: Address,
        call: impl SolCall,
    ) -> Result<E> {
        match self.rpc.call(request(from, to, &call)).await {
            Ok(answer) => bail!("the call is not refused; it returns {answer}"),
            Err(RpcError::ErrorResp(payload)) => payload
                .as_decoded_interface_error::<E>()
                .with_context(|| format!("the call is refused with another error: {payload}")),
            Err(error) => Err(error).context("call the contract"),
        }
    }

    /// All events of one kind that a contract has logged.
    pub async fn events<E: SolEvent>(&self, contract: Address) -> Result<Vec<E>> {
        let filter = Filter::new()
            .address(contract)
            .event_signature(E::SIGNATURE_HASH)
            .from_block(BlockNumberOrTag::Earliest);
        let logs = self.rpc.get_logs(&filter).await.context("read logs")?;
        logs.iter()
            .map(|log| {
                E::decode_log(&log.inner)
                    .map(|l| l.data)
                    .context("decode a log")
            })
            .collect()
    }

    /// The receipt of a transaction, if it is mined.
    pub async fn receipt(&self, transaction: B256) -> Result<Option<TransactionReceipt>> {
        Ok(self.rpc.get_transaction_receipt(transaction).await?)
    }

    /// What a payer's account holds on the lane, in nano-tokens.
    pub async fn balance(&self, payer: u32) -> Result<u64> {
        let lane = self.lane;
        self.view(self.settlement, Settlement::balanceOfCall { lane, payer })
            .await
    }

    /// What a provider has been credited and not been paid, in nano-tokens.
    pub async fn credit(&self, provider: u32) -> Result<u64> {
        self.view(self.settlement, Settlement::creditOfCall { provider })
            .await
    }

    /// The number of the lane's last batch.
    pub async fn batches(&self) -> Result<u64> {
        let lane = self.lane;
        Ok(self
            .view(self.settlement, Settlement::headCall { lane })
            .await?
            .seq)
    }

    /// The domain of what is signed for the contract Settlement.
    #[must_use]
    pub fn settlement_domain(&self) -> Eip712Domain {
        eip712_domain! {
            name: "Gridstake Settlement",
            version: "1",
            chain_id: self.chain_id,
            verifying_contract: self.settlement,
        }
    }

    /// The domain of what is signed for the contract StakeVault.
    #[must_use]
    pub fn vault_domain(&self) -> Eip712Domain {
        eip712_domain! {
            name: "Gridstake StakeVault",
            version: "1",
            chain_id: self.chain_id,
            verifying_contract: self.vault,
        }
    }
}

/// A local port that is forwarded to the chain until this is dropped. After the API server was away, over which it goes, it is
/// forwarded again.
struct Forwarding(JoinHandle<()>);

impl Forwarding {
    /// Begins to forward a port; returns which.
    async fn begin() -> Result<(Self, u16)> {
        let mut forwarder = Forwarder::start(None).await?;
        let port = forwarder.port;
        let goes_on = tokio::spawn(async move {
            loop {
                forwarder.until_it_ends().await;
                forwarder = loop {
                    match Forwarder::start(Some(port)).await {
                        Ok(again) => break again,
                        Err(_) => tokio::time::sleep(FORWARD_AGAIN).await,
                    }
                };
            }
        });
        Ok((Self(goes_on), port))
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A process that forwards a local port to the chain. It ends with this, or when its connection to the API server does.
struct Forwarder {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    port: u16,
}

impl Forwarder {
    /// Forwards `port`, or one that is free.
    async fn start(port: Option<u16>) -> Result<Self> {
        let ports = format!("{}:8545", port.map(|p| p.to_string()).unwrap_or_default());
        let mut process = Command::new("kubectl")
            .args([
                "port-forward",
                "--namespace",
                NAMESPACE,
                "deployment/anvil",
                &ports,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // While the API server is away there is nothing to hear; what is wrong at the beginning is.
            .stderr(port.map_or_else(Stdio::inherit, |_| Stdio::null()))
            .kill_on_drop(true)
            .spawn()
            .context("start kubectl port-forward")?;
        let output = process.stdout.take().context("read kubectl's output")?;
        let mut lines = BufReader::new(output).lines();
        let line = timeout(patience(), lines.next_line())
            .await
            .context("wait for kubectl port-forward")??
            .context("kubectl port-forward ended")?;
        let port = line
            .strip_prefix("Forwarding from 127.0.0.1:")
            .and_then(|rest| rest.split_once(' '))
            .and_then(|(port, _)| port.parse().ok())
            .with_context(|| format!("kubectl port-forward says {line:?}"))?;
        Ok(Self {
            process,
            lines,
            port,
        })
    }

    async fn until_it_ends(&mut self) {
        // It says a line for each connection.
        while let Ok(Some(_)) = self.lines.next_line().await {}
        let _ = self.process.wait().await;
    }
}

fn request(from: Address, to: Address, call: &impl SolCall) -> TransactionRequest {
    TransactionRequest::default()
        .from(from)
        .to(to)
        .input(Bytes::from(call.abi_encode()).into())
}

/// The error with the contract's named error in it, where there is one.
fn readable(error: RpcError<TransportErrorKind>) -> anyhow::Error {
    use crate::contracts::StakeVault;
    let RpcError::ErrorResp(payload) = &error else {
        return error.into();
    };
    let of_settlement = payload
        .as_decoded_interface_error::<Settlement::SettlementErrors>()
        .map(|e| format!("{e:?}"));
    let of_vault = payload
        .as_decoded_interface_error::<StakeVault::StakeVaultErrors>()
        .map(|e| format!("{e:?}"));
    match of_settlement.or(of_vault) {
        Some(named) => anyhow::anyhow!("the contract refuses it: {named}"),
        None => error.into(),
    }
}
