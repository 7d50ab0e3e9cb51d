//! What a lane states on chain beside payments. Statements travel in the payload of a batch, so each is made exactly once;
//! the contract repeats it as the event `Stated` and gives it no meaning. The meaning is given here.
//!
//! | kind | subject | number | content |
//! |---|---|---|---|
//! | [`INVENTORY`] | [`node_id`] of the node | its GPUs | EIP-712 struct hash of its [`Inventory`] |
//! | [`UPTIME`] | zero | the newest epoch that it covers | head of the lane's log of uptime, see [`crate::uptime`] |
//! | [`EARNINGS`] | the provider's account number | the week, as 202648 | EIP-712 struct hash of its [`EarningsReport`] |

use std::fmt;

use alloy_primitives::{B256, U256, keccak256};
use alloy_sol_types::SolStruct as _;

use crate::week::Week;

#[allow(
    missing_docs,
    reason = "the structs are documented where they are re-exported"
)]
mod structs {
    alloy_sol_types::sol! {
        #[derive(Debug, PartialEq, Eq)]
        struct Gpu { string uuid; string model; uint64 memoryMiB; string computeCapability; string pciBusId; bool mig; }
        #[derive(Debug, PartialEq, Eq)]
        struct Inventory { string node; uint32 provider; Gpu[] gpus; }
        #[derive(Debug, PartialEq, Eq)]
        struct EarningsReport { uint64 chainId; address settlement; uint32 lane; uint32 provider; uint32 week; uint64 firstBatch; uint64 lastBatch; uint64 jobs; uint64 gpuMillis; uint64 paid; uint64 emissions; uint128 slashed; }
    }
}

/// What a provider got on a lane in a week of ISO 8601 (UTC), by the times of the blocks that settled the lane's batches.
///
/// `firstBatch`, `lastBatch`: the lane's batches of that week, 0 if there were none. `jobs`: entries for use that were paid.
/// `gpuMillis`: their sum. `paid`: nano-tokens from payers' accounts, before fees and delegators' parts. `emissions`:
/// nano-tokens from the lane's reward account. `slashed`: nano-tokens that slashes proposed by the lane took, executed in
/// blocks of that week.
pub use structs::EarningsReport;
/// One GPU of an [`Inventory`], as NVML names it. `memoryMiB`: its whole memory; `mig`: whether it is divided.
pub use structs::Gpu;
/// The GPUs of a node, in ascending order of their UUIDs, and the provider that answers for it.
pub use structs::Inventory;

/// A node's GPUs have changed.
pub const INVENTORY: u8 = 1;
/// The lane's log of uptime has grown.
pub const UPTIME: u8 = 2;
/// What a provider got in a week.
pub const EARNINGS: u8 = 3;

/// A statement as it stands in a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Statement {
    /// What it is about: [`INVENTORY`], [`UPTIME`], [`EARNINGS`].
    pub kind: u8,
    /// A number; see the table.
    pub number: u32,
    /// Whom it is about.
    pub subject: B256,
    /// The hash of what it says.
    pub content: B256,
}

/// A node as the subject of statements: keccak256 of `gridstake.dev/node/` and its name.
#[must_use]
pub fn node_id(node: &str) -> B256 {
    keccak256(format!("gridstake.dev/node/{node}"))
}

/// A provider as the subject of statements.
#[must_use]
pub fn provider_id(provider: u32) -> B256 {
    B256::from(U256::from(provider))
}

/// The statement of a node's GPUs.
#[must_use]
pub fn inventory(node: &str, provider: u32, mut gpus: Vec<Gpu>) -> Statement {
    gpus.sort_by(|a, b| a.uuid.cmp(&b.uuid));
    let number = u32::try_from(gpus.len()).unwrap_or(u32::MAX);
    let inventory = Inventory {
        node: node.to_owned(),
        provider,
        gpus,
    };
    Statement {
        kind: INVENTORY,
        number,
        subject: node_id(node),
        content: inventory.eip712_hash_struct(),
    }
}

