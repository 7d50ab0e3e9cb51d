//! Whether what is on the chain is what was asked for, said line by line.

use std::{fmt, sync::Arc};

use alloy::primitives::{Address, B256};
use gridstake_contracts::Settlement;

use super::{
    facts::Facts,
    plan::{Deployed, Request},
};
use crate::chain::{
    ChainConfig, ContractMismatch,
    client::{ChainClient, ClientError},
    read::Reader,
    view::{LaneState, LaneView, Params},
};

/// Nano-tokens in a token.
const TOKEN: u128 = 1_000_000_000;
/// A miner needs more stake than this, in tokens.
const MINIMUM_STAKE_MINER: u128 = 20_000;
/// A coordinator needs more stake than this, in tokens.
const MINIMUM_STAKE_COORDINATOR: u128 = 2_000_000;
/// From the request to the withdrawal of stake, in seconds.
const UNBONDING_TIME: u128 = 604_800;

/// What was read, all in one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readings {
    /// Who is who.
    pub facts: Facts,
    /// Where the chain or the contracts' wiring differ from the chains file.
    pub mismatch: Option<ContractMismatch>,
    /// The lane.
    pub lane: LaneView,
    /// The owner of the lane's reward account.
    pub rewards_owner: Address,
    /// The parameters.
    pub params: Params,
}

/// What is on the chain, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Name and value of each thing that was read.
    pub lines: Vec<(&'static str, String)>,
    /// What is not as it should be.
    pub faults: Vec<String>,
    /// What somebody should know or do, although nothing is wrong.
    pub notes: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.lines {
            writeln!(f, "{name:<22} {value}")?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        Ok(())
    }
}

/// Reads everything in the block `at`.
pub async fn read(
    client: &ChainClient,
    config: &ChainConfig,
    facts: Facts,
    at: B256,
) -> Result<Readings, ClientError> {
    let reader = Reader::new(client.clone(), Arc::new(config.clone()));
    let owner = Settlement::payerOwnerCall {
        lane: config.lane,
        payer: 0,
    };
    let settlement = config.settlement.address;
    Ok(Readings {
        facts,
        mismatch: reader.mismatch(at).await?,
        lane: reader.lane(at).await?,
        rewards_owner: client
            .read("read the rewards' owner", settlement, &owner, at)
            .await?,
        params: reader.params(at).await?,
    })
}

/// What there is to say about `found`. Parameters of a `fresh` deployment must be the code's own; later, the admin may have
/// changed them.
#[must_use]
pub fn check(request: &Request, deployed: &Deployed, found: &Readings, fresh: bool) -> Report {
    let mut report = Report::default();
    contracts(deployed, found, &mut report);
    admin(request, &found.facts, fresh, &mut report);
    lane(request, found, &mut report);
    parameters(&found.params, fresh, &mut report);
    report
}

fn contracts(deployed: &Deployed, found: &Readings, report: &mut Report) {
    let Deployed {
        token,
        vault,
        settlement,
    } = deployed;
    report.lines.extend([
        ("token", token.to_string()),
        (
            "StakeVault",
            format!("{}, code hash {}", vault.address, vault.code_hash),
        ),
        (
            "Settlement",
            format!("{}, code hash {}", settlement.address, settlement.code_hash),
        ),
    ]);
    if let Some(mismatch) = &found.mismatch {
        report.faults.push(mismatch.to_string());
    }
    let serves = found.facts.vault.as_ref().map(|vault| vault.settlement);
    if serves != Some(settlement.address) {
        report.faults.push(format!(
            "the vault's settlement is {}, not {}",
            serves.unwrap_or_default(),
            settlement.address
        ));
    }
}

