//! What the chain has paid, read from the contract's events and from the transactions that they came with: nothing of it comes
//! from the cluster.

use std::collections::{BTreeMap, BTreeSet};

use alloy::{
    consensus::Transaction as _,
    eips::BlockNumberOrTag,
    primitives::{B256, U256},
    providers::Provider as _,
    rpc::types::Filter,
    sol_types::{SolCall as _, SolEvent as _},
};
use anyhow::{Context as _, Result, ensure};
use gridstake_crds::UsageRecord;
use gridstake_ledger::batch;

use crate::{
    chain::Chain,
    contracts::Settlement,
    usage::{payment, sealed},
};

/// What one number was paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payment {
    /// The number.
    pub job_no: u64,
    /// Who paid.
    pub payer: u32,
    /// Who was paid.
    pub provider: u32,
    /// GPU-milliseconds; of an emission, nano-tokens.
    pub units: u64,
    /// The number of the batch.
    pub batch: u64,
}

impl Chain {
    /// Every payment of the lane, in the order of blocks. What the contract left out is none: groups, and numbers that it had paid
    /// before.
    pub async fn payments(&self) -> Result<Vec<Payment>> {
        let skipped = self.events::<Settlement::JobsSkipped>(self.settlement);
        let skipped: BTreeSet<(u64, u64)> = skipped
            .await?
            .into_iter()
            .filter(|one| one.lane == self.lane)
            .flat_map(|one| {
                let numbers = batch::numbers_of_word(one.wordNo, U256::from(one.bits));
                numbers.map(move |number| (one.seq, number))
            })
            .collect();
        let filter = Filter::new()
            .address(self.settlement)
            .event_signature(Settlement::BatchSettled::SIGNATURE_HASH)
            .topic1(B256::from(U256::from(self.lane)))
            .from_block(BlockNumberOrTag::Earliest);
        let logs = self.rpc.get_logs(&filter).await.context("read logs")?;
        let mut payments = Vec::new();
        for log in logs {
            let event = Settlement::BatchSettled::decode_log(&log.inner)?.data;
            let hash = log.transaction_hash.context("the log's transaction")?;
            let transaction = self.rpc.get_transaction_by_hash(hash).await?;
            let transaction = transaction.with_context(|| format!("find transaction {hash}"))?;
            let call = Settlement::settleCall::abi_decode(transaction.input())?;
            let content = batch::decode(&call.data)?;
            let outcome = batch::outcome(event.summary, &event.amounts)
                .context("read what the event says of amounts")?;
            let paid: BTreeMap<_, _> = content.groups.iter().zip(outcome.groups).collect();
            for entry in &content.entries {
                let amount = paid.get(&batch::Group::from(entry)).copied().flatten();
                if amount.is_some() && !skipped.contains(&(event.seq, entry.job_no)) {
                    payments.push(Payment {
                        job_no: entry.job_no,
                        payer: entry.payer,
                        provider: entry.provider,
                        units: entry.units,
                        batch: event.seq,
                    });
                }
            }
        }
        Ok(payments)
    }
}

/// Fails unless `payer` was debited for each of `records`, which are all that it owes, once and as it was sealed, and for nothing
/// else.
pub fn assert_each_is_paid_once(
    payments: &[Payment],
    payer: u32,
    records: &[UsageRecord],
) -> Result<()> {
    let mut owed = BTreeMap::new();
    for record in records {
        let sealed = sealed(record)?;
        let Some(number) = sealed.job_no else {
            continue;
        };
        let terms = (payment(record)?.provider, sealed.gpu_millis);
        let before = owed.insert(number, terms);
        ensure!(before.is_none(), "two slices have the number {number}");
    }
    let mut paid = BTreeMap::new();
    for one in payments.iter().filter(|one| one.payer == payer) {
        let before = paid.insert(one.job_no, (one.provider, one.units));
        ensure!(
            before.is_none(),
            "the chain has paid number {} twice",
            one.job_no
        );
    }
    ensure!(
        owed == paid,
        "these are owed and not paid, or not as they are owed: {:?}; these are paid and not owed: {:?} (number, provider, GPU-ms)",
        difference(&owed, &paid),
        difference(&paid, &owed)
    );
    Ok(())
}

type Terms = BTreeMap<u64, (u32, u64)>;

/// What is in `these` and not, or otherwise, in `others`.
fn difference(these: &Terms, others: &Terms) -> Vec<(u64, (u32, u64))> {
    let differs = |(number, terms): &(&u64, &(u32, u64))| others.get(number) != Some(terms);
    these
        .iter()
        .filter(differs)
        .map(|(number, terms)| (*number, *terms))
        .collect()
}
