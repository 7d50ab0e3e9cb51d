//! The commands about money as programs, against the real contracts on anvil.
//!
//! Needs anvil: contracts/setup.sh installs it; `GRIDSTAKE_ANVIL` names another one.

#![allow(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

// The same chain as the operator's tests have; they need more of it.
#[allow(dead_code, reason = "shared with the operator's tests")]
#[path = "../../../operator/tests/chain/anvil.rs"]
mod anvil;
#[allow(dead_code, reason = "shared with the tests of other commands")]
#[path = "../cluster/api_server.rs"]
mod api_server;
mod chain;

use alloy::primitives::{B256, U256, keccak256};
use gridstake_contracts::{GridToken, StakeVault};
use serde_json::{Value, json};

use crate::{
    api_server::ApiServer,
    chain::{CHAIN_ID, Chain, LANE, TOKEN, account},
};

const STAKER: u8 = 0x11;
const OPERATOR: u8 = 0x12;
const DELEGATOR: u8 = 0x13;
const PAYER: u8 = 0x14;

fn provider_line() -> String {
    format!("register provider --operator {}", account(OPERATOR))
}

/// A provider with this stake of its own, in whole tokens.
async fn provider(chain: &Chain, stake: u128) -> u32 {
    chain.fund(STAKER, stake).await;
    let registered = chain.done(STAKER, &provider_line());
    let provider = registered[0]["provider"].as_u64().unwrap();
    if stake > 0 {
        chain.done(
            STAKER,
            &format!("stake --provider {provider} --amount {stake}"),
        );
    }
    provider.try_into().unwrap()
}

#[tokio::test]
async fn a_stranger_becomes_a_bonded_provider_and_gets_its_stake_back_after_seven_days() {
    let chain = Chain::new().await;
    chain.fund(STAKER, 25_000).await;
    let events = chain.done(STAKER, &provider_line());
    assert_eq!(events[0]["event"], "Registered");
    assert_eq!(events[0]["provider"], 1);
    assert!(!chain.is_bonded(1).await);

    let events = chain.done(STAKER, "stake --provider 1 --amount 25000");
    assert_eq!(events[0]["event"], "Staked");
    assert_eq!(events[0]["amount"], "25000");
    assert!(chain.is_bonded(1).await);
    // Exactly the amount was approved, and nothing is left of it.
    let allowance = GridToken::allowanceCall {
        owner: account(STAKER),
        spender: chain.vault,
    };
    let left = chain.anvil.call(chain.token, &allowance).await;
    assert_eq!(left, U256::ZERO);
    assert_eq!(chain.tokens(account(STAKER)).await, 0);

    let events = chain.done(STAKER, "unstake --provider 1 --amount 10000.5");
    assert_eq!(
        (&events[0]["ticket"], &events[0]["amount"]),
        (&json!(1), &json!("10000.5"))
    );
    assert!(!chain.is_bonded(1).await);
    chain.anvil.pass_time(604_700).await;
    let words = chain
        .refused(STAKER, "unstake --provider 1 --withdraw --yes")
        .await;
    assert!(
        words.contains("ticket 1: 10000.5 GRID can be withdrawn from 2"),
        "{words}"
    );
    chain.anvil.pass_time(200).await;
    let events = chain.done(STAKER, "unstake --provider 1 --withdraw");
    assert_eq!(events[0]["event"], "Withdrawn");
    assert_eq!(
        chain.tokens(account(STAKER)).await,
        10_000 * TOKEN + TOKEN / 2
    );

    // A second ticket is put back.
    chain.done(STAKER, "unstake --provider 1 --all");
    let events = chain.done(STAKER, "unstake --provider 1 --rebond 2");
    assert_eq!(events[0]["event"], "Rebonded");
    let own = StakeVault::providerOfCall { provider: 1 };
    let own = chain.anvil.call(chain.vault, &own).await.own;
    assert_eq!(own, 15_000 * TOKEN - TOKEN / 2);
}