/// The statement of the log of uptime: `head` after `epoch`.
#[must_use]
pub fn uptime(epoch: u32, head: B256) -> Statement {
    Statement {
        kind: UPTIME,
        number: epoch,
        subject: B256::ZERO,
        content: head,
    }
}

/// The statement of a report.
#[must_use]
pub fn earnings(report: &EarningsReport) -> Statement {
    Statement {
        kind: EARNINGS,
        number: report.week,
        subject: provider_id(report.provider),
        content: report.eip712_hash_struct(),
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "kind {}, subject {}, number {}, content {}",
            self.kind, self.subject, self.number, self.content
        )
    }
}

impl Statement {
    /// Whether it says what a provider got in `week`.
    #[must_use]
    pub fn reports(&self, week: Week) -> bool {
        self.kind == EARNINGS && self.number == week.number()
    }

    /// The provider and the week that a statement of earnings is about; `None` if it is none.
    #[must_use]
    pub fn earnings_of(&self) -> Option<(u32, Week)> {
        if self.kind != EARNINGS {
            return None;
        }
        let provider = u32::try_from(U256::from_be_bytes(self.subject.0)).ok()?;
        Some((provider, Week::from_number(self.number).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(uuid: &str) -> Gpu {
        Gpu {
            uuid: uuid.to_owned(),
            model: "NVIDIA H100 80GB HBM3".to_owned(),
            memoryMiB: 81_559,
            computeCapability: "9.0".to_owned(),
            pciBusId: "00000000:17:00.0".to_owned(),
            mig: false,
        }
    }

    #[test]
    fn an_inventory_does_not_depend_on_the_order_of_its_gpus() {
        let one = inventory("n1", 7, vec![gpu("GPU-a"), gpu("GPU-b")]);
        assert_eq!(one, inventory("n1", 7, vec![gpu("GPU-b"), gpu("GPU-a")]));
        assert_eq!((one.kind, one.number, one.subject), (1, 2, node_id("n1")));
    }

    #[test]
    fn an_inventory_changes_with_each_of_its_parts() {
        let alterations: [fn(&mut Gpu); 6] = [
            |gpu| gpu.uuid.push('x'),
            |gpu| gpu.model.push('x'),
            |gpu| gpu.memoryMiB += 1,
            |gpu| gpu.computeCapability.push('x'),
            |gpu| gpu.pciBusId.push('x'),
            |gpu| gpu.mig = true,
        ];
        let mut seen = vec![
            inventory("n1", 7, vec![gpu("GPU-a")]).content,
            inventory("n2", 7, vec![gpu("GPU-a")]).content,
            inventory("n1", 8, vec![gpu("GPU-a")]).content,
            inventory("n1", 7, vec![]).content,
        ];
        for alter in alterations {
            let mut changed = gpu("GPU-a");
            alter(&mut changed);
            seen.push(inventory("n1", 7, vec![changed]).content);
        }
        let different: std::collections::BTreeSet<B256> = seen.iter().copied().collect();
        assert_eq!(different.len(), seen.len());
    }

    #[test]
    fn a_statement_of_earnings_names_its_provider_and_week() {
        let week: Week = "2026-W48".parse().unwrap();
        let report = EarningsReport {
            chainId: 1,
            settlement: alloy_primitives::Address::repeat_byte(1),
            lane: 7,
            provider: 9,
            week: week.number(),
            firstBatch: 1,
            lastBatch: 2,
            jobs: 3,
            gpuMillis: 4,
            paid: 5,
            emissions: 6,
            slashed: 7,
        };
        assert_eq!(earnings(&report).earnings_of(), Some((9, week)));
        assert_eq!(uptime(3, B256::ZERO).earnings_of(), None);
        assert_eq!(
            EarningsReport::eip712_encode_type(),
            "EarningsReport(uint64 chainId,address settlement,uint32 lane,uint32 provider,uint32 week,uint64 firstBatch,uint64 lastBatch,uint64 jobs,uint64 gpuMillis,uint64 paid,uint64 emissions,uint128 slashed)"
        );
    }
}
