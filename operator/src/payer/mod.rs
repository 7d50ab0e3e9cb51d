//! Who pays for a namespace's jobs, on which chain, and whether the money lasts.
//!
//! A Namespace is on one chain: the one that its annotation `gridstake.dev/chain` names, else the first. Its payer is an
//! account of this cluster's lane there, and what other lanes know of an account with the same number does not count.
//!
//! | file | what |
//! |---|---|
//! | [`consent`] | pure: what the Namespace's annotations say, and whether the payer really consents |
//! | [`accounts`] | pure: what each payer owes and burns, from the UsageRecords; how long the money lasts |
//! | [`admission`] | pure: whether the chain, the lane and the payer let a job wait for a place |
//! | [`watch`] | the loop that keeps the accounts up to date and wakes jobs whose payer runs dry |

pub mod accounts;
pub mod admission;
pub mod consent;
pub mod watch;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use alloy::primitives::{Address, B256, Signature};
use gridstake_crds::{
    ComputeJob, TokenAmount, compute_job::ComputeJobReason, names::ANNOTATION_CHAIN,
};
use gridstake_ledger::signature;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use self::{
    accounts::{Accounts, Money},
    consent::{Consent, NamespaceSays, Refusal},
};
use crate::{
    chain::{self, Chain, ChainView, view::PayerView},
    context::Context,
};

/// How many signers are remembered; then they are found anew.
const KEPT: usize = 1 << 12;
/// How long a pod may take to end where its job does not say (the default of Kubernetes).
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// Who pays for what a job uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhoPays {
    /// No chain is configured: nobody, and nothing is owed.
    Nobody,
    /// The job is a canary, the operator's own: nobody, and nothing is owed.
    Canary,
    /// An account.
    Account(Account),
    /// Nobody can now: why, and what mends it.
    Refused(ComputeJobReason, String),
}

/// A payer's account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Account {
    /// The chain, by its name in the operator's configuration.
    pub chain: String,
    /// The lane.
    pub lane: u32,
    /// The account's number on the lane.
    pub payer: u32,
}

/// Whether the money lasts for a job that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Funds {
    /// It does, or nothing is owed.
    Suffice,
    /// It does for now; what to do about it.
    Low(String),
    /// It does not: the job must be stopped; what to do about it.
    Exhausted(String),
}

type Answers = HashMap<(B256, [u8; 65]), Option<Address>>;

/// What is known of all payers. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Payers {
    /// By the chain's name.
    accounts: Arc<Mutex<BTreeMap<String, Arc<Accounts>>>>,
    /// Recovering a signer costs more than everything else that is asked about a job.
    signers: Arc<Mutex<Answers>>,
}

impl Payers {
    /// What all payers of the lane on `chain` owe and burn.
    #[must_use]
    pub fn accounts(&self, chain: &str) -> Arc<Accounts> {
        self.accounts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(chain)
            .cloned()
            .unwrap_or_default()
    }

    /// Publishes new accounts of the lane on `chain`.
    pub fn publish(&self, chain: &str, accounts: Accounts) {
        self.accounts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(chain.to_owned(), Arc::new(accounts));
    }

    /// Who signed `digest`; `None` if nobody can be told.
    fn signer(&self, digest: B256, signature: &Signature) -> Option<Address> {
        let question = (digest, signature.as_bytes());
        let mut answers = self.signers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = answers.get(&question) {
            return *answer;
        }
        if answers.len() >= KEPT {
            answers.clear();
        }
        let answer = signature::signer(digest, signature).ok();
        answers.insert(question, answer);
        answer
    }
}

/// The chain on which the jobs of `namespace` are paid for; `None` if no chain is configured.
pub fn chain_of<'a>(ctx: &'a Context, namespace: &str) -> Result<Option<&'a Chain>, Refusal> {
    let found = ctx.caches.namespace(namespace);
    let nothing = BTreeMap::new();
    let annotations = found
        .as_ref()
        .and_then(|n| n.metadata.annotations.as_ref())
        .unwrap_or(&nothing);
    ctx.chains
        .of_namespace(annotations)
        .map_err(|unknown| Refusal {
            reason: ComputeJobReason::ChainNotConfigured,
            message: format!("namespace {namespace} {unknown}"),
        })
}

/// Who pays for the jobs of `namespace`, by the last observation of its chain, however old.
#[must_use]
pub fn who_pays(ctx: &Context, namespace: &str, now: Timestamp) -> WhoPays {
    let chain = match chain_of(ctx, namespace) {
        Ok(Some(chain)) => chain,
        Ok(None) => return WhoPays::Nobody,
        Err(refusal) => return WhoPays::Refused(refusal.reason, refusal.message),
    };
    match consent_of(ctx, chain, chain.view().as_deref(), namespace, now) {
        Ok(consent) => WhoPays::Account(Account {
            chain: chain.name().to_owned(),
            lane: chain.config().lane,
            payer: consent.payer,
        }),
        Err(refusal) => WhoPays::Refused(refusal.reason, refusal.message),
    }
}

/// The consent of the payer of `namespace`, which is on `chain`.
pub fn consent_of(
    ctx: &Context,
    chain: &Chain,
    view: Option<&ChainView>,
    namespace: &str,
    now: Timestamp,
) -> Result<Consent, Refusal> {
    let found = ctx.caches.namespace(namespace);
    let metadata = found.as_ref().map(|n| &n.metadata);
    let annotations = metadata
        .and_then(|m| m.annotations.clone())
        .unwrap_or_default();
    let says = NamespaceSays {
        name: namespace,
        uid: metadata.and_then(|m| m.uid.as_deref()).unwrap_or_default(),
        is_by_default: ctx.chains.iter().count() > 1 && !annotations.contains_key(ANNOTATION_CHAIN),
        annotations: &annotations,
    };
    consent::consent(&says, chain.config(), view, now, |digest, signature| {
        ctx.payers.signer(digest, signature)
    })
}

