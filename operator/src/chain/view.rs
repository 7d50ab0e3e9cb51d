//! What was observed of a chain, pinned to one block. Pure data.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use alloy::primitives::{Address, B256};
use k8s_openapi::jiff::Timestamp;

/// A block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: B256,
    /// The hash of the block before it.
    pub parent: B256,
    /// Its time on the chain's clock, in Unix seconds.
    pub timestamp: u64,
}

/// Everything that is known of a chain at the block [`head`](Self::head).
#[derive(Clone, Debug, PartialEq)]
pub struct ChainView {
    /// When the chain last answered, on this replica's clock. It moves on without a new block.
    pub observed_at: Timestamp,
    /// Whether the chain and its contracts are what is configured. If not, nothing below may be relied on.
    pub contract: Result<(), ContractMismatch>,
    /// The newest block.
    pub head: Block,
    /// The newest block that counts as safe.
    pub safe: Block,
    /// The newest block that counts as final.
    pub finalized: Block,
    /// This cluster's lane.
    pub lane: LaneView,
    /// The contracts' parameters.
    pub params: Params,
    /// The providers that somebody here is interested in; `None`: the chain knows no such account.
    pub providers: Arc<BTreeMap<u32, Option<ProviderView>>>,
    /// The payers of this lane that somebody here is interested in, the reward account 0 always among them; `None`:
    /// the lane has no such account.
    pub payers: Arc<BTreeMap<u32, Option<PayerView>>>,
    /// The slashes of this lane's incidents that somebody here is interested in, by incident; `None`: not proposed.
    pub slashes: Arc<BTreeMap<B256, Option<SlashView>>>,
}

/// How a chain differs from what is configured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContractMismatch {
    /// The endpoint serves another chain.
    #[error("the endpoint serves the chain {found}, not {expected}: correct `rpc` or `chainId`")]
    ChainId {
        /// The configured id.
        expected: u64,
        /// The endpoint's.
        found: u64,
    },
    /// The code at an address is not what is expected; a hash of no code means that there is no contract.
    #[error(
        "the code of {contract} at {address} hashes to {found}, not {expected}: correct its address or `codeHash`"
    )]
    Code {
        /// `Settlement` or `StakeVault`.
        contract: &'static str,
        /// Its configured address.
        address: Address,
        /// The configured hash.
        expected: B256,
        /// What is there.
        found: B256,
    },
    /// The contracts do not belong together.
    #[error("the settlement's {what} is {found}, not {expected}: correct the chains file")]
    Wiring {
        /// `token` or `vault`.
        what: &'static str,
        /// As configured.
        expected: Address,
        /// As the contract says.
        found: Address,
    },
    /// The lane was never opened.
    #[error("the lane {lane} is not open: open it with the lane admin's account")]
    LaneUnknown {
        /// The lane.
        lane: u32,
    },
    /// The lane takes another signer's batches.
    #[error(
        "the signer of lane {lane} is {found}, not {expected}: correct `keys.laneSigner`, or change the lane's signer"
    )]
    Signer {
        /// The lane.
        lane: u32,
        /// The address of the configured key.
        expected: Address,
        /// The lane's signer on chain.
        found: Address,
    },
}

/// A lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneView {
    /// The number of the last batch settled; 0 if none.
    pub seq: u64,
    /// The head of the chain of batches; zero if there is none.
    pub chain_hash: B256,
    /// Whose signature authorises batches.
    pub signer: Address,
    /// Whether it takes batches.
    pub state: LaneState,
    /// Whether the contract refuses all batches for now.
    pub paused: bool,
    /// Whose signature authorises slashes.
    pub slash_signer: Address,
}

/// Whether a lane takes batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LaneState {
    /// It was never opened.
    #[default]
    Unknown,
    /// It takes batches.
    Active,
    /// It was closed.
    Closed,
}

impl LaneState {
    /// `state` of a lane in ISettlement.sol.
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Unknown,
            1 => Self::Active,
            _ => Self::Closed,
        }
    }
}

/// The contracts' parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Params {
    /// What the treasury gets of every credit, in ten-thousandths.
    pub fee_bps: u16,
    /// A miner is bonded while its effective stake is strictly above this, in nano-tokens.
    pub minimum_stake_miner: u128,
    /// A coordinator is bonded while its effective stake is strictly above this, in nano-tokens.
    pub minimum_stake_coordinator: u128,
    /// For how long stake that is withdrawn stays slashable.
    pub unbonding_time: Duration,
    /// How long a claim waits before it is paid.
    pub claim_delay: Duration,
}

/// A provider's account. Amounts are in nano-tokens, times in Unix seconds of the chain's clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderView {
    /// Who owns the stake.
    pub staker: Address,
    /// Who signs agents' keys.
    pub operator: Address,
    /// Who gets the rewards.
    pub beneficiary: Address,
    /// When it registered.
    pub registered_at: u64,
    /// From when on it can be paid, once it is activated.
    pub payable_at: u64,
    /// Whether `Settlement` pays it.
    pub active: bool,
    /// Its own bonded stake.
    pub own: u128,
    /// What others have delegated to it.
    pub delegated: u128,
    /// Own and delegated stake that is being withdrawn; still slashable.
    pub unbonding: u128,
    /// The part of all that which open slashes have frozen.
    pub frozen: u128,
    /// Own stake and what counts of the delegated one, less what is frozen.
    pub effective_stake: u128,
    /// Whether it is bonded as a miner.
    pub bonded_miner: bool,
    /// Whether it is bonded as a coordinator.
    pub bonded_coordinator: bool,
    /// Agents' certificates of another epoch are void.
    pub session_epoch: u64,
    /// Its part of what its delegators earn, in ten-thousandths.
    pub commission_bps: u16,
    /// The inventory that it declared.
    pub inventory_hash: B256,
    /// The staker's withdrawals.
    pub tickets: Vec<TicketView>,
}

