//! `contracts-deploy`: puts the contracts on a chain, opens the cluster's lane, checks it, and writes down where they are.
//!
//! It goes like a controller: [`facts`] reads the chain, [`plan`] (pure) says the next step, [`send`] takes it, and so on
//! until nothing is left to do. Nothing but the chain says how far it has come, beside the [`record`] of where the contracts
//! are; so it can be repeated, and be cut off anywhere.
//!
//! | module | what |
//! |---|---|
//! | [`args`], [`input`] | what is asked for |
//! | [`plan`], [`admin`], [`code`] | the steps towards it, the admin's part of them, the code that is deployed; pure |
//! | [`facts`], [`verify`] | what is on the chain, and whether it is right |
//! | [`send`] | one transaction at a time |
//! | [`document`], [`record`], [`store`] | what is written, and where |
//! | [`error`] | what can go wrong |

pub mod admin;
pub mod args;
pub mod code;
pub mod document;
pub mod error;
pub mod facts;
pub mod input;
pub mod plan;
#[cfg(test)]
mod plan_tests;
pub mod record;
pub mod send;
pub mod store;
mod through_timelock;
pub mod verify;

use std::time::{Duration, Instant};

use alloy::{
    eips::BlockNumberOrTag,
    primitives::{Bytes, TxKind, keccak256},
};
use kube::Api;
use prometheus::Registry;

use self::{
    args::DeployArgs,
    document::Draft,
    error::{DeployError, MOST_STEPS},
    plan::{Deployed, Request, Step},
    record::{Contract, Record},
    send::{Outgoing, Sender, Sent},
    store::Store,
    verify::Report,
};
use crate::{
    chain::{
        ChainConfig,
        client::ChainClient,
        config::{ContractConfig, FeeConfig},
        metrics::ChainFamilies,
        view::Block,
    },
    settlement::signer::Key,
};

/// How a deployment is done.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// The chain's endpoints.
    pub client: ChainClient,
    /// The deployer's key.
    pub key: Key,
    /// What is to be on the chain.
    pub request: Request,
    /// The chain's entry in the chains file.
    pub draft: Draft,
    /// Where the outcome is written.
    pub store: Store,
    /// What a transaction may cost.
    pub fees: FeeConfig,
    /// The pause between two looks at the chain.
    pub poll: Duration,
    /// After which time a transaction is given up.
    pub patience: Duration,
    /// The Secret with the operator's keys, for Helm values.
    pub keys_secret: String,
}

/// Deploys what the command line asks for, into the cluster of `namespace` or into a file. `environment` is the value of KEY.
pub async fn run(
    args: DeployArgs,
    namespace: &str,
    environment: Option<String>,
) -> Result<(), DeployError> {
    let deployment = prepare(&args, namespace, environment.as_deref()).await?;
    let report = deployment.run().await?;
    if matches!(deployment.store, Store::File(_)) {
        println!("{report}written to {}", args.out.display());
        return Ok(());
    }
    for (name, value) in &report.lines {
        tracing::info!(name, value, "verified");
    }
    for note in &report.notes {
        tracing::warn!(note, "verified");
    }
    Ok(())
}

async fn prepare(
    args: &DeployArgs,
    namespace: &str,
    environment: Option<&str>,
) -> Result<Deployment, DeployError> {
    let key = input::key(args, environment)?;
    let (draft, signers) = match &args.chains_file {
        Some(path) => {
            let text =
                std::fs::read_to_string(path).map_err(|source| DeployError::ReadChainsFile {
                    path: path.clone(),
                    source,
                })?;
            let draft = Draft::parse(&text, path, args.chain.as_deref())?;
            let signers = input::signers_of(&draft.settings()?.keys)?;
            (draft, signers)
        }
        None if args.rpc.is_empty() => return Err(DeployError::NoChain),
        None => {
            // The chain's name and id may be the endpoint's to say; all else is checked before it is asked.
            let settings =
                Draft::new(&input::entry(args, args.chain_id.unwrap_or(1)))?.settings()?;
            let found = chain_id(&client(&settings)?).await?;
            let wanted = args.chain_id.unwrap_or(found);
            if wanted != found {
                return Err(DeployError::WrongChain { wanted, found });
            }
            (
                Draft::new(&input::entry(args, found))?,
                input::signers(args)?,
            )
        }
    };
    let store = match &args.config_map {
        Some(name) => {
            let client = crate::run::client()
                .await
                .map_err(|error| DeployError::Kubernetes(Box::new(error)))?;
            Store::ConfigMap(Box::new(Api::namespaced(client, namespace)), name.clone())
        }
        None => Store::File(args.out.clone()),
    };
    let settings = draft.settings()?;
    Ok(Deployment {
        client: client(&settings)?,
        request: input::request(args, &settings, key.address(), signers),
        key,
        draft,
        store,
        fees: settings.fees,
        poll: settings.poll,
        patience: args.patience,
        keys_secret: args.keys_secret.clone(),
    })
}

fn client(settings: &ChainConfig) -> Result<ChainClient, DeployError> {
    let families = ChainFamilies::register(&Registry::new()).map_err(DeployError::Metrics)?;
    let metrics = families.of(&settings.name);
    let client = ChainClient::new(&settings.rpc, settings.request_timeout, metrics)?;
    Ok(client)
}

async fn chain_id(client: &ChainClient) -> Result<u64, DeployError> {
    client.chain_id().await.map_err(DeployError::Unreachable)
}

