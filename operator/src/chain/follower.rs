//! Follows a chain block by block and publishes what is known of it.
//!
//! It runs on every replica, as the watches on the API server do. A block is linked to the ones before it by its
//! parent's hash; a lower block proves nothing about a reorganisation, only another block at a known height does.
//! Accounts are read again only if the contracts' logs touched them, after a reorganisation, when somebody takes an
//! interest in them, and all of them twice an hour, should an endpoint have kept logs back. While the contracts are not
//! what is configured, everything is read with each new block, so that whoever mends it sees it work.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use alloy::{
    eips::BlockNumberOrTag,
    primitives::{Address, B256},
    rpc::types::Filter,
};
use gridstake_crds::names::ANNOTATION_PAYER;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use super::{
    Block, Chain, ChainConfig, ChainView, Chains, ContractMismatch, Interest,
    client::{ChainClient, ClientError},
    config::FinalityMode,
    lineage::{Lineage, Place},
    metrics::ChainMetrics,
    read::Reader,
    rpc_error::RpcFailure,
    touched::Touched,
    view::{LaneState, LaneView},
};
use crate::{
    caches::{Caches, parsed},
    error::chain as causes,
};

/// The reward account of a lane.
const REWARD_ACCOUNT: u32 = 0;
/// How many blocks are linked one by one; after a longer absence everything is read again.
const MOST_LINKED: u64 = 64;
/// After how long everything is read again although no log asks for it.
const FULL_READ: Duration = Duration::from_mins(30);
/// How often the chain's id and the contracts' code are compared with what is configured.
const COMPARE: Duration = Duration::from_mins(1);

/// After so many looks at the same block the other endpoints are asked for a newer one.
const LOOKS_AT_ONE_BLOCK: u32 = 10;

/// Follows one chain.
pub struct Follower {
    chain: Chain,
    client: ChainClient,
    reader: Reader,
    metrics: ChainMetrics,
    /// The address of our key for batches.
    lane_signer: Address,
    lineage: Lineage,
    /// How often in a row the newest block was the one before.
    unmoved: u32,
    read_all_at: Option<Instant>,
    compared_at: Option<Instant>,
}

impl Follower {
    /// A follower of `chain`, whose batches we sign as `lane_signer`.
    #[must_use]
    pub fn new(
        chain: Chain,
        client: ChainClient,
        metrics: ChainMetrics,
        lane_signer: Address,
    ) -> Self {
        Self {
            reader: Reader::new(client.clone(), chain.config().clone()),
            chain,
            client,
            metrics,
            lane_signer,
            lineage: Lineage::default(),
            unmoved: 0,
            read_all_at: None,
            compared_at: None,
        }
    }

    /// Follows the chain for ever. What it reads of is what the objects in `caches` name; `chains` are all that are
    /// configured.
    pub async fn run(mut self, caches: Caches, chains: Chains, now: fn() -> Timestamp) {
        let mut failing = false;
        let mut stale = false;
        loop {
            let config = self.chain.config().clone();
            self.chain
                .interest_in(|interest| interest.follow(&caches, &chains, &config));
            let outcome = self.look(now).await;
            if let Err(error) = &outcome
                && !failing
            {
                tracing::warn!(
                    chain = config.name,
                    error = causes(error),
                    "the chain cannot be followed"
                );
            } else if outcome.is_ok() && failing {
                tracing::info!(chain = config.name, "the chain can be followed again");
            }
            failing = outcome.is_err();
            let age = self.chain.view().map(|view| view.age(now()));
            self.metrics.set_age(age.unwrap_or_default());
            let was_stale = std::mem::replace(
                &mut stale,
                age.is_some_and(|age| age > config.max_staleness),
            );
            if was_stale != stale {
                self.chain.announce_change();
            }
            tokio::time::sleep(config.poll).await;
        }
    }

