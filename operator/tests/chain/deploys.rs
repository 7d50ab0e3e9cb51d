//! `contracts-deploy` on a chain: it deploys, goes on, starts anew, and says what it needs.

use std::{path::PathBuf, time::Duration};

use alloy::{
    primitives::{Address, B256, U256},
    signers::local::PrivateKeySigner,
};
use gridstake_contracts::{GridToken, Settlement, StakeVault, TimelockController};
use gridstake_operator::{
    chain::{ChainsFile, client::ChainClient, config::FeeConfig, metrics::ChainFamilies, wei::Wei},
    contracts_deploy::{
        Deployment,
        document::Draft,
        plan::{Offices, Request},
        store::Store,
        verify::Report,
    },
    error::chain,
    settlement::signer::Key,
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use serde_json::{Value, json};

use crate::{
    anvil::{ADMIN, ADMIN_KEY, Anvil},
    api_server::ApiServer,
};

const LANE: u32 = 3;
const LANE_SIGNER: Address = Address::repeat_byte(0x51);
const SLASH_SIGNER: Address = Address::repeat_byte(0x52);
const GAS: Address = Address::repeat_byte(0x53);
const OWNER: Address = Address::repeat_byte(0x54);
const COIN: u128 = 1_000_000_000_000_000_000;
/// A token, a vault, a settlement; settlement of the vault, three offices, the lane, its slash signer; coins.
const TRANSACTIONS: u64 = 10;

/// An empty folder of one's own.
fn folder(name: &str) -> PathBuf {
    let folder =
        std::env::temp_dir().join(format!("gridstake-deploys-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn deployment(anvil: &Anvil, store: Store) -> Deployment {
    let key: PrivateKeySigner = ADMIN_KEY.parse().unwrap();
    let deployer = key.address();
    let entry = json!({
        "name": "anvil", "chainId": 31337, "rpc": [anvil.url], "lane": LANE, "poll": "50ms",
        "keys": {"laneSigner": "/keys/lane-signer", "gas": "/keys/gas", "slash": "/keys/slash"},
    });
    let metrics = ChainFamilies::register(&prometheus::Registry::new())
        .unwrap()
        .of("anvil");
    Deployment {
        client: ChainClient::new(
            std::slice::from_ref(&anvil.url),
            Duration::from_secs(10),
            metrics,
        )
        .unwrap(),
        key: Key::from(key),
        request: Request {
            deployer,
            chain_id: 31337,
            lane: LANE,
            lane_signer: LANE_SIGNER,
            slash_signer: Some(SLASH_SIGNER),
            gas_account: GAS,
            gas_coins: COIN,
            token: None,
            offices: Offices {
                owner: deployer,
                guardian: deployer,
                arbiter: deployer,
                treasury: deployer,
                rewards_owner: deployer,
            },
            timelock_delay: None,
            fee_bps: 500,
            claim_delay: 86_400,
            anew_if_gone: true,
        },
        draft: Draft::new(&entry).unwrap(),
        store,
        fees: FeeConfig::default(),
        poll: Duration::from_millis(50),
        patience: Duration::from_mins(1),
        keys_secret: "gridstake-keys".to_owned(),
    }
}

fn with_timelock(mut deployment: Deployment) -> Deployment {
    deployment.request.timelock_delay = Some(172_800);
    deployment.request.offices.owner = OWNER;
    deployment
}

async fn run(deployment: &Deployment) -> Result<Report, String> {
    deployment.run().await.map_err(|error| chain(&error))
}

fn said<'a>(report: &'a Report, name: &str) -> &'a str {
    let line = report.lines.iter().find(|(line, _)| *line == name);
    &line.unwrap_or_else(|| panic!("no {name} in {report}")).1
}

/// The chain's entry in the Helm values at `path`.
fn values(path: &PathBuf) -> Value {
    let text = std::fs::read_to_string(path).unwrap();
    let file: Value = serde_saphyr::from_str(&text).unwrap();
    file["chains"][0].clone()
}

fn address(values: &Value, pointer: &str) -> Address {
    let text = values.pointer(pointer).and_then(Value::as_str);
    text.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn contracts_are_deployed_once_and_then_only_verified() {
    let anvil = Anvil::start(31337);
    let out = folder("once").join("values.yaml");
    let deployment = deployment(&anvil, Store::File(out.clone()));
    let report = run(&deployment).await.unwrap();
    assert_eq!(anvil.nonce(ADMIN).await, TRANSACTIONS);
    assert!(report.notes.is_empty(), "{report}");
    assert_eq!(said(&report, "unbonding"), "604800 s");
    assert_eq!(said(&report, "a miner's stake"), "more than 20000 tokens");
    assert_eq!(
        said(&report, "a coordinator's stake"),
        "more than 2000000 tokens"
    );

    let values = values(&out);
    let [settlement, vault, token] = ["/settlement/address", "/vault/address", "/token"]
        .map(|pointer| address(&values, pointer));
    assert_eq!(
        values["vault"]["codeHash"],
        json!(anvil.code_hash(vault).await.to_string())
    );
    let lane = anvil
        .call(settlement, &Settlement::laneOfCall { lane: LANE })
        .await;
    assert_eq!((lane.state, lane.signer), (1, LANE_SIGNER));
    let slash = anvil
        .call(vault, &StakeVault::slashSignerCall { lane: LANE })
        .await;
    assert_eq!(slash, SLASH_SIGNER);
    let admin = anvil.call(vault, &StakeVault::defaultAdminCall {}).await;
    assert_eq!(admin, deployment.request.deployer);
    let held = anvil
        .call(token, &GridToken::balanceOfCall { account: admin })
        .await;
    let supply = anvil.call(token, &GridToken::totalSupplyCall {}).await;
    assert_eq!(held, supply);
    assert_eq!(anvil.balance(GAS).await, U256::from(COIN));

    let before = std::fs::read_to_string(&out).unwrap();
    run(&deployment).await.unwrap();
    assert_eq!(anvil.nonce(ADMIN).await, TRANSACTIONS);
    assert_eq!(std::fs::read_to_string(&out).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_keys_become_the_lanes_signers() {
    let anvil = Anvil::start(31337);
    let out = folder("keys").join("values.yaml");
    let mut deployment = deployment(&anvil, Store::File(out.clone()));
    run(&deployment).await.unwrap();
    deployment.request.lane_signer = OWNER;
    deployment.request.slash_signer = None;
    let report = run(&deployment).await.unwrap();
    assert_eq!(said(&report, "lane signer"), OWNER.to_string());
    assert_eq!(said(&report, "slash signer"), "nobody");
    assert_eq!(anvil.nonce(ADMIN).await, TRANSACTIONS + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_was_reset_gets_the_contracts_anew_if_that_is_wanted() {
    let store = Store::File(folder("reset").join("values.yaml"));
    let first = Anvil::start(31337);
    run(&deployment(&first, store.clone())).await.unwrap();
    drop(first);

    let second = Anvil::start(31337);
    let mut again = deployment(&second, store);
    again.request.anew_if_gone = false;
    let refused = run(&again).await.unwrap_err();
    assert!(refused.contains("StakeVault is not at 0x"), "{refused}");
    assert_eq!(second.nonce(ADMIN).await, 0);

    // So that the contracts come to other addresses.
    second.transact(ADMIN, OWNER, &GridToken::nameCall {}).await;
    again.request.anew_if_gone = true;
    run(&again).await.unwrap();
    assert_eq!(second.nonce(ADMIN).await, 1 + TRANSACTIONS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_cut_off_anywhere_is_gone_on_with() {
    for blocks in [0, 1, 2, 3, 5, 9] {
        let anvil = Anvil::start(31337);
        let out = folder(&format!("cut-{blocks}")).join("values.yaml");
        let deployment = deployment(&anvil, Store::File(out.clone()));
        anvil.hold().await;
        let cut = tokio::spawn({
            let deployment = deployment.clone();
            async move { deployment.run().await.map(drop) }
        });
        for _ in 0..blocks {
            anvil.until_pending().await;
            anvil.mine(1).await;
        }
        // The next transaction is in the pool when the process dies.
        anvil.until_pending().await;
        cut.abort();
        assert!(cut.await.unwrap_err().is_cancelled());
        assert!(!out.exists());

        anvil.release().await;
        run(&deployment).await.unwrap();
        assert!(out.exists());
        let nonce = anvil.nonce(ADMIN).await;
        // The contract whose record was not written yet may be there twice.
        assert!(nonce <= TRANSACTIONS + 1, "{blocks}: {nonce}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_timelock_the_deployer_can_do_nothing_more() {
    let anvil = Anvil::start(31337);
    let out = folder("timelock").join("values.yaml");
    let mut deployment = with_timelock(deployment(&anvil, Store::File(out.clone())));
    let report = run(&deployment).await.unwrap();
    let values = values(&out);
    let (settlement, vault) = (
        address(&values, "/settlement/address"),
        address(&values, "/vault/address"),
    );
    let timelock = anvil
        .call(settlement, &Settlement::defaultAdminCall {})
        .await;
    assert_eq!(
        anvil.call(vault, &StakeVault::defaultAdminCall {}).await,
        timelock
    );
    assert!(
        said(&report, "admin").contains(&timelock.to_string()),
        "{report}"
    );
    let delay = anvil
        .call(timelock, &TimelockController::getMinDelayCall {})
        .await;
    assert_eq!(delay, U256::from(172_800));
    let role = |name: &str| alloy::primitives::keccak256(name);
    let deployer = deployment.request.deployer;
    for (contract, role, account, has) in [
        (timelock, role("PROPOSER_ROLE"), OWNER, true),
        (timelock, role("CANCELLER_ROLE"), OWNER, true),
        (timelock, role("PROPOSER_ROLE"), deployer, false),
        (timelock, role("CANCELLER_ROLE"), deployer, false),
        (timelock, B256::ZERO, deployer, false),
        (vault, role("LANE_ADMIN_ROLE"), timelock, true),
        (vault, role("LANE_ADMIN_ROLE"), deployer, false),
        (settlement, role("LANE_ADMIN_ROLE"), timelock, true),
        (settlement, role("LANE_ADMIN_ROLE"), deployer, false),
    ] {
        let call = StakeVault::hasRoleCall { role, account };
        assert_eq!(
            anvil.call(contract, &call).await,
            has,
            "{contract} {role} {account}"
        );
    }

    let nonce = anvil.nonce(ADMIN).await;
    run(&deployment).await.unwrap();
    deployment.request.lane_signer = OWNER;
    let refused = run(&deployment).await.unwrap_err();
    assert!(refused.contains("change the lane's signer"), "{refused}");
    assert_eq!(anvil.nonce(ADMIN).await, nonce);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hook_writes_the_operators_chains_file_into_a_config_map() {
    let anvil = Anvil::start(31337);
    let api = ApiServer::default();
    let client = api.client().await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "gridstake-system");
    let store = Store::ConfigMap(
        Box::new(maps.clone()),
        "gridstake-chains-deployed".to_owned(),
    );
    let deployment = deployment(&anvil, store);
    run(&deployment).await.unwrap();
    let map = maps.get("gridstake-chains-deployed").await.unwrap();
    let data = map.data.unwrap();
    assert_eq!(data.keys().collect::<Vec<_>>(), ["chains.yaml"]);
    let file = ChainsFile::parse(&data["chains.yaml"], &PathBuf::from("chains.yaml")).unwrap();
    let config = &file.chains[0];
    assert_eq!(config.lane, LANE);
    assert_eq!(
        anvil.code_hash(config.settlement.address).await,
        config.settlement.code_hash
    );
    run(&deployment).await.unwrap();
    assert_eq!(anvil.nonce(ADMIN).await, TRANSACTIONS);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hook_fills_in_one_chain_after_the_other() {
    let anvils = [Anvil::start(31337), Anvil::start(31338)];
    let entry = |name: &str, chain_id: u64, lane: u32, anvil: &Anvil| {
        json!({
            "name": name, "chainId": chain_id, "rpc": [anvil.url], "lane": lane, "poll": "50ms",
            "keys": {"laneSigner": "/keys/lane-signer", "gas": "/keys/gas", "slash": "/keys/slash"},
        })
    };
    let file = json!({"chains": [
        entry("one", 31337, LANE, &anvils[0]), entry("two", 31338, LANE + 1, &anvils[1]),
    ]});
    let maps: Api<ConfigMap> =
        Api::namespaced(ApiServer::default().client().await, "gridstake-system");
    let of = |index: usize, name: &str| {
        let store = Store::ConfigMap(Box::new(maps.clone()), "deployed".to_owned());
        let mut deployment = deployment(&anvils[index], store);
        let draft = Draft::parse(&file.to_string(), &PathBuf::from("chains.yaml"), Some(name));
        deployment.draft = draft.unwrap();
        let settings = deployment.draft.settings().unwrap();
        (deployment.request.chain_id, deployment.request.lane) = (settings.chain_id, settings.lane);
        deployment
    };
    let deployed = async || {
        let data = maps.get("deployed").await.unwrap().data.unwrap();
        assert_eq!(data.keys().collect::<Vec<_>>(), ["chains.yaml"]);
        ChainsFile::parse(&data["chains.yaml"], &PathBuf::from("chains.yaml"))
            .unwrap()
            .chains
    };
    let (one, two) = (of(0, "one"), of(1, "two"));
    run(&one).await.unwrap();
    assert_eq!(deployed().await.len(), 1, "the other one's turn comes");
    run(&two).await.unwrap();
    // What is there is kept, whoever runs again.
    run(&one).await.unwrap();
    let chains = deployed().await;
    let names: Vec<&str> = chains.iter().map(|chain| chain.name.as_str()).collect();
    assert_eq!(names, ["one", "two"]);
    for (chain, anvil) in chains.iter().zip(&anvils) {
        let found = anvil.code_hash(chain.settlement.address).await;
        assert_eq!(found, chain.settlement.code_hash, "{}", chain.name);
        assert_eq!(anvil.nonce(ADMIN).await, TRANSACTIONS, "{}", chain.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_deployment_from_starting_is_named() {
    let anvil = Anvil::start(31337);
    let store = Store::File(folder("refused").join("values.yaml"));

    let mut elsewhere = deployment(&anvil, store.clone());
    elsewhere.request.chain_id = 8453;
    let refused = run(&elsewhere).await.unwrap_err();
    assert!(
        refused.contains("serves the chain 31337, not 8453"),
        "{refused}"
    );

    let mut poor = deployment(&anvil, store.clone());
    poor.key = Key::from(PrivateKeySigner::from_bytes(&B256::repeat_byte(9)).unwrap());
    poor.request.deployer = poor.key.address();
    let refused = run(&poor).await.unwrap_err();
    assert!(
        refused.contains(&poor.key.address().to_string()) && refused.contains("send it coins"),
        "{refused}"
    );

    let mut frugal = deployment(&anvil, store.clone());
    frugal.fees.max_fee_per_gas = Wei::new(1);
    frugal.fees.min_priority_fee_per_gas = Wei::new(1);
    let refused = run(&frugal).await.unwrap_err();
    assert!(refused.contains("fees.maxFeePerGas"), "{refused}");

    let mut small = deployment(&anvil, store.clone());
    small.fees.max_gas = 100_000;
    let refused = run(&small).await.unwrap_err();
    assert!(refused.contains("fees.maxGas"), "{refused}");

    let mut tokenless = deployment(&anvil, store.clone());
    tokenless.request.token = Some(OWNER);
    let refused = run(&tokenless).await.unwrap_err();
    assert!(
        refused.contains(&format!("--token {OWNER}: there is no contract")),
        "{refused}"
    );

    assert_eq!(anvil.nonce(ADMIN).await, 0);
    let away = deployment(&anvil, store);
    drop(anvil);
    let refused = run(&away).await.unwrap_err();
    assert!(
        refused.contains("no endpoint of `rpc` answers"),
        "{refused}"
    );
}
