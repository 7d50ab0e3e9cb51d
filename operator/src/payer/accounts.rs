//! What each payer owes and burns, from the UsageRecords, and how long its money lasts. Pure.

use std::{collections::BTreeMap, time::Duration};

use gridstake_crds::{
    TokenAmount, UsageRecord,
    names::settlement_batch,
    usage_record::{RecordState, Sealed},
};

use super::Funds;
use crate::{
    chain::{ChainConfig, view::PayerView},
    controllers::compute_job::usage::cost_nano,
};

/// How often payers are looked at. A job is stopped before the money for this long, and for its own termination, is gone.
pub const CHECK_EVERY: Duration = Duration::from_secs(5);
/// What a look and the stop after it may take together.
const REACTION: Duration = Duration::from_secs(10);
/// A payer is warned this part of a settlement interval before a job is stopped.
const WARN_DIVISOR: u32 = 5;
/// The least time before that: whatever the interval, one look at least falls into it.
const LEAST_WARNING: Duration = Duration::from_secs(10);
const DAY_MS: u64 = 86_400_000;

/// All payers of a lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    payers: BTreeMap<u32, PayerAccount>,
    /// What each namespace's jobs have cost on this lane since midnight UTC, in nano-tokens.
    spent_today: BTreeMap<String, u128>,
}

/// What one payer owes and burns, in nano-tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PayerAccount {
    /// Billed and not yet taken from the balance.
    pub billed: u128,
    /// Used since the last bills.
    pub running: u128,
    /// Running jobs and what each burns a second, the one that began first at first.
    jobs: Vec<RunningJob>,
}

/// A job that burns money.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RunningJob {
    /// When its first record was opened, in Unix milliseconds.
    began_ms: u64,
    uid: String,
    nano_per_second: u128,
}

/// A running member's span so far, in Unix milliseconds; the end only if it has ended.
pub type RunSoFar = Option<(u64, Option<u64>)>;

impl Accounts {
    /// Adds up those of `records` at `now_ms` that are paid on the lane `config`; `run_of` tells since when a member of an
    /// open record runs, and `seq` is the last batch that the balances show.
    pub fn tally<'a>(
        config: &ChainConfig,
        records: impl IntoIterator<Item = &'a UsageRecord>,
        run_of: impl Fn(&UsageRecord) -> RunSoFar,
        seq: u64,
        now_ms: u64,
    ) -> Self {
        let mut accounts = Self::default();
        let mut began: BTreeMap<&str, u64> = BTreeMap::new();
        let mut burns: BTreeMap<(u32, &str), u128> = BTreeMap::new();
        let midnight = now_ms - now_ms % DAY_MS;
        for record in records {
            let payment = record.spec.payment.as_ref();
            let Some(payment) = payment.filter(|payment| config.pays(payment)) else {
                continue;
            };
            let payer = accounts.payers.entry(payment.payer).or_default();
            let job = record.spec.job.uid.as_str();
            let first = began.entry(job).or_insert(u64::MAX);
            *first = opened_ms(record).min(*first);
            let status = record.status.as_ref();
            let (spent, from, to) = match status.and_then(|s| s.sealed.as_ref()) {
                Some(sealed) => {
                    let cost = cost_nano(sealed.gpu_millis, payment.per_gpu_second);
                    if !is_taken(record, payment.lane, seq) {
                        payer.billed += cost;
                    }
                    (cost, sealed.start_ms, sealed.end_ms)
                }
                None => {
                    let run = run_of(record);
                    let from = record.spec.from_ms.or(run.map(|(from, _)| from));
                    let ended = run.and_then(|(_, end)| end);
                    let burn = u128::from(record.spec.gpu_count) * payment.per_gpu_second.nano();
                    if ended.is_none() {
                        *burns.entry((payment.payer, job)).or_default() += burn;
                    }
                    let Some(from) = from else { continue };
                    let to = ended.unwrap_or(now_ms).max(from);
                    let cost = u128::from(to - from) * burn / 1000;
                    payer.running += cost;
                    (cost, from, to)
                }
            };
            if to > midnight {
                let today = part(spent, from.max(midnight), from, to);
                *accounts
                    .spent_today
                    .entry(record.spec.job.namespace.clone())
                    .or_default() += today;
            }
        }
        for ((payer, job), nano_per_second) in burns {
            accounts
                .payers
                .entry(payer)
                .or_default()
                .jobs
                .push(RunningJob {
                    began_ms: began.get(job).copied().unwrap_or(0),
                    uid: job.to_owned(),
                    nano_per_second,
                });
        }
        for account in accounts.payers.values_mut() {
            account.jobs.sort();
        }
        accounts
    }

    /// What `namespace`'s jobs have cost on this lane since midnight UTC.
    #[must_use]
    pub fn spent_today(&self, namespace: &str) -> u128 {
        self.spent_today.get(namespace).copied().unwrap_or(0)
    }

    /// What is left of `payer`'s money: balance − what it has asked back − everything unsettled.
    #[must_use]
    pub fn exposure(&self, payer: u32, view: &PayerView) -> u128 {
        let spendable = u128::from(view.balance.saturating_sub(view.thawing));
        let owed = self
            .payers
            .get(&payer)
            .map_or(0, |account| account.billed + account.running);
        spendable.saturating_sub(owed)
    }

    /// The uids of the jobs for which `payer` pays now.
    pub fn jobs(&self, payer: u32) -> impl Iterator<Item = &str> {
        self.payers
            .get(&payer)
            .into_iter()
            .flat_map(|account| account.jobs.iter().map(|job| job.uid.as_str()))
    }

    /// The payers that owe or burn anything.
    pub fn payers(&self) -> impl Iterator<Item = u32> {
        self.payers.keys().copied()
    }

    /// What `payer`'s jobs burn a second, down to and including the job `uid` in the order in which they began; `None`
    /// if it is not among them.
    fn burn_up_to(&self, payer: u32, uid: &str) -> Option<u128> {
        let jobs = &self.payers.get(&payer)?.jobs;
        let position = jobs.iter().position(|job| job.uid == uid)?;
        Some(
            jobs.iter()
                .take(position + 1)
                .map(|job| job.nano_per_second)
                .sum(),
        )
    }

    /// Whether `money` lasts for the job `uid`, which takes `grace` to end, with slices of `interval`.
    ///
    /// Where it does not last for all, the jobs that began last are stopped first.
    #[must_use]
    pub fn funds(
        &self,
        payer: u32,
        uid: &str,
        money: &Money<'_>,
        grace: Duration,
        interval: Duration,
    ) -> Funds {
        let Some(burn) = self.burn_up_to(payer, uid).filter(|burn| *burn > 0) else {
            return Funds::Suffice;
        };
        let nano = self.exposure(payer, money.view).min(money.cap_left);
        let cost_of = |time: Duration| burn.saturating_mul(time.as_millis()) / 1000;
        let stop = to_end(grace);
        let warn = (interval / WARN_DIVISOR).max(LEAST_WARNING);
        if nano <= cost_of(stop) {
            Funds::Exhausted(money.exhausted())
        } else if nano < cost_of(stop.saturating_add(warn)) {
            Funds::Low(money.low())
        } else {
            Funds::Suffice
        }
    }
}

