//! What the chain has to say about a node: the stake behind it, and whether its agent's key is certified. Pure.

use alloy_primitives::Address;
use gridstake_crds::{
    GpuNode,
    gpu_node::{AgentCertificate, OfferReason},
};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use crate::controllers::stake_binding::bond::{Backing, Bond, Provider};

/// What the chain has to say about a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Guarantee {
    /// The stake behind it.
    pub backing: Backing,
    /// Whether the provider whose stake is in force has certified the key of its agent.
    pub certificate: Result<(), CertificateFault>,
    /// For which contract a certificate is signed; `None` if no stake is in force.
    pub vault: Option<Vault>,
}

/// A contract `StakeVault` on its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vault {
    /// The chain's id (EIP-155).
    pub chain_id: u64,
    /// The contract's address.
    pub address: Address,
}

/// Why the key of a node's agent is not certified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateFault {
    /// The agent has shown no key.
    NoKey,
    /// There is no certificate.
    NoCertificate,
    /// It is for another key: the agent was installed anew.
    OtherKey,
    /// It is for another session epoch than the chain's: the provider has revoked its sessions.
    OtherEpoch {
        /// The provider's on chain.
        current: u64,
    },
    /// It has ended.
    Expired,
    /// Somebody else than the provider's operator signed it.
    OtherSigner {
        /// Who did; `None` if that cannot be told.
        signer: Option<Address>,
        /// Who should have.
        operator: Address,
    },
}

impl Default for Guarantee {
    fn default() -> Self {
        Self {
            backing: Backing::default(),
            certificate: Ok(()),
            vault: None,
        }
    }
}

impl Guarantee {
    /// Whether the node may be offered as far as the chain is concerned.
    pub fn holds(&self) -> Result<(), OfferReason> {
        match (&self.backing.bond, &self.certificate) {
            (Bond::NotAsked, _) | (Bond::InForce(_), Ok(())) => Ok(()),
            (Bond::Missing(..), _) => Err(OfferReason::Unbonded),
            (Bond::InForce(_), Err(_)) => Err(OfferReason::KeyNotCertified),
        }
    }

    /// Why it does not hold, and what mends it.
    #[must_use]
    pub fn words(&self, gpu_node: &GpuNode) -> String {
        match (&self.backing.bond, &self.certificate) {
            (Bond::Missing(_, words), _) => words.clone(),
            (Bond::InForce(provider), Err(fault)) => {
                fault.words(&gpu_node.name_any(), provider, self.vault)
            }
            _ => String::new(),
        }
    }

    /// The moment at which it ends though nothing changes.
    #[must_use]
    pub fn ends_at(&self, gpu_node: &GpuNode) -> Option<Timestamp> {
        let certificate = gpu_node.spec.agent_certificate.as_ref()?;
        let asked = self.backing.in_force().is_some() && self.certificate.is_ok();
        asked.then_some(certificate.not_after.0)
    }
}

impl CertificateFault {
    /// What is wrong, and what mends it.
    fn words(&self, node: &str, provider: &Provider, vault: Option<Vault>) -> String {
        let fault = match self {
            Self::NoKey => {
                return "the device agent has shown no key in status.agent.key yet".to_owned();
            }
            Self::NoCertificate => "the key of the node's agent is not certified".to_owned(),
            Self::OtherKey => {
                "spec.agentCertificate is for another key than the agent's, in status.agent.key"
                    .to_owned()
            }
            Self::OtherEpoch { current } => format!(
                "spec.agentCertificate is not for session epoch {current}, the present one of provider {}",
                provider.id
            ),
            Self::Expired => "spec.agentCertificate has ended".to_owned(),
            Self::OtherSigner {
                signer: Some(signer),
                operator,
            } => format!(
                "spec.agentCertificate is signed by {signer}, not by {operator}, the operator of provider {}",
                provider.id
            ),
            Self::OtherSigner {
                signer: None,
                operator,
            } => format!(
                "spec.agentCertificate bears no valid signature by {operator}, the operator of provider {}",
                provider.id
            ),
        };
        format!(
            "{fault}: sign the key with the provider's operator key: {}",
            command(node, provider, vault)
        )
    }
}

/// The command by which `provider` certifies the key of the agent on `node`. What is left to be filled in stands in capitals.
fn command(node: &str, provider: &Provider, vault: Option<Vault>) -> String {
    let vault = vault.map_or_else(
        || "--chain-id ID --vault ADDRESS".to_owned(),
        |vault| format!("--chain-id {} --vault {}", vault.chain_id, vault.address),
    );
    format!(
        "kubectl gridstake certify --node {node} --provider {} {vault} --epoch {} --key-file FILE",
        provider.id, provider.session_epoch
    )
}