impl Deployment {
    /// Goes on until everything is in place, checks it, and writes it down.
    pub async fn run(&self) -> Result<Report, DeployError> {
        let found = chain_id(&self.client).await?;
        let wanted = self.request.chain_id;
        if wanted != found {
            return Err(DeployError::WrongChain { wanted, found });
        }
        let mut record = self.earlier(found).await?;
        let mut fresh = !record.is_complete();
        let mut seen = 0;
        for _ in 0..MOST_STEPS {
            let head = self.head(seen).await?;
            let facts = facts::observe(&self.client, &self.request, &record, head.hash);
            let mut facts = facts.await.map_err(DeployError::Look)?;
            if let Some((contract, place)) = facts.gone.first().copied() {
                if !self.request.anew_if_gone {
                    return Err(DeployError::Gone { contract, place });
                }
                tracing::warn!(
                    contract = contract.name(),
                    address = %place.address,
                    "not there any more: it is deployed anew"
                );
                for (contract, _) in std::mem::take(&mut facts.gone) {
                    record.forget(contract);
                }
                // They know each other, so that one is of no use without the other.
                record.forget(Contract::StakeVault);
                record.forget(Contract::Settlement);
                fresh = true;
                continue;
            }
            let step = plan::next(&self.request, &facts)?;
            let Step::Done(deployed) = step else {
                seen = self.take(step, &head, &mut record).await?;
                continue;
            };
            return self.finish(&deployed, facts, fresh, &head).await;
        }
        Err(DeployError::Endless)
    }

    /// What an earlier run has put on this chain.
    async fn earlier(&self, found: u64) -> Result<Record, DeployError> {
        let record = self.store.load(self.draft.name()).await?;
        if record.chain_id == found {
            return Ok(record);
        }
        if record.chain_id != 0 && !self.request.anew_if_gone {
            return Err(DeployError::RecordedElsewhere {
                recorded: record.chain_id,
                found,
            });
        }
        Ok(Record {
            chain_id: found,
            ..Record::default()
        })
    }

    /// The newest block, which is `least` or later: an endpoint that lags behind would show a step as not taken.
    async fn head(&self, least: u64) -> Result<Block, DeployError> {
        let since = Instant::now();
        loop {
            let head = self.client.block(BlockNumberOrTag::Latest).await;
            let head = head.map_err(DeployError::Look)?;
            // After that time a lower block is a chain that was reorganised.
            if head.number >= least || since.elapsed() > self.patience {
                return Ok(head);
            }
            tokio::time::sleep(self.poll).await;
        }
    }

    /// Takes a step; returns a block in which its effects can be seen.
    async fn take(
        &self,
        step: Step,
        head: &Block,
        record: &mut Record,
    ) -> Result<u64, DeployError> {
        match step {
            Step::Create(contract, input) => {
                let what = format!("deploy {}", contract.name());
                let sent = self.send(what, TxKind::Create, 0, input, head).await?;
                self.note(contract, sent, record).await?;
                Ok(sent.block)
            }
            Step::Call(call) => {
                let (what, to) = (call.what.to_owned(), TxKind::Call(call.to));
                Ok(self.send(what, to, 0, call.input, head).await?.block)
            }
            Step::ThroughTimelock(timelock, calls) => {
                let next = through_timelock::next(&self.client, timelock, &calls, head.hash);
                let (what, input) = next.await.map_err(DeployError::Look)?;
                let to = TxKind::Call(timelock);
                Ok(self.send(what, to, 0, input, head).await?.block)
            }
            Step::GiveCoins(to, wei) => {
                let what = "give the gas account coins".to_owned();
                let sent = self.send(what, TxKind::Call(to), wei, Bytes::new(), head);
                Ok(sent.await?.block)
            }
            Step::Done(_) => Ok(head.number),
        }
    }

    async fn send(
        &self,
        what: String,
        to: TxKind,
        value: u128,
        input: Bytes,
        head: &Block,
    ) -> Result<Sent, DeployError> {
        let sender = Sender {
            client: &self.client,
            chain_id: self.request.chain_id,
            key: &self.key,
            fees: &self.fees,
            poll: self.poll,
            patience: self.patience,
        };
        let outgoing = Outgoing {
            what,
            to,
            value,
            input,
        };
        Ok(sender.send(outgoing, head).await.map_err(Box::new)?)
    }

    /// Writes down where `contract` is. If another transaction took the nonce and made no contract, nothing is noted, and it
    /// is deployed again.
    async fn note(
        &self,
        contract: Contract,
        sent: Sent,
        record: &mut Record,
    ) -> Result<(), DeployError> {
        let address = self.request.deployer.create(sent.nonce);
        let head = self.head(sent.block).await?;
        let code = self.client.code(address, head.hash).await;
        let code = code.map_err(DeployError::Look)?;
        if code.is_empty() {
            return Ok(());
        }
        if !code::is_built_from(&code, code::compiled(contract)) {
            return Err(DeployError::OtherCode { contract, address });
        }
        let code_hash = keccak256(&code);
        tracing::info!(contract = contract.name(), %address, %code_hash, "deployed");
        record.set(contract, ContractConfig { address, code_hash });
        self.store.save(self.draft.name(), record).await?;
        Ok(())
    }

    async fn finish(
        &self,
        deployed: &Deployed,
        facts: facts::Facts,
        fresh: bool,
        head: &Block,
    ) -> Result<Report, DeployError> {
        let config = self.draft.config(deployed)?;
        let found = verify::read(&self.client, &config, facts, head.hash).await;
        let found = found.map_err(DeployError::Look)?;
        let report = verify::check(&self.request, deployed, &found, fresh);
        if !report.faults.is_empty() {
            return Err(DeployError::Faults(report.faults));
        }
        let document = match self.store {
            Store::ConfigMap(..) => {
                let present = self.store.chains_file().await?;
                self.draft.chains_file(deployed, present.as_deref())
            }
            Store::File(_) => self.draft.helm_values(deployed, &self.keys_secret),
        };
        self.store.finish(self.draft.name(), &document).await?;
        Ok(report)
    }
}