/// How long a job that takes `grace` to end may still use money once it is to be stopped. It is stopped when the money
/// lasts no longer, and admitted only with more.
#[must_use]
pub fn to_end(grace: Duration) -> Duration {
    REACTION.saturating_add(grace)
}

/// The money that a job may use.
#[derive(Clone, Debug)]
pub struct Money<'a> {
    /// The payer's account.
    pub view: &'a PayerView,
    /// What the namespace may still spend today, in nano-tokens.
    pub cap_left: u128,
    /// What mends it: a deposit.
    pub deposit: &'a str,
    /// What mends it: a higher cap.
    pub raise: &'a str,
    /// Whether the cap is what is short.
    pub cap_binds: bool,
}

impl Money<'_> {
    fn exhausted(&self) -> String {
        if self.cap_binds {
            format!(
                "the daily cap of the payer's consent is used up: wait until midnight UTC, or {}",
                self.raise
            )
        } else {
            format!("the payer's escrow is used up: {}", self.deposit)
        }
    }

    fn low(&self) -> String {
        if self.cap_binds {
            format!(
                "the daily cap of the payer's consent is nearly used up; then the job is stopped: {}",
                self.raise
            )
        } else {
            format!(
                "the payer's escrow is nearly used up; then the job is stopped: {}",
                self.deposit
            )
        }
    }
}

fn opened_ms(record: &UsageRecord) -> u64 {
    let created = record.metadata.creation_timestamp.as_ref();
    created.map_or(0, |at| u64::try_from(at.0.as_millisecond()).unwrap_or(0))
}

/// The part of `cost` of a span that lies after `since`.
fn part(cost: u128, since: u64, from: u64, to: u64) -> u128 {
    let whole = u128::from(to.saturating_sub(from));
    if whole == 0 || since <= from {
        return cost;
    }
    cost * u128::from(to.saturating_sub(since)) / whole
}

/// Whether the balance already shows the record's payment: its batch is in a block that was read.
fn is_taken(record: &UsageRecord, lane: u32, seq: u64) -> bool {
    let Some(settlement) = record.status.as_ref().and_then(|s| s.settlement.as_ref()) else {
        return false;
    };
    match settlement.state {
        RecordState::Paid
        | RecordState::Final
        | RecordState::NothingOwed
        | RecordState::NeedsDecision => true,
        // Batches are numbered in their names, in the order of the numbers.
        RecordState::Batched => settlement
            .batch
            .as_deref()
            .is_some_and(|batch| batch < settlement_batch(lane, seq + 1).as_str()),
        RecordState::Sealed | RecordState::Skipped => false,
    }
}

/// What the reward account of the lane `config` owes for emissions that its balance does not show yet, in nano-tokens.
pub fn owed_emissions<'a>(
    config: &ChainConfig,
    records: impl IntoIterator<Item = &'a UsageRecord>,
    seq: u64,
) -> u128 {
    let amount = |record: &UsageRecord| {
        let payment = record.spec.payment.as_ref();
        let payment = payment.filter(|payment| config.pays(payment))?;
        let sealed: &Sealed = record.status.as_ref()?.sealed.as_ref()?;
        let emission = sealed.emission.as_ref()?;
        (!is_taken(record, payment.lane, seq)).then(|| emission.amount.nano())
    };
    records.into_iter().filter_map(amount).sum()
}

/// What the first slice of a job costs at most, in nano-tokens: `gpus` for `time` at `price`.
#[must_use]
pub fn slice_cost(gpus: u64, price: TokenAmount, time: Duration) -> u128 {
    u128::from(gpus)
        .saturating_mul(price.nano())
        .saturating_mul(time.as_millis())
        .div_ceil(1000)
}

#[cfg(test)]
#[path = "accounts_tests.rs"]
mod tests;
