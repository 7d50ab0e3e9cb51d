//! Calls of the admin, as one operation of a timelock: scheduled first, then executed.

use alloy::{
    primitives::{Address, B256, Bytes, U256, keccak256},
    sol_types::{SolCall as _, SolValue as _},
};
use gridstake_contracts::TimelockController;

use super::admin::AdminCall;
use crate::chain::client::{ChainClient, ClientError};

/// The timelock's call that brings `calls` forward, and what it does: it schedules them, or executes them if they are
/// scheduled.
pub async fn next(
    client: &ChainClient,
    timelock: Address,
    calls: &[AdminCall],
    at: B256,
) -> Result<(String, Bytes), ClientError> {
    let (targets, values, payloads) = parts(calls);
    let id = keccak256(
        (
            targets.clone(),
            values.clone(),
            payloads.clone(),
            B256::ZERO,
            B256::ZERO,
        )
            .abi_encode_params(),
    );
    let pending = TimelockController::isOperationPendingCall { id };
    let op = "read whether the timelock knows the calls";
    if client.read(op, timelock, &pending, at).await? {
        let execute = TimelockController::executeBatchCall {
            targets,
            values,
            payloads,
            predecessor: B256::ZERO,
            salt: B256::ZERO,
        };
        let what = "let the timelock set offices, lane and delay";
        return Ok((what.to_owned(), execute.abi_encode().into()));
    }
    let schedule = TimelockController::scheduleBatchCall {
        targets,
        values,
        payloads,
        predecessor: B256::ZERO,
        salt: B256::ZERO,
        delay: U256::ZERO,
    };
    let what = "schedule offices, lane and delay in the timelock";
    Ok((what.to_owned(), schedule.abi_encode().into()))
}

fn parts(calls: &[AdminCall]) -> (Vec<Address>, Vec<U256>, Vec<Bytes>) {
    (
        calls.iter().map(|call| call.to).collect(),
        vec![U256::ZERO; calls.len()],
        calls.iter().map(|call| call.input.clone()).collect(),
    )
}