fn admin(request: &Request, facts: &Facts, fresh: bool, report: &mut Report) {
    let (Some(vault), Some(settlement)) = (&facts.vault, &facts.settlement) else {
        report.faults.push("the contracts are gone".to_owned());
        return;
    };
    let offices = &request.offices;
    let admin = match &facts.timelock {
        Some(timelock) => format!(
            "timelock {}, delay {} s, {}",
            timelock.address,
            timelock.delay,
            if timelock.owner_proposes {
                format!("its proposer is {}", offices.owner)
            } else {
                format!("{} is no proposer of it", offices.owner)
            }
        ),
        None if vault.admin == request.deployer => {
            format!("{} (the deployer: for test chains only)", vault.admin)
        }
        None => vault.admin.to_string(),
    };
    report.lines.push(("admin", admin));
    let mut faults = Vec::new();
    if let (Some(delay), Some(timelock)) = (request.timelock_delay, &facts.timelock) {
        if timelock.delay != delay {
            faults.push(format!(
                "the timelock's delay is {} s, not {delay} s",
                timelock.delay
            ));
        }
        if !timelock.owner_proposes {
            faults.push(format!("{} cannot propose to the timelock", offices.owner));
        }
        if timelock.deployer_proposes && offices.owner != request.deployer {
            faults.push("the deployer can still propose to the timelock".to_owned());
        }
    }
    for (has, office, holder) in [
        (
            vault.has_guardian && settlement.has_guardian,
            "guardian",
            offices.guardian,
        ),
        (vault.has_arbiter, "arbiter", offices.arbiter),
        (
            vault.has_lane_admin && settlement.has_lane_admin,
            "lane admin",
            vault.admin,
        ),
    ] {
        if has {
            report.lines.push((office, holder.to_string()));
        } else {
            faults.push(format!("{holder} is not {office} in both contracts"));
        }
    }
    // After the handover these are the owner's decisions.
    if fresh {
        report.faults.append(&mut faults);
    } else {
        report.notes.append(&mut faults);
    }
}

fn lane(request: &Request, found: &Readings, report: &mut Report) {
    let lane = &found.lane;
    let slash_signer = Some(lane.slash_signer).filter(|signer| !signer.is_zero());
    report.lines.push((
        "lane",
        format!("{}, {:?}, {} batches", request.lane, lane.state, lane.seq),
    ));
    report.lines.extend([
        ("lane signer", lane.signer.to_string()),
        (
            "slash signer",
            slash_signer.map_or_else(|| "nobody".to_owned(), |s| s.to_string()),
        ),
        ("rewards' owner", found.rewards_owner.to_string()),
        (
            "gas account",
            format!("{}, {} wei", request.gas_account, found.facts.gas_coins),
        ),
    ]);
    if lane.state != LaneState::Active {
        report
            .faults
            .push(format!("lane {} is not open", request.lane));
    }
    if lane.signer != request.lane_signer {
        report.faults.push(format!(
            "the lane's signer is {}, not {}",
            lane.signer, request.lane_signer
        ));
    }
    if slash_signer != request.slash_signer {
        report.faults.push(format!(
            "the lane's slash signer is {}, not {}",
            lane.slash_signer,
            request.slash_signer.unwrap_or_default()
        ));
    }
    if lane.paused {
        report
            .notes
            .push("the guardian has paused batches".to_owned());
    }
    if found.facts.gas_coins == 0 {
        report.notes.push(format!(
            "the gas account {} has no coins: send it some, or nothing is settled",
            request.gas_account
        ));
    }
}

