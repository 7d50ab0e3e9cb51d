//! The contract `Settlement` in memory, as far as a lane needs it: what docs/contracts.md says, written a second time.

use std::collections::{BTreeMap, BTreeSet};

use alloy::{
    primitives::{Address, B256, Bytes, LogData, U256, aliases::U48, aliases::U224, keccak256},
    sol_types::{SolCall, SolError, SolEvent as _},
};
use gridstake_contracts::{ISettlement, Settlement, StakeVault};
use gridstake_ledger::{
    amount,
    batch::{self, Batch, Group, WORD_BITS},
    signature, typed,
};

/// What never changes on a chain.
#[derive(Clone, Debug)]
pub struct Terms {
    pub chain_id: u64,
    pub lane: u32,
    pub settlement: Address,
    pub vault: Address,
    pub token: Address,
    pub lane_signer: Address,
}

/// What a block leaves behind.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub seq: u64,
    pub chain_hash: B256,
    pub paused: bool,
    pub paid: BTreeSet<u64>,
    /// Escrow of each payer, in nano-tokens.
    pub balances: BTreeMap<u32, u64>,
    /// Credit of each provider that can be paid, in nano-tokens.
    pub credits: BTreeMap<u32, u64>,
    /// Providers that cannot be paid yet.
    pub cooling: BTreeSet<u32>,
    pub nonces: BTreeMap<Address, u64>,
    pub wei: BTreeMap<Address, u128>,
}

/// Units that no batch can hold: stands for whatever a contract may refuse to read.
pub const UNREADABLE: u64 = 6_666;

/// What a flattering node says that a payer has, in nano-tokens.
const FLATTERY: u64 = 1 << 60;

/// Providers that are registered, numbered from 1 on.
const PROVIDERS: u32 = 2;

/// The code of each contract: what is configured is its hash.
pub const CODE: [u8; 1] = [0xfe];

type Reverted = Bytes;

fn revert<E: SolError>(error: &E) -> Reverted {
    error.abi_encode().into()
}

fn word(value: impl TryInto<U256>) -> Bytes {
    let value = value.try_into().ok().unwrap();
    value.to_be_bytes::<32>().into()
}

fn vault(selector: [u8; 4]) -> Bytes {
    match selector {
        StakeVault::slashSignerCall::SELECTOR
        | StakeVault::minimumStakeCall::SELECTOR
        | StakeVault::unbondingTimeCall::SELECTOR => word(U256::ZERO),
        StakeVault::providerCountCall::SELECTOR => word(U256::from(PROVIDERS)),
        _ => panic!(
            "the model does not know the vault's call {}",
            alloy::hex::encode(selector)
        ),
    }
}

impl State {
    /// What `input` would return, from a node that `flatters` or does not.
    pub fn call(
        &self,
        terms: &Terms,
        to: Address,
        input: &[u8],
        now: u64,
        flatters: bool,
    ) -> Result<Bytes, Reverted> {
        let Some(selector) = input.first_chunk::<4>() else {
            return Ok(Bytes::new());
        };
        if to == terms.vault {
            return Ok(vault(*selector));
        }
        let arguments = &input[4..];
        Ok(match *selector {
            Settlement::settleCall::SELECTOR => {
                self.clone().settle(terms, input, now)?;
                Bytes::new()
            }
            Settlement::tokenCall::SELECTOR => word(U256::from_be_slice(terms.token.as_slice())),
            Settlement::vaultCall::SELECTOR => word(U256::from_be_slice(terms.vault.as_slice())),
            Settlement::laneOfCall::SELECTOR => {
                Settlement::laneOfCall::abi_encode_returns(&ISettlement::Lane {
                    signer: terms.lane_signer,
                    seq: U48::from(self.seq),
                    state: 1,
                    chainHash: self.chain_hash,
                })
                .into()
            }
            Settlement::settlePausedCall::SELECTOR => word(U256::from(u8::from(self.paused))),
            Settlement::isPaidCall::SELECTOR => {
                let call = Settlement::isPaidCall::abi_decode_raw(arguments).unwrap();
                word(U256::from(u8::from(self.paid.contains(&call.jobNo))))
            }
            Settlement::isActiveCall::SELECTOR => {
                let call = Settlement::isActiveCall::abi_decode_raw(arguments).unwrap();
                let active = flatters || self.is_active(call.provider);
                word(U256::from(u8::from(active)))
            }
            Settlement::balanceOfCall::SELECTOR => {
                let call = Settlement::balanceOfCall::abi_decode_raw(arguments).unwrap();
                let balance = self.balances.get(&call.payer).copied();
                let said = Some(FLATTERY).filter(|_| flatters).or(balance);
                word(U256::from(said.unwrap_or(0)))
            }
            Settlement::payerOwnerCall::SELECTOR => {
                let call = Settlement::payerOwnerCall::abi_decode_raw(arguments).unwrap();
                if !flatters && !self.balances.contains_key(&call.payer) {
                    return Err(revert(&Settlement::UnknownPayer {
                        lane: call.lane,
                        payer: call.payer,
                    }));
                }
                word(U256::from(1))
            }
            Settlement::thawOfCall::SELECTOR => {
                [word(U256::ZERO), word(U256::ZERO)].concat().into()
            }
            Settlement::feeBpsCall::SELECTOR | Settlement::claimDelayCall::SELECTOR => {
                word(U256::ZERO)
            }
            _ => panic!(
                "the model does not know the call {}",
                alloy::hex::encode(input)
            ),
        })
    }

