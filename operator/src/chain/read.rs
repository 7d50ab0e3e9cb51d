//! Reads lane, parameters and accounts in one block.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use alloy::{
    primitives::{B256, U256},
    sol_types::SolInterface as _,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    ChainConfig, ContractMismatch,
    client::{ChainClient, ClientError},
    contracts::{
        Settlement::{self, SettlementErrors},
        StakeVault::{self, StakeVaultErrors},
    },
    view::{
        CancelReason, LaneState, LaneView, Params, PayerView, ProviderView, SlashState, SlashView,
        TicketView,
    },
};

/// `Role.Miner` of IStakeVault.sol, by its number.
const ROLE_MINER: u8 = 0;
/// `Role.Coordinator` of IStakeVault.sol, by its number.
const ROLE_COORDINATOR: u8 = 1;
/// How many accounts are read at once.
const AT_ONCE: usize = 8;

/// Reads of one configured chain.
#[derive(Clone, Debug)]
pub struct Reader {
    client: ChainClient,
    config: Arc<ChainConfig>,
}

impl Reader {
    /// A reader of the configured contracts.
    #[must_use]
    pub fn new(client: ChainClient, config: Arc<ChainConfig>) -> Self {
        Self { client, config }
    }

    async fn settlement<C: alloy::sol_types::SolCall + Clone>(
        &self,
        op: &'static str,
        call: C,
        at: B256,
    ) -> Result<C::Return, ClientError> {
        let to = self.config.settlement.address;
        self.client.read(op, to, &call, at).await
    }

    async fn vault<C: alloy::sol_types::SolCall + Clone>(
        &self,
        op: &'static str,
        call: C,
        at: B256,
    ) -> Result<C::Return, ClientError> {
        let to = self.config.vault.address;
        self.client.read(op, to, &call, at).await
    }

    /// How the chain and its contracts differ from what is configured. The lane is not looked at.
    pub async fn mismatch(&self, at: B256) -> Result<Option<ContractMismatch>, ClientError> {
        let config = &self.config;
        let found = self.client.chain_id().await?;
        if found != config.chain_id {
            return Ok(Some(ContractMismatch::ChainId {
                expected: config.chain_id,
                found,
            }));
        }
        for (contract, expected) in [
            ("Settlement", &config.settlement),
            ("StakeVault", &config.vault),
        ] {
            let found = self.client.code_hash(expected.address, at).await?;
            if found != expected.code_hash {
                return Ok(Some(ContractMismatch::Code {
                    contract,
                    address: expected.address,
                    expected: expected.code_hash,
                    found,
                }));
            }
        }
        let token = self
            .settlement("read the settlement's token", Settlement::tokenCall {}, at)
            .await?;
        let vault = self
            .settlement("read the settlement's vault", Settlement::vaultCall {}, at)
            .await?;
        for (what, expected, found) in [
            ("token", config.token, token),
            ("vault", config.vault.address, vault),
        ] {
            if expected != found {
                return Ok(Some(ContractMismatch::Wiring {
                    what,
                    expected,
                    found,
                }));
            }
        }
        Ok(None)
    }

    /// The lane.
    pub async fn lane(&self, at: B256) -> Result<LaneView, ClientError> {
        let lane = self.config.lane;
        let entry = self
            .settlement("read the lane", Settlement::laneOfCall { lane }, at)
            .await?;
        let paused = self
            .settlement(
                "read whether batches are paused",
                Settlement::settlePausedCall {},
                at,
            )
            .await?;
        let slash_signer = self
            .vault(
                "read the lane's slash signer",
                StakeVault::slashSignerCall { lane },
                at,
            )
            .await?;
        Ok(LaneView {
            seq: entry.seq.to(),
            chain_hash: entry.chainHash,
            signer: entry.signer,
            state: LaneState::from_number(entry.state),
            paused,
            slash_signer,
        })
    }

    /// The parameters.
    pub async fn params(&self, at: B256) -> Result<Params, ClientError> {
        let minimum = |role| {
            self.vault(
                "read the minimum stake",
                StakeVault::minimumStakeCall { role },
                at,
            )
        };
        let fee_bps = self
            .settlement("read the fee", Settlement::feeBpsCall {}, at)
            .await?;
        let claim_delay = self
            .settlement("read the claim delay", Settlement::claimDelayCall {}, at)
            .await?;
        let unbonding = self
            .vault(
                "read the unbonding time",
                StakeVault::unbondingTimeCall {},
                at,
            )
            .await?;
        Ok(Params {
            fee_bps,
            minimum_stake_miner: minimum(ROLE_MINER).await?,
            minimum_stake_coordinator: minimum(ROLE_COORDINATOR).await?,
            unbonding_time: Duration::from_secs(unbonding),
            claim_delay: Duration::from_secs(claim_delay),
        })
    }