#[tokio::test]
async fn a_second_account_is_not_made_by_accident() {
    let chain = Chain::new().await;
    chain.fund(STAKER, 0).await;
    chain.done(STAKER, &provider_line());
    let words = chain
        .refused(STAKER, &format!("{} --yes", provider_line()))
        .await;
    assert!(
        words.contains("owns provider 1 already") && words.contains("--another"),
        "{words}"
    );
    let events = chain.done(STAKER, &format!("{} --another", provider_line()));
    assert_eq!(events[0]["provider"], 2);
    let line = format!("register payer --lane {LANE}");
    let events = chain.done(STAKER, &line);
    assert_eq!(events[0]["payer"], 1);
    let words = chain.refused(STAKER, &format!("{line} --yes")).await;
    assert!(words.contains("owns payer 1"), "{words}");
}

#[tokio::test]
async fn what_is_not_confirmed_is_not_sent_and_what_would_be_is_shown() {
    let chain = Chain::new().await;
    let provider = provider(&chain, 0).await;
    chain.fund(STAKER, 30_000).await;
    let line = format!("stake --provider {provider} --amount 25000");
    let words = chain.refused(STAKER, &line).await;
    for expected in [
        "On chain 31337, as",
        "take exactly 25000 GRID of this account's",
        "2. stake 25000 GRID for provider 1 (about 71368 gas)",
        "then: provider 1: own stake 25000 GRID, delegated 0 GRID: bonded as a miner",
        "nothing is sent: Send these 2 transactions? Say --yes",
    ] {
        assert!(words.contains(expected), "{words} lacks {expected}");
    }
    let output = chain.run(STAKER, &format!("{line} --dry-run"));
    assert!(output.status.success());
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown["steps"][0]["to"], json!(chain.token));
    assert_eq!(shown["steps"][1]["to"], json!(chain.vault));
    assert!(!chain.is_bonded(provider).await);
}

#[tokio::test]
async fn what_the_contracts_would_refuse_is_not_sent_and_told_with_what_to_do() {
    let chain = Chain::new().await;
    let provider = provider(&chain, 100).await;
    chain.fund(DELEGATOR, 3).await;
    for (who, line, expected) in [
        (
            DELEGATOR,
            "stake --provider 1 --amount 1",
            "kubectl gridstake delegate",
        ),
        (
            DELEGATOR,
            "stake --provider 9 --amount 1",
            "there is no provider 9",
        ),
        (
            DELEGATOR,
            "delegate --provider 1 --amount 4",
            "has 3 GRID, not 4 GRID",
        ),
        (
            DELEGATOR,
            "delegate --provider 1 --amount 0.5",
            "BelowMinimumDelegation: delegate at least 1 GRID",
        ),
        (
            DELEGATOR,
            "unstake --provider 1 --all",
            "name that one's key",
        ),
        (
            DELEGATOR,
            "undelegate --provider 1 --all",
            "delegated nothing",
        ),
        (
            STAKER,
            "unstake --provider 1 --amount 101",
            "has 100 GRID of its own",
        ),
        (
            STAKER,
            "unstake --provider 1 --withdraw",
            "asked nothing back",
        ),
        (STAKER, "claim --provider 1", "there is nothing"),
        (STAKER, "claim --payer 1 --lane 7", "register payer"),
        (STAKER, "claim --payer 1", "--lane: name the cluster's lane"),
        (
            STAKER,
            "deposit --payer 1 --amount 1 --lane 7",
            "lane 7 has no payer 1",
        ),
        (STAKER, "register payer --lane 8", "lane 8 is not open"),
        (STAKER, "dispute 1 --evidence-hash HASH", "UnknownSlash"),
        (
            STAKER,
            "stake --provider 1 --amount 1 --chain-id 1",
            "serves chain 31337, not 1",
        ),
    ] {
        let line = line.replace("HASH", &B256::repeat_byte(1).to_string());
        let words = chain.refused(who, &format!("{line} --yes")).await;
        assert!(words.contains(expected), "{line}: {words}");
    }
    assert_eq!(provider, 1);
    // One without coins is told so, too.
    let words = chain
        .refused(PAYER, "delegate --provider 1 --amount 1 --yes")
        .await;
    assert!(words.contains("has 0 GRID"), "{words}");
    let words = chain.refused(PAYER, "register payer --lane 7 --yes").await;
    assert!(words.contains("send it coins"), "{words}");
}

