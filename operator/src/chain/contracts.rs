//! The contracts' calls, events and errors.

pub use gridstake_contracts::{Settlement, StakeVault};
