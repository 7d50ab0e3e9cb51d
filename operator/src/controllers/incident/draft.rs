//! The calls that carry an incident to the chain, and who signs for them.

use alloy::{
    primitives::{B256, Bytes, U256, keccak256},
    sol_types::{SolCall as _, SolValue as _},
};
use gridstake_crds::{Incident, closed_enum::ClosedEnum as _, transaction::Authorization};
use gridstake_ledger::{
    signature,
    typed::{Slash, digest, vault_domain},
};
use kube::ResourceExt as _;

use super::decide::Call;
use crate::{
    chain::{ChainConfig, contracts::StakeVault},
    settlement::{
        signer::{Key, SignError},
        transaction,
    },
};

/// A call, ready to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// The call.
    pub call: transaction::Call,
    /// The authorization in it, if that is not stored yet.
    pub new: Option<Authorization>,
}

/// Why an incident cannot be put to the contract.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
    /// A field of the spec that the API has checked is not what it should be.
    #[error("read {0} of the Incident")]
    Field(&'static str),
    /// The slash key does not sign.
    #[error("authorize the slash")]
    Sign(#[source] SignError),
}

/// An Incident's number on chain: `keccak256(abi.encode(uint32 lane, bytes32 evidenceHash, string offence, string name))`.
///
/// It follows from the object alone, so two replicas, or an object that was deleted and made anew, mean the same slash.
#[must_use]
pub fn incident_id(lane: u32, evidence: B256, offence: &str, name: &str) -> B256 {
    keccak256((lane, evidence, offence, name).abi_encode_params())
}

/// The demand that `incident` makes of the contract; `valid_until` is still open.
pub fn demand(incident: &Incident, config: &ChainConfig) -> Result<Slash, DraftError> {
    let spec = &incident.spec;
    let evidence = spec
        .evidence_hash
        .parse()
        .map_err(|_| DraftError::Field("spec.evidenceHash"))?;
    Ok(Slash {
        lane: config.lane,
        incidentId: incident_id(
            config.lane,
            evidence,
            spec.offence.as_str(),
            &incident.name_any(),
        ),
        provider: spec
            .subject
            .provider_id
            .ok_or(DraftError::Field("spec.subject.providerId"))?,
        amount: spec.slash.ok_or(DraftError::Field("spec.slash"))?.nano(),
        evidence,
        validUntil: 0,
    })
}

/// The call that is due.
///
/// An authorization in `signed` is used again while half of its time is left on the chain's clock, which shows
/// `chain_time`.
pub fn draft(
    incident: &Incident,
    call: Call,
    signed: &[Authorization],
    key: &Key,
    config: &ChainConfig,
    chain_time: u64,
) -> Result<Draft, DraftError> {
    match call {
        Call::Finalize(id) => Ok(Draft {
            call: finalize(id, config),
            new: None,
        }),
        Call::Propose => {
            let lasts = config.authorization.as_secs();
            let newest = signed.iter().max_by_key(|old| old.valid_until);
            let usable =
                newest.filter(|old| old.valid_until >= chain_time.saturating_add(lasts / 2));
            let (authorization, new) = match usable {
                Some(old) => (old.clone(), None),
                None => {
                    let demand = Slash {
                        validUntil: chain_time.saturating_add(lasts),
                        ..demand(incident, config)?
                    };
                    let domain = vault_domain(config.chain_id, config.vault.address);
                    let signed = key
                        .sign(digest(&demand, &domain))
                        .map_err(DraftError::Sign)?;
                    let fresh = Authorization {
                        valid_until: demand.validUntil,
                        signature: signature::text(&signed),
                    };
                    (fresh.clone(), Some(fresh))
                }
            };
            Ok(Draft {
                call: propose(incident, &authorization, config)?,
                new,
            })
        }
    }
}

/// The call that a stored transaction was made for.
pub fn stored(
    incident: &Incident,
    call: Call,
    valid_until: Option<u64>,
    signed: &[Authorization],
    config: &ChainConfig,
) -> Result<transaction::Call, DraftError> {
    match (call, valid_until) {
        (Call::Finalize(id), _) => Ok(finalize(id, config)),
        (Call::Propose, until) => {
            let authorization = signed
                .iter()
                .find(|old| Some(old.valid_until) == until)
                .ok_or(DraftError::Field("status.authorizations"))?;
            propose(incident, authorization, config)
        }
    }
}

fn propose(
    incident: &Incident,
    authorization: &Authorization,
    config: &ChainConfig,
) -> Result<transaction::Call, DraftError> {
    let signature = signature::parse(&authorization.signature)
        .map_err(|_| DraftError::Field("status.authorizations"))?;
    let demand = demand(incident, config)?;
    let (r, vs) = signature::compact(&signature);
    let call = StakeVault::proposeSlashCall {
        lane: demand.lane,
        incidentId: demand.incidentId,
        provider: demand.provider,
        amount: demand.amount,
        evidence: demand.evidence,
        validUntil: authorization.valid_until,
        r,
        vs,
    };
    Ok(transaction::Call {
        to: config.vault.address,
        input: Bytes::from(call.abi_encode()),
        valid_until: Some(authorization.valid_until),
    })
}

fn finalize(id: u64, config: &ChainConfig) -> transaction::Call {
    let call = StakeVault::finalizeSlashCall { id: U256::from(id) };
    transaction::Call {
        to: config.vault.address,
        input: Bytes::from(call.abi_encode()),
        valid_until: None,
    }
}

#[cfg(test)]
mod tests {
    use alloy::{primitives::Signature, signers::local::PrivateKeySigner};
    use serde_json::json;

    use super::*;
    use crate::chain::fixtures::config;

    fn incident(name: &str) -> Incident {
        serde_json::from_value(json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "Incident", "metadata": {"name": name},
            "spec": {
                "offence": "FalseInventory", "subject": {"nodeName": "n1", "providerId": 7},
                "from": "2026-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z", "verdict": "Host",
                "evidenceHash": B256::repeat_byte(1).to_string(), "summary": "s", "sanction": "PartialSlash",
                "slash": "5000", "chain": "anvil",
            },
        }))
        .unwrap()
    }

    fn key() -> Key {
        PrivateKeySigner::from_bytes(&B256::repeat_byte(3))
            .unwrap()
            .into()
    }

    #[test]
    fn a_proposal_carries_the_slash_keys_signature_over_all_it_demands() {
        let incident = incident("incident-a");
        let draft = draft(&incident, Call::Propose, &[], &key(), &config(), 1000).unwrap();
        let call = StakeVault::proposeSlashCall::abi_decode(&draft.call.input).unwrap();
        assert_eq!(
            (call.lane, call.provider, call.amount, call.validUntil),
            (7, 7, 5_000_000_000_000, 1000 + 6 * 3600)
        );
        let mut compact = call.r.to_vec();
        compact.extend(call.vs);
        let demand = Slash {
            validUntil: call.validUntil,
            ..demand(&incident, &config()).unwrap()
        };
        let domain = vault_domain(config().chain_id, config().vault.address);
        let signer = Signature::from_erc2098(&compact)
            .recover_address_from_prehash(&digest(&demand, &domain));
        assert_eq!(signer.unwrap(), key().address());
    }

    #[test]
    fn an_authorization_is_signed_anew_only_when_half_its_time_is_over() {
        let incident = incident("incident-a");
        let at = |time: u64, signed: &[Authorization]| {
            draft(&incident, Call::Propose, signed, &key(), &config(), time).unwrap()
        };
        let first = at(1000, &[]);
        let signed = vec![first.new.clone().unwrap()];
        let half = 3 * 3600;
        assert_eq!(at(1000 + half, &signed).new, None);
        assert_eq!(at(1000 + half, &signed).call, first.call);
        assert!(at(1001 + half, &signed).new.is_some());
        let rebuilt = stored(
            &incident,
            Call::Propose,
            first.call.valid_until,
            &signed,
            &config(),
        );
        assert_eq!(rebuilt.unwrap(), first.call);
        assert!(stored(&incident, Call::Propose, Some(1), &signed, &config()).is_err());
    }

    #[test]
    fn every_part_of_an_incident_is_in_its_number() {
        let evidence = B256::repeat_byte(1);
        let base = incident_id(7, evidence, "FalseInventory", "incident-a");
        for other in [
            incident_id(8, evidence, "FalseInventory", "incident-a"),
            incident_id(7, B256::ZERO, "FalseInventory", "incident-a"),
            incident_id(7, evidence, "InvalidResult", "incident-a"),
            incident_id(7, evidence, "FalseInventory", "incident-b"),
            incident_id(7, evidence, "FalseInventoryi", "ncident-a"),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn namesakes_mean_the_same_slash_and_others_do_not() {
        let id = |name: &str| demand(&incident(name), &config()).unwrap().incidentId;
        assert_eq!(id("incident-a"), id("incident-a"));
        assert_ne!(id("incident-a"), id("incident-b"));
    }
}
