//! What is known of an incident's slash. Decides nothing.

use alloy::primitives::Bytes;
use gridstake_crds::{Incident, incident::IncidentReason};
use k8s_openapi::jiff::Timestamp;

use super::{
    decide::{self, Call, Refusal, Seen, Sight},
    draft::{self, DraftError},
    history,
    record::Record,
};
use crate::{
    chain::{Standing, client::ClientError, contracts::StakeVault::StakeVaultErrors},
    settlement::Lane,
};

/// Errors of the contract that pass by themselves: another replica, or a block that has not been seen yet, was faster.
const PASSING: [&str; 4] = ["IncidentKnown", "TooEarly", "WrongState", "UnknownSlash"];

/// Why an incident could not be observed.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// The chain does not answer.
    #[error("ask the chain about a slash")]
    Chain(#[from] ClientError),
    /// The incident makes no demand.
    #[error("draft a demand")]
    Draft(#[from] DraftError),
}

/// Looks at `incident` at `now`. `lane` is the one on the chain that it names, if that is configured.
pub async fn observe(
    lane: Option<&Lane>,
    incident: &Incident,
    now: Timestamp,
) -> Result<Sight, ObserveError> {
    if incident.spec.slash.is_none() {
        return Ok(Sight::NotNeeded);
    }
    let blocked = |reason, words: String| Ok(Sight::Blocked(reason, words));
    let named = incident.spec.chain.as_deref().unwrap_or_default();
    let Some(lane) = lane else {
        let words = format!("no chain named {named} is configured in the operator");
        return blocked(IncidentReason::ChainNotConfigured, words);
    };
    let view = match lane.chain().standing(now) {
        Standing::InForce(view) => view,
        Standing::Unavailable(_) => {
            let words = format!("chain {named} has not answered for longer than its maxStaleness");
            return blocked(IncidentReason::ChainUnavailable, words);
        }
        Standing::Mismatch(mismatch) => {
            let words = format!("chain {named}: {mismatch}");
            return blocked(IncidentReason::ContractMismatch, words);
        }
    };
    let config = lane.chain().config();
    let id = draft::demand(incident, config)?.incidentId;
    let Some(slash) = view.slashes.get(&id).cloned() else {
        lane.chain().interest_in(|interest| {
            interest.incidents.insert(id);
        });
        let words = format!("chain {named} has not been asked for this incident yet");
        return blocked(IncidentReason::ChainUnavailable, words);
    };
    let mut seen = Seen {
        head: view.head,
        slash,
        ..Seen::default()
    };
    let record = Record::of(&incident.status.clone().unwrap_or_default());
    if let Some(slash) = &seen.slash {
        seen.history = history::read(lane.client(), config, &view, slash, &record).await?;
    }
    let due = decide::due(seen.slash.as_ref(), seen.head.timestamp);
    if due == Some(Call::Propose) && lane.keys().slash.is_none() {
        let words = "the operator has no key for slashes: set keys.slash in its chains file";
        return blocked(IncidentReason::NoSlashKey, words.to_owned());
    }
    Ok(Sight::Seen(Box::new(seen)))
}

/// What the contract says with `data`, by which it refuses a call.
#[must_use]
pub fn refusal(data: &Bytes) -> Refusal {
    let selector = data
        .get(..4)
        .and_then(|start| <[u8; 4]>::try_from(start).ok());
    let name = selector.and_then(StakeVaultErrors::name_by_selector);
    Refusal {
        error: name.map_or_else(
            || format!("an error that StakeVault does not declare ({data})"),
            str::to_owned,
        ),
        passing: name.is_some_and(|name| PASSING.contains(&name)),
    }
}

#[cfg(test)]
mod tests {
    use alloy::sol_types::SolError as _;

    use super::*;
    use crate::chain::contracts::StakeVault;

    #[test]
    fn the_contracts_errors_have_their_names() {
        let cap = StakeVault::FreezeCapReached { retryAt: 5 }.abi_encode();
        let refused = refusal(&cap.into());
        assert_eq!(
            (refused.error.as_str(), refused.passing),
            ("FreezeCapReached", false)
        );
        let known = StakeVault::IncidentKnown {
            id: alloy::primitives::U256::from(1),
        };
        assert!(refusal(&known.abi_encode().into()).passing);
        for strange in [Bytes::new(), Bytes::from_static(&[1, 2, 3, 4])] {
            assert!(refusal(&strange).error.contains("does not declare"));
        }
    }
}