    /// Looks once, and publishes what it sees.
    pub async fn look(&mut self, now: fn() -> Timestamp) -> Result<(), ClientError> {
        let interest = self.chain.interest().borrow().with_reward_account();
        let tip = self.newest().await?;
        let before = self.chain.view();
        let due = self.read_all_at.is_none_or(|at| at.elapsed() >= FULL_READ);
        let (Some(before), false) = (before, due) else {
            return self.read_everything(&tip, &interest, now).await;
        };
        let mends = tip != before.head && !contracts_answer(&before);
        if mends || self.has_become_another(&before, &tip).await? {
            return self.read_everything(&tip, &interest, now).await;
        }
        match self.lineage.place(&tip) {
            Place::Head if before.covers(&interest) => {
                self.chain.publish(ChainView {
                    observed_at: now(),
                    ..(*before).clone()
                });
                Ok(())
            }
            Place::Head => {
                let missing = before.missing(&interest);
                self.read(&before, &tip, &missing, &interest, now).await
            }
            // The endpoint answers, but says nothing new: what is known stands, and ages.
            Place::Behind => Ok(()),
            Place::Next => self.advance(&before, vec![tip], &interest, now).await,
            Place::Ahead => match self.link(&tip, before.head.number).await? {
                Some(blocks) => self.advance(&before, blocks, &interest, now).await,
                None => self.read_everything(&tip, &interest, now).await,
            },
            Place::Fork => {
                tracing::warn!(
                    chain = self.chain.name(),
                    number = tip.number,
                    hash = %tip.hash,
                    "blocks were reorganised away"
                );
                self.metrics.forked();
                self.read_everything(&tip, &interest, now).await
            }
        }
    }

    /// The newest block. Where an endpoint lags behind, has stopped or serves another chain, another one is asked.
    async fn newest(&mut self) -> Result<Block, ClientError> {
        let tip = self.client.block(BlockNumberOrTag::Latest).await?;
        if self.client.endpoints() == 1 {
            return Ok(tip);
        }
        let chain_id = self.chain.config().chain_id;
        let known = self.chain.view().map_or(0, |view| view.head.number);
        let place = self.lineage.place(&tip);
        self.unmoved = if place == Place::Head {
            self.unmoved + 1
        } else {
            0
        };
        let above = match place {
            Place::Next => return Ok(tip),
            Place::Head if self.unmoved < LOOKS_AT_ONE_BLOCK => return Ok(tip),
            Place::Head | Place::Behind => known,
            Place::Ahead | Place::Fork if self.client.chain_id().await? == chain_id => {
                return Ok(tip);
            }
            Place::Ahead | Place::Fork => 0,
        };
        self.unmoved = 0;
        let better = self.client.newest_above(chain_id, above).await;
        Ok(better.unwrap_or(tip))
    }

    /// Whether chain or contracts have ceased to be what is configured; looked at from time to time.
    async fn has_become_another(
        &mut self,
        before: &ChainView,
        tip: &Block,
    ) -> Result<bool, ClientError> {
        let due = self.compared_at.is_none_or(|at| at.elapsed() >= COMPARE);
        if !due || !contracts_answer(before) {
            return Ok(false);
        }
        let mismatch = self.reader.mismatch(tip.hash).await?;
        self.compared_at = Some(Instant::now());
        Ok(mismatch.is_some())
    }

    /// The blocks from the one after `height` to `tip`, if they descend from the newest known one.
    async fn link(&self, tip: &Block, height: u64) -> Result<Option<Vec<Block>>, ClientError> {
        if tip.number - height > MOST_LINKED {
            return Ok(None);
        }
        let mut blocks = vec![*tip];
        let mut oldest = *tip;
        while self.lineage.place(&oldest) == Place::Ahead {
            oldest = self.client.block_by_hash(oldest.parent).await?;
            blocks.push(oldest);
        }
        let linked = self.lineage.place(&oldest) == Place::Next;
        blocks.reverse();
        Ok(linked.then_some(blocks))
    }

    /// Goes on to the last of `blocks`, reading what their logs touch.
    async fn advance(
        &mut self,
        before: &ChainView,
        blocks: Vec<Block>,
        interest: &Interest,
        now: fn() -> Timestamp,
    ) -> Result<(), ClientError> {
        let (Some(first), Some(tip)) = (blocks.first(), blocks.last().copied()) else {
            return Ok(());
        };
        let config = self.chain.config().clone();
        let contracts = vec![config.settlement.address, config.vault.address];
        let filter = Filter::new().address(contracts);
        let filter = if blocks.len() == 1 {
            filter.at_block_hash(tip.hash)
        } else {
            filter.from_block(first.number).to_block(tip.number)
        };
        let logs = match self.client.logs(filter).await {
            Ok(logs) => logs,
            Err(error) if error.is_too_large() => {
                return self.read_everything(&tip, interest, now).await;
            }
            Err(error) => return Err(error),
        };
        let ours = |hash: Option<B256>| {
            hash.is_some_and(|hash| blocks.iter().any(|block| block.hash == hash))
        };
        if !logs.iter().all(|log| ours(log.block_hash)) {
            // Read by height, they may be of another branch.
            return self.read_everything(&tip, interest, now).await;
        }
        let mut touched = Touched::by_logs(
            &logs,
            config.settlement.address,
            config.vault.address,
            config.lane,
            interest,
        );
        touched.join(before.missing(interest));
        self.read(before, &tip, &touched, interest, now).await?;
        self.lineage.extend(&blocks);
        Ok(())
    }

