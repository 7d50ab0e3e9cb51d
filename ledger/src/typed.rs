//! The EIP-712 structs that are signed, and the domains that they are signed for.

use alloy_primitives::{Address, B256, Signature};
use alloy_sol_types::{Eip712Domain, SolStruct};

use crate::signature::{SignatureFault, signer};

#[allow(
    missing_docs,
    reason = "the structs are documented where they are re-exported"
)]
mod structs {
    alloy_sol_types::sol! {
        #[derive(Debug, PartialEq, Eq)]
        struct Batch { uint32 lane; uint64 seq; bytes32 prev; bytes32 usageRoot; bytes32 dataHash; uint64 validUntil; }
        #[derive(Debug, PartialEq, Eq)]
        struct PayerConsent { uint32 lane; uint32 payer; string namespaceUid; uint64 dailyCap; uint64 expires; }
        #[derive(Debug, PartialEq, Eq)]
        struct AgentKey { uint32 provider; string node; address key; uint64 epoch; uint64 notAfter; }
        #[derive(Debug, PartialEq, Eq)]
        struct Slash { uint32 lane; bytes32 incidentId; uint32 provider; uint128 amount; bytes32 evidence; uint64 validUntil; }
        #[derive(Debug, PartialEq, Eq)]
        struct Checkpoint { string record; string podUid; uint64 epoch; uint64 seq; uint64 fromMs; uint64 toMs; bytes32 devices; bytes32 counters; bytes32 previous; }
    }
}

/// What a provider's operator address signs so that a node's agent key counts. `epoch`: the provider's session epoch on
/// chain; `notAfter`: Unix seconds. For the vault's domain.
pub use structs::AgentKey;
/// What a lane's signer signs so that a batch is settled. For the settlement's domain.
pub use structs::Batch;
/// What an agent's key signs about a span of a slice. For the evidence domain. Its struct hash is the head of the chain.
pub use structs::Checkpoint;
/// What a payer's owner signs so that a namespace's jobs are paid for. `dailyCap`: nano-tokens per UTC day; `expires`: Unix
/// seconds. For the settlement's domain.
pub use structs::PayerConsent;
/// What a lane's slash signer signs so that a slash is proposed. For the vault's domain.
pub use structs::Slash;

/// The domain of the contract `Settlement`.
#[must_use]
pub fn settlement_domain(chain_id: u64, settlement: Address) -> Eip712Domain {
    contract_domain("Gridstake Settlement", chain_id, settlement)
}

/// The domain of the contract `StakeVault`.
#[must_use]
pub fn vault_domain(chain_id: u64, vault: Address) -> Eip712Domain {
    contract_domain("Gridstake StakeVault", chain_id, vault)
}

/// The domain of agents' evidence: agents know no chain.
#[must_use]
pub fn evidence_domain() -> Eip712Domain {
    Eip712Domain {
        name: Some("Gridstake Evidence".into()),
        version: Some("1".into()),
        ..Eip712Domain::default()
    }
}

fn contract_domain(name: &'static str, chain_id: u64, contract: Address) -> Eip712Domain {
    Eip712Domain {
        name: Some(name.into()),
        version: Some("1".into()),
        chain_id: Some(alloy_primitives::U256::from(chain_id)),
        verifying_contract: Some(contract),
        salt: None,
    }
}

/// What is signed: the EIP-712 digest of `message` for `domain`.
#[must_use]
pub fn digest(message: &impl SolStruct, domain: &Eip712Domain) -> B256 {
    message.eip712_signing_hash(domain)
}

/// Who signed `message` for `domain`.
pub fn signer_of(
    message: &impl SolStruct,
    domain: &Eip712Domain,
    signature: &Signature,
) -> Result<Address, SignatureFault> {
    signer(digest(message, domain), signature)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_types_are_those_of_the_contracts() {
        for (encoded, expected) in [
            (
                Batch::eip712_encode_type(),
                "Batch(uint32 lane,uint64 seq,bytes32 prev,bytes32 usageRoot,bytes32 dataHash,uint64 validUntil)",
            ),
            (
                PayerConsent::eip712_encode_type(),
                "PayerConsent(uint32 lane,uint32 payer,string namespaceUid,uint64 dailyCap,uint64 expires)",
            ),
            (
                AgentKey::eip712_encode_type(),
                "AgentKey(uint32 provider,string node,address key,uint64 epoch,uint64 notAfter)",
            ),
            (
                Slash::eip712_encode_type(),
                "Slash(uint32 lane,bytes32 incidentId,uint32 provider,uint128 amount,bytes32 evidence,uint64 validUntil)",
            ),
            (
                Checkpoint::eip712_encode_type(),
                "Checkpoint(string record,string podUid,uint64 epoch,uint64 seq,uint64 fromMs,uint64 toMs,bytes32 devices,bytes32 counters,bytes32 previous)",
            ),
        ] {
            assert_eq!(encoded, expected);
        }
    }

    #[test]
    fn another_chain_or_contract_is_another_digest() {
        let batch = Batch {
            lane: 7,
            seq: 1,
            prev: B256::ZERO,
            usageRoot: B256::ZERO,
            dataHash: B256::ZERO,
            validUntil: 1,
        };
        let here = digest(&batch, &settlement_domain(1, Address::repeat_byte(1)));
        assert_ne!(
            here,
            digest(&batch, &settlement_domain(2, Address::repeat_byte(1)))
        );
        assert_ne!(
            here,
            digest(&batch, &settlement_domain(1, Address::repeat_byte(2)))
        );
        assert_ne!(
            here,
            digest(&batch, &vault_domain(1, Address::repeat_byte(1)))
        );
    }
}
