//! Whether the chain, the lane and the payer let a job wait for a place. Pure.

use gridstake_crds::compute_job::ComputeJobReason;

use super::{
    accounts::{Accounts, Money},
    consent::{Consent, Refusal},
};
use crate::chain::{Account, ChainConfig, ChainView, Standing};

/// Whether the lane takes new jobs, and the view by which to judge their payers.
pub fn lane_takes_jobs<'a>(
    config: &ChainConfig,
    standing: &'a Standing,
) -> Result<&'a ChainView, Refusal> {
    let refused = |reason, message| Err(Refusal { reason, message });
    let name = &config.name;
    let view = match standing {
        Standing::InForce(view) => view,
        Standing::Unavailable(None) => {
            return refused(
                ComputeJobReason::ChainUnavailable,
                format!("the chain {name} has not been read since the operator started"),
            );
        }
        Standing::Unavailable(Some(_)) => {
            return refused(
                ComputeJobReason::ChainUnavailable,
                format!("the chain {name} has not been read for longer than maxStaleness"),
            );
        }
        Standing::Mismatch(mismatch) => {
            return refused(
                ComputeJobReason::ChainUnavailable,
                format!("the chain {name} is not what is configured: {mismatch}"),
            );
        }
    };
    let Some(coordinator) = config.coordinator else {
        return Ok(view);
    };
    match view.provider(coordinator) {
        Account::Known(provider) if provider.bonded_coordinator => Ok(view),
        Account::NotRead => refused(
            ComputeJobReason::ChainUnavailable,
            format!(
                "provider {coordinator}, the lane's coordinator, has not been read from the chain {name} yet"
            ),
        ),
        Account::Known(_) => refused(
            ComputeJobReason::CoordinatorUnbonded,
            format!(
                "provider {coordinator}, the lane's coordinator, has not more stake than a coordinator needs: stake or delegate to it in StakeVault at {}",
                config.vault.address
            ),
        ),
        Account::Missing => refused(
            ComputeJobReason::CoordinatorUnbonded,
            format!(
                "StakeVault at {} knows no provider {coordinator}: correct `coordinator` in the chains file",
                config.vault.address
            ),
        ),
    }
}

/// Whether the payer's money covers `need` nano-tokens: the first slice of a job.
pub fn can_afford(
    accounts: &Accounts,
    consent: &Consent,
    money: &Money<'_>,
    need: u128,
) -> Result<(), Refusal> {
    let refused = |message| {
        Err(Refusal {
            reason: ComputeJobReason::EscrowExhausted,
            message,
        })
    };
    if u128::from(consent.daily_cap) < need {
        return refused(format!(
            "the first slice may cost more than the daily cap of the payer's consent: {}",
            money.raise
        ));
    }
    if money.cap_left < need {
        return refused(format!(
            "what is left of the daily cap of the payer's consent does not cover the first slice: wait until midnight UTC, or {}",
            money.raise
        ));
    }
    if accounts.exposure(consent.payer, money.view) < need {
        return refused(format!(
            "the payer's escrow does not cover the first slice: {}",
            money.deposit
        ));
    }
    Ok(())
}
