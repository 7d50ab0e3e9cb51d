//! The chains file: on which chains this cluster settles, on each on one lane, and by which accounts.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use alloy::primitives::{Address, B256};
use gridstake_crds::{TokenAmount, UsageRecord, usage_record::Payment};
use gridstake_ledger::earnings::LaneId;
use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::wei::Wei;

/// The chains file.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChainsFile {
    /// The chains. The first one is that of namespaces that name none. An entry is one lane: a second lane on the same
    /// chain is a second entry, under another name.
    #[serde(default)]
    pub chains: Vec<ChainConfig>,
}

/// One chain and this cluster's place on it.
#[derive(Deserialize, Clone, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChainConfig {
    /// Its name in StakeBindings, Namespaces, Incidents, batches and metrics.
    pub name: String,
    /// Its id (EIP-155).
    pub chain_id: u64,
    /// JSON-RPC endpoints, in the order in which they are tried. They may hold access tokens: they are never logged.
    pub rpc: Vec<Url>,
    /// This cluster's lane. Its number is in the names of batches, so no two entries have the same one.
    pub lane: u32,
    /// The contract `Settlement`.
    pub settlement: ContractConfig,
    /// The contract `StakeVault`.
    pub vault: ContractConfig,
    /// The token in which everything is paid.
    pub token: Address,
    /// The provider account of whoever runs this cluster. If it is set, jobs are admitted only while it is bonded as
    /// coordinator.
    #[serde(default)]
    pub coordinator: Option<u32>,
    /// When a block counts as safe, and when as final.
    #[serde(default)]
    pub finality: FinalityConfig,
    /// Files with private keys, in hexadecimal.
    pub keys: KeyFiles,
    /// For how long the last observation stays in force while the chain is away.
    #[serde(default = "defaults::max_staleness", with = "duration")]
    pub max_staleness: Duration,
    /// After which time a slice of a lease is sealed, so that it is paid while it runs.
    #[serde(default = "defaults::interval", with = "duration")]
    pub interval: Duration,
    /// For how long sealed records are gathered before a batch is made of them. A full batch does not wait.
    #[serde(default = "defaults::window", with = "duration")]
    pub window: Duration,
    /// The pause between two looks at the chain's head.
    #[serde(default = "defaults::poll", with = "duration")]
    pub poll: Duration,
    /// After which time a request to an endpoint is given up, and the next endpoint tried.
    #[serde(default = "defaults::request_timeout", with = "duration")]
    pub request_timeout: Duration,
    /// For how long, on the chain's clock, a batch's signature is in force.
    #[serde(default = "defaults::authorization", with = "duration")]
    pub authorization: Duration,
    /// What a transaction may cost.
    #[serde(default)]
    pub fees: FeeConfig,
    /// When a batch is worth its fee.
    #[serde(default)]
    pub planner: PlannerConfig,
    /// What is paid from the lane's reward account. Absent: nothing.
    #[serde(default)]
    pub emissions: Option<EmissionsConfig>,
}

/// Where a contract is, and what it must be.
#[derive(Deserialize, Serialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContractConfig {
    /// Its address.
    pub address: Address,
    /// keccak256 of its deployed code, as `gridstake-operator contracts-deploy` prints it.
    pub code_hash: B256,
}

/// When a block counts as safe, and when as final.
#[derive(Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FinalityConfig {
    /// Who says so.
    #[serde(default)]
    pub mode: FinalityMode,
    /// With [`FinalityMode::Depth`]: a block is final when this many blocks are on top of it, and safe at half of that.
    #[serde(default)]
    pub depth: Option<u64>,
}

/// Who says when a block is safe and final.
#[derive(Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FinalityMode {
    /// The chain, by its block tags `safe` and `finalized`.
    #[default]
    Tags,
    /// The number of blocks on top of it, for chains without these tags.
    Depth,
}

/// Files with private keys: 32 bytes in hexadecimal, with or without `0x`.
#[derive(Deserialize, Clone, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyFiles {
    /// Signs batches.
    pub lane_signer: PathBuf,
    /// Pays for gas.
    pub gas: PathBuf,
    /// Signs slashes. Absent: none are proposed.
    #[serde(default)]
    pub slash: Option<PathBuf>,
}