/// Stake that is being withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TicketView {
    /// Its number.
    pub id: u32,
    /// Its worth, in nano-tokens.
    pub amount: u128,
    /// From when on it is paid out, in Unix seconds of the chain's clock.
    pub unlock_at: u64,
}

/// A payer's account on the lane. Amounts are in nano-tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PayerView {
    /// Who may withdraw and consent; zero for the reward account.
    pub owner: Address,
    /// What is in it.
    pub balance: u64,
    /// What its owner has asked back; the lane can still spend it until it is withdrawn.
    pub thawing: u64,
    /// From when on that can be withdrawn, in Unix seconds of the chain's clock; 0 if nothing is thawing.
    pub thaw_due: u64,
}

/// A slash. Amounts are in nano-tokens, times in Unix seconds of the chain's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlashView {
    /// Its number in the vault.
    pub id: u64,
    /// Who is slashed.
    pub provider: u32,
    /// What was asked for.
    pub amount: u128,
    /// What could be frozen.
    pub frozen: u128,
    /// What the arbiter upheld.
    pub upheld: u128,
    /// The hash of the evidence.
    pub evidence: B256,
    /// The hash of the provider's counter-evidence; zero if there is none.
    pub counter_evidence: B256,
    /// Until when it can be disputed.
    pub dispute_until: u64,
    /// Until when the arbiter can decide.
    pub resolve_until: u64,
    /// How far it is.
    pub state: SlashState,
    /// Why it was cancelled, if it was.
    pub cancelled: Option<CancelReason>,
}

/// How far a slash is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlashState {
    /// The stake is frozen.
    Proposed,
    /// The provider disputes it.
    Disputed,
    /// The arbiter upheld all or a part of it.
    Upheld,
    /// The stake is gone.
    Executed,
    /// It came to nothing.
    Cancelled,
}

/// Why a slash came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelReason {
    /// The arbiter upheld nothing of it.
    NotUpheld,
    /// The arbiter did not decide in time.
    NotDecided,
    /// The guardian cancelled it.
    Guardian,
    /// There was no stake left.
    NothingAtStake,
}

/// What a chain is known to say about an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account<T> {
    /// There is such an account.
    Known(T),
    /// The chain has no such account.
    Missing,
    /// It has not been read yet.
    NotRead,
}

impl ChainView {
    /// How old the observation is at `now`.
    #[must_use]
    pub fn age(&self, now: Timestamp) -> Duration {
        Duration::try_from(now.duration_since(self.observed_at)).unwrap_or(Duration::ZERO)
    }

    /// What the chain says about the provider `id`.
    #[must_use]
    pub fn provider(&self, id: u32) -> Account<&ProviderView> {
        account(&self.providers, &id)
    }

    /// What the chain says about the payer `id` of this lane.
    #[must_use]
    pub fn payer(&self, id: u32) -> Account<&PayerView> {
        account(&self.payers, &id)
    }

    /// Whether everything that controllers go by is the same in `other`. Blocks that changed nothing of it do not
    /// count.
    #[must_use]
    pub fn same_content(&self, other: &Self) -> bool {
        let terms = |lane: &LaneView| (lane.signer, lane.state, lane.paused, lane.slash_signer);
        self.contract == other.contract
            && terms(&self.lane) == terms(&other.lane)
            && self.params == other.params
            && self.providers == other.providers
            && self.payers == other.payers
            && self.slashes == other.slashes
    }
}

fn account<'a, K: Ord, T>(accounts: &'a BTreeMap<K, Option<T>>, id: &K) -> Account<&'a T> {
    match accounts.get(id) {
        Some(Some(known)) => Account::Known(known),
        Some(None) => Account::Missing,
        None => Account::NotRead,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::fixtures;

    #[test]
    fn a_block_that_changes_nothing_is_the_same_content() {
        let before = fixtures::view();
        let mut after = before.clone();
        after.head.number += 1;
        after.lane.seq += 1;
        after.observed_at = Timestamp::from_second(99).unwrap();
        assert!(before.same_content(&after));
        after.lane.paused = true;
        assert!(!before.same_content(&after));
    }

    #[test]
    fn an_account_that_was_not_read_is_not_taken_for_missing() {
        let mut view = fixtures::view();
        view.payers = Arc::new(BTreeMap::from([(1, None), (2, Some(PayerView::default()))]));
        assert_eq!(view.payer(1), Account::Missing);
        assert!(matches!(view.payer(2), Account::Known(_)));
        assert_eq!(view.payer(3), Account::NotRead);
    }

    #[test]
    fn a_view_from_the_future_has_no_age() {
        let view = fixtures::view();
        assert_eq!(
            view.age(Timestamp::from_second(-5).unwrap()),
            Duration::ZERO
        );
        assert_eq!(
            view.age(Timestamp::from_second(7).unwrap()),
            Duration::from_secs(7)
        );
    }
}
