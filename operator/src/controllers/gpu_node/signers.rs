//! Who signed the agents' certificates. Recovering a signer costs far more than everything else that is asked about a
//! node, and a certificate is asked about in every pass and placement, so the answers are kept.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use alloy_primitives::{Address, B256};
use gridstake_crds::GpuNode;
use gridstake_ledger::{
    signature,
    typed::{AgentKey, digest, vault_domain},
};
use kube::ResourceExt as _;

use crate::chain::ChainConfig;

/// How many answers are kept; then they are found anew.
const KEPT: usize = 1 << 14;

type Answers = HashMap<(B256, [u8; 65]), Option<Address>>;

/// The signers of the certificates that were looked at lately. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct Signers(Arc<Mutex<Answers>>);

impl Signers {
    /// Who signed the certificate of the agent on `gpu_node` as that of `provider` on this chain; `None` if there is no
    /// certificate, or no signature in it.
    #[must_use]
    pub fn of(&self, gpu_node: &GpuNode, provider: u32, chain: &ChainConfig) -> Option<Address> {
        let certificate = gpu_node.spec.agent_certificate.as_ref()?;
        let signed = AgentKey {
            provider,
            node: gpu_node.name_any(),
            key: certificate.key.parse().ok()?,
            epoch: certificate.epoch,
            notAfter: u64::try_from(certificate.not_after.0.as_second()).ok()?,
        };
        let signature = signature::parse(&certificate.signature).ok()?;
        let digest = digest(&signed, &vault_domain(chain.chain_id, chain.vault.address));
        let question = (digest, signature.as_bytes());
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = answers.get(&question) {
            return *answer;
        }
        if answers.len() >= KEPT {
            answers.clear();
        }
        let answer = signature::signer(digest, &signature).ok();
        answers.insert(question, answer);
        answer
    }
}

#[cfg(test)]
mod tests {
    use alloy::{signers::SignerSync as _, signers::local::PrivateKeySigner};
    use serde_json::json;

    use super::*;
    use crate::chain::fixtures::config;

    fn node(name: &str, signature: &str) -> GpuNode {
        serde_json::from_value(json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "GpuNode", "metadata": {"name": name},
            "spec": {"agentCertificate": {
                "key": Address::repeat_byte(5).to_string(), "epoch": 3, "notAfter": "2027-01-01T00:00:00Z", "signature": signature,
            }},
        }))
        .unwrap()
    }

    fn signed_by(signer: &PrivateKeySigner) -> String {
        let agent_key = AgentKey {
            provider: 7,
            node: "n1".to_owned(),
            key: Address::repeat_byte(5),
            epoch: 3,
            notAfter: 1_798_761_600,
        };
        let chain = config();
        let digest = digest(
            &agent_key,
            &vault_domain(chain.chain_id, chain.vault.address),
        );
        signature::text(&signer.sign_hash_sync(&digest).unwrap())
    }

    #[test]
    fn the_signer_is_found_for_this_provider_node_and_chain_only() {
        let signer = PrivateKeySigner::from_bytes(&B256::repeat_byte(1)).unwrap();
        let signature = signed_by(&signer);
        let signers = Signers::default();
        let mine = Some(signer.address());
        // The second time from memory.
        for _ in 0..2 {
            assert_eq!(signers.of(&node("n1", &signature), 7, &config()), mine);
        }
        assert_ne!(signers.of(&node("n2", &signature), 7, &config()), mine);
        assert_ne!(signers.of(&node("n1", &signature), 8, &config()), mine);
        let mut elsewhere = config();
        elsewhere.chain_id += 1;
        assert_ne!(signers.of(&node("n1", &signature), 7, &elsewhere), mine);
    }

    #[test]
    fn what_is_no_signature_has_no_signer() {
        let signers = Signers::default();
        let zero = format!("0x{}", "0".repeat(130));
        assert_eq!(signers.of(&node("n1", &zero), 7, &config()), None);
        let plain: GpuNode = serde_json::from_value(json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "GpuNode", "metadata": {"name": "n1"}, "spec": {},
        }))
        .unwrap();
        assert_eq!(signers.of(&plain, 7, &config()), None);
    }
}
