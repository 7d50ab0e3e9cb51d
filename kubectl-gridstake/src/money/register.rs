//! `register`: a provider in the StakeVault, or a payer on a lane.

use alloy::primitives::Address;
use gridstake_contracts::{Settlement, StakeVault};

use super::{
    Desk, MoneyError,
    args::{RegisterArgs, RegisterPayerArgs, RegisterProviderArgs, Registered},
    chain::{address_topic, number_topic},
    plan::{Contract, Plan, Step},
    stake::gas,
};
use crate::{Told, error::PluginError};

/// Gas of a call, by contracts/gas-snapshot/Settlement.json.
const REGISTER_PAYER_GAS: u64 = 57_588;

/// Registers.
pub async fn run(args: &RegisterArgs) -> Result<Told, PluginError> {
    match &args.what {
        Registered::Provider(args) => provider(args).await,
        Registered::Payer(args) => payer(args).await,
    }
}

async fn provider(args: &RegisterProviderArgs) -> Result<Told, PluginError> {
    let desk = Desk::open(&args.send).await?;
    let account = desk.account;
    let mine: Option<StakeVault::Registered> = desk
        .chain
        .newest_event(Contract::Vault, [None, Some(address_topic(account)), None])
        .await;
    let known = mine.map(|event| event.provider);
    refuse_another("provider", known, args.another)?;
    let beneficiary = args.beneficiary.unwrap_or(account);
    let plan = provider_plan(account, args.operator, beneficiary, known)?;
    desk.carry_out(plan, &args.send).await
}

fn provider_plan(
    account: Address,
    operator: Address,
    beneficiary: Address,
    known: Option<u32>,
) -> Result<Plan, MoneyError> {
    if operator == account {
        return Err(MoneyError::Unfit(format!(
            "--operator: {operator} is the account that sends and will own the stake: the key that signs for nodes must be another one"
        )));
    }
    let call = StakeVault::registerCall {
        operator,
        beneficiary,
    };
    Ok(Plan {
        steps: vec![Step::new(
            format!(
                "register a provider: stake owned by {account}, agents certified by {operator}, earnings paid to {beneficiary}"
            ),
            Contract::Vault,
            &call,
            gas::REGISTER,
        )],
        now: known
            .map(|provider| format!("the account owns provider {provider} already"))
            .into_iter()
            .collect(),
        then: vec![
            "it gets a number and has no stake: `kubectl gridstake stake` comes next".to_owned(),
        ],
    })
}

async fn payer(args: &RegisterPayerArgs) -> Result<Told, PluginError> {
    let desk = Desk::open(&args.send).await?;
    let lane = desk.lane(args.lane)?;
    let topics = [
        Some(number_topic(lane)),
        None,
        Some(address_topic(desk.account)),
    ];
    let mine: Option<Settlement::PayerRegistered> =
        desk.chain.newest_event(Contract::Settlement, topics).await;
    // Account 0 is the lane's reward account, and no payer.
    let known = mine.map(|event| event.payer).filter(|payer| *payer != 0);
    refuse_another("payer", known, args.another)?;
    let plan = Plan {
        steps: vec![Step::new(
            format!("register a payer on lane {lane}, owned by {}", desk.account),
            Contract::Settlement,
            &Settlement::registerPayerCall { lane },
            REGISTER_PAYER_GAS,
        )],
        now: known
            .map(|payer| format!("the account owns payer {payer} of this lane already"))
            .into_iter()
            .collect(),
        then: vec![
            "it gets a number and holds nothing: `kubectl gridstake deposit` comes next".to_owned(),
        ],
    };
    desk.carry_out(plan, &args.send).await
}

/// One account is enough: a second one is mostly a first whose answer was lost.
fn refuse_another(what: &str, known: Option<u32>, another: bool) -> Result<(), MoneyError> {
    match known {
        Some(number) if !another => Err(MoneyError::Unfit(format!(
            "the account owns {what} {number} already: use that one, or say --another"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_account_is_made_only_where_that_is_said() {
        assert!(refuse_another("provider", None, false).is_ok());
        assert!(refuse_another("provider", Some(7), true).is_ok());
        let words = refuse_another("provider", Some(7), false)
            .unwrap_err()
            .to_string();
        assert!(
            words.contains("provider 7") && words.contains("--another"),
            "{words}"
        );
    }

    #[test]
    fn the_key_that_owns_the_stake_is_not_the_one_that_signs_for_nodes() {
        let [staker, operator] = [1, 2].map(Address::repeat_byte);
        let words = provider_plan(staker, staker, staker, None)
            .unwrap_err()
            .to_string();
        assert!(words.starts_with("--operator: "), "{words}");
        let plan = provider_plan(staker, operator, staker, Some(3)).unwrap();
        assert_eq!(plan.now, ["the account owns provider 3 already"]);
    }
}