/// What a transaction may cost.
#[derive(Deserialize, Clone, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FeeConfig {
    /// The most to be paid per gas, base fee and tip together, such as `500gwei`.
    pub max_fee_per_gas: Wei,
    /// The least tip per gas.
    pub min_priority_fee_per_gas: Wei,
    /// The most to be paid per gas as a multiple of what the chain asks at the time.
    pub max_multiple: u32,
    /// After how many blocks without inclusion a transaction is replaced by one that pays more.
    pub replace_after_blocks: u64,
    /// The highest gas limit of one transaction.
    pub max_gas: u64,
}

impl Default for FeeConfig {
    fn default() -> Self {
        Self {
            max_fee_per_gas: Wei::from_gwei(500),
            min_priority_fee_per_gas: Wei::new(1),
            max_multiple: 5,
            replace_after_blocks: 3,
            // EIP-7825: no transaction may have a higher limit.
            max_gas: 16_777_216,
        }
    }
}

/// When a batch is worth its fee.
#[derive(Deserialize, Clone, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PlannerConfig {
    /// What a whole token is worth, in wei of the chain's own coin. Absent: no batch waits for more than `window`.
    pub wei_per_token: Option<Wei>,
    /// How many times its expected fee a batch must pay.
    pub min_gain_multiple: u32,
    /// How long after its end a slice may wait at most for a batch that pays as much.
    #[serde(with = "duration")]
    pub max_age: Duration,
}

impl Default for PlannerConfig {
    fn default() -> Self {
        Self {
            wei_per_token: None,
            min_gain_multiple: 10,
            max_age: Duration::from_hours(1),
        }
    }
}

/// What is paid from the lane's reward account, beside what tenants pay.
#[derive(Deserialize, Clone, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EmissionsConfig {
    /// For one GPU and one second at factors of 1000, in whole tokens as a decimal string.
    pub per_gpu_second: TokenAmount,
    /// What a GPU's performance is taken for that was never measured, or so long ago that it does not count any more, in
    /// thousandths.
    #[serde(default = "unmeasured_permille")]
    pub unmeasured_permille: u32,
    /// Nodes whose factors are set by hand, by name.
    #[serde(default)]
    pub factors: BTreeMap<String, NodeFactors>,
}

/// Half of the reference device: what is not measured is not worth as much as what is.
const fn unmeasured_permille() -> u32 {
    500
}

/// What weighs a node's time when emissions are divided, in thousandths.
#[derive(Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NodeFactors {
    /// Its speed against the reference device, in the place of what canaries have measured. Absent: what they have.
    pub performance_permille: Option<u32>,
    /// Uptime and completion, in the place of what was observed. Absent: what was observed counts.
    pub stability_permille: Option<u32>,
}

impl EmissionsConfig {
    /// The factors of `node`.
    #[must_use]
    pub fn factors_of(&self, node: &str) -> NodeFactors {
        self.factors.get(node).copied().unwrap_or_default()
    }
}

/// Why the chains file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read the chains file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what is expected. The message names the line and the field.
    #[error("parse the chains file {path}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: Box<serde_saphyr::Error>,
    },
    /// A value is wrong.
    #[error("the chains file {path}: {field} {problem}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The field, such as `chains[0].rpc`.
        field: String,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
}

/// A field, and what is wrong with it.
type Problem = (&'static str, String);

impl ChainsFile {
    /// Reads and checks the file at `path`.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Parses and checks `text`; `path` is only named in errors.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let file: Self = serde_saphyr::from_str(text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        let value = |field: String, problem: String| ConfigError::Value {
            path: path.to_owned(),
            field,
            problem,
        };
        for (index, chain) in file.chains.iter().enumerate() {
            chain
                .check()
                .map_err(|(field, problem)| value(format!("chains[{index}].{field}"), problem))?;
        }
        for (index, chain) in file.chains.iter().enumerate() {
            for (before, other) in file.chains[..index].iter().enumerate() {
                chain
                    .check_beside(other, before)
                    .map_err(|(field, problem)| {
                        value(format!("chains[{index}].{field}"), problem)
                    })?;
            }
        }
        Ok(file)
    }
}