#[tokio::test]
async fn an_address_that_is_no_settlement_is_refused() {
    let chain = Chain::new().await;
    for other in [chain.vault, chain.token, account(STAKER)] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_kubectl-gridstake"))
            .args(["claim", "--provider", "1", "--yes", "--rpc"])
            .arg(chain.anvil.url.as_str())
            .arg("--settlement")
            .arg(other.to_string())
            .arg("--key-file")
            .arg(chain.key_file(STAKER))
            .output()
            .unwrap();
        let words = String::from_utf8(output.stderr).unwrap();
        assert!(
            words.contains("does not answer as the Settlement"),
            "{words}"
        );
    }
}

#[tokio::test]
async fn a_payer_deposits_asks_back_and_takes_out() {
    let chain = Chain::new().await;
    chain.fund(PAYER, 10).await;
    let events = chain.done(PAYER, "register payer --lane 7");
    assert_eq!(events[0]["payer"], 1);
    let events = chain.done(PAYER, "deposit --payer 1 --amount 9.5 --lane 7");
    assert_eq!(events[0]["event"], "Deposited");
    assert_eq!(chain.tokens(account(PAYER)).await, TOKEN / 2);
    let events = chain.done(PAYER, "thaw --payer 1 --amount 4 --lane 7");
    assert_eq!(
        (&events[0]["event"], &events[0]["amount"]),
        (&json!("ThawRequested"), &json!("4"))
    );
    let words = chain.refused(PAYER, "claim --payer 1 --lane 7 --yes").await;
    assert!(words.contains("4 GRID can be taken out from 2"), "{words}");
    chain.anvil.pass_time(604_801).await;
    let events = chain.done(PAYER, "claim --payer 1 --lane 7");
    assert_eq!(events[0]["event"], "Withdrawn");
    assert_eq!(chain.tokens(account(PAYER)).await, 4 * TOKEN + TOKEN / 2);
    chain.done(PAYER, "thaw --payer 1 --all --lane 7");
    chain.done(PAYER, "thaw --payer 1 --keep --lane 7");
    let words = chain.refused(PAYER, "claim --payer 1 --lane 7 --yes").await;
    assert!(words.contains("kubectl gridstake thaw"), "{words}");
}

#[tokio::test]
async fn earnings_and_rewards_are_claimed_and_paid() {
    let chain = Chain::new().await;
    let provider = provider(&chain, 30_000).await;
    chain.fund(DELEGATOR, 30_000).await;
    let line = format!("delegate --provider {provider} --amount 30000");
    assert_eq!(chain.done(DELEGATOR, &line)[0]["event"], "Delegated");
    chain.fund(PAYER, 100).await;
    chain.done(PAYER, "register payer --lane 7");
    chain.done(PAYER, "deposit --payer 1 --amount 100 --lane 7");
    chain.anvil.pass_time(2 * 86_400).await;
    let activate = gridstake_contracts::Settlement::activateProviderCall { provider };
    chain
        .anvil
        .transact(anvil::ADMIN, chain.settlement, &activate)
        .await;
    chain
        .settle(1, provider, u64::try_from(10 * TOKEN).unwrap())
        .await;

    // 10 less a fee of 1 %: half of it is the delegator's, without a commission.
    let claim = format!("claim --provider {provider}");
    let events = chain.done(STAKER, &claim);
    assert_eq!(
        (&events[0]["event"], &events[0]["amount"]),
        (&json!("ClaimRequested"), &json!("4.95"))
    );
    let words = chain.refused(STAKER, &format!("{claim} --yes")).await;
    assert!(words.contains("claim of 4.95 GRID is due at 2"), "{words}");
    chain.anvil.pass_time(86_401).await;
    let events = chain.done(STAKER, &claim);
    assert_eq!(events[0]["event"], "Claimed");
    assert_eq!(chain.tokens(account(STAKER)).await, 5 * TOKEN - TOKEN / 20);

    let events = chain.done(DELEGATOR, &claim);
    assert_eq!(
        (&events[0]["event"], &events[0]["amount"]),
        (&json!("RewardsRequested"), &json!("4.95"))
    );
    let words = chain.refused(DELEGATOR, &format!("{claim} --yes")).await;
    assert!(words.contains("claim of rewards is due at 2"), "{words}");
    chain.anvil.pass_time(86_401).await;
    let events = chain.done(DELEGATOR, &claim);
    assert_eq!(events[0]["event"], "RewardsPaid");
    assert_eq!(
        chain.tokens(account(DELEGATOR)).await,
        5 * TOKEN - TOKEN / 20
    );

    // What was delegated comes back by the same command as what is staked.
    chain.done(
        DELEGATOR,
        &format!("undelegate --provider {provider} --amount 10000"),
    );
    chain.anvil.pass_time(604_801).await;
    let events = chain.done(DELEGATOR, &claim);
    assert_eq!(
        (&events[0]["event"], &events[0]["amount"]),
        (&json!("Withdrawn"), &json!("10000"))
    );
}

