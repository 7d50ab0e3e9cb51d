//! The chains on which this cluster settles: their configuration, and what is known of them.
//!
//! [`follower`] reads a chain and publishes a [`ChainView`]; everything else goes by that view, which is pinned to one
//! block, and reads nothing from the chain itself. With no chain configured jobs run and are metered, and nothing is owed.
//!
//! Each chain has a view, a follower and an age of its own: one that is away, or is not what is configured, changes
//! nothing about another.

pub mod client;
pub mod config;
#[allow(missing_docs)]
pub mod contracts;
pub mod follower;
mod lineage;
pub mod metrics;
pub mod read;
pub mod rpc_error;
mod touched;
pub mod view;
pub mod wei;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use alloy::primitives::B256;
use gridstake_crds::names::ANNOTATION_CHAIN;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;

pub use config::{ChainConfig, ChainsFile, ConfigError};
pub use view::{Account, Block, ChainView, ContractMismatch};

use crate::caches::triggers::Pulse;

/// The configured chains. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct Chains(Arc<[Chain]>);

/// One configured chain. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Chain {
    config: Arc<ChainConfig>,
    view: watch::Sender<Option<Arc<ChainView>>>,
    changes: Pulse,
    interest: watch::Sender<Interest>,
}

/// Which accounts the follower reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Providers: those of StakeBindings.
    pub providers: BTreeSet<u32>,
    /// Payers: those of Namespaces. The reward account is read in any case.
    pub payers: BTreeSet<u32>,
    /// Incidents whose slashes are not settled.
    pub incidents: BTreeSet<B256>,
}

/// A Namespace names a chain that is not configured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "has {named:?} in its annotation {ANNOTATION_CHAIN}, and the operator has no chain of that name: write one of {}, or leave it out for {first}",
    configured.join(", ")
)]
pub struct UnknownChain {
    /// What the annotation says.
    pub named: String,
    /// The chains that are configured.
    pub configured: Vec<String>,
    /// The first of them.
    pub first: String,
}

/// Whether a chain can be gone by.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// What was observed is recent enough and the contracts are the configured ones.
    InForce(Arc<ChainView>),
    /// The chain has not been observed for longer than `maxStaleness`, or never.
    Unavailable(Option<Arc<ChainView>>),
    /// The chain or its contracts are not what is configured.
    Mismatch(ContractMismatch),
}

impl Chains {
    /// The chains of the file at `path`; none without a file.
    pub fn configured(path: Option<&Path>) -> Result<Self, ConfigError> {
        let file = path.map(ChainsFile::read).transpose()?.unwrap_or_default();
        Ok(Self::new(file.chains))
    }

    /// The chains of these configurations.
    #[must_use]
    pub fn new(configs: Vec<ChainConfig>) -> Self {
        Self(configs.into_iter().map(Chain::new).collect())
    }

    /// Whether no chain is configured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The chain of namespaces that name none: the first one; `None` if no chain is configured.
    #[must_use]
    pub fn default_chain(&self) -> Option<&Chain> {
        self.0.first()
    }

    /// The chain on which the jobs of a Namespace with these annotations are paid for: the one that it names, else the first
    /// one. `None` if no chain is configured, whatever it names: then nothing is owed.
    pub fn of_namespace(
        &self,
        annotations: &BTreeMap<String, String>,
    ) -> Result<Option<&Chain>, UnknownChain> {
        let Some(first) = self.default_chain() else {
            return Ok(None);
        };
        let Some(named) = annotations.get(ANNOTATION_CHAIN) else {
            return Ok(Some(first));
        };
        self.get(named.trim())
            .map(Some)
            .ok_or_else(|| UnknownChain {
                named: named.clone(),
                configured: self.names(),
                first: first.name().to_owned(),
            })
    }

    /// The names of all chains, in their order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.iter().map(|chain| chain.name().to_owned()).collect()
    }

    /// The names of all chains whose stakes are those of the chain `name`, itself included: entries for other lanes in front
    /// of the same vault. The same stake must not count once for each of them.
    #[must_use]
    pub fn with_the_vault_of(&self, name: &str) -> Vec<String> {
        let vault = |chain: &Chain| (chain.config.chain_id, chain.config.vault.address);
        let Some(wanted) = self.get(name).map(vault) else {
            return vec![name.to_owned()];
        };
        self.iter()
            .filter(|chain| vault(chain) == wanted)
            .map(|chain| chain.name().to_owned())
            .collect()
    }

    /// The chain of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Chain> {
        self.iter().find(|chain| chain.name() == name)
    }

    /// All chains.
    pub fn iter(&self) -> impl Iterator<Item = &Chain> {
        self.0.iter()
    }
}

