//! Simulates a plan, shows it, asks, sends its transactions one after the other, and waits until each is in a block.
//!
//! A transaction's hash and nonce are printed before it is handed over, so that an answer that is lost loses nothing: with its
//! nonce a command can be repeated without doing the same thing twice.

use std::time::Duration;

use alloy::{
    consensus::{SignableTransaction as _, TxEip1559, transaction::RlpEcdsaEncodableTx as _},
    eips::eip2930::AccessList,
    primitives::{Address, Log, TxHash, TxKind, U256},
};
use k8s_openapi::jiff::Timestamp;

use super::{
    MoneyError,
    args::SendArgs,
    chain::Chain,
    plan::{Plan, Price, Ready, Shown, ShownStep, Step},
    refusal,
    token::coins,
};
use crate::{confirm, error::PluginError, key::Key, output::Report as _};

/// How much more gas a transaction may take than was estimated: a quarter.
const SPARE_GAS: u64 = 4;
/// The first pause between two looks for a transaction; each one is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between two looks.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What was done.
pub enum Done {
    /// Nothing: it was shown.
    Shown(Shown),
    /// All of it.
    Sent(Vec<Mined>),
}

/// A transaction that is in a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mined {
    /// What it did.
    pub what: String,
    /// Its hash.
    pub hash: TxHash,
    /// Its nonce.
    pub nonce: u64,
    /// Its block.
    pub block: u64,
    /// How much gas it took.
    pub gas: u64,
    /// The events that it left.
    pub events: Vec<Log>,
}

/// Carries out `plan`, in the name of the account of `key`.
pub async fn carry_out(
    chain: &Chain,
    key: &Key,
    plan: &Plan,
    args: &SendArgs,
    now: Timestamp,
) -> Result<Done, PluginError> {
    // A wait that is over already is refused before anybody is asked.
    args.timeout.seen_from(now, "--timeout")?;
    let account = key.address();
    let nonces = chain.nonces(account).await?;
    let first = first_nonce(account, nonces, args.nonce)?;
    // With --nonce only: without it nothing is sent behind one that waits.
    let replaces = nonces.1 > first;
    let price = price(chain, replaces).await?;
    let shown = shown(chain, account, plan, (first, replaces), price).await?;
    if args.dry_run {
        return Ok(Done::Shown(shown));
    }
    eprintln!("{}", shown.text());
    confirm::ask(&shown.question(), args.yes, "nothing is sent")?;
    let mut sent: Vec<Mined> = Vec::with_capacity(plan.steps.len());
    for (step, nonce) in plan.steps.iter().zip(first..) {
        let until = args.timeout.seen_from(Timestamp::now(), "--timeout")?;
        let before = sent.last().map_or(chain.block.number, |mined| mined.block);
        if let Some(data) = chain.revert(account, &step.call, before).await? {
            return Err(MoneyError::refused(&step.what, &data, &chain.token).into());
        }
        let replaces = replaces && nonce == first;
        let place = Turn {
            nonce,
            replaces,
            before,
            until: until.seconds(),
        };
        let mined = send(chain, key, step, place).await?;
        eprintln!("it is in block {}", mined.block);
        sent.push(mined);
    }
    Ok(Done::Sent(sent))
}

/// The nonce of the first transaction, by how many of the account's are in blocks and how many with those that wait.
fn first_nonce(
    account: Address,
    (mined, waiting): (u64, u64),
    asked: Option<u64>,
) -> Result<u64, MoneyError> {
    match asked {
        None if waiting > mined => Err(MoneyError::Waiting {
            account,
            nonce: mined,
        }),
        None => Ok(mined),
        Some(nonce) if nonce < mined => Err(MoneyError::NonceTaken { account, nonce }),
        Some(nonce) if nonce > mined => Err(MoneyError::NonceAhead {
            account,
            nonce,
            next: mined,
        }),
        Some(nonce) => Ok(nonce),
    }
}

/// What is paid per gas: twice the base fee lasts for six full blocks.
async fn price(chain: &Chain, replaces: bool) -> Result<Price, MoneyError> {
    let (block, tip) = tokio::try_join!(chain.newest(), chain.tip())?;
    let base = block.base_fee.ok_or(MoneyError::NoBaseFee)?;
    let now = base.saturating_add(tip.max(1));
    let price = Price {
        now,
        most: now.saturating_add(base),
        tip: tip.max(1),
    };
    Ok(if replaces { price.to_replace() } else { price })
}

