//! An anvil with the contracts, and the plugin run against it.

use std::{
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use alloy::{
    hex,
    primitives::{Address, B256, Bytes, U256, aliases::U48},
    signers::{SignerSync as _, local::PrivateKeySigner},
    sol_types::SolConstructor,
};
use gridstake_contracts::{GridToken, ISettlement, Settlement, StakeVault};
use gridstake_ledger::{
    batch::{self, Entry},
    merkle, signature,
    typed::{self, Batch, Slash, settlement_domain, vault_domain},
};
use serde_json::Value;

use crate::anvil::{ADMIN, Anvil};

pub const CHAIN_ID: u64 = 31337;
pub const LANE: u32 = 7;
/// Nano-tokens in a token.
pub const TOKEN: u128 = 1_000_000_000;

static WORLDS: AtomicU32 = AtomicU32::new(0);

pub struct Chain {
    pub anvil: Anvil,
    pub settlement: Address,
    pub vault: Address,
    pub token: Address,
    folder: PathBuf,
}

impl Drop for Chain {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The key of 32 bytes of this value, and its account.
pub fn signer(byte: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(byte)).unwrap()
}

pub fn account(byte: u8) -> Address {
    signer(byte).address()
}

/// Signs batches.
const LANE_SIGNER: u8 = 0x71;
/// Signs slashes.
const SLASH_SIGNER: u8 = 0x72;

fn init_code(bytecode: &Bytes, arguments: &impl SolConstructor) -> Bytes {
    [bytecode.as_ref(), &arguments.abi_encode()].concat().into()
}

impl Chain {
    /// A lane is open, and nobody is registered.
    pub async fn new() -> Self {
        let anvil = Anvil::start(CHAIN_ID);
        let admin: Address = ADMIN.parse().unwrap();
        let supply = U256::from(10).pow(U256::from(27));
        let token = init_code(
            &GridToken::BYTECODE,
            &GridToken::constructorCall {
                name_: "Grid".to_owned(),
                symbol_: "GRID".to_owned(),
                decimals_: 18,
                supply,
            },
        );
        let token = anvil.deploy(token).await;
        let vault = init_code(
            &StakeVault::BYTECODE,
            &StakeVault::constructorCall {
                token_: token,
                admin,
                adminDelay: U48::ZERO,
                treasury_: admin,
            },
        );
        let vault = anvil.deploy(vault).await;
        let settlement = init_code(
            &Settlement::BYTECODE,
            &Settlement::constructorCall {
                setup: ISettlement::Setup {
                    token,
                    vault,
                    admin,
                    adminDelay: U48::ZERO,
                    laneAdmin: admin,
                    guardian: admin,
                    treasury: admin,
                    feeBps: 100,
                    claimDelay: 86_400,
                },
            },
        );
        let settlement = anvil.deploy(settlement).await;
        let set = StakeVault::setSettlementCall {
            settlement_: settlement,
        };
        anvil.transact(ADMIN, vault, &set).await;
        let open = Settlement::openLaneCall {
            lane: LANE,
            signer: account(LANE_SIGNER),
            rewardsOwner: admin,
        };
        anvil.transact(ADMIN, settlement, &open).await;
        let role = anvil.call(vault, &StakeVault::LANE_ADMIN_ROLECall {}).await;
        let grant = StakeVault::grantRoleCall {
            role,
            account: admin,
        };
        anvil.transact(ADMIN, vault, &grant).await;
        let slashes = StakeVault::setSlashSignerCall {
            lane: LANE,
            signer: account(SLASH_SIGNER),
        };
        anvil.transact(ADMIN, vault, &slashes).await;
        let folder = std::env::temp_dir().join(format!(
            "gridstake-money-{}-{}",
            std::process::id(),
            WORLDS.fetch_add(1, Ordering::Relaxed)
        ));
        std::fs::create_dir_all(&folder).unwrap();
        Self {
            anvil,
            settlement,
            vault,
            token,
            folder,
        }
    }

    /// Gives an account coins for gas, and this many whole tokens.
    pub async fn fund(&self, byte: u8, tokens: u128) {
        let to = account(byte);
        let coin = U256::from(10).pow(U256::from(18));
        self.anvil.give_coins(to, coin).await;
        let value = U256::from(tokens) * coin;
        let call = GridToken::transferCall { to, value };
        self.anvil.transact(ADMIN, self.token, &call).await;
    }

    /// The file with a key.
    pub fn key_file(&self, byte: u8) -> PathBuf {
        let path = self.folder.join(format!("key-{byte}"));
        std::fs::write(&path, hex::encode([byte; 32])).unwrap();
        path
    }

    /// A file with these bytes.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Runs the plugin as the account of this key, and asks for JSON.
    pub fn run(&self, byte: u8, line: &str) -> Output {
        self.plugin(line)
            .arg("--key-file")
            .arg(self.key_file(byte))
            .output()
            .unwrap()
    }

    /// The plugin with what names this chain.
    pub fn plugin(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-gridstake"));
        command
            .args(line.split(' '))
            .args(["--rpc", self.anvil.url.as_str(), "-o", "json"])
            .args(["--settlement", &self.settlement.to_string()])
            // It shall need no cluster.
            .env("KUBECONFIG", "/no/such/file")
            .stdin(Stdio::null());
        command
    }

    /// Runs it and expects that all is done: the events of all transactions.
    pub fn done(&self, byte: u8, line: &str) -> Vec<Value> {
        let output = self.run(byte, &format!("{line} --yes"));
        let noted = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{line}: {noted}");
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        told["transactions"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|one| one["events"].as_array().unwrap().clone())
            .collect()
    }

    /// Runs it and expects a refusal: its words, and that nothing was sent.
    pub async fn refused(&self, byte: u8, line: &str) -> String {
        let from = account(byte).to_string();
        let before = self.anvil.nonce(&from).await;
        let output = self.run(byte, line);
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(output.stdout.is_empty(), "{line}");
        assert_eq!(self.anvil.nonce(&from).await, before, "{line}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// What an account has of the token, in nano-tokens.
    pub async fn tokens(&self, account: Address) -> u128 {
        let call = GridToken::balanceOfCall { account };
        let units = self.anvil.call(self.token, &call).await;
        (units / U256::from(TOKEN)).to()
    }

    pub async fn is_bonded(&self, provider: u32) -> bool {
        let call = StakeVault::isBondedCall { provider, role: 0 };
        self.anvil.call(self.vault, &call).await
    }

    /// A batch pays this many nano-tokens from payer to provider.
    pub async fn settle(&self, payer: u32, provider: u32, nano: u64) {
        let head = self
            .anvil
            .call(self.settlement, &Settlement::headCall { lane: LANE })
            .await;
        let seq = head.seq + 1;
        let entry = Entry {
            job_no: seq,
            payer,
            provider,
            price: 1_000_000_000,
            units: nano,
        };
        let data = batch::encode(&[entry], &[]).unwrap();
        let usage_root = merkle::usage_root(&[B256::repeat_byte(1)], B256::ZERO);
        let statement = Batch {
            lane: LANE,
            seq,
            prev: head.chainHash,
            usageRoot: usage_root,
            dataHash: batch::data_hash(&data),
            validUntil: u64::MAX,
        };
        let domain = settlement_domain(CHAIN_ID, self.settlement);
        let signed = signer(LANE_SIGNER)
            .sign_hash_sync(&typed::digest(&statement, &domain))
            .unwrap();
        let (r, vs) = signature::compact(&signed);
        let call = Settlement::settleCall {
            lane: LANE,
            seq,
            prev: head.chainHash,
            usageRoot: usage_root,
            validUntil: u64::MAX,
            r,
            vs,
            data: data.into(),
        };
        self.anvil.transact(ADMIN, self.settlement, &call).await;
    }

    /// Proposes to slash a provider by this many nano-tokens: the first proposal of this chain.
    pub async fn propose_slash(&self, provider: u32, amount: u128) {
        let statement = Slash {
            lane: LANE,
            incidentId: B256::repeat_byte(3),
            provider,
            amount,
            evidence: B256::repeat_byte(4),
            validUntil: u64::MAX,
        };
        let domain = vault_domain(CHAIN_ID, self.vault);
        let signed = signer(SLASH_SIGNER)
            .sign_hash_sync(&typed::digest(&statement, &domain))
            .unwrap();
        let (r, vs) = signature::compact(&signed);
        let call = StakeVault::proposeSlashCall {
            lane: LANE,
            incidentId: statement.incidentId,
            provider,
            amount,
            evidence: statement.evidence,
            validUntil: u64::MAX,
            r,
            vs,
        };
        self.anvil.transact(ADMIN, self.vault, &call).await;
    }
}
