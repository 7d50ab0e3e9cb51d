//! What a Namespace's annotations say about who pays, and whether that payer really consents. Pure.

use std::{collections::BTreeMap, fmt};

use alloy::primitives::{Address, B256, Signature};
use gridstake_crds::{
    TokenAmount,
    compute_job::ComputeJobReason,
    names::{ANNOTATION_CHAIN, ANNOTATION_PAYER, ANNOTATION_PAYER_CONSENT},
};
use gridstake_ledger::{signature, typed};
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

use crate::chain::{Account, ChainConfig, ChainView};

/// A Namespace, as far as it says who pays.
#[derive(Clone, Copy, Debug)]
pub struct NamespaceSays<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its uid: a consent is not inherited by a namesake.
    pub uid: &'a str,
    /// Its annotations.
    pub annotations: &'a BTreeMap<String, String>,
    /// Whether it names none of several chains, so that the first one is meant.
    pub is_by_default: bool,
}

/// A consent that was read and not yet verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consent {
    /// The account.
    pub payer: u32,
    /// The most that the namespace's jobs may cost in one day (UTC), in nano-tokens.
    pub daily_cap: u64,
    /// The last second in which it holds.
    pub expires: Timestamp,
    /// The payer's signature.
    pub signature: String,
}

/// Why nobody pays for a namespace's jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason.
    pub reason: ComputeJobReason,
    /// What is wrong, and the command that mends it.
    pub message: String,
}

/// The consent as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    daily_cap: TokenAmount,
    expires: Timestamp,
    signature: String,
}

/// What is wrong with a namespace's consent.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    NoPayer,
    PayerNotANumber(String),
    PayerUnknown {
        payer: u32,
        lane: u32,
    },
    NoConsent(u32),
    Unreadable {
        payer: u32,
        problem: String,
    },
    OtherSigner {
        payer: u32,
        signer: Option<Address>,
        owner: Address,
    },
    Expired {
        payer: u32,
        expires: Timestamp,
    },
}

impl Fault {
    fn payer(&self) -> Option<u32> {
        match self {
            Self::NoPayer | Self::PayerNotANumber(_) | Self::PayerUnknown { .. } => None,
            Self::NoConsent(payer)
            | Self::Unreadable { payer, .. }
            | Self::OtherSigner { payer, .. }
            | Self::Expired { payer, .. } => Some(*payer),
        }
    }

    fn refusal(&self, namespace: &NamespaceSays<'_>, config: &ChainConfig) -> Refusal {
        let name = namespace.name;
        let meant = if namespace.is_by_default {
            format!(
                " (its annotation {ANNOTATION_CHAIN} is not there, so the first chain, {}, is meant)",
                config.name
            )
        } else {
            String::new()
        };
        Refusal {
            reason: ComputeJobReason::PayerNotConsenting,
            message: format!(
                "namespace {name} {self}{meant}: {}",
                command(name, self.payer(), config)
            ),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPayer => write!(f, "names no payer in its annotation {ANNOTATION_PAYER}"),
            Self::PayerNotANumber(text) => write!(
                f,
                "has {text:?} in its annotation {ANNOTATION_PAYER}, which is not the number of a payer's account, such as \"3\""
            ),
            Self::PayerUnknown { payer, lane } => write!(
                f,
                "names payer {payer}, and lane {lane} has no such account (accounts of other lanes do not count)"
            ),
            Self::NoConsent(payer) => write!(
                f,
                "names payer {payer} without that payer's consent in its annotation {ANNOTATION_PAYER_CONSENT}"
            ),
            Self::Unreadable { payer, problem } => write!(
                f,
                "has a consent of payer {payer} in its annotation {ANNOTATION_PAYER_CONSENT} that cannot be read ({problem})"
            ),
            Self::OtherSigner {
                payer,
                signer: Some(signer),
                owner,
            } => write!(
                f,
                "has a consent of payer {payer} that is signed by {signer} for these terms and this namespace, not by the account's owner {owner}"
            ),
            Self::OtherSigner {
                payer,
                signer: None,
                owner,
            } => write!(
                f,
                "has a consent of payer {payer} without a valid signature; it must be by the account's owner {owner}"
            ),
            Self::Expired { payer, expires } => {
                write!(f, "has a consent of payer {payer} that ended at {expires}")
            }
        }
    }
}