    /// These providers.
    pub async fn providers(
        &self,
        ids: impl IntoIterator<Item = u32>,
        params: &Params,
        at: B256,
    ) -> Result<BTreeMap<u32, Option<ProviderView>>, ClientError> {
        stream::iter(ids)
            .map(|id| async move { Ok((id, self.provider(id, params, at).await?)) })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    async fn provider(
        &self,
        id: u32,
        params: &Params,
        at: B256,
    ) -> Result<Option<ProviderView>, ClientError> {
        let call = StakeVault::providerOfCall { provider: id };
        let entry = match self.vault("read a provider", call, at).await {
            Ok(entry) => entry,
            Err(error) if is_unknown_account(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        if entry.staker.is_zero() {
            return Ok(None);
        }
        let effective_stake = self
            .vault(
                "read a provider's effective stake",
                StakeVault::effectiveStakeCall { provider: id },
                at,
            )
            .await?;
        let tickets = self
            .vault(
                "read a provider's withdrawals",
                StakeVault::ticketsOfCall {
                    provider: id,
                    account: entry.staker,
                },
                at,
            )
            .await?;
        let active = self.is_active(id, at).await?;
        Ok(Some(ProviderView {
            staker: entry.staker,
            operator: entry.operator,
            beneficiary: entry.beneficiary,
            registered_at: entry.registeredAt,
            payable_at: entry.payableAt,
            active,
            own: entry.own,
            delegated: entry.delegated,
            unbonding: entry.unbonding,
            frozen: entry.frozen,
            effective_stake,
            // As `isBonded` says it: strictly above the minimum.
            bonded_miner: effective_stake > params.minimum_stake_miner,
            bonded_coordinator: effective_stake > params.minimum_stake_coordinator,
            session_epoch: entry.sessionEpoch,
            commission_bps: entry.commissionBps,
            inventory_hash: entry.inventoryHash,
            tickets: tickets
                .into_iter()
                .map(|ticket| TicketView {
                    id: ticket.id,
                    amount: ticket.amount,
                    unlock_at: ticket.unlockAt,
                })
                .collect(),
        }))
    }

    /// Whether `Settlement` pays this provider.
    pub async fn is_active(&self, provider: u32, at: B256) -> Result<bool, ClientError> {
        self.settlement(
            "read whether a provider is paid",
            Settlement::isActiveCall { provider },
            at,
        )
        .await
    }

    /// How many providers there are: each number from 1 to this one is an account.
    pub async fn provider_count(&self, at: B256) -> Result<u32, ClientError> {
        self.vault(
            "read how many providers there are",
            StakeVault::providerCountCall {},
            at,
        )
        .await
    }

    /// Those of `providers` that `Settlement` pays.
    pub async fn active(
        &self,
        providers: impl IntoIterator<Item = u32>,
        at: B256,
    ) -> Result<BTreeSet<u32>, ClientError> {
        let active = stream::iter(providers)
            .map(|id| async move { Ok((id, self.is_active(id, at).await?)) })
            .buffer_unordered(AT_ONCE)
            .try_collect::<BTreeMap<_, _>>()
            .await?;
        Ok(holding(active))
    }

    /// Those of `numbers` that the lane has paid.
    pub async fn paid(
        &self,
        numbers: impl IntoIterator<Item = u64>,
        at: B256,
    ) -> Result<BTreeSet<u64>, ClientError> {
        let paid = stream::iter(numbers)
            .map(|number| async move { Ok((number, self.is_paid(number, at).await?)) })
            .buffer_unordered(AT_ONCE)
            .try_collect::<BTreeMap<_, _>>()
            .await?;
        Ok(holding(paid))
    }

    /// Whether the lane has paid this number.
    pub async fn is_paid(&self, job_no: u64, at: B256) -> Result<bool, ClientError> {
        let lane = self.config.lane;
        self.settlement(
            "read whether a record is paid",
            Settlement::isPaidCall {
                lane,
                jobNo: job_no,
            },
            at,
        )
        .await
    }

    /// These payers of the lane.
    pub async fn payers(
        &self,
        ids: impl IntoIterator<Item = u32>,
        at: B256,
    ) -> Result<BTreeMap<u32, Option<PayerView>>, ClientError> {
        stream::iter(ids)
            .map(|id| async move { Ok((id, self.payer(id, at).await?)) })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    async fn payer(&self, payer: u32, at: B256) -> Result<Option<PayerView>, ClientError> {
        let lane = self.config.lane;
        let mut view = PayerView::default();
        // The reward account is there from the lane's first block, and may have no owner.
        if payer != 0 {
            let call = Settlement::payerOwnerCall { lane, payer };
            match self.settlement("read a payer's owner", call, at).await {
                Ok(owner) if owner.is_zero() => return Ok(None),
                Ok(owner) => view.owner = owner,
                Err(error) if is_unknown_account(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        let thaw = self
            .settlement(
                "read what a payer withdraws",
                Settlement::thawOfCall { lane, payer },
                at,
            )
            .await?;
        view.thawing = thaw.amount;
        view.thaw_due = thaw.due;
        view.balance = self
            .settlement(
                "read a payer's balance",
                Settlement::balanceOfCall { lane, payer },
                at,
            )
            .await?;
        Ok(Some(view))
    }

    /// The slashes of these incidents of the lane.
    pub async fn slashes(
        &self,
        incidents: impl IntoIterator<Item = B256>,
        at: B256,
    ) -> Result<BTreeMap<B256, Option<SlashView>>, ClientError> {
        stream::iter(incidents)
            .map(|incident| async move { Ok((incident, self.slash(incident, at).await?)) })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    async fn slash(&self, incident: B256, at: B256) -> Result<Option<SlashView>, ClientError> {
        let id = self
            .vault(
                "read the slash of an incident",
                StakeVault::slashIdOfCall {
                    lane: self.config.lane,
                    incidentId: incident,
                },
                at,
            )
            .await?;
        if id == U256::ZERO {
            return Ok(None);
        }
        let slash = self
            .vault("read a slash", StakeVault::slashOfCall { id }, at)
            .await?;
        let state = slash_state(slash.state);
        Ok(Some(SlashView {
            id: id.saturating_to(),
            provider: slash.provider,
            amount: slash.amount,
            frozen: slash.frozen,
            upheld: slash.upheld,
            evidence: slash.evidence,
            counter_evidence: slash.counterEvidence,
            dispute_until: slash.disputeUntil,
            resolve_until: slash.resolveUntil,
            state,
            cancelled: cancel_reason(slash.why),
        }))
    }

    /// The lane that proposed a slash.
    pub async fn slash_lane(&self, id: U256, at: B256) -> Result<u32, ClientError> {
        let slash = self
            .vault("read a slash", StakeVault::slashOfCall { id }, at)
            .await?;
        Ok(slash.lane)
    }
}

/// The keys whose value holds.
fn holding<K: Ord>(answers: BTreeMap<K, bool>) -> BTreeSet<K> {
    answers
        .into_iter()
        .filter_map(|(key, holds)| holds.then_some(key))
        .collect()
}

/// `SlashState` of IStakeVault.sol, by its number.
const fn slash_state(number: u8) -> SlashState {
    match number {
        2 => SlashState::Disputed,
        3 => SlashState::Upheld,
        4 => SlashState::Executed,
        5 => SlashState::Cancelled,
        _ => SlashState::Proposed,
    }
}

/// `CancelWhy` of IStakeVault.sol, by its number.
const fn cancel_reason(number: u8) -> Option<CancelReason> {
    match number {
        1 => Some(CancelReason::NotUpheld),
        2 => Some(CancelReason::NotDecided),
        3 => Some(CancelReason::Guardian),
        4 => Some(CancelReason::NothingAtStake),
        _ => None,
    }
}

/// Whether the contract says that there is no such account.
fn is_unknown_account(error: &ClientError) -> bool {
    error.revert().is_some_and(|data| {
        matches!(
            SettlementErrors::abi_decode(data),
            Ok(SettlementErrors::UnknownPayer(_) | SettlementErrors::UnknownProvider(_))
        ) || matches!(
            StakeVaultErrors::abi_decode(data),
            Ok(StakeVaultErrors::UnknownProvider(_))
        )
    })
}