    /// Reads everything, as if nothing were known.
    async fn read_everything(
        &mut self,
        tip: &Block,
        interest: &Interest,
        now: fn() -> Timestamp,
    ) -> Result<(), ClientError> {
        let (contract, lane, params) = match self.reader.mismatch(tip.hash).await? {
            // Calls to something else than our contracts would fail or mislead.
            Some(mismatch) => (
                Err(mismatch),
                LaneView::default(),
                super::view::Params::default(),
            ),
            None => {
                let lane = self.reader.lane(tip.hash).await?;
                let params = self.reader.params(tip.hash).await?;
                (self.lane_is_ours(&lane), lane, params)
            }
        };
        let (safe, finalized) = self.finality(tip, None).await?;
        let empty = ChainView {
            observed_at: now(),
            contract,
            head: *tip,
            safe,
            finalized,
            lane,
            params,
            providers: Arc::default(),
            payers: Arc::default(),
            slashes: Arc::default(),
        };
        let everything = Touched {
            lane: false,
            ..Touched::everything(interest)
        };
        self.read(&empty, tip, &everything, interest, now).await?;
        self.lineage.restart(tip);
        self.read_all_at = Some(Instant::now());
        self.compared_at = self.read_all_at;
        Ok(())
    }

    /// Reads what was touched in the block `tip`, keeps the rest of `before`, and publishes the whole.
    async fn read(
        &self,
        before: &ChainView,
        tip: &Block,
        touched: &Touched,
        interest: &Interest,
        now: fn() -> Timestamp,
    ) -> Result<(), ClientError> {
        let mut view = before.clone();
        view.head = *tip;
        if *tip != before.head {
            (view.safe, view.finalized) = self.finality(tip, Some(before)).await?;
        }
        if contracts_answer(&view) {
            let mut providers = touched.providers.clone();
            if touched.lane {
                view.lane = self.reader.lane(tip.hash).await?;
                view.contract = self.lane_is_ours(&view.lane);
                view.params = self.reader.params(tip.hash).await?;
                if view.params != before.params {
                    providers.clone_from(&interest.providers);
                }
            }
            let news = self
                .reader
                .providers(providers, &view.params, tip.hash)
                .await?;
            merge(&mut view.providers, news, |id| {
                interest.providers.contains(id)
            });
            let payers = touched.payers.iter().copied();
            let news = self.reader.payers(payers, tip.hash).await?;
            merge(&mut view.payers, news, |id| interest.payers.contains(id));
            let incidents = touched.incidents.iter().copied();
            let news = self.reader.slashes(incidents, tip.hash).await?;
            merge(&mut view.slashes, news, |id| {
                interest.incidents.contains(id)
            });
        }
        view.observed_at = now();
        self.metrics.observed(
            view.head.number,
            view.safe.number,
            view.finalized.number,
            view.contract.is_ok(),
        );
        if view.contract != before.contract
            && let Err(mismatch) = &view.contract
        {
            tracing::error!(chain = self.chain.name(), %mismatch, "nothing is sent to this chain");
        }
        self.chain.publish(view);
        Ok(())
    }

    fn lane_is_ours(&self, lane: &LaneView) -> Result<(), ContractMismatch> {
        let number = self.chain.config().lane;
        if lane.state == LaneState::Unknown {
            return Err(ContractMismatch::LaneUnknown { lane: number });
        }
        if lane.signer != self.lane_signer {
            return Err(ContractMismatch::Signer {
                lane: number,
                expected: self.lane_signer,
                found: lane.signer,
            });
        }
        Ok(())
    }

    /// A block that counts as safe or final when `tip` is the newest. What cannot be is not believed: everything rests on
    /// it that cannot be undone.
    async fn standing(
        &self,
        which: BlockNumberOrTag,
        tip: &Block,
        before: Option<&ChainView>,
    ) -> Result<Block, ClientError> {
        // Without a view, what is known is of the branch that was left.
        let lineage = before.map(|_| &self.lineage);
        let found = self
            .client
            .block_if(which, |block| {
                block.number <= tip.number + MOST_LINKED
                    && (block.number != tip.number || block.hash == tip.hash)
                    && !lineage.is_some_and(|lineage| lineage.contradicts(block))
            })
            .await?;
        let mut ancestor = found;
        while ancestor.number > tip.number {
            ancestor = self.client.block_by_hash(ancestor.parent).await?;
        }
        if found.number <= tip.number {
            Ok(found)
        } else if ancestor.hash == tip.hash {
            // A newer one became final meanwhile.
            Ok(*tip)
        } else {
            Err(ClientError {
                op: "read a block",
                failure: RpcFailure::Contradicts("the block"),
            })
        }
    }