/// Whether `provider` has certified the key of the agent on `gpu_node` for `now`. `signer` is whoever signed the
/// certificate in its spec, as the agent's key of this very provider and node.
pub fn certificate(
    gpu_node: &GpuNode,
    provider: &Provider,
    signer: Option<Address>,
    now: Timestamp,
) -> Result<(), CertificateFault> {
    let status = gpu_node.status.as_ref();
    let key = status
        .and_then(|status| status.agent.as_ref()?.key.as_ref())
        .ok_or(CertificateFault::NoKey)?;
    let certificate: &AgentCertificate = gpu_node
        .spec
        .agent_certificate
        .as_ref()
        .ok_or(CertificateFault::NoCertificate)?;
    if !certificate.key.eq_ignore_ascii_case(&key.address) {
        return Err(CertificateFault::OtherKey);
    }
    if certificate.epoch != provider.session_epoch {
        return Err(CertificateFault::OtherEpoch {
            current: provider.session_epoch,
        });
    }
    if certificate.not_after.0 <= now {
        return Err(CertificateFault::Expired);
    }
    if signer != Some(provider.operator) {
        return Err(CertificateFault::OtherSigner {
            signer,
            operator: provider.operator,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::SignedDuration;
    use serde_json::{Value, json};

    use super::*;
    use crate::controllers::stake_binding::fixtures::OPERATOR;

    const KEY: Address = Address::repeat_byte(5);

    fn now() -> Timestamp {
        "2026-06-01T12:00:00Z".parse().unwrap()
    }

    fn provider() -> Provider {
        Provider {
            id: 7,
            chain: "anvil".into(),
            staker: Address::ZERO,
            operator: OPERATOR,
            session_epoch: 3,
            share: 30_000,
        }
    }

    fn node(key: Option<Address>, certificate: Option<Value>) -> GpuNode {
        let mut agent = json!({"version": "1", "state": "Ok"});
        if let Some(key) = key {
            agent["key"] = json!({"address": key.to_string()});
        }
        let mut spec = json!({});
        if let Some(certificate) = certificate {
            spec["agentCertificate"] = certificate;
        }
        serde_json::from_value(json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "GpuNode", "metadata": {"name": "n1"},
            "spec": spec, "status": {"agent": agent},
        }))
        .unwrap()
    }

    fn ends(seconds: i64) -> Value {
        json!({
            "key": KEY.to_string().to_lowercase(), "epoch": 3, "signature": format!("0x{}", "0".repeat(130)),
            "notAfter": (now() + SignedDuration::from_secs(seconds)).to_string(),
        })
    }

    fn altered(field: &str, value: &Value) -> Value {
        let mut certificate = ends(60);
        certificate[field] = value.clone();
        certificate
    }

    #[test]
    fn a_key_is_certified_only_by_its_providers_operator_for_this_epoch_and_time() {
        use CertificateFault as F;
        let other = Address::repeat_byte(9);
        let (by, operator) = (Some(OPERATOR), OPERATOR);
        for (case, node, signer, expected) in [
            ("all is well", node(Some(KEY), Some(ends(60))), by, None),
            ("no key", node(None, Some(ends(60))), by, Some(F::NoKey)),
            (
                "no certificate",
                node(Some(KEY), None),
                by,
                Some(F::NoCertificate),
            ),
            (
                "a key made anew",
                node(Some(other), Some(ends(60))),
                by,
                Some(F::OtherKey),
            ),
            (
                "sessions revoked",
                node(Some(KEY), Some(altered("epoch", &json!(2)))),
                by,
                Some(F::OtherEpoch { current: 3 }),
            ),
            (
                "an epoch to come",
                node(Some(KEY), Some(altered("epoch", &json!(4)))),
                by,
                Some(F::OtherEpoch { current: 3 }),
            ),
            (
                "ends now",
                node(Some(KEY), Some(ends(0))),
                by,
                Some(F::Expired),
            ),
            ("ends in a second", node(Some(KEY), Some(ends(1))), by, None),
            (
                "another signer",
                node(Some(KEY), Some(ends(60))),
                Some(other),
                Some(F::OtherSigner {
                    signer: Some(other),
                    operator,
                }),
            ),
            (
                "no signature",
                node(Some(KEY), Some(ends(60))),
                None,
                Some(F::OtherSigner {
                    signer: None,
                    operator,
                }),
            ),
        ] {
            let found = certificate(&node, &provider(), signer, now()).err();
            assert_eq!(found, expected, "{case}");
        }
    }

    #[test]
    fn every_fault_says_what_mends_it() {
        for fault in [
            CertificateFault::NoCertificate,
            CertificateFault::OtherKey,
            CertificateFault::OtherEpoch { current: 3 },
            CertificateFault::Expired,
            CertificateFault::OtherSigner {
                signer: None,
                operator: OPERATOR,
            },
        ] {
            let vault = Vault {
                chain_id: 31337,
                address: OPERATOR,
            };
            let words = fault.words("n1", &provider(), Some(vault));
            let command = format!(
                "kubectl gridstake certify --node n1 --provider 7 --chain-id 31337 --vault {OPERATOR} --epoch 3 --key-file FILE"
            );
            assert!(words.ends_with(&command), "{words}");
        }
    }

    #[test]
    fn a_bond_comes_before_a_certificate_and_without_a_chain_neither_is_asked_for() {
        use gridstake_crds::gpu_node::GpuNodeReason;
        let uncertified = Err(CertificateFault::NoKey);
        let of = |bond| Guarantee {
            backing: Backing {
                provider: Some(7),
                chain: None,
                bond,
            },
            certificate: uncertified.clone(),
            vault: None,
        };
        let missing = Bond::Missing(GpuNodeReason::NoBinding, "none".to_owned());
        assert_eq!(of(missing).holds(), Err(OfferReason::Unbonded));
        assert_eq!(
            of(Bond::InForce(provider())).holds(),
            Err(OfferReason::KeyNotCertified)
        );
        assert_eq!(of(Bond::NotAsked).holds(), Ok(()));
    }

    #[test]
    fn a_certificate_in_force_is_looked_at_again_when_it_ends() {
        let certified = node(Some(KEY), Some(ends(60)));
        let mut guarantee = Guarantee {
            backing: Backing {
                provider: Some(7),
                chain: None,
                bond: Bond::InForce(provider()),
            },
            certificate: Ok(()),
            vault: None,
        };
        let end = now() + SignedDuration::from_secs(60);
        assert_eq!(guarantee.ends_at(&certified), Some(end));
        guarantee.certificate = Err(CertificateFault::OtherKey);
        assert_eq!(guarantee.ends_at(&certified), None);
        assert_eq!(Guarantee::default().ends_at(&certified), None);
    }
}