#[tokio::test]
async fn a_proposal_to_slash_is_disputed_by_the_operator_with_the_hash_of_a_file() {
    let chain = Chain::new().await;
    let provider = provider(&chain, 30_000).await;
    chain.propose_slash(provider, 100 * TOKEN).await;
    chain.fund(OPERATOR, 0).await;
    let evidence = chain.file("answer.txt", b"the power company's letter");
    let line = format!("dispute 1 --evidence {}", evidence.display());
    let events = chain.done(OPERATOR, &line);
    assert_eq!(events[0]["event"], "SlashDisputed");
    let call = StakeVault::slashOfCall { id: U256::from(1) };
    let slash = chain.anvil.call(chain.vault, &call).await;
    assert_eq!(
        slash.counterEvidence,
        keccak256(b"the power company's letter")
    );
    let words = chain.refused(OPERATOR, &format!("{line} --yes")).await;
    assert!(words.contains("proposal 1 is disputed"), "{words}");
}

/// The transaction that was sent, by what was said of it before.
fn hash_in(words: &str) -> String {
    let sent = words.split("sending transaction ").nth(1).unwrap();
    sent.split(',').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_stake_whose_answer_is_lost_is_unknown_and_is_not_staked_twice() {
    let chain = Chain::new().await;
    let provider = provider(&chain, 0).await;
    chain.fund(STAKER, 50_000).await;
    // What is approved already needs no approval, so that one transaction is on its way.
    let approve = GridToken::approveCall {
        spender: chain.vault,
        value: U256::MAX,
    };
    chain
        .anvil
        .rpc(
            "anvil_impersonateAccount",
            json!([account(STAKER).to_string()]),
        )
        .await;
    chain
        .anvil
        .transact(&account(STAKER).to_string(), chain.token, &approve)
        .await;
    chain.anvil.hold().await;
    let line = format!("stake --provider {provider} --amount 25000 --yes --timeout 1s");
    let words = chain.refused(STAKER, &line).await;
    assert!(words.contains("it is unknown, not failed"), "{words}");
    let hash = hash_in(&words);
    let nonce = words.split("--nonce ").nth(1).unwrap();
    let nonce: u64 = nonce.split(':').next().unwrap().parse().unwrap();

    // While it waits, nothing is sent behind it.
    let words = chain.refused(STAKER, &line).await;
    assert!(words.contains("is in no block yet"), "{words}");
    let output = chain
        .plugin(&format!("transaction {hash}"))
        .output()
        .unwrap();
    let fate: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(fate["state"], "Waiting");

    // The same again with its nonce takes its place.
    let again = format!("{line} --nonce {nonce}");
    let words = chain.refused(STAKER, &again).await;
    assert!(words.contains("this one takes its place"), "{words}");
    assert!(words.contains("it is unknown, not failed"), "{words}");
    let second = hash_in(&words);
    assert_ne!(second, hash);
    chain.anvil.release().await;
    let words = chain.refused(STAKER, &again).await;
    assert!(words.contains("was not sent again"), "{words}");
    let output = chain
        .plugin(&format!("transaction {second}"))
        .output()
        .unwrap();
    let fate: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(fate["state"], "Done");
    assert_eq!(fate["events"][0]["event"], "Staked");
    let call = StakeVault::providerOfCall { provider };
    assert_eq!(
        chain.anvil.call(chain.vault, &call).await.own,
        25_000 * TOKEN
    );

    let stranger = B256::repeat_byte(9);
    let output = chain
        .plugin(&format!("transaction {stranger}"))
        .output()
        .unwrap();
    let fate: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(fate["state"], "Unknown");
}

/// A cluster whose operator is configured for the chain.
fn cluster(chain: &Chain) -> ApiServer {
    let server = ApiServer::new();
    let file = json!({"chains": [{
        "name": "anvil", "chainId": CHAIN_ID, "rpc": [chain.anvil.url.as_str()], "lane": LANE,
        "settlement": {"address": chain.settlement, "codeHash": B256::ZERO},
    }]});
    server.has(
        "/api/v1/namespaces/gridstake-system/configmaps/gridstake-chains",
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "gridstake-chains"},
            "data": {"chains.yaml": file.to_string()},
        }),
    );
    server
}

