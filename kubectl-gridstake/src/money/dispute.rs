//! `dispute`: the answer of a provider to a proposal to slash it.

use alloy::primitives::{Address, B256, U256, keccak256};
use gridstake_contracts::StakeVault;
use gridstake_crds::Incident;
use kube::Api;

use super::{
    Desk, MoneyError,
    args::{ChainArgs, DisputeArgs},
    place,
    plan::{Contract, Plan, Step},
    refusal::time,
    stake::gas,
    token::Token,
};
use crate::{
    Told,
    cluster::{self, Named},
    error::PluginError,
    key::Key,
};

/// `SlashState` of IStakeVault.sol, by its number.
const STATES: [&str; 6] = [
    "unknown",
    "proposed",
    "disputed",
    "upheld by the arbiter",
    "executed",
    "cancelled",
];
const PROPOSED: u8 = 1;

/// A proposal as a block shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Proposal {
    id: U256,
    provider: u32,
    frozen: u128,
    dispute_until: u64,
    state: u8,
    staker: Address,
    operator: Address,
    now: u64,
}

impl Proposal {
    fn plan(&self, account: Address, evidence: B256, token: &Token) -> Result<Plan, String> {
        let id = self.id;
        if self.state != PROPOSED {
            let state = STATES.get(usize::from(self.state)).unwrap_or(&"unknown");
            return Err(format!(
                "proposal {id} is {state}: there is nothing to dispute any more"
            ));
        }
        if self.now > self.dispute_until {
            return Err(format!(
                "proposal {id} could be disputed until {}: that is over, and it will be executed",
                time(self.dispute_until)
            ));
        }
        if account != self.staker && account != self.operator {
            return Err(format!(
                "--key-file: it is the key of {account}: provider {}'s staker {} or its operator {} can dispute: name the key of one of them",
                self.provider, self.staker, self.operator
            ));
        }
        let call = StakeVault::disputeSlashCall {
            id,
            counterEvidence: evidence,
        };
        Ok(Plan {
            steps: vec![Step::new(
                format!("dispute proposal {id} with counter-evidence {evidence}"),
                Contract::Vault,
                &call,
                gas::DISPUTE,
            )],
            now: vec![format!(
                "{} of provider {}'s stake are frozen by it; it can be disputed until {}",
                token.amount(self.frozen),
                self.provider,
                time(self.dispute_until)
            )],
            then: vec![
                "the stake stays frozen while the arbiter decides; undecided in time, nothing is cut"
                    .to_owned(),
                "keep the counter-evidence as it is: the chain has its hash alone, and the arbiter will ask for it"
                    .to_owned(),
            ],
        })
    }
}

/// Disputes.
pub async fn run(args: &DisputeArgs) -> Result<Told, PluginError> {
    let key = Key::read(&args.send.key_file)?;
    let evidence = evidence(args)?;
    let (id, on) = proposal(args).await?;
    let desk = Desk::at(&place::find(&on).await?, key).await?;
    let chain = &desk.chain;
    let slash = chain
        .read(
            "look for the proposal to slash",
            Contract::Vault,
            StakeVault::slashOfCall { id },
        )
        .await?;
    let provider = chain
        .read(
            "look for the provider",
            Contract::Vault,
            StakeVault::providerOfCall {
                provider: slash.provider,
            },
        )
        .await?;
    let proposal = Proposal {
        id,
        provider: slash.provider,
        frozen: slash.frozen,
        dispute_until: slash.disputeUntil,
        state: slash.state,
        staker: provider.staker,
        operator: provider.operator,
        now: chain.block.time,
    };
    let plan = proposal
        .plan(desk.account, evidence, &chain.token)
        .map_err(MoneyError::Unfit)?;
    desk.carry_out(plan, &args.send).await
}

fn evidence(args: &DisputeArgs) -> Result<B256, MoneyError> {
    if let Some(hash) = args.evidence_hash {
        return Ok(hash);
    }
    let path = args.evidence.clone().unwrap_or_default();
    let bytes = std::fs::read(&path).map_err(|error| {
        MoneyError::Unfit(format!(
            "--evidence: {} cannot be read: {error}: name a file with the counter-evidence",
            path.display()
        ))
    })?;
    if bytes.is_empty() {
        return Err(MoneyError::Unfit(format!(
            "--evidence: {} is empty: name a file with the counter-evidence",
            path.display()
        )));
    }
    Ok(keccak256(bytes))
}

/// The proposal's number, and on which chain it is: that of the Incident, unless the flags name one.
async fn proposal(args: &DisputeArgs) -> Result<(U256, ChainArgs), PluginError> {
    let mut on = args.send.on.clone();
    let is_number = args.what.bytes().all(|byte| byte.is_ascii_digit());
    if is_number {
        let number = args.what.parse().map_err(|_| {
            MoneyError::Unfit(format!(
                "{:?} is no number of a proposal: write one such as 3, or an Incident's name",
                args.what
            ))
        })?;
        return Ok((number, on));
    }
    let incidents: Api<Incident> = Api::all(cluster::client().await?);
    let named = Named {
        flag: "incident",
        kind: "Incident",
        plural: "incidents",
        name: &args.what,
    };
    let incident = cluster::read(&incidents, named).await?;
    let proposal = incident
        .status
        .as_ref()
        .and_then(|status| status.proposal.as_ref());
    let id = proposal.and_then(|proposal| proposal.id.parse().ok());
    let id = id.ok_or_else(|| {
        MoneyError::Unfit(format!(
            "Incident {} has no proposal to slash on chain, so nothing is frozen: `kubectl gridstake explain incident {}` says how far it is",
            args.what, args.what
        ))
    })?;
    if on.settlement.is_none() && on.chain.is_none() {
        on.chain.clone_from(&incident.spec.chain);
    }
    Ok((id, on))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::token::tests::token;

    const STAKER: Address = Address::repeat_byte(1);
    const OPERATOR: Address = Address::repeat_byte(2);
    const EVIDENCE: B256 = B256::repeat_byte(9);

    fn proposal() -> Proposal {
        Proposal {
            id: U256::from(3),
            provider: 7,
            frozen: 200_000_000_000,
            dispute_until: 1_800_000_000,
            state: PROPOSED,
            staker: STAKER,
            operator: OPERATOR,
            now: 1_800_000_000,
        }
    }

    #[test]
    fn staker_and_operator_can_dispute_until_the_last_second() {
        for account in [STAKER, OPERATOR] {
            let plan = proposal().plan(account, EVIDENCE, &token(18)).unwrap();
            assert!(plan.now[0].starts_with("200 GRID of provider 7's stake"));
            assert!(plan.steps[0].what.contains(&EVIDENCE.to_string()));
        }
        let late = Proposal {
            now: 1_800_000_001,
            ..proposal()
        };
        let words = late.plan(STAKER, EVIDENCE, &token(18)).unwrap_err();
        assert!(words.contains("until 2027-01-15T08:00:00Z"), "{words}");
    }

    #[test]
    fn nobody_else_can_and_only_what_is_proposed() {
        let words = proposal()
            .plan(Address::repeat_byte(3), EVIDENCE, &token(18))
            .unwrap_err();
        assert!(words.starts_with("--key-file: "), "{words}");
        for (state, word) in [
            (2, "disputed"),
            (3, "upheld"),
            (4, "executed"),
            (5, "cancelled"),
        ] {
            let over = Proposal {
                state,
                ..proposal()
            };
            let words = over.plan(STAKER, EVIDENCE, &token(18)).unwrap_err();
            assert!(words.contains(word), "{words}");
        }
    }
}