/// The plan as it is shown. A call that the contract refuses already is an error here, before anything is sent.
async fn shown(
    chain: &Chain,
    account: Address,
    plan: &Plan,
    (nonce, replaces): (u64, bool),
    price: Price,
) -> Result<Shown, MoneyError> {
    let has = chain.coins(account).await?;
    let no_coins = |needs| MoneyError::NoCoins {
        account,
        has: coins(has),
        needs: coins(needs),
    };
    if has == 0 {
        // Some chains refuse an estimate for an account without coins, in other words.
        let typical: u64 = plan.steps.iter().map(|step| step.typical_gas).sum();
        return Err(no_coins(price.most.saturating_mul(limit(typical).into())));
    }
    let mut steps = Vec::with_capacity(plan.steps.len());
    for step in &plan.steps {
        let gas = match step.ready {
            Ready::Now => {
                if let Some(data) = chain
                    .revert(account, &step.call, chain.block.number)
                    .await?
                {
                    return Err(MoneyError::refused(&step.what, &data, &chain.token));
                }
                Some(chain.gas(account, &step.call, chain.block.number).await?)
            }
            Ready::AfterApproval => {
                // The token must refuse what is not approved yet; our own contracts come before it.
                let data = chain
                    .revert(account, &step.call, chain.block.number)
                    .await?;
                if let Some(data) = data.filter(|data| refusal::of(data, &chain.token).ours) {
                    return Err(MoneyError::refused(&step.what, &data, &chain.token));
                }
                None
            }
            Ready::AfterStep => None,
        };
        steps.push(ShownStep {
            what: step.what.clone(),
            to: chain.address(step.call.to),
            input: step.call.input.clone(),
            gas: gas.unwrap_or(step.typical_gas),
            simulated: gas.is_some(),
        });
    }
    let gas: u64 = steps.iter().map(|step| step.gas).sum();
    let (fee, most_fee) = Shown::fees(gas, price);
    let needs = price.most.saturating_mul(limit(gas).into());
    if has < needs {
        return Err(no_coins(needs));
    }
    Ok(Shown {
        chain: chain.name.clone(),
        chain_id: chain.id,
        account,
        nonce,
        replaces,
        now: plan.now.clone(),
        steps,
        fee,
        most_fee,
        coins: coins(has),
        then: plan.then.clone(),
    })
}

/// The gas limit of a transaction that takes so much.
const fn limit(gas: u64) -> u64 {
    gas.saturating_add(gas / SPARE_GAS)
}

/// A transaction's place among the account's.
#[derive(Clone, Copy)]
struct Turn {
    nonce: u64,
    /// Whether another one waits with this nonce.
    replaces: bool,
    /// The block after which it is sent.
    before: u64,
    /// Until when it is waited for, in Unix seconds.
    until: u64,
}

/// Signs a transaction, says its hash and nonce, hands it over, and waits for its block.
async fn send(chain: &Chain, key: &Key, step: &Step, turn: Turn) -> Result<Mined, PluginError> {
    let Turn {
        nonce,
        replaces,
        before,
        until,
    } = turn;
    let account = key.address();
    let price = price(chain, replaces).await?;
    let transaction = TxEip1559 {
        chain_id: chain.id,
        nonce,
        gas_limit: limit(chain.gas(account, &step.call, before).await?),
        max_fee_per_gas: price.most,
        max_priority_fee_per_gas: price.tip,
        to: TxKind::Call(chain.address(step.call.to)),
        value: U256::ZERO,
        access_list: AccessList::default(),
        input: step.call.input.clone(),
    };
    let signature = key.sign_hash(transaction.signature_hash())?;
    let hash = transaction.tx_hash(&signature);
    let mut raw = Vec::with_capacity(transaction.eip2718_encoded_length(&signature));
    transaction.eip2718_encode(&signature, &mut raw);
    eprintln!("sending transaction {hash}, nonce {nonce}: {}", step.what);
    Sending {
        chain,
        what: &step.what,
        account,
        nonce,
        hash,
    }
    .until_mined(&raw, step, until)
    .await
    .map_err(PluginError::from)
}

