//! The contracts' calls, events, errors and code, from the ABI files that their sources compile to
//! (`contracts/abi.sh`). A crate of its own, since what is generated here takes longer to compile than anything that
//! uses it, and changes least.

#[allow(
    missing_docs,
    clippy::pedantic,
    clippy::too_many_arguments,
    reason = "generated; the documentation is in contracts/src/interfaces"
)]
mod generated {
    alloy_sol_types::sol!(Settlement, "../abi/Settlement.json");
    alloy_sol_types::sol!(StakeVault, "../abi/StakeVault.json");
    alloy_sol_types::sol!(GridToken, "../abi/GridToken.json");
    alloy_sol_types::sol!(TimelockController, "../abi/TimelockController.json");
}

pub use generated::{GridToken, ISettlement, Settlement, StakeVault, TimelockController};