impl ChainConfig {
    /// Checks what the types alone cannot say.
    fn check(&self) -> Result<(), Problem> {
        let named = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit();
        let valid_name = (1..=63).contains(&self.name.len())
            && self.name.starts_with(named)
            && self.name.ends_with(named)
            && self.name.chars().all(|c| named(c) || c == '-');
        require(valid_name, "name", || {
            format!(
                "{:?} is not a name: write at most 63 lower-case letters, digits and hyphens, such as base-sepolia",
                self.name
            )
        })?;
        require(self.chain_id > 0, "chainId", || {
            "is 0: write the chain's EIP-155 id, such as 8453".to_owned()
        })?;
        require(!self.rpc.is_empty(), "rpc", || {
            "is empty: list at least one JSON-RPC endpoint".to_owned()
        })?;
        require(
            self.rpc
                .iter()
                .all(|url| matches!(url.scheme(), "http" | "https") && url.has_host()),
            "rpc",
            || "holds something else than http:// and https:// endpoints".to_owned(),
        )?;
        for (field, address) in [
            ("settlement.address", self.settlement.address),
            ("vault.address", self.vault.address),
            ("token", self.token),
        ] {
            require(!address.is_zero(), field, || {
                "is the zero address: write the contract's address".to_owned()
            })?;
        }
        require(
            self.settlement.address != self.vault.address,
            "vault.address",
            || "is the settlement's address: they are two contracts".to_owned(),
        )?;
        require(self.coordinator != Some(0), "coordinator", || {
            "is 0, which is never a provider: write the provider's account number, or leave it out"
                .to_owned()
        })?;
        self.check_finality()?;
        self.check_durations()?;
        self.check_fees()?;
        self.check_planner()
    }

    /// Checks that the entry can stand beside `other`, which is at the place `index` of the file.
    fn check_beside(&self, other: &Self, index: usize) -> Result<(), Problem> {
        let there = format!("as that of chains[{index}] ({})", other.name);
        require(self.name != other.name, "name", || {
            format!(
                "is {:?}, as that of chains[{index}]: StakeBindings and Namespaces tell chains apart by it; write another",
                self.name
            )
        })?;
        let same_chain = self.chain_id == other.chain_id;
        let same_contract = same_chain && self.settlement.address == other.settlement.address;
        require(self.lane != other.lane, "lane", || {
            let number = self.lane;
            if same_contract {
                format!(
                    "is {number}, {there}, in the same contract: a lane has one sequence of batches, so it takes one entry; remove one of them, or open another lane and write its number"
                )
            } else {
                format!(
                    "is {number}, {there}: batches and counters in the cluster are named after the lane's number alone; open a lane with a number that no other entry has, and write that"
                )
            }
        })?;
        let shares_gas = same_chain && self.keys.gas == other.keys.gas;
        require(!shares_gas, "keys.gas", || {
            format!(
                "is {}, {there}, on the same chain {}: the two would take each other's nonces; give each its own gas account",
                self.keys.gas.display(),
                self.chain_id
            )
        })
    }

    /// Whether `payment` is to be made on this lane.
    #[must_use]
    pub fn pays(&self, payment: &Payment) -> bool {
        payment.chain == self.name && payment.lane == self.lane
    }

    /// The lane as the chain and the archive know it.
    #[must_use]
    pub const fn lane_id(&self) -> LaneId {
        LaneId {
            chain_id: self.chain_id,
            settlement: self.settlement.address,
            lane: self.lane,
        }
    }

    /// Whether `record` is to be paid on this lane. Job numbers count within a lane: those of other lanes' records mean
    /// nothing here.
    #[must_use]
    pub fn owes(&self, record: &UsageRecord) -> bool {
        record
            .spec
            .payment
            .as_ref()
            .is_some_and(|payment| self.pays(payment))
    }

