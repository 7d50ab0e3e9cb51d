//! Who pays for a namespace's jobs: an account on the lane with a deposit, and its signed consent.

use std::time::Duration;

use anyhow::{Context as _, Result};
use gridstake_crds::{
    TokenAmount,
    names::{ANNOTATION_PAYER, ANNOTATION_PAYER_CONSENT},
};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    account::Account,
    chain::Chain,
    contracts::{PayerConsent, Settlement},
    provider::{rfc3339, tokens},
    tenant::Tenant,
};

/// For how long a payer consents where a story says nothing else.
const CONSENT: Duration = Duration::from_hours(24 * 365 * 20);

/// An account on the lane from which jobs are paid.
#[derive(Clone, Debug)]
pub struct Payer {
    /// Its number.
    pub id: u32,
    /// Who owns it.
    pub owner: Account,
}

/// What a payer consents to.
#[derive(Clone, Copy, Debug)]
pub struct Consent {
    /// The most that is to be paid in a day.
    pub daily_cap: TokenAmount,
    /// When it ends, in Unix seconds of the chain's clock.
    pub expires: u64,
}

impl Payer {
    /// What its account holds, in nano-tokens.
    pub async fn balance(&self, chain: &Chain) -> Result<u64> {
        chain.balance(self.id).await
    }

    /// Registers a payer on the lane, deposits `deposit` for it, and has it consent to pay for the tenant's jobs.
    pub async fn of_tenant(chain: &Chain, tenant: &Tenant, deposit: TokenAmount) -> Result<Self> {
        let payer = Self::register(chain, &tenant.namespace).await?;
        payer.deposit(chain, deposit).await?;
        payer
            .consent_to(chain, tenant, payer.consent(chain).await?)
            .await?;
        Ok(payer)
    }

    /// Registers a payer with an empty account.
    pub async fn register(chain: &Chain, name: &str) -> Result<Self> {
        let owner = chain.account(&format!("{name} payer")).await?;
        let lane = chain.lane;
        let receipt = chain
            .send(
                owner.address(),
                chain.settlement,
                Settlement::registerPayerCall { lane },
            )
            .await?;
        let registered = receipt
            .decoded_log::<Settlement::PayerRegistered>()
            .context("find the event PayerRegistered")?;
        Ok(Self {
            id: registered.payer,
            owner,
        })
    }

    /// Deposits this much, which its owner is given before.
    pub async fn deposit(&self, chain: &Chain, amount: TokenAmount) -> Result<()> {
        deposit(chain, &self.owner, self.id, amount).await
    }

    /// A consent without a bound that matters.
    pub async fn consent(&self, chain: &Chain) -> Result<Consent> {
        Ok(Consent {
            daily_cap: tokens(1_000_000),
            expires: chain.now().await? + CONSENT.as_secs(),
        })
    }

    /// Consents to pay for the tenant's jobs, by the annotations of its namespace.
    pub async fn consent_to(&self, chain: &Chain, tenant: &Tenant, consent: Consent) -> Result<()> {
        let annotations = self.annotations(chain, tenant, consent).await?;
        annotate(tenant, &annotations).await
    }

    /// The annotations by which it consents to pay for the tenant's jobs.
    pub async fn annotations(
        &self,
        chain: &Chain,
        tenant: &Tenant,
        consent: Consent,
    ) -> Result<Value> {
        let statement = PayerConsent {
            lane: chain.lane,
            payer: self.id,
            namespaceUid: uid(tenant).await?,
            dailyCap: u64::try_from(consent.daily_cap.nano())?,
            expires: consent.expires,
        };
        let signature = self.owner.sign(&statement, &chain.settlement_domain())?;
        let text = json!({
            "dailyCap": consent.daily_cap,
            "expires": rfc3339(consent.expires)?,
            "signature": signature,
        });
        Ok(json!({
            (ANNOTATION_PAYER): self.id.to_string(),
            (ANNOTATION_PAYER_CONSENT): text.to_string(),
        }))
    }
}

/// Deposits this much to an account of the lane; `from` is given it before. Account 0 is the lane's reward account.
pub async fn deposit(chain: &Chain, from: &Account, payer: u32, amount: TokenAmount) -> Result<()> {
    chain
        .give_tokens(from.address(), amount, chain.settlement)
        .await?;
    let call = Settlement::depositCall {
        lane: chain.lane,
        payer,
        amount: u64::try_from(amount.nano())?,
    };
    chain
        .send(from.address(), chain.settlement, call)
        .await
        .map(drop)
}

/// Sets annotations of the tenant's namespace; null removes one.
pub async fn annotate(tenant: &Tenant, annotations: &Value) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(tenant.client.clone());
    let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
    namespaces
        .patch(&tenant.namespace, &PatchParams::default(), &patch)
        .await
        .map(drop)
        .context("annotate the namespace")
}

async fn uid(tenant: &Tenant) -> Result<String> {
    let namespaces: Api<Namespace> = Api::all(tenant.client.clone());
    let namespace = namespaces.get(&tenant.namespace).await?;
    namespace.metadata.uid.context("the namespace has no uid")
}