    pub fn is_active(&self, provider: u32) -> bool {
        self.credits.contains_key(&provider) && !self.cooling.contains(&provider)
    }

    /// `settle`, and its logs.
    pub fn settle(
        &mut self,
        terms: &Terms,
        input: &[u8],
        now: u64,
    ) -> Result<Vec<LogData>, Reverted> {
        let call = Settlement::settleCall::abi_decode(input)
            .map_err(|_| revert(&Settlement::BadEncoding {}))?;
        if self.paused {
            return Err(revert(&Settlement::Paused {}));
        }
        if call.lane != terms.lane {
            return Err(revert(&Settlement::LaneNotActive { lane: call.lane }));
        }
        if call.seq != self.seq + 1 {
            return Err(revert(&Settlement::BadSeq { want: self.seq + 1 }));
        }
        if call.prev != self.chain_hash {
            return Err(revert(&Settlement::BadPrev {
                want: self.chain_hash,
            }));
        }
        if now > call.validUntil {
            return Err(revert(&Settlement::Expired {}));
        }
        let data_hash = keccak256(&call.data);
        let message = typed::Batch {
            lane: call.lane,
            seq: call.seq,
            prev: call.prev,
            usageRoot: call.usageRoot,
            dataHash: data_hash,
            validUntil: call.validUntil,
        };
        let digest = typed::digest(
            &message,
            &typed::settlement_domain(terms.chain_id, terms.settlement),
        );
        let mut compact = [0; 64];
        compact[..32].copy_from_slice(call.r.as_slice());
        compact[32..].copy_from_slice(call.vs.as_slice());
        let signed = alloy::primitives::Signature::from_erc2098(&compact);
        if signature::signer(digest, &signed) != Ok(terms.lane_signer) {
            return Err(revert(&Settlement::BadSignature {}));
        }
        let content = batch::decode(&call.data).map_err(|_| revert(&Settlement::BadEncoding {}))?;
        if content
            .entries
            .iter()
            .any(|entry| entry.units == UNREADABLE)
        {
            return Err(revert(&Settlement::BadEncoding {}));
        }
        let mut logs = Vec::new();
        let (summary, amounts) = self.pay(call.lane, call.seq, &content, &mut logs);
        self.seq = call.seq;
        self.chain_hash =
            batch::chain_hash(call.prev, call.lane, call.seq, call.usageRoot, data_hash);
        logs.push(
            Settlement::BatchSettled {
                lane: call.lane,
                seq: call.seq,
                chainHash: self.chain_hash,
                usageRoot: call.usageRoot,
                summary,
                amounts: amounts.into(),
            }
            .encode_log_data(),
        );
        logs.extend(content.statements.iter().map(|said| {
            Settlement::Stated {
                lane: call.lane,
                kind: said.kind,
                subject: said.subject,
                seq: call.seq,
                number: said.number,
                content: said.content,
            }
            .encode_log_data()
        }));
        Ok(logs)
    }

    fn pay(
        &mut self,
        lane: u32,
        seq: u64,
        content: &Batch,
        logs: &mut Vec<LogData>,
    ) -> (U256, Vec<u8>) {
        let mut units: BTreeMap<Group, u64> = BTreeMap::new();
        let mut again: BTreeMap<u32, U224> = BTreeMap::new();
        for entry in &content.entries {
            if self.paid.contains(&entry.job_no) {
                let place = again
                    .entry(u32::try_from(entry.job_no / WORD_BITS).unwrap())
                    .or_default();
                place.set_bit(usize::try_from(entry.job_no % WORD_BITS).unwrap(), true);
            } else {
                *units.entry(Group::from(entry)).or_default() += entry.units;
            }
        }
        let mut skipped: u64 = again.values().map(|bits| bits.count_ones() as u64).sum();
        for (word_no, bits) in again {
            logs.push(
                Settlement::JobsSkipped {
                    lane,
                    seq,
                    wordNo: word_no,
                    bits,
                    why: 4,
                }
                .encode_log_data(),
            );
        }
        let mut amounts = Vec::new();
        let mut total = 0;
        let mut left_out = BTreeSet::new();
        for group in &content.groups {
            let amount =
                amount::group_amount(units.get(group).copied().unwrap_or(0), group.price).unwrap();
            let balance = self.balances.get(&group.payer).copied();
            let why = if !self.is_active(group.provider) {
                let registered = (1..=PROVIDERS).contains(&group.provider);
                Some(if registered { 5 } else { 1 })
            } else if balance.is_none() {
                Some(2)
            } else if balance < Some(amount) {
                Some(3)
            } else {
                None
            };
            match why {
                Some(why) => {
                    left_out.insert(*group);
                    amounts.extend((1_u64 << 63).to_be_bytes());
                    logs.push(
                        Settlement::GroupSkipped {
                            lane,
                            seq,
                            provider: group.provider,
                            payer: group.payer,
                            why,
                        }
                        .encode_log_data(),
                    );
                }
                None => {
                    *self.balances.get_mut(&group.payer).unwrap() -= amount;
                    *self.credits.get_mut(&group.provider).unwrap() += amount;
                    total += u128::from(amount);
                    amounts.extend(amount.to_be_bytes());
                }
            }
        }
        for entry in &content.entries {
            if left_out.contains(&Group::from(entry)) {
                skipped += u64::from(!self.paid.contains(&entry.job_no));
            } else {
                self.paid.insert(entry.job_no);
            }
        }
        let paid = content.entries.len() as u64 - skipped;
        let summary = U256::from(total) << 64 | U256::from(paid) << 32 | U256::from(skipped);
        (summary, amounts)
    }
}