/// Whether the money lasts for `job`, which runs, `paying` being the accounts of its open records.
#[must_use]
pub fn funds(
    ctx: &Context,
    job: &ComputeJob,
    paying: impl IntoIterator<Item = Account>,
    now: Timestamp,
) -> Funds {
    // Without a chain there is nothing to pay, or a refusal already.
    let namespace = job.namespace().unwrap_or_default();
    let Ok(Some(chain)) = chain_of(ctx, &namespace) else {
        return Funds::Suffice;
    };
    let Some(view) = chain.view().filter(|view| view.contract.is_ok()) else {
        return Funds::Suffice;
    };
    let Ok(consent) = consent_of(ctx, chain, Some(&view), &namespace, now) else {
        // Without a consent there is a refusal already.
        return Funds::Suffice;
    };
    let (uid, grace) = (job.uid().unwrap_or_default(), grace(job));
    let accounts = ctx.payers.accounts(chain.name());
    let config = chain.config();
    let worst = paying.into_iter().map(|paying| {
        let payer = paying.payer;
        let here = (config.name.as_str(), config.lane, consent.payer);
        if (paying.chain.as_str(), paying.lane, payer) != here {
            return Funds::Exhausted(format!(
                "the payer of namespace {namespace} has changed; the job goes on at the new one's expense"
            ));
        }
        let chain::Account::Known(account) = view.payer(payer) else {
            return Funds::Suffice;
        };
        let words = Words::new(chain, &namespace, payer);
        let money = words.money(account, &accounts, &consent, &namespace, payer);
        accounts.funds(payer, &uid, &money, grace, chain.config().interval)
    });
    worst
        .max_by_key(|funds| match funds {
            Funds::Suffice => 0,
            Funds::Low(_) => 1,
            Funds::Exhausted(_) => 2,
        })
        .unwrap_or(Funds::Suffice)
}

/// Whether `job` may wait for a place, as far as its namespace's lane and payer are concerned. `price` is the most that a GPU may
/// cost it for a second.
pub fn admit(
    ctx: &Context,
    job: &ComputeJob,
    price: TokenAmount,
    now: Timestamp,
) -> Result<(), Refusal> {
    let namespace = job.namespace().unwrap_or_default();
    let Some(chain) = chain_of(ctx, &namespace)? else {
        return Ok(());
    };
    let standing = chain.standing(now);
    let view = admission::lane_takes_jobs(chain.config(), &standing)?;
    let consent = consent_of(ctx, chain, Some(view), &namespace, now)?;
    let chain::Account::Known(account) = view.payer(consent.payer) else {
        // A consent is only verified against an account that was read.
        return Ok(());
    };
    let interval = chain.config().interval;
    let slice = job
        .spec
        .run_timeout()
        .map_or(interval, |run| run.min(interval));
    let gpus = u64::from(job.spec.gpu.count) * u64::from(job.spec.members);
    // With less it would be stopped as soon as it runs, and admitted again.
    let time = slice.saturating_add(accounts::to_end(grace(job)));
    let need = accounts::slice_cost(gpus, price, time);
    let accounts = ctx.payers.accounts(chain.name());
    let words = Words::new(chain, &namespace, consent.payer);
    let money = words.money(account, &accounts, &consent, &namespace, consent.payer);
    admission::can_afford(&accounts, &consent, &money, need)
}

/// The commands that mend a want of money.
#[derive(Clone, Debug)]
pub struct Words {
    deposit: String,
    raise: String,
}

impl Words {
    /// The commands for `payer`, who pays for `namespace`.
    #[must_use]
    pub fn new(chain: &Chain, namespace: &str, payer: u32) -> Self {
        let config = chain.config();
        Self {
            deposit: format!(
                "top it up with Settlement.deposit(lane {}, payer {payer}, amount) at {} on {}",
                config.lane, config.settlement.address, config.name
            ),
            raise: format!(
                "raise it with {}",
                consent::command(namespace, Some(payer), config)
            ),
        }
    }

    /// What `namespace` may still spend of `payer`'s money.
    #[must_use]
    pub fn money<'a>(
        &'a self,
        account: &'a PayerView,
        accounts: &Accounts,
        consent: &Consent,
        namespace: &str,
        payer: u32,
    ) -> Money<'a> {
        let cap_left =
            u128::from(consent.daily_cap).saturating_sub(accounts.spent_today(namespace));
        Money {
            view: account,
            cap_left,
            deposit: &self.deposit,
            raise: &self.raise,
            cap_binds: cap_left < accounts.exposure(payer, account),
        }
    }
}

/// How long the job's pods may take to end.
#[must_use]
pub fn grace(job: &ComputeJob) -> Duration {
    let stated = job
        .spec
        .termination
        .as_ref()
        .map(|t| u64::from(t.grace_seconds));
    let of_template = || {
        let spec = job.spec.template.typed().ok()?.spec?;
        u64::try_from(spec.termination_grace_period_seconds?).ok()
    };
    stated
        .or_else(of_template)
        .map_or(DEFAULT_GRACE, Duration::from_secs)
}