/// A transaction on its way.
struct Sending<'a> {
    chain: &'a Chain,
    what: &'a str,
    account: Address,
    nonce: u64,
    hash: TxHash,
}

impl Sending<'_> {
    /// Hands it over and waits until it is in a block, at most until `until`, in Unix seconds.
    async fn until_mined(&self, raw: &[u8], step: &Step, until: u64) -> Result<Mined, MoneyError> {
        let &Self { chain, hash, .. } = self;
        // A refusal proves nothing: it may say that the transaction is there already. Nor does an answer that is lost.
        let refused = chain.send(raw).await.err();
        let mut last = refused.as_ref().map(ToString::to_string);
        let mut pause = FIRST_PAUSE;
        let mut taken = false;
        loop {
            match chain.receipt(hash).await {
                Ok(Some(receipt)) => {
                    let block = receipt.block_number.unwrap_or_default();
                    if !receipt.status() {
                        return Err(self.failed(step, block).await);
                    }
                    return Ok(Mined {
                        what: self.what.to_owned(),
                        hash,
                        nonce: self.nonce,
                        block,
                        gas: receipt.gas_used,
                        events: receipt.logs().iter().map(|log| log.inner.clone()).collect(),
                    });
                }
                Ok(None) => {
                    if let Some(crate::endpoint::Fault::Refused(words)) = &refused
                        && !chain.knows(hash).await.unwrap_or(true)
                    {
                        return Err(MoneyError::NotTaken {
                            what: self.what.to_owned(),
                            hash,
                            nonce: self.nonce,
                            words: words.clone(),
                        });
                    }
                    // One look is not enough: an endpoint may know a block's state before its receipts.
                    let is_past = chain
                        .nonces(self.account)
                        .await
                        .is_ok_and(|(mined, _)| mined > self.nonce);
                    if is_past && taken {
                        return Err(MoneyError::Displaced {
                            what: self.what.to_owned(),
                            account: self.account,
                            hash,
                            nonce: self.nonce,
                        });
                    }
                    taken = is_past;
                }
                Err(error) => last = Some(error.to_string()),
            }
            let now = u64::try_from(Timestamp::now().as_second()).unwrap_or(0);
            if now >= until {
                return Err(MoneyError::Unknown {
                    what: self.what.to_owned(),
                    hash,
                    nonce: self.nonce,
                    last,
                });
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    /// Why it failed in its block, as far as that can be told.
    async fn failed(&self, step: &Step, block: u64) -> MoneyError {
        let data = self.chain.revert(self.account, &step.call, block).await;
        let why = match data {
            Ok(Some(data)) => {
                let refusal = refusal::of(&data, &self.chain.token);
                format!(
                    ", as it would now, with {}: {}",
                    refusal.error, refusal.next
                )
            }
            Ok(None) | Err(_) => String::new(),
        };
        MoneyError::Failed {
            what: self.what.to_owned(),
            hash: self.hash,
            block,
            why,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(nonces: (u64, u64), asked: Option<u64>) -> Result<u64, String> {
        first_nonce(Address::repeat_byte(1), nonces, asked).map_err(|error| error.to_string())
    }

    #[test]
    fn a_command_is_not_sent_behind_a_transaction_whose_fate_is_open() {
        assert_eq!(first((5, 5), None), Ok(5));
        let words = first((5, 6), None).unwrap_err();
        assert!(
            words.contains("nonce 5 is in no block yet") && words.contains("--nonce 5"),
            "{words}"
        );
    }

    #[test]
    fn a_nonce_that_is_named_is_used_once_and_never_after() {
        assert_eq!(first((5, 5), Some(5)), Ok(5));
        // The one that waits is replaced or is the same.
        assert_eq!(first((5, 6), Some(5)), Ok(5));
        let words = first((6, 6), Some(5)).unwrap_err();
        assert!(words.contains("was not sent again"), "{words}");
        let words = first((5, 5), Some(7)).unwrap_err();
        assert!(words.ends_with("write 5"), "{words}");
    }

    #[test]
    fn a_quarter_more_gas_is_allowed_than_was_estimated() {
        assert_eq!(limit(100_000), 125_000);
        assert_eq!(limit(u64::MAX), u64::MAX);
    }
}