/// The command that makes a consent on the chain `config`. What is left to be filled in stands in capitals.
#[must_use]
pub fn command(namespace: &str, payer: Option<u32>, config: &ChainConfig) -> String {
    let payer = payer.map_or_else(|| "PAYER".to_owned(), |payer| payer.to_string());
    format!(
        "kubectl gridstake consent --namespace {namespace} --chain {} --payer {payer} --lane {} --chain-id {} --settlement {} --daily-cap TOKENS --expires TIME --key-file FILE",
        config.name, config.lane, config.chain_id, config.settlement.address
    )
}

/// What the namespace's annotations say.
fn read(namespace: &NamespaceSays<'_>) -> Result<Consent, Fault> {
    let text = namespace
        .annotations
        .get(ANNOTATION_PAYER)
        .ok_or(Fault::NoPayer)?;
    // 0 is the lane's reward account, from which no use is paid.
    let payer = payer_number(text).ok_or_else(|| Fault::PayerNotANumber(text.clone()))?;
    let text = namespace
        .annotations
        .get(ANNOTATION_PAYER_CONSENT)
        .ok_or(Fault::NoConsent(payer))?;
    let unreadable = |problem: String| Fault::Unreadable { payer, problem };
    let written: Written =
        serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))?;
    let daily_cap = u64::try_from(written.daily_cap.nano())
        .map_err(|_| unreadable("dailyCap is more than an account can hold".to_owned()))?;
    Ok(Consent {
        payer,
        daily_cap,
        expires: written.expires,
        signature: written.signature,
    })
}

/// The account that an annotation names.
#[must_use]
pub fn payer_number(text: &str) -> Option<u32> {
    text.trim().parse().ok().filter(|payer| *payer > 0)
}

/// The payer of `namespace` on the chain `config` as `view` shows it, if it consents at `now`. `signer` finds out who
/// signed a digest.
pub fn consent(
    namespace: &NamespaceSays<'_>,
    config: &ChainConfig,
    view: Option<&ChainView>,
    now: Timestamp,
    signer: impl Fn(B256, &Signature) -> Option<Address>,
) -> Result<Consent, Refusal> {
    let fault = |fault: Fault| fault.refusal(namespace, config);
    let consent = read(namespace).map_err(fault)?;
    let payer = consent.payer;
    let not_read = |what: &str| Refusal {
        reason: ComputeJobReason::ChainUnavailable,
        message: format!("{what} on the chain {} has not been read yet", config.name),
    };
    let view = view.ok_or_else(|| not_read("lane and payer"))?;
    let owner = match view.payer(payer) {
        Account::Known(account) => account.owner,
        Account::Missing => {
            let lane = config.lane;
            return Err(fault(Fault::PayerUnknown { payer, lane }));
        }
        Account::NotRead => return Err(not_read("the namespace's payer")),
    };
    let signature = signature::parse(&consent.signature).map_err(|error| {
        fault(Fault::Unreadable {
            payer,
            problem: format!("signature: {error}"),
        })
    })?;
    let digest = digest(namespace.uid, &consent, config);
    let signer = signer(digest, &signature);
    if signer != Some(owner) {
        return Err(fault(Fault::OtherSigner {
            payer,
            signer,
            owner,
        }));
    }
    if consent.expires < now {
        let expires = consent.expires;
        return Err(fault(Fault::Expired { payer, expires }));
    }
    Ok(consent)
}

/// What a payer signs.
fn digest(namespace_uid: &str, consent: &Consent, config: &ChainConfig) -> B256 {
    let signed = typed::PayerConsent {
        lane: config.lane,
        payer: consent.payer,
        namespaceUid: namespace_uid.to_owned(),
        dailyCap: consent.daily_cap,
        expires: u64::try_from(consent.expires.as_second()).unwrap_or(0),
    };
    typed::digest(
        &signed,
        &typed::settlement_domain(config.chain_id, config.settlement.address),
    )
}

#[cfg(test)]
#[path = "consent_tests.rs"]
mod tests;