fn in_cluster(server: &ApiServer, line: &str) -> std::process::Output {
    std::process::Command::new(env!("CARGO_BIN_EXE_kubectl-gridstake"))
        .args(line.split(' '))
        .env("KUBECONFIG", server.kubeconfig())
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn where_the_cluster_says_which_chain_it_is_no_flag_does() {
    // The API server has a runtime of its own.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let chain = runtime.block_on(Chain::new());
    let server = cluster(&chain);
    runtime.block_on(chain.fund(PAYER, 10));
    let key = chain.key_file(PAYER);
    let line = format!("register payer --yes --key-file {}", key.display());
    let output = in_cluster(&server, &line);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words}");
    assert!(words.contains("On chain 31337 (anvil)"), "{words}");
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("this is payer 1 of lane 7"), "{told}");
    let output = in_cluster(&server, &format!("{line} --chain other"));
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("it has anvil"), "{words}");
}

#[test]
fn a_provider_binds_its_nodes_by_the_addresses_of_the_chain() {
    // The API server has a runtime of its own.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let chain = runtime.block_on(Chain::new());
    let provider = runtime.block_on(provider(&chain, 100));
    let server = cluster(&chain);
    let path = "/apis/gridstake.dev/v1alpha1/stakebindings";
    let line = format!("bind --provider {provider} --node n1 --node n2");
    let output = in_cluster(&server, &line);
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(
        words.contains("It can be slashed for their faults"),
        "{words}"
    );
    let output = in_cluster(&server, &format!("{line} --dry-run"));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("kind: StakeBinding"), "{printed}");
    assert_eq!(server.patches(), [Value::Null; 0]);

    let spec = json!({
        "chain": "anvil", "providerId": 1, "role": "Miner", "nodeNames": ["n1", "n2"],
        "stakerAddress": account(STAKER).to_string(), "operatorAddress": account(OPERATOR).to_string(),
        "beneficiary": account(STAKER).to_string(),
    });
    server.has(
        path,
        json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "StakeBinding", "metadata": {"name": "provider-1"},
            "spec": spec,
        }),
    );
    let output = in_cluster(&server, &format!("{line} --yes"));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words}");
    let told = String::from_utf8(output.stdout).unwrap();
    for expected in [
        "StakeBinding provider-1: provider 1 on chain anvil answers for n1, n2",
        "next: stake more than is asked of a miner",
        "next: certify each node's agent",
    ] {
        assert!(told.contains(expected), "{told}");
    }
    assert_eq!(server.patches()[0]["spec"], spec);
}