    fn check_finality(&self) -> Result<(), Problem> {
        match (self.finality.mode, self.finality.depth) {
            (FinalityMode::Depth, None | Some(0)) => Err((
                "finality.depth",
                "must be at least 1 with mode Depth: write how many blocks make a block final, such as 64"
                    .to_owned(),
            )),
            (FinalityMode::Tags, Some(_)) => Err((
                "finality.depth",
                "has no meaning with mode Tags: leave it out, or write mode: Depth".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    fn check_durations(&self) -> Result<(), Problem> {
        let hour = Duration::from_hours(1);
        for (field, value, least, most) in [
            (
                "maxStaleness",
                self.max_staleness,
                Duration::from_mins(1),
                hour * 24 * 7,
            ),
            (
                "interval",
                self.interval,
                Duration::from_secs(10),
                hour * 24 * 7,
            ),
            ("window", self.window, Duration::ZERO, hour * 24),
            (
                "poll",
                self.poll,
                Duration::from_millis(50),
                Duration::from_mins(5),
            ),
            (
                "requestTimeout",
                self.request_timeout,
                Duration::from_millis(100),
                Duration::from_mins(1),
            ),
            (
                "authorization",
                self.authorization,
                Duration::from_mins(1),
                hour * 24 * 30,
            ),
            (
                "planner.maxAge",
                self.planner.max_age,
                Duration::from_mins(1),
                hour * 24 * 7,
            ),
        ] {
            require((least..=most).contains(&value), field, || {
                format!(
                    "is {value:?}: write a duration from {least:?} to {most:?}, such as 30s or 1h"
                )
            })?;
        }
        Ok(())
    }

    fn check_fees(&self) -> Result<(), Problem> {
        let fees = &self.fees;
        require(fees.max_fee_per_gas.get() > 0, "fees.maxFeePerGas", || {
            "is 0: nothing could be sent; write the most to be paid per gas, such as 500gwei"
                .to_owned()
        })?;
        require(
            fees.min_priority_fee_per_gas <= fees.max_fee_per_gas,
            "fees.minPriorityFeePerGas",
            || "is above maxFeePerGas: a tip is a part of the fee".to_owned(),
        )?;
        require(fees.max_multiple >= 2, "fees.maxMultiple", || {
            "must be at least 2, so that a replacement can pay more".to_owned()
        })?;
        require(
            fees.replace_after_blocks > 0,
            "fees.replaceAfterBlocks",
            || "must be at least 1".to_owned(),
        )?;
        require(fees.max_gas >= 100_000, "fees.maxGas", || {
            "is below 100000: not even an empty batch fits".to_owned()
        })
    }

    fn check_planner(&self) -> Result<(), Problem> {
        let planner = &self.planner;
        let worthless = planner.wei_per_token.is_some_and(|wei| wei.get() == 0);
        require(!worthless, "planner.weiPerToken", || {
            "is 0: no batch would ever be worth its fee; write what a whole token is worth, such as 50000gwei, or leave it out"
                .to_owned()
        })?;
        require(
            planner.min_gain_multiple > 0,
            "planner.minGainMultiple",
            || {
                "must be at least 1; to send whatever is gathered, leave planner.weiPerToken out"
                    .to_owned()
            },
        )?;
        let in_time = planner.wei_per_token.is_none() || planner.max_age >= self.window;
        require(in_time, "planner.maxAge", || {
            format!(
                "is shorter than window, {:?}: nothing is sent before that is over",
                self.window
            )
        })
    }
}

fn require(
    holds: bool,
    field: &'static str,
    problem: impl FnOnce() -> String,
) -> Result<(), Problem> {
    if holds {
        Ok(())
    } else {
        Err((field, problem()))
    }
}

mod defaults {
    use std::time::Duration;

    pub(super) fn max_staleness() -> Duration {
        Duration::from_hours(1)
    }

    pub(super) fn interval() -> Duration {
        Duration::from_hours(1)
    }

    pub(super) fn window() -> Duration {
        Duration::from_secs(30)
    }

    pub(super) fn poll() -> Duration {
        Duration::from_secs(2)
    }

    pub(super) fn request_timeout() -> Duration {
        Duration::from_secs(10)
    }

    pub(super) fn authorization() -> Duration {
        Duration::from_hours(6)
    }
}

/// Durations as Kubernetes writes them, such as `1h30m`.
mod duration {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, de};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        let duration = gridstake_crds::duration::parse(&text).map_err(de::Error::custom)?;
        if duration.is_negative() {
            return Err(de::Error::custom(format_args!(
                "{text:?} is negative: write a duration such as 30s"
            )));
        }
        Ok(duration.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r"
chains:
  - name: anvil
    chainId: 31337
    rpc: [http://127.0.0.1:8545]
    lane: 7
    settlement:
      address: '0x5FbDB2315678afecb367f032d93F642f64180aa3'
      codeHash: '0x0101010101010101010101010101010101010101010101010101010101010101'
    vault:
      address: '0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512'
      codeHash: '0x0202020202020202020202020202020202020202020202020202020202020202'
    token: '0x9fE46736679d2D9a65F0992F2272dE9f3c7fa6e0'
    keys:
      laneSigner: /keys/lane
      gas: /keys/gas
";

    fn parse(text: &str) -> Result<ChainsFile, String> {
        ChainsFile::parse(text, Path::new("chains.yaml"))
            .map_err(|error| crate::error::chain(&error))
    }

    #[test]
    fn a_file_with_what_is_needed_is_read_and_the_rest_has_defaults() {
        let file = parse(GOOD).unwrap();
        let chain = &file.chains[0];
        assert_eq!(chain.lane, 7);
        assert_eq!(chain.finality.mode, FinalityMode::Tags);
        assert_eq!(chain.interval, Duration::from_hours(1));
        assert_eq!(chain.fees.max_fee_per_gas, Wei::from_gwei(500));
        assert!(chain.keys.slash.is_none() && chain.emissions.is_none());
        assert!(parse("chains: []").unwrap().chains.is_empty());
        assert!(parse("{}").unwrap().chains.is_empty());
    }

    #[test]
    fn emissions_and_fees_are_read_exactly() {
        let text = format!(
            "{GOOD}    fees: {{maxFeePerGas: 1.5gwei}}\n    emissions:\n      perGpuSecond: '0.0001'\n      factors: {{n1: {{performancePermille: 900}}}}\n"
        );
        let file = parse(&text).unwrap();
        let chain = &file.chains[0];
        assert_eq!(chain.fees.max_fee_per_gas.get(), 1_500_000_000);
        let emissions = chain.emissions.as_ref().unwrap();
        assert_eq!(emissions.per_gpu_second.nano(), 100_000);
        assert_eq!(emissions.unmeasured_permille, 500);
        assert_eq!(emissions.factors_of("n1").performance_permille, Some(900));
        assert_eq!(emissions.factors_of("n1").stability_permille, None);
        assert_eq!(emissions.factors_of("other"), NodeFactors::default());
    }

    #[test]
    fn without_a_price_of_the_token_no_batch_waits() {
        let planner = |text: &str| {
            let mut file = parse(&format!("{GOOD}{text}")).unwrap();
            file.chains.remove(0).planner
        };
        let absent = planner("");
        assert_eq!((absent.wei_per_token, absent.min_gain_multiple), (None, 10));
        assert_eq!(absent.max_age, Duration::from_hours(1));
        let present =
            planner("    planner: {weiPerToken: 50000gwei, minGainMultiple: 3, maxAge: 30m}\n");
        assert_eq!(present.wei_per_token, Some(Wei::from_gwei(50_000)));
        assert_eq!(present.min_gain_multiple, 3);
        assert_eq!(present.max_age, Duration::from_mins(30));
    }

    #[test]
    fn a_wrong_value_is_refused_with_its_field_and_what_would_be_right() {
        for (from, to, words) in [
            (
                "name: anvil",
                "name: An vil",
                "chains[0].name \"An vil\" is not a name",
            ),
            ("chainId: 31337", "chainId: 0", "chains[0].chainId is 0"),
            ("[http://127.0.0.1:8545]", "[]", "chains[0].rpc is empty"),
            (
                "http://127.0.0.1:8545",
                "ftp://host",
                "chains[0].rpc holds something else",
            ),
            (
                "lane: 7",
                "lane: 7\n    coordinator: 0",
                "coordinator is 0, which is never a provider",
            ),
            (
                "lane: 7",
                "lane: 7\n    finality: {mode: Depth}",
                "finality.depth must be at least 1",
            ),
            (
                "lane: 7",
                "lane: 7\n    finality: {depth: 3}",
                "finality.depth has no meaning",
            ),
            (
                "lane: 7",
                "lane: 7\n    interval: 1s",
                "chains[0].interval is 1s",
            ),
            ("lane: 7", "lane: 7\n    window: 30", "not a duration"),
            (
                "lane: 7",
                "lane: 7\n    fees: {maxMultiple: 1}",
                "fees.maxMultiple must be at least 2",
            ),
            (
                "lane: 7",
                "lane: 7\n    fees: {maxFeePerGas: lots}",
                "such as 500gwei",
            ),
            (
                "lane: 7",
                "lane: 7\n    planner: {weiPerToken: 0}",
                "planner.weiPerToken is 0",
            ),
            (
                "lane: 7",
                "lane: 7\n    planner: {minGainMultiple: 0}",
                "planner.minGainMultiple must be at least 1",
            ),
            (
                "lane: 7",
                "lane: 7\n    planner: {maxAge: 1s}",
                "chains[0].planner.maxAge is 1s",
            ),
            (
                "lane: 7",
                "lane: 7\n    window: 2h\n    planner: {weiPerToken: 1}",
                "planner.maxAge is shorter than window",
            ),
            ("lane: 7", "lane: 7\n    colour: red", "colour"),
            ("    lane: 7\n", "", "lane"),
            (
                "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512",
                "0x5FbDB2315678afecb367f032d93F642f64180aa3",
                "vault.address is the settlement's address",
            ),
        ] {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD, "{from}");
            let refused = parse(&text).unwrap_err();
            assert!(refused.contains(words), "{to}: {refused}");
        }
    }

    /// [`GOOD`], and after it the same entry with these replacements.
    fn beside(changes: &[(&str, &str)]) -> String {
        let mut entry = GOOD.trim_start().trim_start_matches("chains:\n").to_owned();
        for (from, to) in changes {
            assert!(entry.contains(from), "{from}");
            entry = entry.replace(from, to);
        }
        format!("{GOOD}{entry}")
    }

    const NAME: (&str, &str) = ("name: anvil", "name: base");
    const LANE: (&str, &str) = ("lane: 7", "lane: 8");
    const CHAIN_ID: (&str, &str) = ("31337", "8453");
    const GAS: (&str, &str) = ("/keys/gas", "/keys/gas-2");

    #[test]
    fn several_chains_stand_in_one_file_in_its_order() {
        // On another chain the same keys will do, and two lanes may share a signer anywhere.
        for changes in [&[NAME, LANE, CHAIN_ID][..], &[NAME, LANE, GAS]] {
            let file = parse(&beside(changes)).unwrap();
            let names: Vec<&str> = file
                .chains
                .iter()
                .map(|chain| chain.name.as_str())
                .collect();
            assert_eq!(names, ["anvil", "base"]);
            assert_eq!(file.chains[1].lane, 8);
        }
    }

    #[test]
    fn entries_that_contradict_each_other_are_refused_with_both_and_what_would_be_right() {
        let contract = (
            "0x5FbDB2315678afecb367f032d93F642f64180aa3",
            "0x00000000000000000000000000000000000000aa",
        );
        for (changes, words) in [
            (
                &[LANE, CHAIN_ID, GAS][..],
                "chains[1].name is \"anvil\", as that of chains[0]",
            ),
            (
                &[NAME, GAS],
                "chains[1].lane is 7, as that of chains[0] (anvil), in the same contract",
            ),
            (
                &[NAME, CHAIN_ID],
                "chains[1].lane is 7, as that of chains[0] (anvil): batches and counters",
            ),
            (
                &[NAME, contract, GAS],
                "chains[1].lane is 7, as that of chains[0] (anvil): batches and counters",
            ),
            (
                &[NAME, LANE],
                "chains[1].keys.gas is /keys/gas, as that of chains[0] (anvil), on the same chain 31337",
            ),
            (
                &[NAME, LANE, CHAIN_ID, ("http://", "ftp://")],
                "chains[1].rpc holds something else",
            ),
        ] {
            let refused = parse(&beside(changes)).unwrap_err();
            assert!(refused.contains(words), "{changes:?}: {refused}");
        }
        let third = format!(
            "{}{}",
            beside(&[NAME, LANE, CHAIN_ID]),
            beside(&[("name: anvil", "name: other"), LANE, CHAIN_ID]).trim_start_matches(GOOD)
        );
        let refused = parse(&third).unwrap_err();
        assert!(
            refused
                .contains("chains[2].lane is 8, as that of chains[1] (base), in the same contract"),
            "{refused}"
        );
    }

    #[test]
    fn a_payment_belongs_to_the_lane_that_it_names() {
        let chain = parse(GOOD).unwrap().chains.remove(0);
        let payment = |name: &str, lane| Payment {
            chain: name.to_owned(),
            lane,
            payer: 3,
            provider: 9,
            per_gpu_second: TokenAmount::from_nano(1),
        };
        assert!(chain.pays(&payment("anvil", 7)));
        assert!(!chain.pays(&payment("anvil", 8)));
        assert!(!chain.pays(&payment("base", 7)));
    }

    #[test]
    fn a_file_that_is_missing_is_named() {
        let refused = ChainsFile::read(Path::new("/nowhere/chains.yaml")).unwrap_err();
        assert!(crate::error::chain(&refused).contains("/nowhere/chains.yaml"));
    }
}