impl Chain {
    /// A chain of which nothing has been observed.
    #[must_use]
    pub fn new(config: ChainConfig) -> Self {
        Self {
            config: Arc::new(config),
            view: watch::Sender::new(None),
            changes: Pulse::default(),
            interest: watch::Sender::default(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Its configuration.
    #[must_use]
    pub fn config(&self) -> &Arc<ChainConfig> {
        &self.config
    }

    /// What was last observed, however long ago; `None` if nothing ever was.
    #[must_use]
    pub fn view(&self) -> Option<Arc<ChainView>> {
        self.view.borrow().clone()
    }

    /// Every new observation: at least one a block. For what must follow blocks; others use [`changes`](Self::changes).
    #[must_use]
    pub fn views(&self) -> watch::Receiver<Option<Arc<ChainView>>> {
        self.view.subscribe()
    }

    /// Beats when something changed that decisions go by: accounts, parameters, the lane's signer or state, a slash,
    /// or whether the chain is there at all. Blocks alone do not count.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.changes()
    }

    /// Whether the chain can be gone by at `now`.
    #[must_use]
    pub fn standing(&self, now: Timestamp) -> Standing {
        match self.view() {
            None => Standing::Unavailable(None),
            Some(view) => match &view.contract {
                Err(mismatch) => Standing::Mismatch(mismatch.clone()),
                Ok(()) if view.age(now) > self.config.max_staleness => {
                    Standing::Unavailable(Some(view))
                }
                Ok(()) => Standing::InForce(view),
            },
        }
    }

    /// Publishes an observation, and announces a change if it says something new.
    pub fn publish(&self, view: ChainView) {
        let news = self.view().is_none_or(|before| !before.same_content(&view));
        self.view.send_replace(Some(Arc::new(view)));
        if news {
            self.announce_change();
        }
    }

    /// Announces a change that lies in no view, such as that the last one has become too old.
    pub fn announce_change(&self) {
        self.changes.beat();
    }

    /// Changes what is read of the chain. The next observation has it.
    pub fn interest_in(&self, change: impl FnOnce(&mut Interest)) {
        self.interest.send_if_modified(|interest| {
            let before = interest.clone();
            change(interest);
            *interest != before
        });
    }

    /// What is to be read.
    #[must_use]
    pub fn interest(&self) -> watch::Receiver<Interest> {
        self.interest.subscribe()
    }
}

#[cfg(test)]
pub(crate) mod fixtures {
    //! A chain for tests of other modules.

    use super::{view::*, *};

    /// A chain named `anvil`, lane 7.
    pub(crate) fn config() -> ChainConfig {
        let text = r"
chains:
  - name: anvil
    chainId: 31337
    rpc: [http://127.0.0.1:1]
    lane: 7
    settlement: {address: '0x0000000000000000000000000000000000000051', codeHash: '0x0101010101010101010101010101010101010101010101010101010101010101'}
    vault: {address: '0x0000000000000000000000000000000000000052', codeHash: '0x0202020202020202020202020202020202020202020202020202020202020202'}
    token: '0x0000000000000000000000000000000000000053'
    keys: {laneSigner: /keys/lane, gas: /keys/gas}
";
        ChainsFile::parse(text, Path::new("fixture"))
            .unwrap()
            .chains
            .remove(0)
    }

    /// [`config`], and a chain named `base` with id 8453, lane 8.
    pub(crate) fn two() -> Chains {
        let mut base = config();
        (base.name, base.chain_id, base.lane) = ("base".to_owned(), 8453, 8);
        Chains::new(vec![config(), base])
    }

    /// An empty chain at block 100, observed at the Unix epoch, with an active lane.
    pub(crate) fn view() -> ChainView {
        let block = Block {
            number: 100,
            hash: B256::repeat_byte(100),
            parent: B256::repeat_byte(99),
            timestamp: 1_000_000,
        };
        ChainView {
            observed_at: Timestamp::UNIX_EPOCH,
            contract: Ok(()),
            head: block,
            safe: block,
            finalized: block,
            lane: LaneView {
                state: LaneState::Active,
                ..LaneView::default()
            },
            params: Params {
                minimum_stake_miner: 20_000_000_000_000,
                minimum_stake_coordinator: 2_000_000_000_000_000,
                ..Params::default()
            },
            providers: Arc::default(),
            payers: Arc::default(),
            slashes: Arc::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_file_there_is_no_chain() {
        let chains = Chains::configured(None).unwrap();
        assert!(chains.is_empty());
        assert!(chains.default_chain().is_none());
        assert!(chains.get("anvil").is_none());
    }

    #[test]
    fn the_first_chain_is_that_of_namespaces_that_name_none() {
        let chains = fixtures::two();
        assert_eq!(chains.names(), ["anvil", "base"]);
        assert_eq!(chains.default_chain().unwrap().name(), "anvil");
        assert_eq!(chains.get("base").unwrap().config().lane, 8);
    }

    #[test]
    fn a_namespace_is_on_the_chain_that_it_names_or_on_the_first() {
        let chains = fixtures::two();
        let named = |name: &str| BTreeMap::from([(ANNOTATION_CHAIN.to_owned(), name.to_owned())]);
        let of = |annotations: &BTreeMap<String, String>| {
            let found = chains.of_namespace(annotations)?;
            Ok::<_, UnknownChain>(found.map(|chain| chain.name().to_owned()))
        };
        assert_eq!(of(&BTreeMap::new()).unwrap().unwrap(), "anvil");
        assert_eq!(of(&named("base")).unwrap().unwrap(), "base");
        assert_eq!(
            of(&named("bse")).unwrap_err().to_string(),
            "has \"bse\" in its annotation gridstake.dev/chain, and the operator has no chain of that name: write one of anvil, base, or leave it out for anvil"
        );
        let none = Chains::default();
        assert!(none.of_namespace(&named("base")).unwrap().is_none());
    }

    #[test]
    fn lanes_in_front_of_one_vault_share_its_stakes() {
        let chains = fixtures::two();
        assert_eq!(chains.with_the_vault_of("anvil"), ["anvil"]);
        assert_eq!(chains.with_the_vault_of("other"), ["other"]);
        let mut second = fixtures::config();
        second.name = "anvil-2".to_owned();
        let chains = Chains::new(vec![fixtures::config(), second]);
        assert_eq!(chains.with_the_vault_of("anvil-2"), ["anvil", "anvil-2"]);
    }

    #[test]
    fn what_befalls_one_chain_changes_nothing_about_another() {
        let chains = fixtures::two();
        let [anvil, base] = ["anvil", "base"].map(|name| chains.get(name).unwrap());
        let changes = base.changes();
        anvil.publish(ChainView {
            contract: Err(ContractMismatch::LaneUnknown { lane: 7 }),
            ..fixtures::view()
        });
        assert!(!changes.has_changed().unwrap());
        base.publish(fixtures::view());
        let at = Timestamp::UNIX_EPOCH;
        assert!(matches!(base.standing(at), Standing::InForce(_)));
        assert!(matches!(anvil.standing(at), Standing::Mismatch(_)));
    }

    #[test]
    fn a_chain_stays_in_force_until_its_last_observation_is_too_old() {
        let chain = Chain::new(fixtures::config());
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(chain.standing(at(0)), Standing::Unavailable(None));
        chain.publish(fixtures::view());
        assert!(matches!(chain.standing(at(3600)), Standing::InForce(_)));
        assert!(matches!(
            chain.standing(at(3601)),
            Standing::Unavailable(Some(_))
        ));
        let mismatch = ContractMismatch::LaneUnknown { lane: 7 };
        chain.publish(ChainView {
            contract: Err(mismatch.clone()),
            ..fixtures::view()
        });
        assert_eq!(chain.standing(at(0)), Standing::Mismatch(mismatch));
    }

    #[test]
    fn only_news_is_announced() {
        let chain = Chain::new(fixtures::config());
        let mut changes = chain.changes();
        chain.publish(fixtures::view());
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        let mut next = fixtures::view();
        next.head.number += 1;
        chain.publish(next.clone());
        assert!(!changes.has_changed().unwrap());
        assert_eq!(chain.view().unwrap().head.number, 101);
        next.params.fee_bps = 100;
        chain.publish(next);
        assert!(changes.has_changed().unwrap());
    }

    #[test]
    fn interest_that_is_the_same_wakes_nobody() {
        let chain = Chain::new(fixtures::config());
        let interest = chain.interest();
        chain.interest_in(|interest| interest.payers = BTreeSet::from([3]));
        assert!(interest.has_changed().unwrap());
        let interest = chain.interest();
        chain.interest_in(|interest| interest.payers = BTreeSet::from([3]));
        assert!(!interest.has_changed().unwrap());
    }
}