fn parameters(params: &Params, fresh: bool, report: &mut Report) {
    let tokens = |nano: u128| {
        let fraction = nano % TOKEN;
        let whole = nano / TOKEN;
        if fraction == 0 {
            whole.to_string()
        } else {
            format!("{whole}.{fraction:09}")
        }
    };
    report.lines.extend([
        (
            "a miner's stake",
            format!("more than {} tokens", tokens(params.minimum_stake_miner)),
        ),
        (
            "a coordinator's stake",
            format!(
                "more than {} tokens",
                tokens(params.minimum_stake_coordinator)
            ),
        ),
        (
            "unbonding",
            format!("{} s", params.unbonding_time.as_secs()),
        ),
        ("claim delay", format!("{} s", params.claim_delay.as_secs())),
        ("fee", format!("{} / 10,000", params.fee_bps)),
    ]);
    let said = if fresh {
        &mut report.faults
    } else {
        &mut report.notes
    };
    for (what, found, own) in [
        (
            "minimum stake of a miner in tokens",
            tokens(params.minimum_stake_miner),
            MINIMUM_STAKE_MINER,
        ),
        (
            "minimum stake of a coordinator in tokens",
            tokens(params.minimum_stake_coordinator),
            MINIMUM_STAKE_COORDINATOR,
        ),
        (
            "unbonding time in seconds",
            params.unbonding_time.as_secs().to_string(),
            UNBONDING_TIME,
        ),
    ] {
        if found != own.to_string() {
            said.push(format!("the {what} is {found}, not {own}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::plan_tests::{done, governed, handed_over, request},
        *,
    };

    /// Everything as it should be.
    fn readings(request: &Request, facts: Facts) -> Readings {
        Readings {
            facts,
            mismatch: None,
            lane: LaneView {
                state: LaneState::Active,
                signer: request.lane_signer,
                slash_signer: request.slash_signer.unwrap_or_default(),
                ..LaneView::default()
            },
            rewards_owner: request.offices.rewards_owner,
            params: Params {
                minimum_stake_miner: 20_000_000_000_000,
                minimum_stake_coordinator: 2_000_000_000_000_000,
                unbonding_time: Duration::from_hours(168),
                ..Params::default()
            },
        }
    }

    fn checked(request: &Request, found: &Readings, fresh: bool) -> Report {
        let (vault, settlement) = (&found.facts.vault, &found.facts.settlement);
        let deployed = Deployed {
            token: found.facts.token.unwrap(),
            vault: vault.as_ref().unwrap().place,
            settlement: settlement.as_ref().unwrap().place,
        };
        check(request, &deployed, found, fresh)
    }

    #[test]
    fn what_is_as_it_should_be_has_neither_faults_nor_notes() {
        for (request, facts) in [(request(), done()), (governed(), handed_over())] {
            let report = checked(&request, &readings(&request, facts), true);
            assert_eq!((report.faults, report.notes), (vec![], vec![]));
        }
    }

    #[test]
    fn each_thing_that_is_not_as_it_should_be_is_a_fault_of_a_fresh_deployment() {
        type Change = fn(&mut Readings);
        let cases: [(Change, &str); 10] = [
            (
                |found| found.mismatch = Some(ContractMismatch::LaneUnknown { lane: 1 }),
                "the lane 1 is not open",
            ),
            (
                |found| found.facts.vault.as_mut().unwrap().settlement = Address::ZERO,
                "the vault's settlement is 0x0000",
            ),
            (
                |found| found.facts.settlement.as_mut().unwrap().has_guardian = false,
                "is not guardian",
            ),
            (
                |found| found.facts.timelock.as_mut().unwrap().delay = 0,
                "delay is 0 s, not 172800 s",
            ),
            (
                |found| found.facts.timelock.as_mut().unwrap().deployer_proposes = true,
                "the deployer can still propose",
            ),
            (
                |found| found.lane.state = LaneState::Closed,
                "lane 1 is not open",
            ),
            (
                |found| found.lane.signer = Address::ZERO,
                "the lane's signer is",
            ),
            (
                |found| found.lane.slash_signer = Address::ZERO,
                "the lane's slash signer is",
            ),
            (
                |found| found.params.minimum_stake_miner -= 1,
                "is 19999.999999999, not 20000",
            ),
            (
                |found| found.params.unbonding_time = Duration::from_hours(167),
                "unbonding time in seconds is 601200, not 604800",
            ),
        ];
        for (change, words) in cases {
            let mut found = readings(&governed(), handed_over());
            change(&mut found);
            let report = checked(&governed(), &found, true);
            let [fault] = &report.faults[..] else {
                panic!("{words}: {report:?}");
            };
            assert!(fault.contains(words), "{fault}");
        }
    }

    #[test]
    fn what_the_admin_may_have_changed_since_is_only_noted() {
        let mut found = readings(&governed(), handed_over());
        found.params.minimum_stake_miner *= 2;
        found.facts.vault.as_mut().unwrap().has_arbiter = false;
        found.lane.paused = true;
        found.facts.gas_coins = 0;
        let report = checked(&governed(), &found, false);
        assert_eq!(report.faults, Vec::<String>::new());
        assert_eq!(report.notes.len(), 4, "{report}");
    }
}