    /// The newest safe and final blocks when `tip` is the newest; never lower than before.
    async fn finality(
        &self,
        tip: &Block,
        before: Option<&ChainView>,
    ) -> Result<(Block, Block), ClientError> {
        let config: &ChainConfig = self.chain.config();
        let (safe, finalized) = match config.finality.mode {
            FinalityMode::Tags => (BlockNumberOrTag::Safe, BlockNumberOrTag::Finalized),
            FinalityMode::Depth => {
                let depth = config.finality.depth.unwrap_or(1);
                let below = |depth: u64| BlockNumberOrTag::Number(tip.number.saturating_sub(depth));
                (below(depth.div_ceil(2)), below(depth))
            }
        };
        let safe = self.standing(safe, tip, before).await?;
        let finalized = self.standing(finalized, tip, before).await?;
        let newest = |found: Block, known: Option<Block>| match known {
            // A lower one comes from an endpoint that lags behind.
            Some(known) if known.number > found.number && known.number <= tip.number => known,
            _ => found,
        };
        Ok((
            newest(safe, before.map(|view| view.safe)),
            newest(finalized, before.map(|view| view.finalized)),
        ))
    }
}

impl Interest {
    /// Takes an interest in the providers of StakeBindings to the chain `config`, in its coordinator, and in the payers of the
    /// Namespaces that are on it.
    fn follow(&mut self, caches: &Caches, chains: &Chains, config: &ChainConfig) {
        let bindings = caches.stake_bindings.state();
        self.providers = parsed(&bindings)
            .filter(|binding| binding.spec.chain == config.name)
            .map(|binding| binding.spec.provider_id)
            .chain(config.coordinator)
            .collect();
        self.payers = caches
            .namespaces
            .state()
            .iter()
            .map(|namespace| namespace.annotations())
            .filter(|annotations| {
                let chain = chains.of_namespace(annotations).ok().flatten();
                chain.is_some_and(|chain| chain.name() == config.name)
            })
            .filter_map(|annotations| annotations.get(ANNOTATION_PAYER)?.parse().ok())
            .collect();
    }

    /// With the account that is read in any case.
    fn with_reward_account(&self) -> Self {
        let mut interest = self.clone();
        interest.payers.insert(REWARD_ACCOUNT);
        interest
    }
}

impl ChainView {
    /// Whether everything of `interest` has been read.
    fn covers(&self, interest: &Interest) -> bool {
        self.missing(interest) == Touched::default()
    }

    /// What of `interest` has not been read yet.
    fn missing(&self, interest: &Interest) -> Touched {
        if self.contract.is_err() {
            return Touched::default();
        }
        let absent = |id: &u32, known: bool| (!known).then_some(*id);
        Touched {
            lane: false,
            providers: interest
                .providers
                .iter()
                .filter_map(|id| absent(id, self.providers.contains_key(id)))
                .collect(),
            payers: interest
                .payers
                .iter()
                .filter_map(|id| absent(id, self.payers.contains_key(id)))
                .collect(),
            incidents: interest
                .incidents
                .iter()
                .filter(|id| !self.slashes.contains_key(*id))
                .copied()
                .collect(),
        }
    }
}

impl Touched {
    fn join(&mut self, other: Self) {
        self.lane |= other.lane;
        self.providers.extend(other.providers);
        self.payers.extend(other.payers);
        self.incidents.extend(other.incidents);
    }
}

/// Whether the contracts can be asked: they are ours, whatever else is wrong.
fn contracts_answer(view: &ChainView) -> bool {
    !matches!(
        view.contract,
        Err(ContractMismatch::ChainId { .. }
            | ContractMismatch::Code { .. }
            | ContractMismatch::Wiring { .. })
    )
}

/// Puts `news` into `known` and drops what nobody is interested in; leaves `known` shared if nothing changes.
fn merge<K: Ord + Clone, V: Clone + PartialEq>(
    known: &mut Arc<std::collections::BTreeMap<K, V>>,
    news: std::collections::BTreeMap<K, V>,
    wanted: impl Fn(&K) -> bool,
) {
    let changes = news.iter().any(|(id, value)| known.get(id) != Some(value))
        || known.keys().any(|id| !wanted(id));
    if changes {
        let known = Arc::make_mut(known);
        known.extend(news);
        known.retain(|id, _| wanted(id));
    }
}
